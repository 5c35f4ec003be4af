"""MetaImage and NRRD before ITK reads them: sizes that the file can hold, and compressed data with their checksum.

ITK takes memory for whatever a header announces, and reads on where compressed data contradict their checksum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from roireg.core.errors import InputError
from roireg.io.streams import MOST_DEFLATED, inflated

__all__ = ["check_data", "companions"]

_MOST_AXES = 6
_LONGEST_HEADER = 1 << 20
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
    if not header.file.is_file():
        raise InputError(
            f"{path}: its voxels are expected in {header.file.name}, which is not there; copy both files"
        )
    held = header.file.stat().st_size - header.start
    if header.needed > held * (MOST_DEFLATED if header.compressed else 1):
        raise _short(path, header.needed, f"the file holds {max(held, 0)}")
    if header.compressed:
        with header.file.open("rb") as stream:
            stream.seek(header.start)
            found = sum(len(block) for block in inflated(stream, str(path)))
        if found < header.needed:
            raise _short(path, header.needed, f"its compressed data hold {found}")


def companions(path: Path) -> list[Path]:
    """Return the data file that a detached MetaImage or NRRD header names, if it names one."""
    header = _parsed(path)
    return [] if header is None or header.file is None or header.file == path else [header.file]


def _short(path: Path, needed: int, found: str) -> InputError:
    return InputError(
        f"{path}: the file is truncated: its header announces {needed} bytes of voxels, {found}; copy it again"
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
        line = raw[start : end if end >= 0 else len(raw)].decode("latin-1")
        key, equals, value = line.partition("=")
        if not equals and line.strip():
            return None  # not text of this kind: ITK says what it thinks of it
        fields[key.strip()] = value.strip()
        if end < 0:
            break
        start = end + 1
    if "DimSize" not in fields or "ElementDataFile" not in fields:
        return None
    axes = _whole(path, "NDims", fields.get("NDims", "0").split(), most=_MOST_AXES)
    size = _whole(path, "DimSize", fields["DimSize"].split())
    if len(axes) != 1 or len(size) != axes[0]:
        raise InputError(f"{path}: its header says NDims {fields.get('NDims')} but DimSize {fields['DimSize']}")
    channels = _whole(path, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1").split())
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    needed = math.prod(size) * math.prod(channels) * _META_BYTES.get(kind, 1)
    name = fields["ElementDataFile"]
    if name == "LIST" or "%" in name:
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
        line = raw[start : end if end >= 0 else len(raw)].decode("latin-1").rstrip("\r")
        start = end + 1
        if not line:
            break
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
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
    if encoding not in ("raw", "gzip", "gz") or (name is not None and (name.startswith("LIST") or "%" in name)):
        return None
    file, begin = (path, start) if name is None else (path.parent / name, 0)
    return _Header(needed, file, begin, encoding != "raw")


def _whole(path: Path, field: str, words: list[str], *, most: int = 1 << 40) -> list[int]:
    numbers = [int(w) if w.isascii() and w.isdigit() and len(w) < 20 else 0 for w in words]
    if not numbers or min(numbers) < 1 or max(numbers) > most:
        found = " ".join(words)[:80] or "nothing"
        raise InputError(
            f"{path}: its header says {field} {found}, expected whole numbers from 1 to {most} (at least one voxel "
            "along every axis); the file is damaged"
        )
    return numbers
