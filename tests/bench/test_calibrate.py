"""The calibration of the verdict: errors, the fit, its figures and its files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.transforms import Affine
from roireg.evaluate import Truth
from roireg.pipeline.trust import Calibration
from roireg_bench.calibrate import (
    EVIDENCE,
    Judged,
    area_under_roc,
    conclude,
    displaced,
    fit,
    left_out,
    read,
    sound,
    true_error,
    write,
)
from support import centred, disc

GRID = centred((60, 60))


def judged(k: int, rng: np.random.Generator) -> Judged:
    right = bool(rng.random() < 0.5)
    values = {name: float(rng.normal()) for name in EVIDENCE}
    values["rival"] = float(rng.normal() * 0.5 + (-1 if right else 1))
    return Judged(f"set{k % 4}", str(k), k % 2 == 0, "default", 0.01 if right else 0.1, False, values)


@pytest.fixture(scope="module")
def rows() -> list[Judged]:
    rng = np.random.default_rng(0)
    return [judged(k, rng) for k in range(200)]


def test_the_telling_evidence_gets_the_weight(rows):
    weights = dict(zip(EVIDENCE, fit(rows).weights, strict=True))
    assert weights["rival"] < -0.5
    assert max(abs(w) for name, w in weights.items() if name != "rival") < 0.4 * abs(weights["rival"])
    right = np.array([r.right for r in rows])
    assert area_under_roc(right, left_out(rows)) > 0.9


def test_without_wrong_results_there_is_nothing_to_fit(rows):
    with pytest.raises(InputError, match="right and wrong"):
        fit([r for r in rows if r.right])


def test_area_under_roc():
    assert area_under_roc(np.array([True, False]), np.array([0.9, 0.1])) == 1
    assert area_under_roc(np.array([True, False, False]), np.array([0.5, 0.5, 0.1])) == 0.75
    assert np.isnan(area_under_roc(np.array([True]), np.array([0.9])))


def test_files(rows, tmp_path):
    write(tmp_path / "results.csv", rows)
    again = read(tmp_path / "results.csv")
    assert [(r.set, r.start, r.right) for r in again] == [(r.set, r.start, r.right) for r in rows]
    model, figures = conclude(again, tmp_path)
    stored = json.loads((tmp_path / "calibration.json").read_text(encoding="utf-8"))
    assert Calibration(**stored).probability(rows[0].evidence) == pytest.approx(model.probability(rows[0].evidence))
    assert figures["results"] == 200 and (tmp_path / "calibration.png").stat().st_size > 5000


def test_errors_of_labels_and_points():
    labels = Image(disc(GRID, (0.0, 0.0), 10.0).to(torch.uint8), GRID, dtype="uint8")
    truth = Truth(GRID, "mm", labels=(labels, labels))
    assert true_error(Affine.identity(2), truth, 80.0) == (0.0, False)
    error, worse = true_error(Affine.translation((5.0, 0.0)), truth, 80.0)
    assert 0.02 < error < 0.07 and worse
    points = np.array([[0.0, 0.0], [10.0, 5.0]])
    moved = Truth(GRID, "mm", points=(points, points + [4.0, 0.0]))
    assert true_error(Affine.translation((4.0, 0.0)), moved, 80.0) == (pytest.approx(0), False)
    assert true_error(Affine.translation((-4.0, 0.0)), moved, 80.0) == (pytest.approx(0.1), True)


def test_displaced_turns_about_the_center():
    matrix = displaced(GRID, 90.0, 0.0, np.random.default_rng(0))
    assert Affine(matrix).map_points(GRID.center[None])[0] == pytest.approx(GRID.center)
    assert abs(matrix[0, 1]) == pytest.approx(1)


def test_pairs_without_a_sound_truth_are_left_out_and_named():
    folder, other = (SimpleNamespace(content=SimpleNamespace(name=name)) for name in ("remote_sensing", "sar"))
    cases = [(f, SimpleNamespace(id=i)) for f, i in ((folder, "sar_1"), (folder, "map_1"), (other, "sar_1"))]
    said: list[str] = []
    assert sound(cases, said.append) == cases[1:]
    assert len(said) == 1 and "1 pairs of remote_sensing/sar_*" in said[0]
