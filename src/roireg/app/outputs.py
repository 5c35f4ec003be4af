"""Where results go: checked before anything is computed, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roireg.core.errors import OutputError
from roireg.io import new_folder

__all__ = ["check_file", "check_folder", "extension_of", "filled_folder", "stem_of"]

_DOUBLE = (".nii.gz", ".mrk.json")


def extension_of(path: str | Path) -> str:
    """Return the lower-case extension of a file name, ``.nii.gz`` and ``.mrk.json`` as one."""
    name = Path(path).name.lower()
    return next((e for e in _DOUBLE if name.endswith(e)), Path(name).suffix)


def stem_of(path: str | Path) -> str:
    """Return the file name without what `extension_of` gives."""
    name = Path(path).name
    return name[: len(name) - len(extension_of(path))]


def check_file(path: Path) -> None:
    """Raise `OutputError` when a file cannot be written at `path`; leaves nothing behind."""
    if path.is_dir():
        raise OutputError(f"{path}: cannot write a file here because a folder has this name; choose another name")
    _probe(path, path.absolute().parent)


def check_folder(path: Path) -> None:
    """Raise `OutputError` when a folder cannot be made or filled at `path`; leaves nothing behind."""
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: cannot make this folder because a file has this name; choose another name")
    _probe(path, path.absolute().parent)
    if path.is_dir():
        _probe(path, path)


def _probe(path: Path, folder: Path) -> None:
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        # Permissions alone do not tell (read-only and special file systems, root), so a file is made and removed.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(f"{path}: cannot write here ({place}: {reason}); choose another place") from error


@contextmanager
def filled_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder whose entries move into `path` at the end; on failure nothing of it is left.

    As `roireg.io.new_folder`, but parents that were made for it are removed again after a failure.
    """
    missing = []
    parent = path.absolute().parent
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    try:
        with new_folder(path) as temporary:
            yield temporary
    except BaseException:
        for made in missing:
            if made.is_dir() and not any(made.iterdir()):
                made.rmdir()
        raise
