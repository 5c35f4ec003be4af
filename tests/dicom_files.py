"""DICOM files that tests write with pydicom: classic series, enhanced multi-frame, contours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

SPACING = (1.5, 1.2)
"""Of every plane, (y, x) mm."""
CORNER = np.array([-20.0, -30.0, 10.0])
STUDY, FRAME = generate_uid(), generate_uid()


def scene(points: np.ndarray) -> np.ndarray:
    """Values of a smooth anatomy at (..., 3) world points."""
    x, y, z = np.moveaxis(points, -1, 0)
    return 500 + 200 * np.sin(x / 9) + 150 * np.cos(y / 11 + 1) + 8 * (z - 40)


def plane_points(position: np.ndarray, axes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(y, x, 3) world points of the pixels of one plane, as its header puts them."""
    rows, columns = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return position + columns[..., None] * SPACING[1] * axes[0] + rows[..., None] * SPACING[0] * axes[1]


def write_series(
    folder: Path,
    positions: Sequence[np.ndarray],
    axes: np.ndarray,
    *,
    shape: tuple[int, int] = (28, 32),
    uid: str | None = None,
    change: Callable[[FileDataset, int], None] = lambda data, k: None,
) -> np.ndarray:
    """Write one slice of `scene` per file; return the values as written."""
    folder.mkdir(parents=True, exist_ok=True)
    series = uid or generate_uid()
    planes = [np.round(scene(plane_points(p, axes, shape))).astype("<i2") for p in positions]
    for k, (position, pixels) in enumerate(zip(positions, planes, strict=True)):
        data = _data_set(pixels, CTImageStorage, k + 1, series)
        data.ImagePositionPatient = [round(float(v), 6) for v in position]
        data.ImageOrientationPatient = [round(float(v), 9) for v in axes.ravel()]
        data.PixelSpacing, data.SliceThickness = list(SPACING), 3.0
        change(data, k)
        data.save_as(folder / f"IM{k:03d}.dcm", enforce_file_format=True)
    return np.stack(planes)


def write_enhanced(
    file: Path, frames: Sequence[tuple[np.ndarray, float, int]], *, slopes: Sequence[float] | None = None
) -> None:
    """Write (pixels, height along z, time) frames into one multi-frame file, in this order."""
    data = _data_set(np.stack([pixels for pixels, _, _ in frames]), EnhancedMRImageStorage, 1, generate_uid())
    data.NumberOfFrames = len(frames)
    shared = Dataset()
    shared.PixelMeasuresSequence = _item(PixelSpacing=list(SPACING), SliceThickness=3.0)
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[1.0, 0, 0, 0, 1.0, 0])
    data.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for number, (_, height, time) in enumerate(frames):
        group = Dataset()
        group.PlanePositionSequence = _item(ImagePositionPatient=[*CORNER[:2], float(height)])
        group.FrameContentSequence = _item(StackID="1", TemporalPositionIndex=time + 1)
        if slopes is not None:
            group.PixelValueTransformationSequence = _item(
                RescaleSlope=slopes[number], RescaleIntercept=-10.0, RescaleType="US"
            )
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Items(groups)
    data.save_as(file, enforce_file_format=True)


def write_contours(file: Path, series: str, regions: dict[str, Sequence[np.ndarray]]) -> None:
    """Write named regions, each a list of closed (N, 3) contours, drawn on a series."""
    data = _file(RTStructureSetStorage, generate_uid(), 1)
    data.Modality = "RTSTRUCT"
    data.ReferencedFrameOfReferenceSequence = _item(
        RTReferencedStudySequence=_item(RTReferencedSeriesSequence=_item(SeriesInstanceUID=series))
    )
    data.StructureSetROISequence = Items(
        [_item(ROINumber=n, ROIName=name)[0] for n, name in enumerate(regions, start=1)]
    )
    data.ROIContourSequence = Items(
        [
            _item(
                ReferencedROINumber=n,
                ContourSequence=Items(
                    [
                        _item(
                            ContourGeometricType="CLOSED_PLANAR",
                            NumberOfContourPoints=len(points),
                            ContourData=[round(float(v), 4) for v in np.ravel(points)],
                        )[0]
                        for points in contours
                    ]
                ),
            )[0]
            for n, contours in enumerate(regions.values(), start=1)
        ]
    )
    data.save_as(file, enforce_file_format=True)


def _item(**elements: Any) -> Items:
    entry = Dataset()
    for name, value in elements.items():
        setattr(entry, name, value)
    return Items([entry])


def _file(kind: str, series: str, instance: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = STUDY, series, FRAME
    data.InstanceNumber = instance
    data.PatientID, data.PatientName, data.StudyID, data.SeriesNumber = "1", "A^", "1", 1
    data.PatientBirthDate = data.PatientSex = data.AccessionNumber = ""
    data.StudyDate, data.StudyTime, data.ReferringPhysicianName = "20200101", "000000", ""
    return data


def _data_set(pixels: np.ndarray, kind: str, instance: int, series: str) -> FileDataset:
    data = _file(kind, series, instance)
    data.Modality = "CT" if kind == CTImageStorage else "MR"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.PixelData = 15, 1, pixels.astype("<i2").tobytes()
    return data
