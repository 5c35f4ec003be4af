"""NIfTI-1, NIfTI-2 and Analyze 7.5: reading and writing files, and what a header makes of the stored numbers.

nibabel parses and writes the headers; where they put the voxels is decided in `nifti_place`.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import InputError, warn_header
from roireg.core.grid import Grid
from roireg.io._itk import chosen_frame
from roireg.io.nifti_place import RAS_FROM_LPS, grid_of_header, grid_of_matrix, other_order
from roireg.io.raster import Stored
from roireg.io.streams import first_bytes, read_exactly

__all__ = [
    "header_of",
    "is_analyze",
    "is_nifti",
    "layout_of",
    "nifti_header",
    "ras_from_voxel",
    "read_analyze",
    "read_nifti",
    "write_nifti",
]

Array = NDArray[np.float64]

_ENDINGS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
_SPM: Any = nibabel.Spm2AnalyzeImage
_ANALYZE = 348
"""Bytes of an Analyze header."""
_VECTORS = (1005, 1006, 1007)
"""Intent codes of symmetric matrices, displacements and vectors: the fifth axis holds components."""
_DISPLACEMENT = 1006
_COLOURS = {128: 3, 2304: 4}
_LEVEL = 4
"""Of compression: half the time of gzip's own choice, and files some per cent larger."""


def is_nifti(path: Path) -> bool:
    """Tell whether a file is NIfTI-1 or NIfTI-2 by name and first bytes; Analyze 7.5 is neither."""
    return path.name.lower().endswith(_ENDINGS) and nifti_header(path) is not None


def is_analyze(path: Path) -> bool:
    """Tell whether a file is one of a pair in the format Analyze 7.5 by name and header."""
    if not _is_pair(path) or nifti_header(path) is not None:
        return False
    raw = first_bytes(_partner(path, "hdr"), _ANALYZE)
    return len(raw) == _ANALYZE and bool(nibabel.AnalyzeHeader.may_contain_header(raw))


def read_analyze(path: Path, *, frame: int | None = None) -> Stored:
    """Read a pair in the format Analyze 7.5 by either of its names, placed as nibabel and SPM do.

    The format does not say which side is left: the first axis runs from right to left, as SPM has it, unless a .mat
    file of SPM lies beside it. A warning tells so.

    Raises
    ------
    InputError
        When the file is damaged, shorter than its header says, 4D without `frame`, or holds complex values.
    GeometryError
        When its orientation is not usable.
    """
    name = str(path)
    files = _partner(path, "hdr"), _partner(path, "img")
    for file in files:
        if not file.is_file():
            raise InputError(f"{path}: {file.name} is expected beside it, which is not there; copy both files")
    header = nibabel.Spm2AnalyzeHeader(first_bytes(files[0], _ANALYZE), check=False)
    size, dtype = _sizes(header, name), _stored_type(header, name)
    shape, _, frames = layout_of(size, 0, 0)
    first = 0 if len(size) <= 3 else chosen_frame(name, frames, frame, shape=size)
    per_frame = math.prod(shape) * dtype.itemsize
    offset = int(abs(float(header["vox_offset"])))
    start = offset + first * per_frame
    raw = read_exactly(files[1], per_frame, skip=start, total=offset + frames * per_frame, name=name)
    try:
        ras = np.asarray(_SPM.load(files[0]).affine)
    except Exception as error:  # scipy raises whatever it meets in a .mat file
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{name}: its orientation cannot be read ({reason}); export it as NIfTI") from error
    if files[0].with_suffix(".mat").is_file():
        placed = "the .mat file of SPM beside it"
    else:
        placed = "Analyze 7.5, the first axis from right to left"
        warn_header(name, "the format Analyze 7.5 does not say which side is left; read as nibabel and SPM do")
    grid = grid_of_matrix(ras, shape, name)
    values = _scaled(raw.view(dtype).reshape(1, *shape[::-1]), header, name)
    return Stored(values, grid, "mm", {"placed by": placed})


