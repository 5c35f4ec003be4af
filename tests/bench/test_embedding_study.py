"""The study of counterparts: what counts as right, and how images are displaced."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from roireg.core.image import Image
from roireg.core.seeds import generator
from roireg.models.alike import AlikeNet
from roireg_bench.studies import embedding
from roireg_bench.studies.embedding import EmbeddingStudy, NetworksStudy, _Side, _Trial, displacement
from roireg_bench.studies.intervals import interval_table
from roireg_bench.studies.work import StudyRow


def side(features: torch.Tensor, labels: np.ndarray) -> _Side:
    n = len(labels)
    points = np.stack([np.arange(n) % 8, np.arange(n) // 8], axis=1).astype(float)
    return _Side({"a": features}, labels, points, np.ones(n, bool))


def trial(order: np.ndarray) -> _Trial:
    """64 voxels that each look like nothing else; in the moving image they look like those of another order."""
    labels = np.repeat([0, 1, 2, 3], 16)
    unique = torch.eye(64)
    fixed, moving = side(unique, labels), side(unique[:, order], labels)
    landmarks = np.array([3, 20, 40]), moving.points[[3, 20, 40]]
    return _Trial(fixed, moving, np.arange(16, 64), landmarks, 10.0)


def test_equal_images_are_all_right_and_shuffled_ones_are_not():
    right = trial(np.arange(64)).scores({"a": 1})
    assert right == {"pixel": 1.0, "prototype": 1.0, "landmark_near": 1.0, "landmark_error": 0.0}
    wrong = trial((np.arange(64) + 16) % 64).scores({"a": 1})
    # Unlabelled blocks of one voxel are no candidates, so that the first label has none that it resembles.
    assert wrong["pixel"] == 0 and wrong["prototype"] == pytest.approx(1 / 3)
    assert wrong["landmark_near"] == 0 and wrong["landmark_error"] == pytest.approx(100 / 3)


def test_what_was_moved_out_of_view_is_no_answer():
    seen = trial(np.arange(64))
    seen.moving.shown[20] = False
    assert seen.scores({"a": 1})["landmark_near"] < 1


@pytest.mark.parametrize("ndim", (2, 3))
def test_displacements_are_similarities_of_the_stated_size(ndim):
    image = Image.from_numpy(np.zeros((30, 40, 50)[:ndim], np.float32), spacing=2.0)
    for draw in range(20):
        matrix = np.array(displacement(generator(draw), image).matrix)
        linear = matrix[:-1, :-1]
        scale = np.linalg.det(linear) ** (1 / ndim)
        assert 0.8 <= scale <= 1.25 and np.allclose(linear.T @ linear, scale**2 * np.eye(ndim))
        turn = np.degrees(np.arccos(np.clip((np.trace(linear / scale) - (ndim - 2)) / 2, -1, 1)))
        assert 10 - 1e-6 <= turn <= 25 + 1e-6
        moved = matrix[:-1] @ [*image.grid.center, 1] - image.grid.center
        assert 0.03 < np.linalg.norm(moved) / np.ptp(image.grid.corners(), axis=0).max() < 0.13


def test_differences_have_intervals():
    rows = [
        StudyRow(name, str(k), variant, "", {"pixel": base + 0.01 * k})
        for name in ("one", "two")
        for k in range(5)
        for variant, base in (("intensity + MIND", 0.4), ("fused", 0.6))
    ]
    table = interval_table(rows, better="fused", than="intensity + MIND")
    assert "| one | 5 | pixel | 0.42 | 0.62 | +0.20 [+0.20, +0.20] |" in table and "**all sets**" in table


def test_all_variants_weigh_descriptors_that_are_there():
    assert {k for v in EmbeddingStudy().variants.values() for k in v["weights"]} == {
        "embedding", "random", "intensity", "mind",
    }  # fmt: skip


def test_networks_are_compared_where_they_see_such_images(tmp_path, monkeypatch):
    torch.manual_seed(0)
    for name in ("alike-t", "alike-n"):
        torch.save(AlikeNet((2, 2, 2, 2), 4).eval().state_dict(), tmp_path / f"{name}.pth")
    monkeypatch.setenv("ROIREG_MODELS", str(tmp_path))
    study = NetworksStudy()
    image = Image.from_numpy(np.random.default_rng(0).uniform(0, 255, (40, 48)).astype(np.float32))
    points = image.grid.points()[::97]
    truth = SimpleNamespace(labels=None, points=(points, points))
    scene = SimpleNamespace(
        fixed=image, moving=image, truth=truth, case=SimpleNamespace(id="a"),
        folder=SimpleNamespace(path=tmp_path, content=SimpleNamespace(name="set")),
    )  # fmt: skip
    monkeypatch.setattr(embedding, "DRAWS", 1)
    found = study.measure("ALIKE tiny", scene)
    assert found.keys() == {"landmark_near", "landmark_error"} and 0 <= found["landmark_near"] <= 1
    assert study.measure("TotalSegmentator layers", scene) == {}
    assert study.measure("fused", scene)["landmark_near"] > 0.5
