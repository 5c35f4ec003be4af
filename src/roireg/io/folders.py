"""Which files are DICOM, and what is said of folders without; loads nothing, so that folders are checked early."""

from __future__ import annotations

from pathlib import Path

from roireg.core.errors import InputError

__all__ = ["check_series", "dicom_inside", "is_dicom", "no_series"]

_GROUPS = (b"\x02\x00", b"\x08\x00")
"""How a DICOM file without preamble begins: group 2 or 8, little endian."""


def is_dicom(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do."""
    with path.open("rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or (start[:2] in _GROUPS and start[4:6].isalpha() and start[4:6].isupper())


def dicom_inside(folder: Path) -> bool:
    """Tell whether one of the first files of a folder is DICOM."""
    return any(f.is_file() and is_dicom(f) for f in sorted(folder.iterdir())[:20])


def check_series(folder: Path) -> None:
    """Refuse a folder without a DICOM file of its own; see `no_series`."""
    if not any(f.is_file() and f.name != "DICOMDIR" and is_dicom(f) for f in folder.iterdir()):
        raise no_series(folder)


def no_series(folder: Path) -> InputError:
    """Return that a folder holds no images, with a folder in it that does."""
    inside = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and dicom_inside(p)]
    advice = f"its folder {inside[0]} does: name that" if inside else "name a folder of DICOM slices or an image file"
    return InputError(f"{folder}: the folder holds no DICOM series; {advice}")
