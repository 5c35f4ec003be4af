"""Series of volumes on one grid (4D NIfTI, NRRD, MetaImage), as an image whose channels are the frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from roireg.core.errors import InputError
from roireg.core.image import Image, stored_values
from roireg.io._itk import extension, itk_reason, plain_name, quiet, to_itk_image, write_itk
from roireg.io.headers import companions
from roireg.io.images import read_image
from roireg.io.nifti import is_nifti, nifti_header, ras_from_voxel, read_nifti
from roireg.io.verified import verified_path

__all__ = ["frame_count", "read_series", "write_series"]

Array = NDArray[Any]

SERIES = (".nii", ".nii.gz", ".nrrd", ".mha")


def frame_count(path: Path) -> int:
    """Return how many volumes a file holds along its fourth axis; 1 for everything that is not 4D."""
    if not path.is_file() or extension(path) not in (*SERIES, ".nhdr", ".mhd"):
        return 1
    if is_nifti(path):
        dim = nifti_header(path)["dim"]
        return int(dim[4]) if dim[0] == 4 else 1
    reader = sitk.ImageFileReader()
    with plain_name(path, beside=companions(path)) as name, quiet():
        reader.SetFileName(name)
        try:
            reader.ReadImageInformation()
        except RuntimeError:  # whoever reads the file says what is wrong with it
            return 1
    size = reader.GetSize()
    return int(size[3]) if len(size) == 4 else 1


def read_series(path: Path) -> Image:
    """Read all volumes of a 4D file.

    Returns
    -------
    Image with (frame, *spatial) float32 data; NaN stays NaN. Its `metadata` have the seconds between frames.

    Raises
    ------
    InputError
        When the file is no 4D image, or damaged.
    GeometryError
        When its geometry is unusable.
    """
    first = read_image(path, frame=0, finite=False)
    if is_nifti(path):
        header = nifti_header(path)
        step = float(header["pixdim"][4]) * _SECONDS.get(int(header["xyzt_units"]) & 0x38, 1.0)
        values = read_nifti(path, series=True).array
    else:
        image = _itk_series(path)
        step = float(image.GetSpacing()[3])
        values = sitk.GetArrayFromImage(image)
    data = torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
    return replace(first, data=data, metadata={**first.metadata, "seconds per frame": repr(step)})


_SECONDS = {16: 1e-3, 24: 1e-6}
"""Length in seconds of the units that xyzt_units names, where it is not 1: millisecond and microsecond."""


def write_series(path: Path, series: Image) -> None:
    """Write an image whose channels are frames as a 4D file, in its stored pixel type.

    Raises
    ------
    InputError
        When the format holds no series.
    OutputError
        When the place cannot be written.
    """
    kind = extension(path)
    if kind not in SERIES or series.ndim != 3:
        raise InputError(f"{path}: a series of volumes is written as {', '.join(SERIES)}; choose one of them")
    values = stored_values(series)
    step = float(series.metadata.get("seconds per frame", "1"))
    with verified_path(path, lambda file: np.array_equal(_values(file), values, equal_nan=True)) as temporary:
        if kind in (".nii", ".nii.gz"):
            image = nibabel.Nifti1Image(values.transpose(3, 2, 1, 0), ras_from_voxel(series.grid), dtype=values.dtype)
            image.header.set_xyzt_units("mm", "sec")
            image.header.set_zooms((*image.header.get_zooms()[:3], step))
            image.set_sform(image.affine, 1)
            image.set_qform(image.affine, 1, strip_shears=True, update_affine=False)
            nibabel.save(image, temporary)
        else:
            frames = [to_itk_image(frame[None], series.grid) for frame in values]
            joined = sitk.JoinSeries(frames, 0.0, step)
            write_itk(temporary, path, joined)


def _values(path: Path) -> Array:
    """Return the (frame, *spatial) values of a 4D file as they are stored."""
    if is_nifti(path):
        return read_nifti(path, series=True).array
    return sitk.GetArrayFromImage(_itk_series(path))


def _itk_series(path: Path) -> sitk.Image:
    with plain_name(path, beside=companions(path)) as name, quiet():
        try:
            return sitk.ReadImage(name)
        except RuntimeError as error:
            raise InputError(f"{path}: the series cannot be read ({itk_reason(error)}); copy it again") from error
