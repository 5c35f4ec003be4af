"""Label maps of DICOM: segmentations (SEG, through highdicom) and contours (RTSTRUCT)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from skimage.draw import polygon2mask

from roireg.core.errors import InputError, OptionalDependencyError, RoiregError, warn_header
from roireg.core.grid import Grid
from roireg.io.raster import Stored

__all__ = ["LABEL_CLASSES", "read_label_file"]

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
CONTOURS = "1.2.840.10008.5.1.4.1.1.481.3"
LABEL_CLASSES = (*SEGMENTATIONS, CONTOURS)
"""SOP classes of segmentations (binary, fractional, label map) and of contours."""

Array = NDArray[Any]


def read_label_file(file: Path, series: Callable[[str], Stored | None]) -> Stored:
    """Read a SEG or RTSTRUCT file as a label map; segment and ROI numbers are the labels.

    Parameters
    ----------
    file : the file.
    series : finds the images of a series UID; contours are drawn on their grid.

    Raises
    ------
    InputError
        When the file is malformed, or the images that contours refer to are not beside it.
    OptionalDependencyError
        When a segmentation is read without the extra `dicom`.
    """
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.filterwarnings("ignore", module=r"pydicom|highdicom")
        try:
            data = pydicom.dcmread(file)
            if data.SOPClassUID == CONTOURS:
                return _contours(file, data, series)
            return _segments(file, data)
        except RoiregError:
            raise
        except Exception as error:  # pydicom raises whatever its parser meets
            raise InputError(
                f"{file}: the label map cannot be read ({' '.join(str(error).split())[:160]}); export it again"
            ) from error


def _segments(file: Path, data: Dataset) -> Stored:
    try:
        import highdicom
    except ImportError as error:
        raise OptionalDependencyError(
            f"{file}: DICOM segmentations need the extra dicom; install it with pip install 'roireg[dicom]'"
        ) from error
    segmentation = highdicom.seg.Segmentation.from_dataset(data, copy=False)
    try:
        volume = segmentation.get_volume(combine_segments=True)
    except (RuntimeError, ValueError) as error:
        if "FRACTIONAL" in str(error):
            raise InputError(
                f"{file}: the segmentation is FRACTIONAL, it holds how much of a voxel belongs to a segment, "
                "expected whole voxels; export it as BINARY or LABELMAP"
            ) from error
        if "overlap" not in str(error):
            raise
        warn_header(str(file), "its segments share voxels, which go to the one of the highest number")
        # What has failed once keeps its index locked.
        segmentation = highdicom.seg.Segmentation.from_dataset(data, copy=False)
        volume = segmentation.get_volume(combine_segments=True, skip_overlap_checks=True)
    names = {n: segmentation.get_segment_description(n).segment_label for n in segmentation.segment_numbers}
    array, affine = np.asarray(volume.array), np.array(volume.affine, dtype=np.float64)
    # Indices of highdicom run (slice, row, column), as those of `Grid`, but slices may run against the normal.
    if np.linalg.det(affine[:3, 2::-1]) < 0:
        affine[:3, 3] += (len(array) - 1) * affine[:3, 0]
        affine[:3, 0] *= -1
        array = array[::-1]
    grid = Grid(array.shape, affine)
    return Stored(array.astype(np.int32)[None], grid, "mm", _named("SEG", data, names))


def _contours(file: Path, data: Dataset, series: Callable[[str], Stored | None]) -> Stored:
    uid = _referenced_series(data)
    images = None if uid is None else series(uid)
    if images is None:
        raise InputError(
            f"{file}: its contours are drawn on the DICOM series {uid}, which is neither in its folder nor in one "
            "beside it; put the series there"
        )
    names = {int(roi.ROINumber): str(roi.get("ROIName") or "") for roi in data.StructureSetROISequence}
    labels = np.zeros(images.grid.shape, dtype=np.int32)
    overlap, empty = 0, []
    for roi in data.ROIContourSequence:
        number = int(roi.ReferencedROINumber)
        inside = np.zeros(labels.shape, dtype=bool)
        for contour in roi.get("ContourSequence") or []:
            if contour.get("ContourGeometricType") in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                points = np.asarray(contour.ContourData, dtype=np.float64).reshape(-1, 3)
                _draw(file, inside, images.grid.index_from_world(points))
        if not inside.any():
            empty.append(names.get(number) or str(number))
        overlap += int((inside & (labels != 0)).sum())
        labels[inside] = number
    if empty:
        warn_header(
            str(file),
            f"regions without a voxel: {', '.join(empty)}; they lie outside the series or are no closed lines",
        )
    if overlap:
        warn_header(str(file), f"its regions share {overlap} voxels, which go to the one that comes last")
    return Stored(labels[None], images.grid, "mm", _named("RTSTRUCT", data, names))


def _draw(file: Path, inside: Array, index: Array) -> None:
    """Fill a closed contour, given as indices (z, y, x); contours of one slice that lie in each other cut holes."""
    if np.ptp(index[:, 0]) > 0.5:
        raise InputError(
            f"{file}: its contours are not parallel to the slices of its images; export it as a label map"
        )
    plane = round(float(index[:, 0].mean()))
    if 0 <= plane < len(inside):
        inside[plane] ^= polygon2mask(inside.shape[1:], index[:, 1:])


def _referenced_series(data: Dataset) -> str | None:
    for frame in data.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for entry in study.get("RTReferencedSeriesSequence") or []:
                return str(entry.SeriesInstanceUID)
    return None


def _named(modality: str, data: Dataset, names: dict[int, str]) -> dict[str, str]:
    listed = ", ".join(f"{number} {name}".strip() for number, name in sorted(names.items()))
    return {"modality": modality, "series_uid": str(data.get("SeriesInstanceUID") or ""), "labels": listed}
