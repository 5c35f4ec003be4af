"""The planes of DICOM files: where each lies, which of them make a volume, and their values on an even grid.

A plane is a file of a classic series or a frame of a multi-frame file, whose functional groups say where it lies
(DICOM PS3.3 C.7.6.16). Headers are read by pydicom; pixels by pydicom too, or by ITK where it lacks the decoder.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.pixels
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.io._itk import itk_reason, plain_name, quiet, warn_header
from roireg.io.raster import Stored, choose

__all__ = ["Plane", "frame_count", "load_planes", "numbers", "one_volume", "planes_of"]

Array = NDArray[Any]

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_TOLERANCE = 0.02
"""Largest distance of a plane from an even grid, in voxels, that is rounding of its header."""

_SAME_DIRECTION = 2e-3
"""Largest difference of direction cosines that is rounding: 1 mm across half a metre."""


@dataclass(frozen=True)
class Plane:
    """One 2D image of a DICOM file.

    Parameters
    ----------
    file, frame : where its pixels are; frames count from 0.
    position : (3,) world point of the first pixel centre, LPS mm; None for a projection.
    axes : (2, 3) unit directions along which the column and the row index grow.
    spacing : (y, x) mm; None where the file does not say.
    thickness : mm, for a single plane.
    order : what sorts planes at one position: time, then other dimensions, then the number of the image.
    slope, intercept : from stored values to those meant.
    """

    file: Path
    frame: int
    position: Array | None
    axes: Array | None
    spacing: tuple[float, float] | None
    thickness: float
    order: tuple[int, ...]
    slope: float
    intercept: float


# -- headers ----------------------------------------------------------------------------------------


def planes_of(file: Path, header: Dataset) -> list[Plane]:
    """Return the planes of one file, in stored order.

    Raises
    ------
    InputError
        When its header has malformed values, or it is of a kind that is no image of parallel planes.
    """
    if header.get("SOPClassUID") == _WHOLE_SLIDE:
        raise InputError(f"{file}: DICOM of whole slides is not supported; convert it to OME-TIFF")
    frames = frame_count(file, header)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if groups:
        if len(groups) != frames:
            raise InputError(
                f"{file}: its header describes {len(groups)} frames of {frames}, expected all; export it again"
            )
        shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        spatial = _spatial_dimensions(header)
        return [_grouped(file, header, i, shared, group, spatial) for i, group in enumerate(groups)]
    first = _plane(file, header, 0, header, header, header, order=(_instance(file, header), 0))
    if frames == 1:
        return [first]
    return [_moved(first, i, offset) for i, offset in enumerate(_frame_offsets(file, header, first, frames))]


def frame_count(file: Path, header: Dataset) -> int:
    """Return how many frames a file holds.

    Raises
    ------
    InputError
        When its header says something else than a number.
    """
    return int(_number(file, header, "NumberOfFrames", 1) or 1)


def _plane(
    file: Path,
    header: Dataset,
    frame: int,
    place: Dataset,
    measures: Dataset,
    scale: Dataset,
    *,
    order: tuple[int, ...],
    orientation: Dataset | None = None,
) -> Plane:
    position = numbers(file, place, "ImagePositionPatient", 3)
    cosines = numbers(file, place if orientation is None else orientation, "ImageOrientationPatient", 6)
    axes = None if cosines is None else np.reshape(cosines, (2, 3))
    if axes is not None and np.abs(axes @ axes.T - np.eye(2)).max() > 0.01:
        raise InputError(
            f"{file}: its ImageOrientationPatient is {_listed(cosines)}, expected two perpendicular unit vectors; "
            "export it again"
        )
    spacing = numbers(file, measures, "PixelSpacing", 2)
    if spacing is None:
        spacing = numbers(file, header, "ImagerPixelSpacing", 2)
    if spacing is not None and (min(spacing) <= 0):
        raise GeometryError(
            f"{file}: its PixelSpacing is {_listed(spacing)}, expected positive numbers; fix its header"
        )
    thickness = _number(file, measures, "SliceThickness", None) or _number(
        file, measures, "SpacingBetweenSlices", None
    )
    slope = _number(file, scale, "RescaleSlope", 1.0)
    if header.get("Modality") == "RTDOSE":
        slope = _number(file, header, "DoseGridScaling", 1.0)
    return Plane(
        file=file,
        frame=frame,
        position=None if axes is None else position,
        axes=None if position is None else axes,
        spacing=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        thickness=abs(thickness) if thickness else 1.0,
        order=order,
        slope=1.0 if slope is None else slope,
        intercept=_number(file, scale, "RescaleIntercept", 0.0) or 0.0,
    )


def _grouped(
    file: Path, header: Dataset, frame: int, shared: Dataset, group: Dataset, spatial: Sequence[bool]
) -> Plane:
    def entry(name: str) -> Dataset:
        sequence = group.get(name) or shared.get(name)
        return sequence[0] if sequence else Dataset()

    content = entry("FrameContentSequence")
    indices = content.get("DimensionIndexValues") or []
    indices = [indices] if isinstance(indices, int) else list(indices)
    others = [int(v) for v, lies in zip(indices, spatial, strict=False) if not lies]
    time = int(_number(file, content, "TemporalPositionIndex", 0) or 0)
    return _plane(
        file,
        header,
        frame,
        entry("PlanePositionSequence"),
        entry("PixelMeasuresSequence"),
        entry("PixelValueTransformationSequence"),
        order=(time, *others, frame),
        orientation=entry("PlaneOrientationSequence"),
    )


def _spatial_dimensions(header: Dataset) -> list[bool]:
    """Tell for every index of a frame whether it counts slices rather than volumes."""
    lying = {
        pydicom.datadict.tag_for_keyword(k) for k in ("InStackPositionNumber", "ImagePositionPatient", "StackID")
    }
    return [entry.get("DimensionIndexPointer") in lying for entry in header.get("DimensionIndexSequence") or []]


def _frame_offsets(file: Path, header: Dataset, first: Plane, frames: int) -> list[float | None]:
    """Return how far along the normal the frames of a file without functional groups lie; None: they are moments."""
    offsets = numbers(file, header, "GridFrameOffsetVector", frames)
    if offsets is not None and first.position is not None:
        return [float(o - offsets[0]) for o in offsets]
    if "SliceVector" in header and "TimeSlotVector" not in header:  # a reconstructed nuclear medicine volume
        gap = _number(file, header, "SpacingBetweenSlices", None) or first.thickness
        return [i * gap for i in range(frames)]
    return [None] * frames


def _moved(first: Plane, frame: int, offset: float | None) -> Plane:
    order = (frame,)
    values = {**first.__dict__, "frame": frame, "order": order}
    if offset is None:
        return Plane(**values)
    if first.axes is None or first.position is None:
        values |= {"axes": np.eye(3)[:2], "position": np.array([0.0, 0.0, offset])}
        return Plane(**values)
    return Plane(**{**values, "position": first.position + offset * np.cross(*first.axes)})


def _instance(file: Path, header: Dataset) -> int:
    return int(_number(file, header, "InstanceNumber", 0) or 0)


def numbers(file: Path, header: Dataset, keyword: str, count: int) -> Array | None:
    """Return the numbers of an element, None where it is missing or empty.

    Raises
    ------
    InputError
        When there are others than `count` finite numbers.
    """
    try:
        with pydicom.config.disable_value_validation():
            value = header.get(keyword)
        if value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0):
            return None
        values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"{file}: its {keyword} is malformed ({' '.join(str(error).split())[:80]}), expected {count} number(s); "
            "export it again"
        ) from error
    if len(values) != count or not np.isfinite(values).all():
        raise InputError(f"{file}: its {keyword} is {_listed(values)}, expected {count} number(s); export it again")
    return values


def _number(file: Path, header: Dataset, keyword: str, default: float | None) -> float | None:
    values = numbers(file, header, keyword, 1)
    return default if values is None else float(values[0])


def _listed(values: Any) -> str:
    return "\\".join(f"{v:g}" for v in np.ravel(values)[:9]) or "empty"


# -- which planes -----------------------------------------------------------------------------------


def one_volume(name: str, planes: Sequence[Plane], frame: int | None) -> list[Plane]:
    """Return the planes of one volume from first to last along their normal, or the one plane of a projection.

    Planes at the same position are frames: points in time, echoes and the like, in the order of `Plane.order`.

    Raises
    ------
    InputError
        When the planes have several orientations, do not fill the same number of frames everywhere, or hold several
        frames and no choice.
    """
    if any(p.position is None for p in planes):
        if all(p.position is None for p in planes):
            holds = f"{len(planes)} frames that do not say where they lie"
            ordered = sorted(planes, key=lambda p: (p.order, str(p.file)))
            return [ordered[choose(name, "frame", frame, len(planes), holds=holds)]]
        raise InputError(
            f"{name}: some of its slices do not say where they lie, expected all or none; export it again"
        )
    axes = np.array([p.axes for p in planes])
    if np.abs(axes - axes[0]).max() > _SAME_DIRECTION:
        raise InputError(
            f"{name}: the slices of the DICOM series have different orientations (localizer or radial scan), "
            "expected parallel slices; choose another series"
        )
    if len({p.spacing for p in planes}) > 1:
        raise InputError(f"{name}: its slices have different pixel sizes, expected one; choose another series")
    normal = np.cross(*axes[0])
    along = np.round([p.position @ normal for p in planes if p.position is not None], 3)
    order = sorted(range(len(planes)), key=lambda i: (along[i], planes[i].order, str(planes[i].file)))
    places, counts = np.unique(along, return_counts=True)
    if counts.min() != counts.max():
        raise InputError(
            f"{name}: the DICOM series holds {len(planes)} images at {len(places)} positions, expected the same "
            "number at every position; sort it into one folder per volume"
        )
    frames = int(counts[0])
    holds = f"images that are 4D with {frames} frames of {len(places)} slices"
    return [planes[i] for i in order[choose(name, "frame", frame, frames, holds=holds) :: frames]]


# -- values -----------------------------------------------------------------------------------------


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
            if "TransferSyntaxUID" not in data.file_meta:
                data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            values = pydicom.pixels.pixel_array(data)
            if data.PhotometricInterpretation == "PALETTE COLOR":
                values = pydicom.pixels.apply_color_lut(values, data)
            if "ModalityLUTSequence" in data:
                values = pydicom.pixels.apply_modality_lut(values, data)
        except (RuntimeError, NotImplementedError):  # no decoder for this compression
            return _through_itk(file, planes), True
        except Exception as error:  # pydicom raises whatever its parser meets
            raise InputError(
                f"{file}: the DICOM file is truncated or damaged ({' '.join(str(error).split())[:120]}); copy or "
                "export it again"
            ) from error
        gray = int(data.get("SamplesPerPixel", 1)) == 1 and data.PhotometricInterpretation != "PALETTE COLOR"
    return (values[None] if values.ndim == (2 if gray else 3) else values), False


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
