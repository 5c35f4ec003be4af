"""Series of volumes on one grid (4D NIfTI, NRRD, MetaImage), as an image whose channels are the frames."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch

from roireg.core.errors import InputError
from roireg.core.files import atomic_path
from roireg.core.image import Image, stored_values
from roireg.io._itk import extension, itk_reason, quiet, to_itk_image
from roireg.io.images import read_image
from roireg.io.nifti import is_nifti, nifti_header, ras_from_voxel

__all__ = ["frame_count", "read_series", "write_series"]

SERIES = (".nii", ".nii.gz", ".nrrd", ".mha")


def frame_count(path: Path) -> int:
    """Return how many volumes a file holds along its fourth axis; 1 for everything that is not 4D."""
    if not path.is_file() or extension(path) not in (*SERIES, ".nhdr", ".mhd"):
        return 1
    if is_nifti(path):
        dim = nifti_header(path)["dim"]
        return int(dim[4]) if dim[0] == 4 else 1
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with quiet():
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
        stored: Any = nibabel.load(path)
        step = float(stored.header.get_zooms()[3]) * _SECONDS.get(stored.header.get_xyzt_units()[1], 1.0)
        try:
            values = np.asarray(stored.dataobj, dtype=np.float32).transpose(3, 2, 1, 0)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise InputError(
                f"{path}: the file is truncated or damaged ({error}); copy or export it again"
            ) from error
    else:
        with quiet():
            try:
                image = sitk.ReadImage(str(path))
            except RuntimeError as error:
                raise InputError(f"{path}: the series cannot be read ({itk_reason(error)}); copy it again") from error
        step = float(image.GetSpacing()[3])
        values = sitk.GetArrayFromImage(image).astype(np.float32)
    data = torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
    return replace(first, data=data, metadata={**first.metadata, "seconds per frame": repr(step)})


_SECONDS = {"msec": 1e-3, "usec": 1e-6}


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
    with atomic_path(path) as temporary:
        if kind in (".nii", ".nii.gz"):
            image = nibabel.Nifti1Image(values.transpose(3, 2, 1, 0), ras_from_voxel(series.grid))
            image.header.set_xyzt_units("mm", "sec")
            image.header.set_zooms((*image.header.get_zooms()[:3], step))
            image.set_sform(image.affine, 1)
            image.set_qform(image.affine, 1, strip_shears=True, update_affine=False)
            nibabel.save(image, temporary)
        else:
            frames = [to_itk_image(frame[None], series.grid) for frame in values]
            joined = sitk.JoinSeries(frames, 0.0, step)
            with quiet():
                sitk.WriteImage(joined, str(temporary), useCompression=True)
