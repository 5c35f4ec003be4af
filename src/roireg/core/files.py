"""Safe writing: a result is written completely or not at all, and never over what this program did not write.

A folder that is written has a record: a JSON file that names every file of it with its checksum. By the record the
next run knows what it may replace, whether a run was stopped between two renames, and whether a result is still what
was written. A single file carries its checksum itself, in an extended attribute. Imports the standard library alone,
so that places are checked before torch is loaded.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from roireg.core.errors import OutputError

__all__ = [
    "RECORD",
    "atomic_path",
    "check_file",
    "check_folder",
    "extension_of",
    "file_digest",
    "intact_record",
    "is_complete",
    "mark_written",
    "new_folder",
    "readable",
    "stem_of",
    "write_json",
]

RECORD = ".roireg.json"
"""The record of a folder that has no JSON file of its own."""

_MARK = "user.roireg.sha256"
_DOUBLE = (".nii.gz", ".mrk.json")
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_PARTIAL = re.compile(r"\.roireg-([0-9a-f]{8})-(\d+)-[0-9a-f]+\.partial")


def extension_of(path: str | Path) -> str:
    """Return the lower-case extension of a file name, ``.nii.gz`` and ``.mrk.json`` as one."""
    name = Path(path).name.lower()
    return next((e for e in _DOUBLE if name.endswith(e)), Path(name).suffix)


def stem_of(path: str | Path) -> str:
    """Return the file name without what `extension_of` gives."""
    name = Path(path).name
    return name[: len(name) - len(extension_of(path))]


def readable(text: str) -> str:
    """Return a text that names files as it can be written: bytes that are not UTF-8 as terminals show them."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values as a JSON file, whole or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="ascii")


# -- before anything is computed ------------------------------------------------------------------


def check_file(path: Path, *, inputs: Iterable[Path] = (), replace: bool = False) -> None:
    """Refuse a place where no file can be written, or where another one lies; leaves nothing behind.

    Parameters
    ----------
    inputs : files and folders that are read.
    replace : whether a file may be replaced that does not carry the mark of `mark_written`.

    Raises
    ------
    OutputError
        When a folder, a device, a pipe or a link to a file has this name, it is one of `inputs` (by whatever name) or
        part of a result folder, it may not be replaced, or nothing can be written there.
    """
    target = _regular(path)
    if any(_real(p) == target or (target.exists() and p.exists() and target.samefile(p)) for p in inputs):
        raise OutputError(f"{path}: this file is an input and would be replaced; choose another name")
    if target.exists() and Path(path).is_symlink():
        raise OutputError(f"{path}: this is a link, and {target} would be replaced; name that file or another one")
    for folder, record in itertools.product(target.parents[:2], ("result.json", RECORD)):
        written = _written(folder, record)
        if written and target.exists() and target.relative_to(folder).as_posix() in {record, *written}:
            raise OutputError(f"{path}: this file is part of the result in {folder}; choose another name")
    if not replace and target.exists() and not _is_marked(target):
        raise OutputError(
            f"{path}: this file was not written by roireg, or was changed since, and would be replaced; choose "
            "another name, or allow it with --replace"
        )
    _probe(path, target.parent)


def mark_written(file: Path) -> None:
    """Note in a file that it was written by this program, so that the next run may replace it while it is unchanged.

    On a file system without extended attributes nothing is noted, and the file is treated as somebody else's.
    """
    with suppress(OSError, AttributeError):
        os.setxattr(file, _MARK, file_digest(file).encode())


def _is_marked(file: Path) -> bool:
    try:
        return os.getxattr(file, _MARK) == file_digest(file).encode()
    except (OSError, AttributeError):
        return False


