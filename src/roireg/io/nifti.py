"""What ITK does not say about a NIfTI file: truncated data, contradictory or missing geometry."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError
from roireg.io._itk import SHEAR_NOTICED, SHEAR_REFUSED, not_finite, refuse_shear, shear_of, warn_header, warn_shear

__all__ = ["check_nifti"]

Array = NDArray[np.float64]

# Fields used here, at the offsets of nifti1.h and nifti2.h.
_NAMES = ["dim", "datatype", "bitpix", "pixdim", "vox_offset"]
_NAMES += ["qform_code", "sform_code", "quatern", "qoffset", "srow"]
_NIFTI1 = np.dtype(
    {
        "names": _NAMES,
        "formats": ["8i2", "i2", "i2", "8f4", "f4", "i2", "i2", "3f4", "3f4", "(3,4)f4"],
        "offsets": [40, 70, 72, 76, 108, 252, 254, 256, 268, 280],
        "itemsize": 348,
    }
)
_NIFTI2 = np.dtype(
    {
        "names": _NAMES,
        "formats": ["8i8", "i2", "i2", "8f8", "i8", "i4", "i4", "3f8", "3f8", "(3,4)f8"],
        "offsets": [16, 12, 14, 104, 168, 344, 348, 352, 376, 400],
        "itemsize": 540,
    }
)
_BLOCK = 1 << 22
_FLOATS = {16: "f4", 64: "f8"}
_ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
_MAGIC = {348: (344, _NIFTI1), 540: (4, _NIFTI2)}


def check_nifti(path: Path) -> bool:
    """Check the header of a NIfTI file; warn of real problems.

    Returns whether ITK must be told to accept a slightly sheared sform. Files that are not NIfTI
    (Analyze 7.5, or no image at all) are left to ITK.

    Raises
    ------
    InputError
        When the file holds fewer bytes than its header announces, or NaN or infinite values: ITK would put zeros
        in their place without a word.
    GeometryError
        When the only orientation in the file is sheared or singular.
    """
    header = _header(path)
    if header is None:
        return False
    name = str(path)
    dim = np.asarray(header["dim"], dtype=np.int64)
    count = int(np.clip(dim[0], 1, 7))
    voxels = int(np.prod(np.maximum(dim[1 : count + 1], 1)))
    _check_length(path, header, voxels * int(header["bitpix"]) // 8)
    if int(header["datatype"]) in _FLOATS:
        _check_finite(path, header, voxels)
    spatial = min(count, 3)
    spacing = np.asarray(header["pixdim"], dtype=np.float64)[1:4]
    for axis in range(spatial):
        s = spacing[axis]
        if dim[axis + 1] > 1 and (not np.isfinite(s) or s <= 0):
            read_as = f"{abs(s):g}" if np.isfinite(s) and s < 0 else "1"
            warn_header(name, f"the voxel size along axis {'xyz'[axis]} is {s:g}, read as {read_as} mm")
    spacing = np.where(np.isfinite(spacing) & (spacing != 0), np.abs(spacing), 1.0)
    return _check_orientation(name, header, dim[1:4], spacing, spatial)


def _check_orientation(name: str, header: Any, size: NDArray[np.int64], spacing: Array, spatial: int) -> bool:
    sform = np.asarray(header["srow"], dtype=np.float64)
    has_q, has_s = int(header["qform_code"]) > 0, int(header["sform_code"]) > 0
    lengths = np.linalg.norm(sform[:, :3], axis=0)
    singular = has_s and (not np.isfinite(sform).all() or lengths.min() <= 0)
    shear = 1.0 if singular else (shear_of(sform[:, :3]) if has_s else 0.0)
    if has_s and not has_q:
        if singular:
            raise GeometryError(
                f"{name}: its only orientation, the sform, is singular; correct it or export it again"
            )
        if shear > SHEAR_REFUSED:
            refuse_shear(shear, name)
        ratio = lengths[:spatial] / spacing[:spatial]
        if np.abs(ratio - 1).max() > 0.01:
            warn_header(
                name,
                f"the sform gives voxels of {_triple(lengths[:spatial])} mm but the header says "
                f"{_triple(spacing[:spatial])} mm and there is no qform; the header's size is used, while programs "
                "such as nibabel use the sform",
            )
        if shear > SHEAR_NOTICED:
            warn_shear(shear, name)
        # ITK refuses shears of far less than SHEAR_NOTICED, so it is always told to accept what is left.
        return True
    if has_s and has_q:
        qform = _qform(header, spacing)
        corners = np.stack(np.meshgrid(*[(0, max(int(n) - 1, 0)) for n in size], indexing="ij"), -1).reshape(-1, 3)
        apart = np.linalg.norm(corners @ (qform[:, :3] - sform[:, :3]).T + qform[:, 3] - sform[:, 3], axis=1).max()
        if singular or apart > max(0.5 * float(spacing[:spatial].max()), 1e-3):
            warn_header(
                name,
                f"its qform and sform put the image in different places (up to {apart:.3g} mm apart); "
                "other programs may show it elsewhere",
            )
    return False


def world_from_voxel(path: Path) -> Array:
    """Return the (4, 4) matrix of a NIfTI file from voxel (i, j, k) to world (x, y, z) in LPS, qform before sform."""
    header = _header(path)
    if header is None:
        raise InputError(f"{path}: expected a NIfTI file")
    if int(header["qform_code"]) > 0:
        matrix = _qform(header, np.abs(np.asarray(header["pixdim"], dtype=np.float64)[1:4]))
    else:
        matrix = np.asarray(header["srow"], dtype=np.float64)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])


def _qform(header: Any, spacing: Array) -> Array:
    """Return the 3x4 qform matrix from the unit quaternion (a, b, c, d), nifti1.h "METHOD 2"."""
    b, c, d = (float(v) for v in header["quatern"])
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    vector = np.array([b, c, d])
    cross = np.array([[0, -d, c], [d, 0, -b], [-c, b, 0]])
    rotation = (a * a - vector @ vector) * np.eye(3) + 2 * np.outer(vector, vector) + 2 * a * cross
    flip = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
    linear = rotation * (spacing * np.array([1.0, 1.0, flip]))
    return np.column_stack([linear, np.asarray(header["qoffset"], dtype=np.float64)])


def _header(path: Path) -> Any:
    file = path
    if path.suffix.lower() == ".img" and path.with_suffix(".hdr").exists():
        file = path.with_suffix(".hdr")
    with file.open("rb") as stream:
        raw = stream.read(65536)
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = zlib.decompressobj(wbits=31).decompress(raw, 540)  # unlike gzip, also of a file that is cut off
        except zlib.error:  # not what its first bytes say: ITK reports it
            return None
    if len(raw) < 4:
        return None
    for order in _ORDERS:
        magic, layout = _MAGIC.get(int(np.frombuffer(raw, f"{order}i4", 1)[0]), (0, None))
        if layout is not None and len(raw) >= layout.itemsize and raw[magic : magic + 2] in (b"n+", b"ni"):
            return np.frombuffer(raw, layout.newbyteorder(order), 1)[0]
    return None


def _check_length(path: Path, header: Any, data_bytes: int) -> None:
    if path.suffix.lower() in (".hdr", ".img"):
        return
    needed = int(header["vox_offset"]) + data_bytes
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(-4, 2)
        tail = int.from_bytes(stream.read(4), "little")
    if not zipped:
        found = path.stat().st_size
    elif tail == needed % 2**32:
        return  # a complete gzip file ends with its unzipped length
    else:
        found = _unzipped_length(path)  # several gzip members, trailing bytes, or truly cut off
    if found < needed:
        ends = "its compressed data end early" if zipped else f"found {found}"
        raise InputError(f"{path}: the file is truncated: its header announces {needed} bytes, {ends}; copy it again")


def _check_finite(path: Path, header: Any, voxels: int) -> None:
    dtype = np.dtype(_FLOATS[int(header["datatype"])]).newbyteorder(header.dtype["dim"].base.byteorder)
    file = path.with_suffix(".img") if path.suffix.lower() == ".hdr" else path
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    nan = infinite = 0
    with gzip.open(file, "rb") if zipped else file.open("rb") as stream:
        stream.seek(int(header["vox_offset"]))
        left = voxels * dtype.itemsize
        while left > 0 and (block := stream.read(min(left, _BLOCK))):
            left -= len(block)
            values = np.frombuffer(block, dtype, len(block) // dtype.itemsize)
            if not np.isfinite(values).all():
                nan += int(np.isnan(values).sum())
                infinite += int(np.isinf(values).sum())
    if nan + infinite:
        raise InputError(not_finite(str(path), nan, infinite))


def _unzipped_length(path: Path) -> int:
    length = 0
    try:
        with gzip.open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                length += len(block)
    except (OSError, EOFError, zlib.error):  # what was readable up to here is the answer
        return length
    return length


def _triple(values: Array) -> str:
    return " x ".join(f"{v:.4g}" for v in values)