def read_nifti(path: Path, *, frame: int | None = None, series: bool = False, field: bool = False) -> Stored:
    """Read a NIfTI file, or a detached pair by either of its names.

    Parameters
    ----------
    frame : which volume of a 4D image, from 0.
    series : whether all volumes of a 4D image are read, each a channel.
    field : whether the vectors are displacements: three of them on one slice are then a volume, not colours of a
        plane, and RAS components (of the intent code of displacements, as ITK has it) become LPS.

    Returns
    -------
    Values scaled by the slope and intercept of the header, where it has them; the metadata say under ``placed by``
    which orientation of the header was used.

    Raises
    ------
    InputError
        When the file is damaged, shorter than its header says, 4D without `frame` or `series`, a series of colours,
        or holds complex values.
    GeometryError
        When no orientation of the header is usable.
    """
    name = str(path)
    header = nifti_header(path)
    if header is None:
        raise InputError(f"{path}: expected a NIfTI file, found something else; copy or export it again")
    size = _sizes(header, name)
    kind = int(header["datatype"])
    dtype = _stored_type(header, name)
    shape, components, frames = layout_of(size, int(header["intent_code"]), kind, field)
    grid, placed = grid_of_header(header, shape, name)
    # A single volume has no frames, whatever is chosen for the image beside it.
    single = frames == 1 and (len(size) <= 3 or components > 1)
    first = 0 if single or series else chosen_frame(name, frames, frame, shape=size)
    count = frames if series else 1
    if count > 1 and components > 1:
        raise InputError(f"{name}: a series of colours or vectors is not supported; choose a volume with --frame N")
    voxels = math.prod(shape)
    per_frame = voxels * (1 if kind in _COLOURS else components)
    raw = read_exactly(
        _data_file(path, header),
        dtype.itemsize * per_frame * count,
        skip=_offset(header, path) + first * dtype.itemsize * per_frame,
        total=_offset(header, path) + math.prod(size) * dtype.itemsize,
        name=name,
    )
    storage = shape[::-1]
    if kind in _COLOURS:
        values = np.moveaxis(raw.view(np.uint8).reshape(*storage, _COLOURS[kind]), -1, 0)
    else:
        values = _scaled(raw.view(dtype).reshape(components * count, *storage), header, name)
    if field and int(header["intent_code"]) == _DISPLACEMENT:
        values = values * np.array([-1, -1, 1][: len(values)], values.dtype).reshape(-1, *[1] * len(storage))
    return Stored(values, grid, "mm", placed)


