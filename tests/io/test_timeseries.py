"""Series of volumes: all frames as they are stored, whatever the type, the name and the compression of the file."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.io.timeseries import frame_count, read_series, write_series

VALUES = np.random.default_rng(0).integers(0, 900, (4, 5, 6, 3))


@pytest.mark.parametrize("dtype", ["int16", "int64", ">i4", "float64"])
def test_series_are_what_nibabel_reads(tmp_path: Path, dtype: str) -> None:
    image = nibabel.Nifti1Image(VALUES.astype(dtype), np.eye(4), dtype=np.dtype(dtype))
    image.header["pixdim"][4], image.header["xyzt_units"] = 1500, 2 + 16
    nibabel.save(image, tmp_path / "a.nii")
    (tmp_path / "b.nii").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    for name in ("a.nii", "b.nii"):
        series = read_series(tmp_path / name)
        np.testing.assert_array_equal(series.data.numpy(), VALUES.T)
        assert float(series.metadata["seconds per frame"]) == 1.5


def test_colours_over_time_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((4, 5, 6, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="--frame"):
        read_series(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_what_is_written_is_read_by_any_name(tmp_path: Path, ending: str, dtype: str) -> None:
    frames = torch.from_numpy(VALUES.T % 200).float()
    series = Image(frames, Grid.pixels((6, 5, 4)), dtype=dtype, metadata={"seconds per frame": "2.5"})
    path = tmp_path / os.fsdecode(b"s\xff" + ending.encode())
    write_series(path, series)
    assert frame_count(path) == 3
    again = read_series(path)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again.data.numpy(), VALUES.T % 200)
    assert float(again.metadata["seconds per frame"]) == 2.5