def check_folder(path: Path, *, names: Iterable[str] = (), inputs: Iterable[Path] = (), record: str = RECORD) -> None:
    """Refuse a folder that cannot be filled, or only at the cost of other files; leaves nothing behind.

    Parameters
    ----------
    names : patterns of everything that may be written, relative to `path`.
    inputs : files and folders that are read.
    record : name of the folder's record, see `new_folder`.

    Raises
    ------
    OutputError
        When a file has this name, nothing can be written there, or something would be replaced that is an input, was
        not written by this program, or was changed since.
    """
    target = _real(path)
    if target.exists() and not target.is_dir():
        raise OutputError(f"{path}: cannot make this folder because a file has this name; choose another name")
    _probe(path, target)
    old = _written(target, record)
    present = {p.relative_to(target).as_posix() for pattern in (*names, record) for p in target.glob(pattern)}
    _refuse_foreign(target, {*old, *(name for name in present if not (target / name).is_dir())}, old, record)
    # Files and all folders between them and the target; a folder around the target may be an input.
    replaced = {target, *(target / name for name in (*old, *present))}
    replaced |= {above for file in replaced for above in file.parents if target in above.parents}
    for item in inputs:
        if _real(item) in replaced:
            raise OutputError(f"{item}: this is an input and would be replaced in {path}; choose another folder")


def _real(path: str | Path) -> Path:
    """Return where a path leads: what is behind a link is written, and the link stays."""
    return Path(os.path.realpath(path))


def _regular(path: str | Path) -> Path:
    target = _real(path)
    if target.is_dir():
        raise OutputError(f"{path}: cannot write a file here because a folder has this name; choose another name")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: this is a device or pipe and no file; choose another name")
    return target


def _probe(path: Path, folder: Path) -> None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        # Permissions alone do not tell (read-only and special file systems, root), so a file is made and removed.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(path, error, folder) from error


def _unwritable(path: str | Path, error: OSError, folder: Path | None = None) -> OutputError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    where = "" if folder is None else f"{folder}: "
    return OutputError(f"{path}: cannot write here ({where}{reason}); choose another place")


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def _named(path: str | Path, temporary: Path) -> Iterator[None]:
    """Let errors of writing name the output: a full disk names nothing, others the temporary."""
    try:
        yield
    except OutputError as error:
        raise OutputError(str(error).replace(str(temporary), str(path))) from error
    except OSError as error:
        name = str(temporary if error.filename is None else error.filename)
        if not name.startswith(str(temporary)):
            raise
        raise _unwritable(name.replace(str(temporary), str(path)), error) from error


