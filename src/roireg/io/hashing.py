"""Checksums of inputs, for provenance."""

from __future__ import annotations

import hashlib
from pathlib import Path

from roireg.core.errors import InputError
from roireg.io.streams import refuse_special

__all__ = ["sha256_of"]


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of a folder (a DICOM series) as hex digits.

    The sum of a folder covers the relative names and contents of all files in it, sorted by name, so it does
    not depend on dates or on where the folder lies. A `folder::series` name counts as its folder.

    Raises
    ------
    InputError
        When nothing is there, it cannot be read, or is a pipe or device.
    """
    place = Path(path)
    if not place.exists() and "::" in str(path):
        place = Path(str(path).rpartition("::")[0])
    if not place.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    refuse_special(place)
    try:
        if place.is_file():
            return _sum(place)
        total = hashlib.sha256()
        for file in sorted(p for p in place.rglob("*") if p.is_file()):
            total.update(f"{file.relative_to(place).as_posix()}\0{_sum(file)}\n".encode())
        return total.hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
