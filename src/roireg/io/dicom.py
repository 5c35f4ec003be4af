"""DICOM series: which one, in which order, and whether its slices can make a volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from roireg.core.errors import InputError
from roireg.io._itk import itk_reason, quiet, warn_header

__all__ = ["DicomSeries", "list_series", "read_series"]

_POSITION, _ORIENTATION = "0020|0032", "0020|0037"
_DESCRIPTION, _MODALITY, _INSTANCE = "0008|103e", "0008|0060", "0020|0013"


@dataclass(frozen=True)
class DicomSeries:
    """One series of a folder: its UID, description, modality and the number of files."""

    uid: str
    description: str
    modality: str
    files: tuple[str, ...]


def list_series(folder: str | Path) -> list[DicomSeries]:
    """Return the DICOM series of a folder (not of its sub-folders), by UID.

    Raises
    ------
    InputError
        When the folder does not exist or holds no DICOM series.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; check the path")
    with quiet():
        found = [
            (uid, tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(place), uid)))
            for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(place))
        ]
        series = [
            DicomSeries(uid, tags.get(_DESCRIPTION, ""), tags.get(_MODALITY, ""), files)
            for uid, files in found
            for tags in [_tags(files[0])]
        ]
    if not series:
        raise InputError(f"{place}: the folder holds no DICOM series; name a folder of DICOM slices or an image file")
    return sorted(series, key=lambda s: s.uid)


def read_series(folder: Path, *, series: str | None, frame: int | None) -> tuple[sitk.Image, dict[str, str]]:
    """Read one series of a folder as an ITK image, slices sorted by position.

    A series that holds every position several times (a cine or dynamic series) is a 4D image: `frame` picks
    the n-th image, by instance number, at every position.

    Returns
    -------
    The image and its metadata (modality, series description, series uid).

    Raises
    ------
    InputError
        When the folder has no series, several of them and no choice, an unknown choice, or slices that do
        not make a volume.
    """
    name = str(folder)
    found = list_series(folder)
    chosen = _choose(folder, found, series)
    left_out = _left_out(folder, found)
    if left_out:
        warn_header(
            name,
            f"{len(left_out)} DICOM files in it are damaged or hold no image and are left out, such as {left_out[0]}",
        )
    with quiet():
        tags = [_tags(f) for f in chosen.files]
        files = _order(name, chosen, tags, frame)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        try:
            image = reader.Execute() if len(files) > 1 else sitk.ReadImage(files[0])
        except RuntimeError as error:
            raise InputError(
                f"{name}: the DICOM series cannot be read ({itk_reason(error)}); check that its files are complete"
            ) from error
    if len(files) == 1 and _POSITION not in tags[0] and image.GetDimension() == 3 and image.GetSize()[2] == 1:
        image = projection(image)
    return image, {"modality": chosen.modality, "series": chosen.description, "series_uid": chosen.uid}


def projection(image: sitk.Image) -> sitk.Image:
    """Return a one-slice volume without position (radiograph, ultrasound) as a 2D image with its spacing."""
    flat = image[:, :, 0]
    flat.SetOrigin((0.0, 0.0))
    flat.SetDirection((1.0, 0.0, 0.0, 1.0))
    return flat


def has_position(file: Path) -> bool:
    """Tell whether a DICOM file says where in the patient its image lies."""
    with quiet():
        return _POSITION in _tags(str(file))


def _choose(folder: Path, found: list[DicomSeries], series: str | None) -> DicomSeries:
    listing = "; ".join(
        f"{s.uid} ({s.modality or 'no modality'}, {s.description or 'no description'}, {len(s.files)} slices)"
        for s in found
    )
    if series is None:
        if len(found) > 1:
            raise InputError(
                f"{folder}: the folder holds {len(found)} DICOM series, expected one: {listing}; "
                f"choose one as {folder}::SERIES_UID"
            )
        return found[0]
    for s in found:
        if series == s.uid:
            return s
    raise InputError(f"{folder}: no DICOM series {series}; found {listing}")


def _left_out(folder: Path, found: list[DicomSeries]) -> list[str]:
    """Return the names of DICOM files that belong to no series: GDCM skips damaged ones without a word."""
    used = {Path(file).name for series in found for file in series.files}
    names = []
    for file in sorted(folder.iterdir()):
        if file.name in used or file.name == "DICOMDIR" or not file.is_file():
            continue
        with file.open("rb") as stream:
            if stream.read(132)[128:] == b"DICM":
                names.append(file.name)
    return names


def _tags(file: str) -> dict[str, str]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    wanted = (_POSITION, _ORIENTATION, _DESCRIPTION, _MODALITY, _INSTANCE)
    return {tag: reader.GetMetaData(tag).strip() for tag in wanted if reader.HasMetaDataKey(tag)}


def _order(name: str, chosen: DicomSeries, tags: list[dict[str, str]], frame: int | None) -> list[str]:
    """Return the files of one volume from first to last slice; warn where they are unevenly spaced."""
    if len(chosen.files) == 1 or any(_POSITION not in t or _ORIENTATION not in t for t in tags):
        if len(chosen.files) > 1:
            warn_header(name, "its slices do not say where they lie; they are stacked in the order of their names")
        return list(chosen.files)
    numbers = np.array([[float(v) for v in t[_ORIENTATION].split("\\")] for t in tags])
    positions = np.array([[float(v) for v in t[_POSITION].split("\\")] for t in tags])
    if np.abs(numbers - numbers[0]).max() > 1e-2:
        raise InputError(
            f"{name}: the slices of the DICOM series have different orientations (localizer or radial scan), "
            "expected parallel slices; choose another series"
        )
    normal = np.cross(numbers[0, :3], numbers[0, 3:])
    along = np.round(positions @ normal, 3)
    instance = [int(t.get(_INSTANCE) or 0) for t in tags]
    order = sorted(range(len(tags)), key=lambda i: (along[i], instance[i], chosen.files[i]))
    places, counts = np.unique(along, return_counts=True)
    if counts.max() > 1:
        if counts.min() != counts.max():
            raise InputError(
                f"{name}: the DICOM series holds {len(tags)} images at {len(places)} positions, expected one image "
                "per position; sort it into one folder per volume"
            )
        frames = int(counts[0])
        if frame is None or not 0 <= frame < frames:
            raise InputError(
                f"{name}: the DICOM series is 4D with {frames} frames of {len(places)} slices, expected one volume; "
                f"choose one with --frame N, N from 0 to {frames - 1}"
            )
        order = order[frame::frames]
    _check_gaps(name, places, positions[order], normal)
    return [chosen.files[i] for i in order]


def _check_gaps(name: str, places: np.ndarray, positions: np.ndarray, normal: np.ndarray) -> None:
    if len(places) < 2:
        return
    steps = np.diff(places)
    if steps.max() > 1.05 * steps.min() and steps.max() - steps.min() > 0.01:
        warn_header(
            name,
            f"the distance between slices varies from {steps.min():.3g} to {steps.max():.3g} mm (slices may be "
            "missing); they are taken as evenly spaced",
        )
    stack = positions[-1] - positions[0]
    tilt = float(np.degrees(np.arccos(np.clip(stack @ normal / np.linalg.norm(stack), -1, 1))))
    if tilt > 0.5:
        warn_header(
            name, f"the slices are stacked {tilt:.1f} degrees off their normal (gantry tilt); the tilt is ignored"
        )
