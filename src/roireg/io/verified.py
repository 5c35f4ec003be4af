"""A file gets its name only when it holds what was meant: a full disk must not leave half of one behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from roireg.core.errors import InputError, OutputError
from roireg.core.files import atomic_path
from roireg.io._itk import unwritten

__all__ = ["verified_path"]


@contextmanager
def verified_path(path: str | Path, holds: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a temporary path as `atomic_path` does; rename it when it holds what was meant, else remove it.

    ITK reports no error where a disk is full or the size of files is limited, and writes what fits.

    Parameters
    ----------
    holds : reads a file again and tells whether it has the values that were to be written; an error means no.

    Raises
    ------
    OutputError
        When the file cannot be written, or not whole.
    """
    with atomic_path(path) as temporary:
        try:
            yield temporary
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise unwritten(Path(path), reason) from error
        if temporary.exists() and not _whole(temporary, holds):
            raise OutputError(
                f"{path}: the file was not written whole, the disk is full or files of this size are not allowed; "
                "free space or choose another place"
            )


def _whole(file: Path, holds: Callable[[Path], bool]) -> bool:
    try:
        return holds(file)
    except (InputError, OSError, RuntimeError, ValueError):
        return False
