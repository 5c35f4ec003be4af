"""DICOM: which series of a folder, and which of its files make an image.

Which planes make a volume is in `roireg.io.dicom_planes`, its values in `roireg.io.dicom_volume`, label maps (SEG,
RTSTRUCT) in `roireg.io.dicom_labels`.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException

from roireg.core.errors import HeaderWarning, InputError, warn_header
from roireg.io.dicom_labels import LABEL_CLASSES, read_label_file
from roireg.io.dicom_planes import frame_count, one_volume, planes_of, tell_aspect, tell_maps
from roireg.io.dicom_volume import load_planes
from roireg.io.folders import dicom_inside, is_dicom, no_series
from roireg.io.raster import Selection, Stored

__all__ = ["DicomSeries", "list_series", "read_dicom"]


@dataclass(frozen=True)
class DicomSeries:
    """One series of a folder: its UID, description, modality and files."""

    uid: str
    description: str
    modality: str
    files: tuple[str, ...]


@contextmanager
def _lenient() -> Iterator[None]:
    """Let pydicom read values that the standard forbids, without its warnings; those about headers stay."""
    with warnings.catch_warnings(record=True) as told, pydicom.config.disable_value_validation():
        warnings.simplefilter("always")
        yield
    for warning in told:
        if issubclass(warning.category, HeaderWarning):
            warnings.warn_explicit(str(warning.message), HeaderWarning, warning.filename, warning.lineno)


@_lenient()
def list_series(folder: str | Path) -> list[DicomSeries]:
    """Return the DICOM series of a folder (not of its sub-folders), by UID; label maps among them.

    Raises
    ------
    InputError
        When the folder does not exist or holds no DICOM series.
    """
    place = Path(folder)
    return [_described(uid, entries) for uid, entries in sorted(_scan(place).items())]


@_lenient()
def read_dicom(place: Path, selection: Selection, *, indices: bool = False) -> Stored:
    """Read one DICOM file, or one series of a folder.

    Parameters
    ----------
    place : a file or a folder.
    selection : series and frame.
    indices : a label map is wanted: SEG and RTSTRUCT come first, and nothing is interpolated.

    Returns
    -------
    A volume, or a 2D image where the file has no position (radiograph); metadata: modality, series, series_uid.

    Raises
    ------
    InputError
        When there is no series, several and no choice, or files that do not make a volume.
    """
    name = str(place)
    if place.is_file():
        header = _header(place)
        if header is None:
            raise InputError(f"{place}: the DICOM file is truncated or damaged; copy or export it again")
        entries = [(place, header)]
    else:
        entries = _choose(place, _scan(place), selection.series, indices=indices)
    first = entries[0][1]
    if str(first.get("SOPClassUID")) in LABEL_CLASSES:
        return read_label_file(entries[0][0], lambda uid: _series_near(entries[0][0].parent, uid))
    if not _has_pixels(first):
        kind = first.get("Modality") or "unknown kind"
        raise InputError(f"{place}: this DICOM file ({kind}) holds no image; name a file or folder with images")
    try:
        planes = [plane for file, header in _without_copies(name, entries) for plane in planes_of(file, header)]
        tell_maps(name, first)
        tell_aspect(entries[0][0], first)
    except (BytesLengthException, NotImplementedError, OSError) as error:
        # Elements are parsed when they are looked at.
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{name}: a DICOM header is damaged ({reason}); copy or export it again") from error
    stored = load_planes(name, one_volume(name, planes, selection.frame), nearest=indices)
    series = _described(str(first.get("SeriesInstanceUID", "")), entries)
    metadata = {"modality": series.modality, "series": series.description, "series_uid": series.uid}
    return Stored(stored.array, stored.grid, stored.unit, metadata)


# -- folders ----------------------------------------------------------------------------------------

Entries = list[tuple[Path, Dataset]]


def _scan(folder: Path) -> dict[str, Entries]:
    """Return the files with pixels or contours of a folder by series, sorted by name."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    groups: dict[str, Entries] = defaultdict(list)
    damaged = []
    for file in sorted(folder.iterdir()):
        if file.name == "DICOMDIR" or not file.is_file() or not is_dicom(file):
            continue
        header = _header(file)
        if header is None:
            damaged.append(file.name)
        elif _has_pixels(header) or str(header.get("SOPClassUID")) in LABEL_CLASSES:
            groups[str(header.get("SeriesInstanceUID", ""))].append((file, header))
    if damaged:
        raise InputError(
            f"{folder}: {len(damaged)} of its DICOM files are damaged, such as {damaged[0]}; copy them again, or "
            "move them elsewhere"
        )
    if not groups:
        raise no_series(folder)
    return groups


