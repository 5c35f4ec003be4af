"""An oblique sform sheared by 0.05 degrees, no qform: the voxels lie where the sform says, to the micrometre."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.ndimage

from app.scenes import answer
from roireg.io import read_image

SHAPE = (24, 26, 20)


def _head() -> np.ndarray:
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    body = (axes**2).sum(0) < 0.7
    texture = scipy.ndimage.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), 2)
    return np.where(body, 400 + 250 * texture / texture.std(), 0).clip(0).astype(np.float32)


def _affine(shear: float) -> np.ndarray:
    t = np.deg2rad(20)
    tilt = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])
    lean = np.eye(3)
    lean[1, 2] = np.tan(np.deg2rad(shear))
    affine = np.eye(4)
    affine[:3, :3] = tilt @ lean @ np.diag([4.0, 4.0, 5.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


def _save(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    image = nibabel.Nifti1Image(values, None)
    image.header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    image.set_sform(affine, 1)
    image.header["qform_code"] = 0
    nibabel.save(image, path)
    return path


@pytest.mark.filterwarnings("ignore:.*sheared by 0.05 degrees:roireg.io.HeaderWarning")
@pytest.mark.usefixtures("cheap_presets")
def test_the_sheared_image_lies_where_the_exact_one_does(tmp_path: Path) -> None:
    values = _head()
    exact = _save(tmp_path / "exact.nii.gz", values, _affine(0))
    sheared = _save(tmp_path / "sheared.nii.gz", values, _affine(0.05))
    ends = read_image(exact).grid.corners(), read_image(sheared).grid.corners()
    assert np.abs(ends[0] - ends[1]).max() < 0.1
    voxels = np.array([[5, 20, 6], [18, 7, 14], [12, 22, 17], [7, 6, 16]])
    points = nibabel.affines.apply_affine(_affine(0.05), voxels) * [-1, -1, 1]
    np.savetxt(tmp_path / "points.csv", points, delimiter=",", header="x,y,z", comments="")
    both = ("--fixed-points", tmp_path / "points.csv", "--moving-points", tmp_path / "points.csv")
    result = answer("register", exact, sheared, "-o", tmp_path / "out", *both, "--only", "result")
    assert result["metrics"]["landmark_error_max"]["value"] < 0.1
    assert result["provenance"]["moving"]["placed by"] == "sform (scanner)"
