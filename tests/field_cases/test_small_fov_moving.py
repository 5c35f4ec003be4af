"""A whole head and a box of it: registered either way, and never led away from where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.scenes import answer
from field_cases.heads import GRID, SETTINGS, head, landmarks, turned, write_points
from roireg.core.grid import Grid
from roireg.core.transforms import Affine
from roireg.io import write_image

TRUTH = Affine.translation([6.0, -5.0, 4.0]) @ turned("z", -5)
"""From points of the whole to those of the part."""


def _box() -> Grid:
    """The middle of the grid of the head."""
    affine = GRID.affine.copy()
    affine[:3, 3] = GRID.world_from_index(np.array([5, 6, 6]))
    return Grid((12, 13, 13), affine)


@pytest.mark.parametrize("swapped", [False, True], ids=["part moves", "whole moves"])
def test_a_part_and_a_whole(tmp_path: Path, swapped: bool) -> None:
    write_image(tmp_path / "whole.nii.gz", head())
    write_image(tmp_path / "part.nii.gz", head(TRUTH, grid=_box()))
    write_points(tmp_path / "whole.csv", landmarks() / 2)
    write_points(tmp_path / "part.csv", TRUTH.map_points(landmarks() / 2))
    names = ("part", "whole") if swapped else ("whole", "part")
    images = [tmp_path / f"{name}.nii.gz" for name in names]
    points = ("--fixed-points", tmp_path / f"{names[0]}.csv", "--moving-points", tmp_path / f"{names[1]}.csv")
    settings = tmp_path / "settings.yaml"
    settings.write_text(SETTINGS, encoding="utf-8")
    result = answer("register", *images, "-o", tmp_path / "out", *points, "--config", settings, "--only", "result")
    error = result["metrics"]["landmark_error_mean"]
    assert error["before"] > 8
    assert error["value"] < 2