def write_nifti(path: Path, values: NDArray[Any], grid: Grid) -> None:
    """Write (channel, *spatial) values as NIfTI-1, compressed where the name ends in .gz.

    The sform says exactly where the voxels lie, the qform the same up to shear, which a quaternion cannot hold.
    Several channels are vectors as ITK writes them. Axes of more than 32767 voxels make it NIfTI-2.
    """
    header = header_of(values, grid)
    with path.open("wb") as file:
        if path.name.endswith(".gz"):
            # No name and no date inside: equal images give equal files.
            with gzip.GzipFile("", "wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as stream:
                _write_parts(stream, header, values)
        else:
            _write_parts(file, header, values)


def header_of(values: NDArray[Any], grid: Grid) -> Any:
    """Return the header that `write_nifti` gives (channel, *spatial) values."""
    size = grid.shape[::-1]
    header = (nibabel.Nifti2Header if max(size) > 32767 else nibabel.Nifti1Header)()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(size if len(values) == 1 else (*size, 1, 1)[:3] + (1, len(values)))
    ras = ras_from_voxel(grid)
    header.set_qform(ras, 1, strip_shears=True)
    header.set_sform(ras, 1)
    header.set_xyzt_units("mm", "sec")
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.sizeof_hdr + 4
    if len(values) > 1:
        header["intent_code"] = _VECTORS[-1]
    return header


def ras_from_voxel(grid: Grid) -> Array:
    """Return the (4, 4) matrix from voxel (i, j, k) to world (x, y, z) in RAS; a plane lies at z = 0."""
    ras = np.eye(4)
    lps = grid.affine[:, other_order(grid.ndim)]
    ras[: grid.ndim, : grid.ndim], ras[: grid.ndim, 3] = lps[:-1, :-1], lps[:-1, -1]
    return np.asarray(RAS_FROM_LPS @ ras)


def _write_parts(stream: Any, header: Any, values: NDArray[Any]) -> None:
    stream.write(header.binaryblock + bytes(4))
    for channel in values:
        for plane in channel:
            stream.write(np.ascontiguousarray(plane, dtype=header.get_data_dtype()))


# -- the file -------------------------------------------------------------------------------------


def _partner(path: Path, kind: str) -> Path:
    """Return the file of a detached pair (`kind` is "hdr" or "img") that belongs to either of its names."""
    zipped = path.name.lower().endswith(".gz")
    stem = path.name[: -len(".hdr.gz") if zipped else -len(".hdr")]
    names = [f"{stem}.{kind}{gz}" for gz in ("", ".gz")] + [f"{stem}.{kind.upper()}{gz}" for gz in ("", ".GZ")]
    if path.name.lower().removesuffix(".gz").endswith(kind):
        return path
    files = [path.with_name(n) for n in names if path.with_name(n).is_file()]
    return files[0] if files else path.with_name(names[0])


def _is_pair(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith((".hdr", ".img"))


def nifti_header(path: Path) -> Any:
    """Return the header of a NIfTI file as nibabel holds it, unchecked; None where there is none."""
    file = _partner(path, "hdr") if _is_pair(path) else path
    if not file.is_file():
        file = path  # a lone .img may be a single file under another name
    raw = first_bytes(file, 540)
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        if len(raw) >= kind.sizeof_hdr and kind.may_contain_header(raw):
            return kind(raw[: kind.sizeof_hdr], check=False)
    for pair in (nibabel.nifti1.Nifti1PairHeader, nibabel.nifti2.Nifti2PairHeader):
        if len(raw) >= pair.sizeof_hdr and pair.may_contain_header(raw):
            return pair(raw[: pair.sizeof_hdr], check=False)
    return None


def _data_file(path: Path, header: Any) -> Path:
    if not _is_pair(path):
        return path
    file = _partner(path, "img")
    if file.is_file():
        return file
    if bytes(header["magic"]).startswith(b"n+"):
        return path
    raise InputError(f"{path}: its voxels are expected beside it in {file.name}, which is not there; copy both files")


def _offset(header: Any, path: Path) -> int:
    value = float(header["vox_offset"])
    single = bytes(header["magic"]).startswith(b"n+")
    least = header.sizeof_hdr + 4 if single else 0
    if value == 0:
        return least
    if not np.isfinite(value) or value != int(value) or not header.sizeof_hdr * single <= value < 2**62:
        raise InputError(
            f"{path}: the header says that the voxels begin at byte {value:g}, expected a whole number of at least "
            f"{least}; the file is damaged, copy or export it again"
        )
    return int(value)


def _sizes(header: Any, name: str) -> list[int]:
    """Return the number of voxels along every axis, x first, trailing ones kept."""
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise InputError(f"{name}: the header announces {dim[0]} axes, expected 1 to 7; the file is damaged")
    size = dim[1 : dim[0] + 1]
    if min(size) < 1:
        listed = " x ".join(map(str, size))
        raise InputError(f"{name}: the header announces {listed} voxels, expected at least one voxel per axis")
    return size


def _stored_type(header: Any, name: str) -> np.dtype[Any]:
    kind = int(header["datatype"])
    if kind in _COLOURS:
        return np.dtype(f"V{_COLOURS[kind]}")
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nibabel.spatialimages.HeaderDataError) as error:
        raise InputError(
            f"{name}: voxels of the NIfTI type {kind} are not supported; save the image as 16-bit integers or 32-bit "
            "floats"
        ) from error
    if dtype.kind == "c":
        raise InputError(f"{name}: complex values cannot be registered; save the magnitude as a real image")
    if dtype.kind not in "iuf" or dtype.itemsize == 0:
        raise InputError(f"{name}: voxels of the NIfTI type {kind} ({dtype}) are not supported; save it as integers")
    return dtype


def layout_of(size: Sequence[int], intent: int, kind: int, field: bool = False) -> tuple[list[int], int, int]:
    """Return (spatial size x first, channels, frames)."""
    if len(size) < 2:
        return list(size), 1, 1
    spatial, rest = list(size[:3]), list(size[3:])
    components = 1
    if kind in _COLOURS:
        components = _COLOURS[kind]
    elif len(rest) >= 2 and rest[0] == 1 and (intent in _VECTORS or field):
        components, rest = rest[1], rest[2:]
        if spatial[2] == 1 and not (field and components == 3):
            # ITK writes a plane of vectors so: its z axis exists for the format alone.
            spatial = spatial[:2]
    return spatial, components, math.prod(rest)


# -- values ---------------------------------------------------------------------------------------


def _scaled(stored: NDArray[Any], header: Any, name: str) -> NDArray[Any]:
    """Return native values: slope and intercept applied where the header has them (a slope of 0 or NaN is none)."""
    native = stored.dtype.newbyteorder("=")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        slope, intercept = 1.0, 0.0
    if not np.isfinite(intercept):
        warn_header(name, f"the intercept of its values is {intercept:g}, read as 0")
        intercept = 0.0
    if (slope, intercept) == (1.0, 0.0):
        return stored.astype(np.float64 if native.itemsize > 8 else native, copy=False)
    wide = (stored.dtype.itemsize > 2 and stored.dtype.kind != "f") or stored.dtype.itemsize > 4
    values = np.empty(stored.shape, np.float64 if wide else np.float32)
    for channel, source in zip(values, stored, strict=True):
        for plane, numbers in zip(channel, source, strict=True):  # plane by plane: float64 of all would be large
            with np.errstate(over="ignore"):  # what is beyond the range becomes infinite, and is told
                plane[...] = numbers.astype(np.float64) * slope + intercept
    return values
