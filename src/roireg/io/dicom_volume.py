"""The values of DICOM planes as a volume on an even grid.

Pixels are decoded by pydicom, or by ITK where it lacks the decoder.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.pixels
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from roireg.core.errors import InputError, warn_header
from roireg.core.grid import Grid
from roireg.io._itk import itk_reason, plain_name, quiet
from roireg.io.dicom_planes import Plane
from roireg.io.raster import Stored

__all__ = ["load_planes"]

Array = NDArray[Any]

_TOLERANCE = 0.02
"""Largest distance of a plane from an even grid, in voxels, that is rounding of its header."""

_COMPRESSED_COLOURS = ("YBR_ICT", "YBR_RCT")
"""Colours that the decoder of JPEG 2000 turns into RGB."""

_COLOURS = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", *_COMPRESSED_COLOURS)


def load_planes(name: str, planes: Sequence[Plane], *, nearest: bool = False) -> Stored:
    """Return the values of planes of one volume on an even grid whose axes are orthogonal.

    Planes that are not evenly spaced, or stacked along another direction than their normal (gantry tilt), are
    interpolated onto such a grid, with a warning that says how far off they would lie otherwise.

    Parameters
    ----------
    planes : as `one_volume` returns them.
    nearest : take the nearest voxel instead of interpolating: label maps.
    """
    values = _values(name, planes)
    first = planes[0]
    spacing = first.spacing or (1.0, 1.0)
    channels = [values] if values.ndim == 3 else list(np.moveaxis(values, -1, 0))
    if first.position is None or first.axes is None:
        array = np.stack([c[0] for c in channels])
        grid = Grid.from_itk(array.shape[:0:-1], spacing[::-1], [0.0, 0.0], np.eye(2))
        return Stored(array, grid, "mm" if first.spacing else "px")
    if first.spacing is None:
        warn_header(name, "its header does not say how large pixels are (no PixelSpacing); 1 mm is assumed")
    directions = np.column_stack([*first.axes, np.cross(*first.axes)])
    u, _, vt = np.linalg.svd(directions)  # the nearest rotation: headers round their cosines
    directions = u @ vt
    # Columns: along x, y and the normal; rows: planes, relative to the first.
    offsets = np.array([p.position - first.position for p in planes if p.position is not None]) @ directions
    step = float(offsets[-1, 2] / (len(planes) - 1)) if len(planes) > 1 else first.thickness
    voxel = min(step, *spacing)
    off = float(np.linalg.norm(offsets - np.outer(np.arange(len(planes)), (0, 0, step)), axis=1).max())
    start = np.zeros(3)
    if off > max(_TOLERANCE * voxel, 0.01):
        steps = np.diff(offsets[:, 2])
        step = float(offsets[-1, 2] / max(1, round(offsets[-1, 2] / np.median(steps))))
        tilt = np.degrees(np.arctan2(np.linalg.norm(offsets[-1, :2]), offsets[-1, 2]))
        warn_header(
            name,
            f"its slices do not make an even grid ({steps.min():.3g} to {steps.max():.3g} mm apart, stacked "
            f"{tilt:.1f} degrees off their normal); taken as one they would lie up to {off:.1f} mm off, so they are "
            f"interpolated at every {step:.4g} mm",
        )
        channels, start = _even(channels, offsets, spacing, step, nearest=nearest)
    array = np.stack(channels)
    affine = np.eye(4)
    affine[:3, :3] = (directions * (spacing[1], spacing[0], step))[:, ::-1]
    affine[:3, 3] = first.position + directions @ start
    return Stored(array, Grid(array.shape[1:], affine), "mm")


def _even(
    channels: list[Array], offsets: Array, spacing: tuple[float, float], step: float, *, nearest: bool
) -> tuple[list[Array], Array]:
    """Return planes at multiples of `step` along the normal, and where the first pixel is now (x, y, normal; mm)."""
    low, high = offsets[:, :2].min(axis=0), offsets[:, :2].max(axis=0)
    pixels = np.array(spacing[::-1])
    grown = np.ceil((high - low) / pixels - 1e-6).astype(int)
    shift = (offsets[:, :2] - low) / pixels  # of every plane, in pixels of the new grid
    height, width = channels[0].shape[1:]
    heights = np.arange(round(offsets[-1, 2] / step) + 1) * step
    above = np.clip(np.searchsorted(offsets[:, 2], heights, side="right"), 1, len(offsets) - 1)
    weight = (heights - offsets[above - 1, 2]) / (offsets[above, 2] - offsets[above - 1, 2])
    if nearest:
        weight = np.round(weight)
    results = []
    for values in channels:
        outside = 0 if nearest else float(values.min())

        def placed(i: int, values: Array = values, outside: float = outside) -> Array:
            frame = np.full((height + grown[1], width + grown[0]), outside, dtype=np.float64)
            frame[:height, :width] = values[i]
            if not shift[i].any():
                return frame
            return ndimage.shift(frame, shift[i, ::-1], order=0 if nearest else 1, cval=outside, prefilter=False)

        out = np.empty((len(heights), height + grown[1], width + grown[0]), dtype=values.dtype)
        whole = values.dtype.kind in "iu"
        for k, (i, w) in enumerate(zip(above, weight, strict=True)):
            plane = placed(i - 1) if w <= 0 else placed(i) if w >= 1 else (1 - w) * placed(i - 1) + w * placed(i)
            out[k] = np.round(plane) if whole else plane
        results.append(out)
    return results, np.array([*low, 0.0])


def _values(name: str, planes: Sequence[Plane]) -> Array:
    """Return the (plane, y, x[, channel]) values that the files mean, in the smallest type that holds them."""
    files: dict[Path, tuple[Array, bool]] = {}
    slices = []
    for plane in planes:
        if plane.file not in files:
            if len({p.file for p in planes}) == len(planes):
                files.clear()  # one plane per file: none is wanted twice
            files[plane.file] = _pixels(plane.file, planes)
        frames, as_is = files[plane.file]
        if plane.frame >= len(frames):
            raise InputError(
                f"{plane.file}: the file holds {len(frames)} frames, its header says more; export it again"
            )
        slices.append(frames[plane.frame] if as_is else _rescaled(frames[plane.frame], plane))
    if len({s.shape for s in slices}) > 1:
        raise InputError(f"{name}: its slices have different sizes, expected one; choose another series")
    if all((p.slope, p.intercept) == (1.0, 0.0) for p in planes):
        return np.stack(slices)
    if any(s.dtype.kind == "f" for s in slices):
        return np.stack([s.astype(np.float32) for s in slices])
    return _small(np.stack(slices))


def _rescaled(values: Array, plane: Plane) -> Array:
    if (plane.slope, plane.intercept) == (1.0, 0.0):
        return values
    if plane.slope.is_integer() and plane.intercept.is_integer() and values.dtype.kind in "iu":
        wide = np.int32 if abs(plane.slope) * 2**16 + abs(plane.intercept) < 2**31 else np.int64
        return np.asarray(values.astype(wide) * int(plane.slope) + int(plane.intercept))
    return np.asarray((values * plane.slope + plane.intercept).astype(np.float32))


def _small(values: Array) -> Array:
    """Return whole numbers in the smallest common type that holds them; others as they are."""
    if values.dtype.kind not in "iu":
        return values
    low, high = int(values.min()), int(values.max())
    for kind in (np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values


def _pixels(file: Path, planes: Sequence[Plane]) -> tuple[Array, bool]:
    """Return the (frame, y, x[, channel]) values of a file, and whether they are rescaled already."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.filterwarnings("ignore", module="pydicom")
        try:
            data = pydicom.dcmread(file, force=True)
            _check_colours(file, data)
            if "TransferSyntaxUID" not in data.file_meta:
                data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            values = pydicom.pixels.pixel_array(data)
            if data.PhotometricInterpretation == "MONOCHROME1":
                values = _negative(values, int(data.BitsStored))
            if data.PhotometricInterpretation == "PALETTE COLOR":
                values = pydicom.pixels.apply_color_lut(values, data)
            if "ModalityLUTSequence" in data:
                values = pydicom.pixels.apply_modality_lut(values, data)
        except InputError:
            raise
        except (RuntimeError, NotImplementedError):  # no decoder for this compression
            return _through_itk(file, planes), True
        except Exception as error:  # pydicom raises whatever its parser meets
            raise InputError(
                f"{file}: the DICOM file is truncated or damaged ({' '.join(str(error).split())[:120]}); copy or "
                "export it again"
            ) from error
        gray = int(data.get("SamplesPerPixel", 1)) == 1 and data.PhotometricInterpretation != "PALETTE COLOR"
    return (values[None] if values.ndim == (2 if gray else 3) else values), False


