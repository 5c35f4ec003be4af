"""A NIfTI-2 file is read as nibabel reads it."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from app.scenes import answer


def test_nifti2_is_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((12, 10, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti2Image(values, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "image.nii.gz")
    (found,) = answer("info", tmp_path / "image.nii.gz")["files"]
    assert found["size"] == [12, 10, 8]
    assert found["spacing"] == [2, 3, 4]
    assert np.isclose(found["mean"], values.mean(dtype=np.float64))
