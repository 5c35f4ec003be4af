"""ITK's transform files without ITK: text (.tfm, .txt), HDF5 (.h5) and MATLAB 4 (.mat).

ITK ends the program over damaged HDF5, reserves whatever a header claims, and keeps one of several transforms in a
text file. Here every size is compared with what the file holds before it is believed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import InputError
from roireg.io import hdf5
from roireg.io.hdf5 import Contents, DamagedError, read_contents, write_contents
from roireg.io.itk_transforms import Record

__all__ = [
    "HDF5_MAGIC",
    "TEXT_MAGIC",
    "is_sealed",
    "read_hdf5",
    "read_matlab",
    "read_records",
    "read_text",
    "write_hdf5",
]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
TEXT_MAGIC = "#Insight Transform File"

Array = NDArray[np.float64]


def read_records(path: Path) -> list[Record]:
    """Read the transforms of a file of ITK, known by its content, in the order they are kept in.

    Raises
    ------
    InputError
        When the file cannot be read, is damaged or of another kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read ({error.strerror}); check its permissions") from error
    if data.startswith(HDF5_MAGIC):
        return read_hdf5(path)
    if data.startswith(TEXT_MAGIC.encode()):
        return read_text(data.decode("utf-8", "replace"), str(path))
    return read_matlab(data, str(path))


# -- text -----------------------------------------------------------------------------------------


def read_text(text: str, name: str) -> list[Record]:
    """Read the transforms of a text file, in the order they are written in.

    Raises
    ------
    InputError
        When a line is none of those ITK writes, or holds what is no number.
    """
    records: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, colon, value = line.partition(":")
        key = key.strip()
        if key == "Transform" and colon:
            records.append({"kind": value.strip(), "Parameters": np.zeros(0), "FixedParameters": np.zeros(0)})
        elif key in ("Parameters", "FixedParameters") and colon and records:
            records[-1][key] = _numbers(value, f"{name}: line {number}")
        else:
            raise InputError(
                f"{name}: line {number} starts with {line[:40]!r} where ITK's text files have Transform:, "
                "Parameters: or FixedParameters:; write the file again"
            )
    return [Record(f["kind"], f["Parameters"], f["FixedParameters"]) for f in records]


def _numbers(text: str, where: str) -> Array:
    try:
        return np.array(text.split(), dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{where} holds what is no number; write the file again") from error


# -- HDF5 -----------------------------------------------------------------------------------------


def read_hdf5(path: Path) -> list[Record]:
    """Read the transforms of an HDF5 file (itkHDF5TransformIO), in the order they are numbered in.

    A file that ends with the checksum `write_hdf5` appends is read here, any other in a child process.

    Raises
    ------
    InputError
        When the file is damaged or holds no transforms.
    """
    sealed = _sealed(path)
    if sealed is False:
        raise InputError(f"{path}: the file is damaged, its checksum is another; copy or write it again")
    try:
        contents = read_contents(path) if sealed else _read_in_child(path)
    except DamagedError as error:
        raise InputError(f"{path}: {error}") from error
    return [Record(*content) for content in contents]


def write_hdf5(path: Path, records: Sequence[Record], ndim: int) -> None:
    """Write ITK's HDF5 layout and append a checksum, which HDF5 leaves unread and `read_hdf5` compares."""
    # In memory first: HDF5 ends the process where a disk is full.
    memory = io.BytesIO()
    write_contents(memory, [(r.kind, np.asarray(r.parameters), r.fixed) for r in records], ndim)
    content = memory.getbuffer()
    with path.open("wb") as stream:
        stream.write(content)
        stream.write(_SEAL + hashlib.sha256(content).digest())


def is_sealed(path: Path) -> bool:
    """Tell whether a file has the checksum that `write_hdf5` gives it, and no other content."""
    return _sealed(path) is True


_SEAL = b"\nroireg sha256 "


def _sealed(path: Path) -> bool | None:
    """Tell whether the checksum at the end of a file is right; None where there is none."""
    length = path.stat().st_size - len(_SEAL) - 32
    if length < 0:
        return None
    with path.open("rb") as stream:
        stream.seek(length)
        tail = stream.read()
    return _digest(path, length) == tail[len(_SEAL) :] if tail.startswith(_SEAL) else None


def _digest(path: Path, length: int) -> bytes:
    checksum = hashlib.sha256()
    with path.open("rb") as stream:
        while length > 0 and (block := stream.read(min(length, 1 << 22))):
            checksum.update(block)
            length -= len(block)
    return checksum.digest()


def _read_in_child(path: Path) -> Contents:
    size = path.stat().st_size
    memory = (2 << 30) + 40 * size
    command = [sys.executable, "-P", hdf5.__file__, str(path), str(memory)]
    try:
        process = subprocess.run(command, capture_output=True, check=False, timeout=15 + size / 20e6)
    except subprocess.TimeoutExpired as error:
        raise DamagedError("the HDF5 file is damaged (reading it does not end); copy or write it again") from error
    if process.returncode == 1:
        raise DamagedError(process.stderr.decode("utf-8", "replace")[-400:].replace("\n", " "))
    if process.returncode != 0:
        raise DamagedError("the HDF5 file is damaged (the HDF5 library crashed over it); copy or write it again")
    stream = io.BytesIO(process.stdout)
    kinds = json.loads(stream.readline())
    arrays = [np.lib.format.read_array(stream, allow_pickle=False) for _ in range(2 * len(kinds))]
    return list(zip(kinds, arrays[::2], arrays[1::2], strict=True))


# -- MATLAB 4 -------------------------------------------------------------------------------------


def read_matlab(data: bytes, name: str) -> list[Record]:
    """Read the transforms of a MATLAB 4 file (itkMatlabTransformIO): matrices named by class and ``fixed``, in turn.

    Raises
    ------
    InputError
        When it is no such file, cut off, or of other matrices.
    """
    matrices: list[tuple[str, Array]] = []
    place = 0
    while place < len(data):
        title, values, place = _matlab_matrix(data, place, name)
        matrices.append((title, values))
    if not matrices or len(matrices) % 2 or any(title != "fixed" for title, _ in matrices[1::2]):
        raise InputError(f"{name}: {_NOT_ITK}")
    pairs = zip(matrices[::2], matrices[1::2], strict=True)
    return [Record(kind, values, fixed) for (kind, values), (_, fixed) in pairs]


_NOT_ITK = (
    "this is not a transform that ITK or ANTs wrote, a MATLAB 4 file of parameters, and no 4x4 matrix as text; "
    "check that this is the right file"
)


def _matlab_matrix(data: bytes, place: int, name: str) -> tuple[str, Array, int]:
    """Return (name, values, where the next begins) of the matrix at a place: five integers, a name, numbers."""
    for order in "<>":
        if len(data) < place + 20:
            break
        kind, rows, columns, imaginary, length = struct.unpack(f"{order}5i", data[place : place + 20])
        dtype = {0: "f8", 10: "f4"}.get(kind % 1000)
        if kind not in (0, 10, 1000, 1010) or dtype is None or imaginary or min(rows, columns) < 0:
            continue
        start = place + 20 + length
        end = start + rows * columns * int(dtype[1])
        if not 0 < length <= 200:
            continue
        if end > len(data):
            raise InputError(
                f"{name}: the file is cut off: it claims {rows * columns} parameters, more than it holds"
            )
        title = data[place + 20 : start].rstrip(b"\0").decode("ascii", "replace")
        if re.fullmatch(r"\w+", title):
            return title, np.frombuffer(data[start:end], f"{order}{dtype}").astype(np.float64), end
    raise InputError(f"{name}: {_NOT_ITK}")
