"""Scores against closed forms, SimpleITK, and the numbers published with the cases."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from bench.scenes import change_json, deep_pair, write_set
from roireg.bench import Truth, load_folder, measure, read_truth, score
from roireg.bench.scoring import load_transforms
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, DisplacementField
from roireg.core.warp import warp
from roireg.evaluate import surface_distances
from roireg.io import to_itk, write_transform


def two_squares(shift: int) -> Truth:
    """Label 1 and 2 on 30 x 40 pixels; those of the moving image lie `shift` columns to the right."""
    maps = []
    for offset in (0, shift):
        data = torch.zeros((1, 30, 40), dtype=torch.int32)
        data[0, 5:15, 8 + offset : 18 + offset] = 1
        data[0, 18:24, 20 + offset : 28 + offset] = 2
        maps.append(Image(data, Grid.pixels((30, 40)), unit="px"))
    points = np.array([[8.0, 5.0], [20.0, 18.0], [27.0, 23.0]])
    return Truth(
        maps[0].grid,
        "px",
        fixed_labels=maps[0],
        moving_labels=maps[1],
        fixed_points=points,
        moving_points=points + [shift, 0.0],
        transform=Affine.translation([shift, 0.0]),
    )


def test_a_known_shift_is_scored_in_closed_form():
    truth = two_squares(3)
    before, after = score(None, truth), score(Affine.translation([3.0, 0.0]), truth)
    assert before["dice_mean"] == pytest.approx((7 / 10 + 5 / 8) / 2)
    assert before["hd95_mean"] == before["landmark_error_max"] == before["displacement_error_mean"] == 3
    assert after["dice_mean"] == 1 and after["hd95_mean"] == after["landmark_error_mean"] == 0
    assert after["displacement_error_mean"] == 0
    half = score(Affine.translation([2.0, 0.0]), truth)
    assert half["landmark_error_mean"] == half["landmark_error_median"] == half["landmark_error_max"] == 1


def test_folding_and_volume_change_are_those_of_the_transform():
    truth = two_squares(0)
    mirror = score(Affine(np.diag([-1.0, 1.0, 1.0])), truth)
    assert mirror["folding_percent"] == 100
    grown = score(Affine(np.diag([1.1, 1.2, 1.0])), truth)
    assert grown["folding_percent"] == 0 and grown["sdlogj"] == pytest.approx(0, abs=1e-5)


def test_a_label_that_is_pushed_out_counts_as_zero():
    truth = two_squares(0)
    gone = score(Affine.translation([30.0, 0.0]), truth)
    assert gone["dice_mean"] == 0 and gone["labels_lost"] == 2 and "hd95_mean" not in gone
    hidden = truth.moving_labels.data.clone()
    hidden[hidden == 1] = 0
    hidden[0, 0, 39] = 1  # still in the map, but where this transform does not look
    truth = replace(truth, moving_labels=truth.moving_labels.with_data(hidden))
    found = score(Affine.translation([-2.0, 0.0]), truth)
    assert found["labels_lost"] == 1
    assert found["dice_mean"] == pytest.approx((0 + 6 / 8) / 2)
    assert found["hd95_mean"] == 2
    per_label = measure(Affine.translation([-2.0, 0.0]), truth).dice
    assert per_label == {1: 0.0, 2: 6 / 8}


def test_a_known_field_folds_and_spreads_as_computed_by_hand():
    # x -> x + a sin(kx) has det J = 1 + a k cos(kx), here by central differences of the sampled field.
    grid = Grid.pixels((6, 64))
    columns = np.arange(64.0)
    shift = 6.0 * np.sin(2 * np.pi * columns / 16)
    displacement = torch.zeros((2, 6, 64))
    displacement[0] = torch.from_numpy(shift).float()
    found = score(DisplacementField(grid, displacement), Truth(grid, "px"))
    determinant = 1 + np.gradient(shift)
    assert (
        found["folding_percent"] == pytest.approx(100 * np.mean(determinant <= 0), abs=1e-9) and determinant.min() < 0
    )
    for name, offset in (("sdlogj", 0), ("sdlogj_learn2reg", 3)):
        expected = np.log(np.clip(determinant + offset, 1e-9, 1e9)).std()
        assert found[name] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_surface_distances_agree_with_itk_and_scipy(tmp_path, ndim):
    folder = load_folder(write_set(tmp_path / "set", ndim=ndim))
    truth = read_truth(folder, folder.content.pairs[0])
    fixed, moving = truth.fixed_labels, truth.moving_labels
    moved = warp(moving, None, fixed.grid, mode="nearest", fill=0).data[0].numpy()
    target = fixed.data[0].numpy()
    distances = []
    for label in sorted((set(np.unique(target)) & set(np.unique(moved))) - {0}):
        images = []
        for part in (target, moved):
            image = sitk.GetImageFromArray((part == label).astype(np.uint8))
            _, spacing, origin, direction = fixed.grid.itk
            image.SetSpacing(spacing)
            image.SetOrigin(origin)
            image.SetDirection(direction)
            images.append(image)
        # Full face neighbourhood of the eroded mask is the surface; padded so that the border of the image counts.
        edges = [
            sitk.GetArrayFromImage(sitk.LabelContour(sitk.ConstantPad(i, [1] * ndim, [1] * ndim))) for i in images
        ]
        steps = fixed.grid.spacing
        far = [ndimage.distance_transform_edt(edge == 0, sampling=steps) for edge in edges]
        both = [far[1][edges[0] > 0], far[0][edges[1] > 0]]
        distances.append(max(np.percentile(values, 95) for values in both))
        measured = surface_distances(torch.from_numpy(target == label), torch.from_numpy(moved == label), fixed.grid)
        hausdorff = sitk.HausdorffDistanceImageFilter()
        hausdorff.Execute(*images)
        # ITK measures from every voxel of a region, of which none is farther than the surface.
        assert measured["hausdorff"] == pytest.approx(hausdorff.GetHausdorffDistance(), rel=1e-4)
    assert score(None, truth)["hd95_mean"] == pytest.approx(np.mean(distances), rel=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_dice_equals_that_of_simpleitk(tmp_path, ndim):
    folder = load_folder(write_set(tmp_path / "set", ndim=ndim))
    case = folder.content.pairs[0]
    truth = read_truth(folder, case)
    transform = Affine.translation([4.3, -2.7, 5.1][:ndim])
    fixed, moving = (sitk.ReadImage(str(folder.file(case, f"{side}_labels"))) for side in ("fixed", "moving"))
    if ndim == 2:
        for image in (fixed, moving):
            image.SetSpacing([1, 1])
            image.SetOrigin([0, 0])
    moved = sitk.Resample(moving, fixed, to_itk(transform), sitk.sitkNearestNeighbor, 0)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(fixed, moved)
    found = measure(transform, truth)
    assert len(found.dice) > 3
    # Label maps read by ITK have float32 geometry; a voxel or two may round the other way.
    for label, value in found.dice.items():
        assert value == pytest.approx(overlap.GetDiceCoefficient(label), abs=0.02)
    expected = np.mean([overlap.GetDiceCoefficient(label) for label in found.dice])
    assert found.values["dice_mean"] == pytest.approx(expected, abs=2e-3)


def test_the_true_transform_scores_best(tmp_path):
    truth_of = load_folder(write_set(tmp_path / "set", ndim=3))
    truth = read_truth(truth_of, truth_of.content.pairs[0])
    before, after = score(None, truth), score(deep_pair().transform, truth)
    assert after["landmark_error_max"] < 1e-3 < before["landmark_error_mean"]
    assert after["dice_mean"] > before["dice_mean"] + 0.1
    assert after["folding_percent"] == 0


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


def test_what_cannot_be_scored_is_refused(tmp_path):
    with pytest.raises(GeometryError, match="transform is 3D but the images are 2D"):
        score(Affine.identity(3), two_squares(0))
    folder = write_set(tmp_path / "set", ndim=2)
    change_json(folder, true_affine=np.diag([0.0, 1.0, 1.0]).tolist())
    found = load_folder(folder)
    with pytest.raises(GeometryError, match="singular"):
        read_truth(found, found.content.pairs[0])


@pytest.mark.data
@pytest.mark.parametrize("name", ["hippocampus", "samreg_cardiac_slices", "rigid_recovered", "brain2d_oasis"])
def test_the_state_before_is_the_published_baseline(data_dir, name):
    with (data_dir / "BASELINE.csv").open(newline="") as stream:
        published = {row["pair"]: row for row in csv.DictReader(stream) if row["set"] == name}
    folder = load_folder(data_dir / name)
    for case in folder.content.pairs[:2]:
        found, expected = score(None, read_truth(folder, case)), published[case.id]
        if expected["mean_dice"]:
            assert found["dice_mean"] == pytest.approx(float(expected["mean_dice"]), abs=6e-5)
        if expected["mean_landmark_error"]:
            assert found["landmark_error_mean"] == pytest.approx(float(expected["mean_landmark_error"]), abs=6e-4)
            assert found["landmark_error_max"] == pytest.approx(float(expected["max_landmark_error"]), abs=6e-4)
