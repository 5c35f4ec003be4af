"""The planes of DICOM files: where each lies, and which of them make a volume.

A plane is a file of a classic series or a frame of a multi-frame file, whose functional groups say where it lies
(DICOM PS3.3 C.7.6.16). Their values on an even grid are in `roireg.io.dicom_volume`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from roireg.core.errors import GeometryError, InputError, warn_header
from roireg.io.raster import choose

__all__ = ["Plane", "frame_count", "numbers", "one_volume", "planes_of", "tell_aspect", "tell_maps"]

Array = NDArray[Any]

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
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
    order : what sorts planes at one position: time, then other dimensions, then the numbers of image and frame.
    slope, intercept : from stored values to those meant; a slope of 0 is none, as for ITK.
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
    if header.get("SOPClassUID") == _WHOLE_SLIDE or "TotalPixelMatrixColumns" in header:
        raise InputError(
            f"{file}: this DICOM file holds a slide in tiles, which is not put together; convert it to OME-TIFF"
        )
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
    order = (_instance(file, header), 0)
    first = _plane(file, header, 0, _place(header), header, header, maps=_maps(header), order=order)
    if frames == 1:
        return [first]
    offsets = _frame_offsets(file, header, first, frames)
    if first.position is None and offsets[0] is not None:
        warn_header(
            str(file), "its header does not say where it lies; the first voxel is taken as the origin, axes along LPS"
        )
    return [_moved(first, i, offset) for i, offset in enumerate(offsets)]


def _place(header: Dataset) -> Dataset:
    """Return what says where the first plane lies: of a volume of nuclear medicine its detector."""
    detectors = header.get("DetectorInformationSequence")
    return detectors[0] if detectors and "ImagePositionPatient" not in header and "SliceVector" in header else header


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
    maps: Sequence[Dataset],
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
    kind = "Rescale"
    if _only_map(header, scale, maps):
        kind, scale = "RealWorldValue", maps[0]
    slope = _number(file, scale, f"{kind}Slope", 1.0)
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
        slope=slope or 1.0,
        intercept=_number(file, scale, f"{kind}Intercept", 0.0) or 0.0,
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
        maps=_maps(group) or _maps(shared) or _maps(header),
        order=(time, *others, _instance(file, header), frame),
        orientation=entry("PlaneOrientationSequence"),
    )


def _maps(holder: Dataset) -> Sequence[Dataset]:
    """Return the maps from stored to real-world values, of which a file may have several."""
    return holder.get("RealWorldValueMappingSequence") or ()


def _only_map(header: Dataset, scale: Dataset, maps: Sequence[Dataset]) -> bool:
    """Tell whether values are those of a real-world map: the only one, of a line, and nothing else scales them."""
    if len(maps) != 1 or "RealWorldValueSlope" not in maps[0]:
        return False
    return "RescaleSlope" not in scale and not {"ModalityLUTSequence", "DoseGridScaling"} & set(header.dir())


def tell_maps(name: str, header: Dataset) -> None:
    """Warn where values are real-world ones, which others leave as stored, or are not although they could be."""
    groups = header.get("PerFrameFunctionalGroupsSequence") or [Dataset()]
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    scale = groups[0].get("PixelValueTransformationSequence") or shared.get("PixelValueTransformationSequence")
    maps = _maps(groups[0]) or _maps(shared) or _maps(header)
    if not maps or "RescaleSlope" in (scale[0] if scale else header):
        return
    if _only_map(header, header, maps):
        warn_header(name, "its values are the real-world ones of its only map, not those that are stored")
    else:
        what = f"by {len(maps)} maps, of which none is" if len(maps) > 1 else "by a table, which is not"
        warn_header(name, f"its values are taken as stored: real-world ones are given {what} applied")


def tell_aspect(file: Path, header: Dataset) -> None:
    """Warn where pixels are not square and their size is not said, as in films and frames of video."""
    ratio = numbers(file, header, "PixelAspectRatio", 2)
    known = {"PixelSpacing", "ImagerPixelSpacing", "SharedFunctionalGroupsSequence"} & set(header.dir())
    if ratio is not None and ratio[0] != ratio[1] and not known:
        warn_header(str(file), f"its pixels are {ratio[0]:g}:{ratio[1]:g} high to wide, and are taken as square")


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
    values = {**first.__dict__, "frame": frame, "order": (first.order[0], frame)}
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
