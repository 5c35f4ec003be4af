"""The inverse of a displacement field is needed where the field maps its grid to (SimpleITK issue 532)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from app.scenes import run
from roireg.io import PointSet, read_points, write_points


@pytest.mark.parametrize("shift", [30.0, 300.0])
def test_points_come_back(tmp_path: Path, shift: float) -> None:
    turn = sitk.AffineTransform(3)
    turn.SetTranslation((shift, 0, 0))
    turn.Rotate(0, 1, 0.1)
    grid = ((40, 40, 40), (-60, -60, -60), (3, 3, 3), np.eye(3).ravel())
    field = sitk.TransformToDisplacementField(turn, sitk.sitkVectorFloat64, *grid)
    sitk.WriteImage(field, str(tmp_path / "field.nii.gz"))
    fixed = np.random.default_rng(0).uniform(-50, 45, (200, 3))
    write_points(tmp_path / "moving.csv", PointSet(np.array([turn.TransformPoint(p) for p in fixed.tolist()])))
    options = ("--inverse", "-o", tmp_path / "back.csv")
    assert run("apply", tmp_path / "field.nii.gz", tmp_path / "moving.csv", *options).exit_code == 0
    np.testing.assert_allclose(read_points(tmp_path / "back.csv").points, fixed, atol=1e-2)
