"""Writing without leaving halves behind: temporary name beside the target, then rename."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roireg.core.errors import OutputError

__all__ = ["atomic_path", "new_folder"]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name ends like the target, so that writers which look at the extension work. Missing
    parent folders are made.

    Raises
    ------
    OutputError
        When the folder cannot be made or written, `path` is a folder, or nothing was written.
    """
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"{target}: cannot write a file here because a folder has this name; choose another name")
    temporary = _sibling(target)
    try:
        yield temporary
        if not temporary.exists():
            raise OutputError(
                f"{target}: nothing was written; check the free space and the permissions of the folder"
            )
        with _explained(target):
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success its entries move into `path`.

    A folder that is already there keeps what it holds, except that entries (files or folders) of the same
    name are replaced whole. On failure nothing at `path` changes.

    Raises
    ------
    OutputError
        When the folder cannot be made or written, or `path` is a file.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: cannot make this folder because a file has this name; choose another name")
    temporary = _sibling(target)
    with _explained(target):
        temporary.mkdir()
    try:
        yield temporary
        with _explained(target):
            _merge(temporary, target)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def _merge(source: Path, target: Path) -> None:
    if not target.exists():
        source.rename(target)
        return
    for entry in sorted(source.iterdir()):
        old = target / entry.name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        elif old.exists() and entry.is_dir():
            old.unlink()
        entry.replace(old)


def _sibling(target: Path) -> Path:
    """Return an unused hidden name beside the target with the same extensions, checking that it can be written."""
    with _explained(target):
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(target.suffixes[-2:]) if target.name.lower().endswith(".nii.gz") else target.suffix
    temporary = target.absolute().parent / f".{secrets.token_hex(6)}.partial{suffix}"
    with _explained(target):
        # Made and removed at once: an unwritable folder is reported before hours of work, not after.
        temporary.touch()
        temporary.unlink()
    return temporary


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(f"{target}: cannot write here ({reason}); choose another output folder") from error