# -- files ----------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name ends like the target, so that writers which look at the extension work. Missing parent folders
    are made. Of a link, the file that it points at is replaced.

    Raises
    ------
    OutputError
        When the folder cannot be made or written, `path` is a folder, device or pipe, or nothing was written.
    """
    target = _regular(path)
    with _explained(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        temporary = target.parent / _partial(extension_of(target))
        # Made and removed at once: an unwritable folder is reported before hours of work, not after.
        temporary.touch()
        temporary.unlink()
    try:
        with _named(path, temporary):
            yield temporary
        if not temporary.exists():
            raise OutputError(f"{path}: nothing was written; check the free space and the permissions of the folder")
        with _explained(path):
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _partial(extension: str = "") -> str:
    return f".roireg-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.partial{extension}"


def _remove_stale(folder: Path) -> None:
    """Remove what runs of this machine left that are no longer there."""
    for entry in folder.glob(".roireg-*.partial*"):
        match = _PARTIAL.match(entry.name)
        if match and match[1] == _HOST and not _alive(int(match[2])):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name == "nt":  # there, asking would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


# -- folders --------------------------------------------------------------------------------------


@contextmanager
def new_folder(path: str | Path, *, record: str = RECORD, keep: bool = False) -> Iterator[Path]:
    """Yield an empty folder inside `path`, whose files take their places there at the end.

    An earlier result with the same record is replaced as a whole; other files stay. On failure nothing at `path`
    changes, and parent folders that were made for it are removed. A run that is killed between two renames leaves a
    record that says so (`is_complete`).

    Parameters
    ----------
    record : the JSON file, relative to `path`, that names what was written; the keys "written" and "complete" are
        added to what the caller puts into it.
    keep : add to the earlier result instead of replacing it.

    Raises
    ------
    OutputError
        When the folder cannot be made or written, `path` is a file, or a file would be replaced that this program did
        not write or that was changed since.
    """
    target = _real(path)
    if any(_PARTIAL.fullmatch(part) for part in target.parts):
        # Part of another folder that is not in its place yet.
        target.mkdir(parents=True, exist_ok=True)
        yield target
        return
    if target.exists() and not target.is_dir():
        raise OutputError(f"{path}: cannot make this folder because a file has this name; choose another name")
    absent = [p for p in (target, *target.parents) if not p.exists()]
    try:
        with _explained(path):
            target.mkdir(parents=True, exist_ok=True)
            _remove_stale(target)
            temporary = target / _partial()
            temporary.mkdir()
        try:
            with _named(path, temporary):
                yield temporary
            with _explained(path):
                _commit(temporary, target, record, keep)
        finally:
            shutil.rmtree(temporary)
    except BaseException:
        for folder in absent:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def is_complete(folder: Path, *, record: str = RECORD) -> bool:
    """Return False if a run was stopped while it wrote into a folder, which may hold files of two results."""
    return bool((_read(folder / record) or {}).get("complete", True))


def intact_record(folder: Path, *, record: str = RECORD) -> dict[str, Any] | None:
    """Return the record of a folder if all its files are as they were written, else None."""
    content = _read(folder / record)
    if content is None or not content["complete"]:
        return None
    unchanged = all(_is_as_written(folder / name, digest) for name, digest in content["written"].items())
    return content if unchanged else None


def _read(file: Path) -> dict[str, Any] | None:
    """Return a record, or None where there is no file or another one."""
    try:
        if not file.is_file():  # a pipe would be waited for
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        ours = isinstance(content["written"], dict) and isinstance(content["complete"], bool)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return content if ours else None


def _written(folder: Path, record: str) -> dict[str, str | None]:
    """Return what was written and may be replaced, with checksums; None for those of a run that was stopped."""
    content = _read(folder / record)
    if content is None:
        return {}
    return {name: digest if content["complete"] else None for name, digest in content["written"].items()}


def _is_as_written(file: Path, digest: str | None) -> bool:
    try:
        regular = stat.S_ISREG(file.lstat().st_mode)
    except OSError:
        return False
    return regular and (digest is None or file_digest(file) == digest)


def _refuse_foreign(target: Path, names: Iterable[str], old: Mapping[str, str | None], record: str) -> None:
    for name in sorted(names):
        file = target / name
        if name == record and not file.is_symlink() and _read(file) is not None:
            continue
        for above in (p for p in file.parents if target in p.parents):
            if above.is_symlink() or (above.exists() and not above.is_dir()):
                raise OutputError(f"{above}: this is in the way of a result folder; choose another place")
        if not os.path.lexists(file) or (name in old and _is_as_written(file, old[name])):
            continue
        what = "was changed since it was written" if name in old else "was not written by roireg"
        raise OutputError(f"{file}: this file {what} and would be replaced; move it, or choose another place")


def _commit(source: Path, target: Path, record: str, keep: bool) -> None:
    """Let the files of `source` take their places in `target`, the record last."""
    names = [p.relative_to(source).as_posix() for p in sorted(source.rglob("*")) if not p.is_dir()]
    names = [name for name in names if name != record]
    old = _written(target, record)
    _refuse_foreign(target, {*old, *names, record}, old, record)
    content = json.loads((source / record).read_text(encoding="utf-8")) if (source / record).exists() else {}
    previous = {name: digest for name, digest in old.items() if keep and name not in names and digest is not None}
    if keep and (earlier := _read(target / record)):
        content = earlier | content
    content |= {"written": previous | {name: file_digest(source / name) for name in names}, "complete": True}
    # Before anything takes its place: a full disk must not end it halfway.
    write_json(source / record, content)
    with _signals_held():
        write_json(target / record, {"complete": False, "written": {**old, **dict.fromkeys(names)}})
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).replace(target / name)
        for name in old.keys() - content["written"].keys():
            (target / name).unlink(missing_ok=True)
            above = (target / name).parent
            if above != target and above.is_dir() and not any(above.iterdir()):
                above.rmdir()
        (source / record).replace(target / record)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals that would end the program wait until the body is done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread alone
        return
    waiting: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    usual = {number: handler for number, handler in handlers.items() if handler is not None}
    for number in usual:
        signal.signal(number, lambda received, frame: waiting.append(received))
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
        for received in waiting:
            signal.raise_signal(received)
