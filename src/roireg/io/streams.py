"""Bytes of files, plain or compressed, never more than are there and never without their checksum."""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import InputError

__all__ = ["MOST_DEFLATED", "first_bytes", "inflated", "read_exactly", "refuse_special"]

GZIP = b"\x1f\x8b"
_BLOCK = 1 << 20
_AUTO = 47
"""zlib's window for gzip as well as zlib streams, told apart by their first bytes."""
MOST_DEFLATED = 1032
"""Bytes that one byte of a deflate stream can stand for at most."""


def refuse_special(path: Path) -> None:
    """Refuse what is neither a file nor a folder, on its own or in a folder: reading a pipe would wait for ever.

    Raises
    ------
    InputError
        When `path`, or an entry of it, is a named pipe, a socket or a device.
    """
    entries = [path, *(path.iterdir() if path.is_dir() else ())]
    for entry in entries:
        with suppress(OSError):  # a link to nothing is no input, and neither is it a pipe
            mode = entry.stat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "named pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
                raise InputError(f"{entry}: this is a {kind}, expected a file; save it to a file first")


def first_bytes(path: Path, count: int) -> bytes:
    """Return up to `count` first bytes of a file, decompressed where it is gzip; none where that fails."""
    with path.open("rb") as stream:
        raw = stream.read(65536)
    if not raw.startswith(GZIP):
        return raw[:count]
    try:
        return zlib.decompressobj(wbits=_AUTO).decompress(raw, count)  # also of a file that is cut off later
    except zlib.error:
        return b""


def read_exactly(path: Path, count: int, *, skip: int, total: int, name: str) -> NDArray[np.uint8]:
    """Return `count` bytes of the content of a file, plain or gzip, from byte `skip` on.

    A compressed file is read to its end, so that its checksum is compared whatever part is wanted. No memory is
    taken for more than the file can hold.

    Parameters
    ----------
    total : bytes that the content must have at least, as the header says.
    name : how messages refer to the file.

    Raises
    ------
    InputError
        When the content is shorter than `total`, or its checksum is wrong.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        zipped = stream.read(2) == GZIP
        stream.seek(0)
        if total > size * (MOST_DEFLATED if zipped else 1):
            fault = f"of which {size} compressed ones cannot hold more" if zipped else f"found {size}"
            raise _truncated(name, total, fault)
        values = np.empty(count, np.uint8)
        if not zipped:
            stream.seek(skip)
            stream.readinto(values.data)
            return values
        place = 0  # of the next block in the content
        for block in inflated(stream, name):
            part = block[max(0, skip - place) : max(0, skip + count - place)]
            start = max(0, place - skip)
            values[start : start + len(part)] = np.frombuffer(part, np.uint8)
            place += len(block)
    if place < total:
        raise _truncated(name, total, "its compressed data end early")
    return values


def inflated(stream: BinaryIO | Any, name: str) -> Iterator[bytes]:
    """Yield what a gzip stream of one or more members, or a zlib stream, holds; what follows it is left alone.

    Raises
    ------
    InputError
        When the data are damaged, end early, or have another checksum than they say.
    """
    decoder = zlib.decompressobj(wbits=_AUTO)
    try:
        while block := stream.read(_BLOCK):
            while block:
                yield decoder.decompress(block, _BLOCK)
                block = decoder.unconsumed_tail
                if decoder.eof:
                    block = decoder.unused_data
                    block += stream.read(1) if len(block) == 1 else b""
                    if not block.startswith(GZIP):
                        # Nothing, or padding after a complete stream; a further member may begin the next block.
                        if block or stream.read(2) != GZIP:
                            return
                        block = GZIP
                    decoder = zlib.decompressobj(wbits=_AUTO)
        yield decoder.flush()
    except zlib.error as error:
        raise InputError(
            f"{name}: the file is damaged, its compressed data contradict their checksum ({error}); copy it again"
        ) from error
    if not decoder.eof:
        raise InputError(f"{name}: the file is truncated: its compressed data end early; copy it again")


def _truncated(name: str, total: int, fault: str) -> InputError:
    return InputError(f"{name}: the file is truncated: its header announces {total} bytes, {fault}; copy it again")
