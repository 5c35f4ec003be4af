"""`evaluate`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from app.scenes import answer, fails, files_in, run
from roireg.core.transforms import Affine
from roireg.io import PointSet, read_image, read_labels, write_labels, write_points, write_transform


def test_the_true_transform_scores_perfectly(volume, tmp_path):
    document = answer(
        "evaluate", volume.truth, "--fixed", volume.fixed, "--moving", volume.moving, "--truth", volume.truth,
        "--fixed-labels", volume.fixed_labels, "--moving-labels", volume.moving_labels,
        "--fixed-points", volume.fixed_points, "--moving-points", volume.moving_points, "-o", tmp_path / "e.json",
    )  # fmt: skip
    metrics = document["metrics"]
    shift = float(np.linalg.norm(volume.offset))
    assert metrics["landmark_error_mean"]["value"] == pytest.approx(0, abs=1e-9)
    assert metrics["landmark_error_mean"]["before"] == pytest.approx(shift)
    assert metrics["displacement_error_max"]["value"] == pytest.approx(0, abs=1e-6)
    assert metrics["displacement_error_mean"]["before"] == pytest.approx(shift, rel=1e-5)
    assert metrics["dice_mean"]["value"] > 0.99 > metrics["dice_mean"]["before"]
    assert metrics["folding_percent"]["value"] == 0
    assert metrics["sdlogj"]["value"] == pytest.approx(0, abs=1e-5)
    assert metrics["inverse_consistency_max"]["value"] == pytest.approx(0, abs=1e-9)
    assert metrics["ncc"]["value"] > 0.999 > metrics["ncc"]["before"]
    assert set(document["labels"]["dice"]) == {"1", "2", "3"}
    assert json.loads((tmp_path / "e.json").read_text(encoding="utf-8")) == document


def test_without_a_transform_things_are_scored_as_they_lie(flat):
    metrics = answer("evaluate", "--fixed-labels", flat.fixed_labels, "--moving-labels", flat.moving_labels)[
        "metrics"
    ]
    a, b = read_labels(flat.fixed_labels).data, read_labels(flat.moving_labels).data
    expected = [2 * float(((a == i) & (b == i)).sum()) / float((a == i).sum() + (b == i).sum()) for i in (1, 2, 3)]
    assert metrics["dice_mean"]["value"] == pytest.approx(np.mean(expected))
    assert metrics["dice_mean"]["before"] is None
    assert metrics["hd95_mean"]["unit"] == "px"


def test_a_wrong_inverse_is_noticed(flat, tmp_path):
    write_transform(tmp_path / "wrong.tfm", Affine.translation(-flat.offset + [0, 2.0]))
    options = ("--fixed", flat.fixed, "--inverse-transform", tmp_path / "wrong.tfm")
    metrics = answer("evaluate", flat.truth, *options)["metrics"]
    assert metrics["inverse_consistency_mean"]["value"] == pytest.approx(2)


def test_folding_is_measured_inside_the_mask_alone(flat, tmp_path):
    grid = read_image(flat.fixed).grid
    mask = torch.zeros((1, *grid.shape), dtype=torch.int32)
    mask[:, :10] = 1
    write_labels(tmp_path / "m.png", read_labels(flat.fixed_labels).with_data(mask))
    answered = answer("evaluate", flat.truth, "--fixed", flat.fixed, "--fixed-mask", tmp_path / "m.png")
    assert answered["metrics"]["folding_percent"]["value"] == 0


def test_the_table_names_numbers_and_labels_without_a_partner(flat, tmp_path):
    labels = read_labels(flat.moving_labels)
    write_labels(tmp_path / "l.png", labels.with_data(torch.where(labels.data == 3, 9, labels.data)))
    result = run("evaluate", "--fixed-labels", flat.fixed_labels, "--moving-labels", tmp_path / "l.png")
    assert "Dice, mean over labels" in result.stdout
    assert "labels only in the fixed map, not scored: 3" in result.stderr
    assert "labels only in the moving map, not scored: 9" in result.stderr


def test_mistakes_are_named(flat, volume, tmp_path):
    out = ("-o", tmp_path / "e.json")
    fails("evaluate", "--fixed-labels", flat.fixed_labels, *out, words=("--moving-labels",))
    fails("evaluate", *out, words=("nothing to score",))
    fails("evaluate", "--truth", flat.truth, *out, words=("--truth",))
    fails("evaluate", volume.truth, "--fixed", flat.fixed, *out, words=("fixed.png", "2D", "3D"))
    write_points(tmp_path / "two.csv", PointSet(np.ones((2, 2))))
    points = ("--fixed-points", flat.fixed_points, "--moving-points", tmp_path / "two.csv")
    fails("evaluate", *points, *out, words=("two.csv", "2 points", "3 in"))
    points = ("--fixed-points", flat.fixed_points, "--moving-points", volume.moving_points)
    fails("evaluate", *points, *out, words=("moving_points.csv", "3D"))
    labels = ("--fixed-labels", flat.fixed_labels, "--moving-labels", volume.moving_labels)
    fails("evaluate", *labels, *out, words=("2D", "3D"))
    assert files_in(tmp_path) == {"two.csv"}
