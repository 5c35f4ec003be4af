"""Images and label maps from files to `Image` and back.

World is LPS mm. Raster files (PNG, JPEG, BMP) have world = pixel index: spacing 1, origin 0, unit "px"; resolution
tags are ignored, EXIF rotation is told and ignored. TIFF is read by `roireg.io.tiff`, which takes a physical pixel
size where the file means one. Supported for reading is what ITK reads (NIfTI, NRRD, MetaImage, DICOM, raster, MINC,
VTK ...).
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import SimpleITK as sitk
import tifffile
import torch
from numpy.typing import NDArray

from roireg.core.errors import InputError, warn_header
from roireg.core.grid import Grid
from roireg.core.image import Image, extremes, intensities, stored_values
from roireg.core.words import IMAGE_FORMATS
from roireg.io._itk import (
    check_shear,
    chosen_frame,
    extension,
    grid_from_itk,
    holds_itk,
    itk_reason,
    not_finite,
    plain_name,
    quiet,
    to_itk_image,
    write_itk,
)
from roireg.io.dicom import read_dicom
from roireg.io.folders import is_dicom
from roireg.io.headers import check_data, companions
from roireg.io.nifti import is_analyze, is_nifti, read_analyze, read_nifti, write_nifti
from roireg.io.pictures import PICTURES, through_pillow
from roireg.io.raster import Selection, Stored, refuse_selection
from roireg.io.streams import refuse_special
from roireg.io.tiff import read_tiff
from roireg.io.tiff_writing import tiles_complete, write_tiff
from roireg.io.verified import verified_path

__all__ = [
    "check_image",
    "image_of",
    "labels_of",
    "read_image",
    "read_labels",
    "read_stored",
    "write_image",
    "write_labels",
]

Array = NDArray[Any]

TIFF = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".qptiff", ".bif", ".lsm", ".stk")
RASTER = (*PICTURES, *TIFF)
VOLUME = (".nii", ".nii.gz", ".nrrd", ".mha")
_RASTER_TYPES = {
    ".png": ("uint8", "uint16"),
    ".jpg": ("uint8",),
    ".jpeg": ("uint8",),
    ".tif": ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"),
    ".tiff": ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"),
}


MOST_PACKED = 4096
"""Voxels that a byte of a compressed file stands for at most: images of one colour are small."""

EXACT = 1 << 24
"""The largest integer up to which float32 holds all."""

ROUNDED = 0.02
"""How far a label may be off a whole number: integers that nibabel saved with a slope are up to 0.016 off."""


# -- reading --------------------------------------------------------------------------------------


def read_image(
    path: str | Path,
    *,
    frame: int | None = None,
    series: str | None = None,
    level: int | None = None,
    page: int | str | None = None,
    channel: int | str | None = None,
    finite: bool = True,
) -> Image:
    """Read a 2D or 3D image.

    Parameters
    ----------
    path : a file, a folder with a DICOM series, or ``folder::SERIES_UID``.
    frame : which volume of a 4D image, from 0; None expects a 2D or 3D image.
    series : UID of the DICOM series where a folder has several.
    level : step of the pyramid of a TIFF file, 0 (and None) is full resolution; every level has the same world.
    page : which of several pictures of a TIFF file, from 0; "all" stacks pages of equal size as slices.
    channel : one channel of a TIFF file, from 0 or by its name; None keeps all.
    finite : whether NaN and infinite values are refused.

    Returns
    -------
    Image with (channel, *spatial) float32 data, storage order; RGB(A) and vector pixels become channels; pictures
    of more than 16 million bytes stay uint8. Its
    `dtype` is the stored pixel type, its unit "px" for raster files without physical size and "mm" otherwise; its
    `metadata` say what was taken of a file with several pictures. A radiograph (a DICOM file without patient
    position) is 2D.

    Raises
    ------
    InputError
        When the file is missing, no image, damaged, complex, holds NaN or infinite values (with `finite`), or
        several pictures (4D, pages) and no choice.
    GeometryError
        When its geometry is unusable (sheared or singular axes).
    """
    image = image_of(path, read_stored(path, Selection(frame, series, level, page, channel)))
    if finite:
        _check_finite(image)
    return image


def read_labels(
    path: str | Path,
    *,
    frame: int | None = None,
    series: str | None = None,
    level: int | None = None,
    page: int | str | None = None,
) -> Image:
    """Read a label map: (1, *spatial) int32 data. Palette images give their indices.

    Raises
    ------
    InputError
        As `read_image`, and when the file is RGB, JPEG (lossy), or holds values that are not integers. Values within
        0.02 of whole numbers are rounded, with a warning.
    """
    if extension(Path(path)) in (".jpg", ".jpeg"):
        raise InputError(f"{path}: JPEG alters label values; save the label map as PNG or NIfTI")
    return labels_of(path, read_stored(path, Selection(frame, series, level, page), indices=True))


def image_of(name: str | Path, stored: Stored) -> Image:
    """Return the image of what is stored; `name` is how messages refer to it.

    Integers beyond 24 bits, which float32 rounds, are told: they are mostly names of regions.
    """
    array = stored.array
    if array.dtype.kind in "iu" and array.dtype.itemsize >= 4:
        largest = max(int(array.max()), -int(array.min()))
        if largest > EXACT:
            warn_header(
                str(name),
                f"integers of up to {largest} are rounded to the nearest that fits 24 bits; a label map is read "
                "exactly, with --labels where there is the option",
            )
    return _image(name, intensities(stored.array, copy=False), stored)


def labels_of(name: str | Path, stored: Stored) -> Image:
    """Return the label map of what is stored, see `read_labels`."""
    array = stored.array
    if array.shape[0] != 1:
        raise InputError(
            f"{name}: a label map has one value per voxel, found {array.shape[0]} channels; save it as an index image"
        )
    if array.dtype.kind == "f":
        stored = replace(stored, array=_rounded(array, str(name)))
        array = stored.array
    limits = np.iinfo(np.int32)
    if int(array.min()) < limits.min or int(array.max()) > limits.max:
        raise InputError(f"{name}: labels must fit 32-bit integers, found values up to {array.max()}")
    return _image(name, torch.from_numpy(np.array(array, dtype=np.int32, order="C")), stored)


def _rounded(array: Array, name: str) -> Array:
    """Return whole numbers where all values are nearly that: what integers scaled by a slope look like."""
    whole = np.round(array)
    off = np.abs(array - whole)
    wrong = int((~(off <= ROUNDED)).sum())
    if wrong:
        raise InputError(
            f"{name}: a label map holds whole numbers, found {wrong} voxels with other values (more than {ROUNDED} "
            "off); save it as integers"
        )
    if (furthest := float(off.max())) > 0:
        warn_header(name, f"the labels are up to {furthest:.2g} off whole numbers, to which they are rounded")
    return whole


def _image(path: str | Path, data: torch.Tensor, stored: Stored) -> Image:
    return Image(
        data,
        stored.grid,
        name=str(path),
        unit=stored.unit,
        dtype=str(stored.array.dtype),
        metadata=dict(stored.metadata),
    )


def check_image(image: Image) -> None:
    """Refuse an image that cannot be registered.

    Raises
    ------
    InputError
        When it holds NaN or infinite values, or the same value everywhere.
    """
    _check_finite(image)
    low, high = extremes(image.data)
    if low == high:
        raise InputError(
            f"{image.name}: every voxel has the value {low:g}, so there is nothing to register; check that this is "
            "the right file"
        )


def _check_finite(image: Image) -> None:
    if image.data.is_floating_point() and not bool(torch.isfinite(image.data.sum())):
        nan = int(torch.isnan(image.data).sum())
        infinite = int(torch.isinf(image.data).sum())
        if nan + infinite:
            raise InputError(not_finite(image.name, nan, infinite))


def read_stored(path: str | Path, selection: Selection, *, indices: bool = False) -> Stored:
    """Read an image in its stored type, NaN included; palettes as `indices` or colours. Raises as `read_image`."""
    place, frame, series = Path(path), selection.frame, selection.series
    if not place.exists() and "::" in str(path) and series is None:
        folder, _, series = str(path).rpartition("::")
        place = Path(folder)
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; check the path")
    refuse_special(place)
    if not os.access(place, os.R_OK):
        raise InputError(f"{place}: no permission to read this; change its permissions")
    kind = "" if place.is_dir() else extension(place)
    if kind in TIFF:
        if place.stat().st_size == 0:
            raise InputError(_unreadable(place))
        return read_tiff(place, selection, indices=indices)
    refuse_selection(str(place), "a DICOM series" if place.is_dir() else "this file", selection)
    if place.is_dir() or (kind not in (*RASTER, *VOLUME) and is_dicom(place)):
        return read_dicom(place, replace(selection, series=series), indices=indices)
    if kind in RASTER:
        values = through_pillow(place, frame=frame, indices=indices)
        if values is not None:
            return Stored(values, Grid.pixels(values.shape[1:]), "px")
    if is_nifti(place):
        stored = read_nifti(place, frame=frame)
        return replace(stored, array=_colours(stored.array, str(place), frame))
    if is_analyze(place):
        return read_analyze(place, frame=frame)
    image = _read_file(place, frame)
    array = sitk.GetArrayFromImage(image)
    if np.iscomplexobj(array):
        raise InputError(f"{place}: complex values cannot be registered; save the magnitude as a real image")
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = _colours(np.moveaxis(array, -1, 0), str(place), frame)
    else:
        array = array[None]
    if array.ndim not in (3, 4):
        raise InputError(f"{place}: expected a 2D or 3D image, found {array.ndim - 1} spatial axes")
    if kind in RASTER:
        return Stored(array, Grid.pixels(array.shape[1:]), "px")
    grid = grid_from_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), str(place))
    return Stored(array, grid, "mm")


def _colours(array: Array, name: str, frame: int | None) -> Array:
    """Return the channels of vector pixels; of more than four, which are a series (diffusion), the frame."""
    return array if len(array) <= 4 else array[chosen_frame(name, len(array), frame)][None]


def _read_file(path: Path, frame: int | None) -> sitk.Image:
    check_data(path)
    with plain_name(path, beside=companions(path)) as name, quiet():
        reader = sitk.ImageFileReader()
        reader.SetFileName(name)
        try:
            kind = reader.GetImageIOFromFileName(name)
        except RuntimeError:  # newer ITK says so by raising, older by an empty name
            kind = ""
        if not kind:
            raise InputError(_unreadable(path))
        try:
            reader.ReadImageInformation()
            size = list(reader.GetSize())
            _check_size(path, size)
            if len(size) > 3:
                number = chosen_frame(str(path), math.prod(size[3:]), frame, shape=size)
                index = [int(i) for i in np.unravel_index(number, size[3:], order="F")]
                reader.SetExtractSize(size[:3] + [0] * (len(size) - 3))
                reader.SetExtractIndex([0, 0, 0, *index])
            return reader.Execute()
        except RuntimeError as error:
            reason = itk_reason(error)
            known = "not supported" not in reason
            fault = "it looks truncated or damaged" if known else "ITK has no such kind"
            raise InputError(
                f"{path}: the file cannot be read, {fault} ({reason}); copy or export it again"
            ) from error


def _check_size(path: Path, size: Sequence[int]) -> None:
    """Refuse a size that the file cannot hold at a byte per voxel, however well it is compressed."""
    held = path.stat().st_size
    if path.suffix.lower() in (".hdr", ".mhd", ".nhdr"):
        return  # their voxels are elsewhere
    if math.prod(size) > max(held, 1024) * MOST_PACKED:
        listed = " x ".join(map(str, size))
        raise InputError(
            f"{path}: its header announces {listed} voxels, which a file of {held} bytes cannot hold; it is damaged, "
            "copy it again"
        )


def _unreadable(path: Path) -> str:
    if path.stat().st_size == 0:
        return f"{path}: the file is empty; copy or export it again"
    if extension(path) in (".mgz", ".mgh"):
        return f"{path}: FreeSurfer MGH files are not supported; convert with mri_convert {path.name} image.nii.gz"
    if extension(path) in (*RASTER, *VOLUME):
        return f"{path}: the file is not a {extension(path)} image or is damaged; expected {IMAGE_FORMATS}"
    return f"{path}: the file is not an image in a known format; expected {IMAGE_FORMATS}"


# -- writing --------------------------------------------------------------------------------------


def write_image(path: str | Path, image: Image) -> None:
    """Write an image in its stored pixel type (`image.dtype`); integers are rounded and clipped to its range.

    The extension chooses the format: .nii, .nii.gz, .nrrd, .mha for 2D and 3D; .png (uint8, uint16), .jpg (uint8)
    for 2D gray, RGB or RGBA, without the geometry; .tif for any channels, with the voxel size of an image in mm but
    no origin or direction. The file appears only when complete.

    Raises
    ------
    InputError
        When the format is unknown or cannot hold the image (3D as .png, float as .png ...).
    OutputError
        When the place cannot be written.
    """
    target = Path(path)
    array = stored_values(image)
    kind = extension(target)
    if kind in _RASTER_TYPES:
        _check_raster(target, image, array)
    elif kind not in VOLUME:
        extensions = ", ".join((*VOLUME, *_RASTER_TYPES))
        raise InputError(f"{target}: cannot write an image with the extension {kind!r}; use one of {extensions}")
    grid = Grid.pixels(image.grid.shape) if kind in _RASTER_TYPES else image.grid
    check_shear(grid)
    with verified_path(target, lambda file: _holds(file, kind, array)) as temporary:
        if kind in (".tif", ".tiff"):
            write_tiff(temporary, array, image.grid, image.unit)
        elif kind in (".nii", ".nii.gz"):
            write_nifti(temporary, array, grid)
        elif kind in (".jpg", ".jpeg"):
            temporary.write_bytes(_jpeg(array))
        else:
            write_itk(temporary, target, to_itk_image(array, grid))


def _jpeg(array: Array) -> bytes:
    """Compress in memory: ITK's JPEG library ends the process where a disk is full."""
    picture = PIL.Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(np.moveaxis(array, 0, -1)))
    memory = io.BytesIO()
    picture.save(memory, format="JPEG", quality=95)
    return memory.getvalue()


