"""MetaImage and NRRD before ITK reads them: sizes that the file can hold, and compressed data with their checksum.

ITK takes memory for whatever a header announces, and reads on where compressed data contradict their checksum.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from roireg.core.errors import InputError
from roireg.io.streams import MOST_DEFLATED, inflated

__all__ = ["check_data", "companions"]

_MOST_AXES = 6
_LONGEST_HEADER = 1 << 20
_LONGEST_FIELD = 1000
_PATTERN = re.compile(r"[^%]*%0?\d?d[^%]*")
"""Names of one file per slice: with a place for its number, and perhaps first, last and step after it."""
_META_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4}
_META_BYTES |= {"LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_NRRD_BYTES = {1: "signed char,int8,int8_t,uchar,unsigned char,uint8,uint8_t"}
_NRRD_BYTES[2] = "short,short int,signed short,signed short int,int16,int16_t,ushort,unsigned short,"
_NRRD_BYTES[2] += "unsigned short int,uint16,uint16_t"
_NRRD_BYTES[4] = "int,signed int,int32,int32_t,uint,unsigned int,uint32,uint32_t,float"
_NRRD_BYTES[8] = "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t,ulonglong,"
_NRRD_BYTES[8] += "unsigned long long,unsigned long long int,uint64,uint64_t,double"


@dataclass(frozen=True)
class _Header:
    """What matters of a header: bytes of all values, where they are and how they are stored."""

    needed: int
    file: Path | None
    start: int
    compressed: bool


def check_data(path: Path) -> None:
    """Refuse a MetaImage or NRRD file whose data cannot be what the header says; other files are left alone.

    Raises
    ------
    InputError
        When the header makes no sense, announces more than the file holds, or the compressed data are damaged.
    """
    header = _parsed(path)
    if header is None or header.file is None:
        return
    if not _is_file(header.file):
        raise InputError(
            f"{path}: its voxels are expected in {header.file.name[:80]}, which is not there; copy both files"
        )
    held = header.file.stat().st_size - header.start
    if header.needed > held * (MOST_DEFLATED if header.compressed else 1):
        raise _short(path, header.needed, f"the file holds {max(held, 0)}")
    if header.compressed:
        with header.file.open("rb") as stream:
            stream.seek(header.start)
            size = sum(len(block) for block in inflated(stream, str(path)))
        if size < header.needed:
            raise _short(path, header.needed, f"its compressed data hold {size}")


def companions(path: Path) -> list[Path]:
    """Return the data file that a detached MetaImage or NRRD header names, if it names one."""
    header = _parsed(path)
    return [] if header is None or header.file is None or header.file == path else [header.file]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _short(path: Path, needed: int, fault: str) -> InputError:
    return InputError(
        f"{path}: the file is truncated: its header announces {needed} bytes of voxels, {fault}; copy it again"
    )


def _parsed(path: Path) -> _Header | None:
    with path.open("rb") as stream:
        raw = stream.read(_LONGEST_HEADER)
    if raw.startswith(b"NRRD"):
        return _nrrd(path, raw)
    return _meta(path, raw) if path.suffix.lower() in (".mha", ".mhd") else None


def _meta(path: Path, raw: bytes) -> _Header | None:
    fields: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in fields:
        end = raw.find(b"\n", start)
        line = os.fsdecode(raw[start : end if end >= 0 else len(raw)])
        key, equals, value = line.partition("=")
        if not equals:
            key, equals, value = line.partition(":")
        if not equals and line.strip():
            # MetaIO can end the process over such a line.
            raise InputError(
                f"{path}: its header has {line[:40]!r} where KEY = VALUE is expected; the file is damaged"
            )
        fields[key.strip()] = value.strip()
        if end < 0:
            break
        start = end + 1
    for key in ("NDims", "DimSize", "ElementDataFile"):
        if key not in fields:
            raise InputError(f"{path}: its header does not say {key}; the file is no MetaImage, or is damaged")
    axes = _whole(path, "NDims", fields.get("NDims", "0").split(), most=_MOST_AXES)
    size = _whole(path, "DimSize", fields["DimSize"].split())
    if len(axes) != 1 or len(size) != axes[0]:
        raise InputError(f"{path}: its header says NDims {fields.get('NDims')} but DimSize {fields['DimSize']}")
    for key, count in (("TransformMatrix", axes[0] ** 2), ("Offset", axes[0]), ("ElementSpacing", axes[0])):
        if key in fields:
            _check_numbers(path, key, fields[key].split(), count)
    channels = _whole(path, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1").split())
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    needed = math.prod(size) * math.prod(channels) * _META_BYTES.get(kind, 1)
    name = fields["ElementDataFile"]
    if not name or any(ord(c) < 32 for c in name) or ("%" in name and not _PATTERN.fullmatch(name)):
        # MetaIO writes the number of a slice into such a name without a look at it.
        raise InputError(f"{path}: its header says ElementDataFile {name[:80]!r}, which is no name; it is damaged")
    if name.startswith("LIST") or "%" in name:
        _check_slices(path, name, raw[start:])
        return None
    file, begin = (path, start) if name.upper() == "LOCAL" else (path.parent / name, 0)
    skip = fields.get("HeaderSize", "0")
    if file != path and skip.isdigit():
        begin = int(skip)
    if fields.get("BinaryData", "True").lower().startswith("f"):
        return None  # numbers as text
    return _Header(needed, file, begin, fields.get("CompressedData", "False").lower().startswith("t"))


def _nrrd(path: Path, raw: bytes) -> _Header | None:
    fields: dict[str, str] = {}
    start = raw.find(b"\n") + 1
    while start:
        end = raw.find(b"\n", start)
        line = os.fsdecode(raw[start : end if end >= 0 else len(raw)]).rstrip("\r")
        start = end + 1
        if not line:
            break
        key, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):
            continue
        if len(line) > _LONGEST_FIELD:
            # The library that ITK reads NRRD with copies fields into buffers of a fixed size.
            raise InputError(f"{path}: its header has a line of {len(line)} characters; the file is damaged")
        if colon:
            fields[key.strip().lower()] = value.strip()
    if "sizes" not in fields:
        return None
    axes = _whole(path, "dimension", fields.get("dimension", "0").split(), most=_MOST_AXES)
    size = _whole(path, "sizes", fields["sizes"].split())
    if len(axes) != 1 or len(size) != axes[0]:
        raise InputError(f"{path}: its header says dimension {fields.get('dimension')} but sizes {fields['sizes']}")
    of_type = [n for n, names in _NRRD_BYTES.items() if fields.get("type", "").lower() in names.split(",")]
    needed = math.prod(size) * (of_type[0] if of_type else 1)
    encoding = fields.get("encoding", "raw").lower()
    name = fields.get("data file", fields.get("datafile"))
    if name is not None and (name.startswith("LIST") or "%" in name):
        _check_slices(path, name, raw[start:])
        return None
    if encoding not in ("raw", "gzip", "gz"):
        return None
    file, begin = (path, start) if name is None else (path.parent / name, 0)
    return _Header(needed, file, begin, encoding != "raw")


def _check_slices(path: Path, name: str, rest: bytes) -> None:
    """Refuse devices and pipes among the files of the slices, which would be waited for.

    `name` is LIST, then `rest` has a file per line, or a pattern with a place for the number.
    """
    if name.startswith("LIST"):
        files = [path.parent / os.fsdecode(line).strip() for line in rest.splitlines() if line.strip()]
    else:
        pattern = path.parent / re.sub(r"%0?\d?d", "*", name.split()[0])
        files = list(pattern.parent.glob(pattern.name))
    for file in files:
        if "\0" not in file.name and file.exists() and not (file.is_file() or file.is_dir()):
            raise InputError(f"{path}: its voxels are expected in {file.name[:80]}, which is a device or pipe")


def _check_numbers(path: Path, field: str, words: list[str], count: int) -> None:
    """Refuse what are not `count` numbers, over which MetaIO ends the process."""
    try:
        right = len(words) == count and all(math.isfinite(float(w)) for w in words)
    except ValueError:
        right = False
    if not right:
        raise InputError(
            f"{path}: its header says {field} {' '.join(words)[:80]}, expected {count} finite numbers; it is damaged"
        )


def _whole(path: Path, field: str, words: list[str], *, most: int = 1 << 40) -> list[int]:
    numbers = [int(w) if w.isascii() and w.isdigit() and len(w) < 20 else 0 for w in words]
    if not numbers or min(numbers) < 1 or max(numbers) > most:
        text = " ".join(words)[:80] or "nothing"
        raise InputError(
            f"{path}: its header says {field} {text}, expected whole numbers from 1 to {most} (at least one voxel "
            "along every axis); the file is damaged"
        )
    return numbers