def _check_colours(file: Path, data: pydicom.Dataset) -> None:
    """Refuse colours whose samples nothing here turns into gray or RGB, by their name."""
    colours = str(data.get("PhotometricInterpretation") or "MONOCHROME2")
    plain = not data.file_meta.get("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian).is_compressed
    if colours not in _COLOURS or (plain and colours in _COMPRESSED_COLOURS):
        raise InputError(f"{file}: its colours are {colours}, which is not read; convert it to RGB or gray")


def _negative(values: Array, bits: int) -> Array:
    """Return values whose smallest is white as those whose smallest is black, as ITK and Slicer do."""
    if values.dtype.kind == "f":
        return -values
    return np.asarray(~values if values.dtype.kind == "i" else (1 << bits) - 1 - values, dtype=values.dtype)


def _through_itk(file: Path, planes: Sequence[Plane]) -> Array:
    if len({(p.slope, p.intercept) for p in planes if p.file == file}) > 1:
        raise InputError(
            f"{file}: its frames are compressed and scaled one by one, which cannot be read together; decompress it "
            "first (gdcmconv --raw)"
        )
    with plain_name(file) as name, quiet():
        try:
            image = sitk.ReadImage(name)
        except RuntimeError as error:
            raise InputError(
                f"{file}: the DICOM file cannot be decoded ({itk_reason(error)}); export it again"
            ) from error
    values = sitk.GetArrayFromImage(image)
    return np.asarray(values if image.GetDimension() == 3 else values[None])