def _holds(file: Path, kind: str, array: Array) -> bool:
    """Tell whether a file that was just written has the (channel, *spatial) values that were meant."""
    if kind in (".tif", ".tiff"):
        with tifffile.TiffFile(file) as tiff:
            if tiff.pages.first.is_tiled:  # large, as `write_tiff` has it
                return tiles_complete(tiff)
            return tiff.asarray().size == array.size
    if kind in (".nii", ".nii.gz"):
        return np.array_equal(read_nifti(file).array.reshape(array.shape), array, equal_nan=array.dtype.kind == "f")
    if kind in (".jpg", ".jpeg"):
        with PIL.Image.open(file) as picture:
            picture.load()
        return True
    return holds_itk(file, array)


def write_labels(path: str | Path, labels: Image) -> None:
    """Write a (1, *spatial) integer label map in the smallest of uint8, uint16, int32 that holds it.

    Raises
    ------
    InputError
        When there are several channels, or the format cannot hold the labels.
    OutputError
        When the place cannot be written.
    """
    if labels.channels != 1 or labels.data.is_floating_point():
        raise InputError(f"{labels.name}: a label map has one channel of integers, found {labels!r}")
    if extension(Path(path)) in (".jpg", ".jpeg"):
        raise InputError(f"{path}: JPEG alters label values; use .png or .nii.gz")
    low, high = int(labels.data.min()), int(labels.data.max())
    dtype = "int32" if low < 0 or high > 65535 else "uint8" if high <= 255 else "uint16"
    write_image(path, Image(labels.data, labels.grid, name=labels.name, unit=labels.unit, dtype=dtype))


def _check_raster(target: Path, image: Image, array: Array) -> None:
    kind = extension(target)
    tiff = kind in TIFF
    if image.ndim == 3 and not (tiff and _at_zero(image.grid)):
        raise InputError(f"{target}: a 3D image does not fit a {kind} file; use .nii.gz, .nrrd or .mha")
    if str(array.dtype) not in _RASTER_TYPES[kind]:
        raise InputError(
            f"{target}: a {kind} file holds {' or '.join(_RASTER_TYPES[kind])}, found {array.dtype}; use .nii.gz"
        )
    allowed = (1, 3) if kind in (".jpg", ".jpeg") else (1, 3, 4)
    if image.channels not in allowed and not tiff:
        raise InputError(f"{target}: a {kind} file holds {allowed} channels, found {image.channels}; use .nii.gz")


def _at_zero(grid: Grid) -> bool:
    """Tell whether a grid is all spacing: its axes run along the world's and index 0 is the origin."""
    return grid.is_close(Grid.from_itk(grid.shape[::-1], grid.itk[1], [0.0] * grid.ndim, np.eye(grid.ndim)))
