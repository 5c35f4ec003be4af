"""What a run is scored against is what the files of a case hold; and the numbers published with the cases."""

import csv

import numpy as np
import pytest
import torch

from bench.scenes import change_json, deep_pair, flat_pair, write_set
from roireg.core.errors import GeometryError, InputError
from roireg.core.transforms import Affine, Chain
from roireg.evaluate import score
from roireg.io import write_transform
from roireg_bench.cases import load_folder
from roireg_bench.scoring import SCORES, load_transforms, numbers, read_truth


def test_files_are_applied_in_the_order_given(tmp_path):
    first, second = Affine.translation([1.0, 2.0]), Affine(np.diag([2.0, 3.0, 1.0]))
    files = [tmp_path / "first.tfm", tmp_path / "second.h5"]
    for file, transform in zip(files, (first, second), strict=True):
        write_transform(file, transform)
    points = np.array([[5.0, 7.0]])
    expected = Chain((first, second)).map_points(points)
    np.testing.assert_allclose(load_transforms(files).map_points(points), expected)
    assert expected.tolist() == [[12.0, 27.0]]
    with pytest.raises(InputError, match="no transform file"):
        load_transforms([])


def test_a_singular_true_affine_is_refused(tmp_path):
    folder = write_set(tmp_path / "set", ndim=2)
    change_json(folder, true_affine=np.diag([0.0, 1.0, 1.0]).tolist())
    found = load_folder(folder)
    with pytest.raises(GeometryError, match="singular"):
        read_truth(found, found.content.pairs[0])


@pytest.mark.parametrize("pair, ndim", [(flat_pair, 2), (deep_pair, 3)])
def test_the_truth_of_a_case_is_what_its_files_hold(tmp_path, pair, ndim):
    folder = load_folder(write_set(tmp_path / "set", ndim=ndim))
    truth = read_truth(folder, folder.content.pairs[0])
    p = pair()
    assert truth.grid.is_close(p.fixed.grid, tolerance=1e-3) and truth.unit == p.fixed.unit
    for labels, expected in zip(truth.labels, (p.fixed_labels, p.moving_labels), strict=True):
        assert torch.equal(labels.data, expected.data)
    for points, expected in zip(truth.points, (p.fixed_points, p.moving_points), strict=True):
        np.testing.assert_allclose(points, expected, atol=1e-3)
    assert truth.images is None and truth.mask is None


def test_the_columns_of_a_row_are_filled_from_the_scores(tmp_path):
    folder = load_folder(write_set(tmp_path / "set", ndim=2))
    truth = read_truth(folder, folder.content.pairs[0])
    scores = score(Affine.translation([500.0, 0.0]), truth)
    found = numbers(scores)
    assert set(found) <= set(SCORES) and found["labels_lost"] == len(scores.labels.lost) > 0
    assert found["landmark_error_mean"] == scores.metrics["landmark_error_mean"].value
    assert numbers(truth.baseline)["labels_lost"] == 0


@pytest.mark.data
@pytest.mark.parametrize("name", ["hippocampus", "samreg_cardiac_slices", "rigid_recovered", "brain2d_oasis"])
def test_the_state_before_is_the_published_baseline(data_dir, name):
    with (data_dir / "BASELINE.csv").open(newline="") as stream:
        published = {row["pair"]: row for row in csv.DictReader(stream) if row["set"] == name}
    folder = load_folder(data_dir / name)
    for case in folder.content.pairs[:2]:
        found, expected = numbers(read_truth(folder, case).baseline), published[case.id]
        if expected["mean_dice"]:
            assert found["dice_mean"] == pytest.approx(float(expected["mean_dice"]), abs=6e-5)
        if expected["mean_landmark_error"]:
            assert found["landmark_error_mean"] == pytest.approx(float(expected["mean_landmark_error"]), abs=6e-4)
            assert found["landmark_error_max"] == pytest.approx(float(expected["max_landmark_error"]), abs=6e-4)
