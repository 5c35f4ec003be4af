"""The inverse of a displacement field is needed where the field maps its grid to (SimpleITK issue 532)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from app.scenes import run
from roireg.io import PointSet, read_points, write_points

GRID = ((40, 40, 40), (-60, -60, -60), (3, 3, 3), np.eye(3).ravel())


def _write_field(path: Path, moved: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Write the field of a map of (N, 3) points; return 200 points inside."""
    identity = sitk.TransformToDisplacementField(sitk.Transform(3, sitk.sitkIdentity), sitk.sitkVectorFloat64, *GRID)
    index = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), -1).reshape(-1, 3)[:, ::-1]
    points = -60 + 3.0 * index
    field = sitk.GetImageFromArray((moved(points) - points).reshape(40, 40, 40, 3), isVector=True)
    field.CopyInformation(identity)
    sitk.WriteImage(field, str(path))
    return np.random.default_rng(0).uniform(-50, 45, (200, 3))


@pytest.mark.parametrize("shift", [30.0, 300.0])
def test_points_come_back(tmp_path: Path, shift: float) -> None:
    turn = sitk.AffineTransform(3)
    turn.SetTranslation((shift, 0, 0))
    turn.Rotate(0, 1, 0.1)
    field = sitk.TransformToDisplacementField(turn, sitk.sitkVectorFloat64, *GRID)
    sitk.WriteImage(field, str(tmp_path / "field.nii.gz"))
    fixed = np.random.default_rng(0).uniform(-50, 45, (200, 3))
    write_points(tmp_path / "moving.csv", PointSet(np.array([turn.TransformPoint(p) for p in fixed.tolist()])))
    options = ("--inverse", "-o", tmp_path / "back.csv")
    assert run("apply", tmp_path / "field.nii.gz", tmp_path / "moving.csv", *options).exit_code == 0
    np.testing.assert_allclose(read_points(tmp_path / "back.csv").points, fixed, atol=1e-2)


def test_points_come_back_from_a_mirror(tmp_path: Path) -> None:
    points = _write_field(tmp_path / "field.nii.gz", lambda p: p * [-1.0, 1, 1])
    write_points(tmp_path / "moving.csv", PointSet(points * [-1.0, 1, 1]))
    result = run(
        "apply", tmp_path / "field.nii.gz", tmp_path / "moving.csv", "--inverse", "-o", tmp_path / "back.csv"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    np.testing.assert_allclose(read_points(tmp_path / "back.csv").points, points, atol=1e-2)


def test_where_a_field_folds_is_told(tmp_path: Path) -> None:
    def folded(p: np.ndarray) -> np.ndarray:
        return p + np.array([70.0, 0, 0]) * np.exp(-(p**2).sum(1) / 450)[:, None]

    points = _write_field(tmp_path / "field.nii.gz", folded)
    write_points(tmp_path / "moving.csv", PointSet(folded(points)))
    field = tmp_path / "field.nii.gz"
    for number, given in enumerate(((field, "--inverse"), (f"i:{field}",))):
        result = run("apply", *given, tmp_path / "moving.csv", "-o", tmp_path / f"{number}.csv")
        assert result.exit_code == 0
        assert "its field folds, so that it has no inverse at" in " ".join(result.stderr.split())


def test_an_image_beyond_the_end_of_a_field_is_told(tmp_path: Path) -> None:
    _write_field(tmp_path / "field.nii.gz", lambda p: p + [30.0, 0, 0])
    for name, size, told in (("same", 40, False), ("larger", 60, True)):
        image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, (size, size, size), np.uint8))
        image.SetSpacing((3.0, 3, 3))
        image.SetOrigin((-60.0, -60, -60))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
        place = tmp_path / f"{name}.nii.gz"
        result = run(
            "apply", tmp_path / "field.nii.gz", place, "--reference", place, "-o", tmp_path / f"{name}_out.nii.gz"
        )
        assert result.exit_code == 0
        text = " ".join(result.stderr.split())
        assert ("lie beyond the end of a displacement field, which does not move them" in text) == told