def _header(file: Path) -> Dataset | None:
    """Return everything but the pixels of a DICOM file; None where it cannot be parsed."""
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        for element in (
            "SOPClassUID",
            "SOPInstanceUID",
            "SeriesInstanceUID",
            "Modality",
            "SeriesDescription",
            "Rows",
        ):
            header.get(element)
    except Exception:  # pydicom raises whatever its parser meets, and runs out of memory over lengths that are wrong
        return None
    return header if "SOPClassUID" in header or "Rows" in header else None


def _has_pixels(header: Dataset) -> bool:
    return "Rows" in header and "Columns" in header


def _described(uid: str, entries: Entries) -> DicomSeries:
    first = entries[0][1]
    return DicomSeries(
        uid,
        str(first.get("SeriesDescription") or ""),
        str(first.get("Modality") or ""),
        tuple(str(file) for file, _ in entries),
    )


def _choose(folder: Path, groups: dict[str, Entries], series: str | None, *, indices: bool) -> Entries:
    def listing() -> str:
        return "; ".join(
            f"{s.uid} ({s.modality or 'no modality'}, {s.description or 'no description'}, {slices(s.uid)} slices)"
            for s in (_described(uid, entries) for uid, entries in sorted(groups.items()))
        )

    def slices(uid: str) -> int:
        return sum(frame_count(file, header) for file, header in groups[uid])

    if series is not None:
        if series in groups:
            return groups[series]
        raise InputError(f"{folder}: no DICOM series {series}; found {listing()}")
    # Label maps that lie beside the images are taken where a label map is wanted, and only there.
    candidates = [e for e in groups.values() if (str(e[0][1].get("SOPClassUID")) in LABEL_CLASSES) == indices]
    candidates = candidates or list(groups.values())
    if len(candidates) == 1:
        return candidates[0]
    raise InputError(
        f"{folder}: the folder holds {len(groups)} DICOM series, expected one: {listing()}; choose one as "
        f"{folder}::SERIES_UID"
    )


def _without_copies(name: str, entries: Entries) -> Entries:
    """Leave out files that are the same image again, and tell."""
    by_uid: dict[str, tuple[Path, Dataset]] = {}
    for file, header in entries:
        by_uid.setdefault(str(header.get("SOPInstanceUID") or file), (file, header))
    if len(by_uid) < len(entries):
        warn_header(name, f"{len(entries) - len(by_uid)} of its files are copies of others and are left out")
    return list(by_uid.values())


def _series_near(folder: Path, uid: str) -> Stored | None:
    """Return the series of a UID from a folder, those inside it or beside it; None where it is not there."""
    beside = [folder, *(p for p in sorted(folder.iterdir()) if p.is_dir())]
    beside += [p for p in sorted(folder.parent.iterdir()) if p.is_dir() and p != folder]
    for place in beside:
        if not dicom_inside(place):
            continue
        entries = _scan(place).get(uid)
        if entries:
            planes = [plane for file, header in entries for plane in planes_of(file, header)]
            return load_planes(str(place), one_volume(str(place), planes, 0))
    return None
