"""Labels that nibabel saved with a slope (1 becomes 0.9937) are the whole numbers they were, with one warning."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from app.scenes import run
from roireg.core.errors import InputError
from roireg.io import HeaderWarning, read_labels


def _saved(path: Path) -> np.ndarray:
    labels = np.zeros((16, 14, 10))
    labels[2:5], labels[6:10], labels[10:13] = 1, 17, 2035
    file = nibabel.Nifti1Image(labels, np.diag([1.2, 1.5, 3, 1]))
    file.set_data_dtype("int16")
    nibabel.save(file, path)
    assert np.abs(nibabel.load(path).get_fdata() - labels).max() > 1e-3  # the case is one
    return labels


def test_labels_are_rounded(tmp_path: Path) -> None:
    labels = _saved(tmp_path / "labels.nii.gz")
    with pytest.warns(HeaderWarning, match=r"labels\.nii\.gz: the labels are up to 0\.0\d+ off whole numbers"):
        found = read_labels(tmp_path / "labels.nii.gz")
    assert np.array_equal(found.data[0].numpy(), labels.T)


def test_the_command_says_so_and_scores(tmp_path: Path) -> None:
    _saved(tmp_path / "labels.nii.gz")
    both = ("--fixed-labels", tmp_path / "labels.nii.gz", "--moving-labels", tmp_path / "labels.nii.gz")
    result = run("evaluate", *both)
    assert result.exit_code == 0, result.output
    assert "rounded" in result.stderr


def test_fractions_are_no_labels(tmp_path: Path) -> None:
    values = np.full((4, 4, 4), 1.03, np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "p.nii.gz")
    with pytest.raises(InputError, match="found 64 voxels with other values"):
        read_labels(tmp_path / "p.nii.gz")
