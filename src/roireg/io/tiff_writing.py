"""Writing TIFF: OME metadata for slices, channels and physical size, tiles for large pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from roireg.core.grid import Grid
from roireg.core.warp import LARGE
from roireg.io.verified import verified_path

__all__ = ["BAND", "tiles_complete", "write_tiff", "write_tiff_bands"]

Array = NDArray[Any]

BAND = 512
"""Side of the tiles of a large picture, and rows of the parts it is written in."""


def write_tiff(path: Path, array: Array, grid: Grid, unit: str) -> None:
    """Write (channel, *spatial) values; slices, channels and a physical size are kept as OME metadata.

    RGB and gray pictures in pixels are plain TIFF, as every program reads them.
    """
    colour = len(array) in (3, 4) and array.dtype in (np.uint8, np.uint16)
    metadata: dict[str, Any] | None = None
    if array.ndim == 4 or unit == "mm" or (len(array) > 1 and not colour):
        metadata = {"axes": "ZYX"[-grid.ndim :]}
        if unit == "mm":
            for axis, size in zip("ZYX"[-grid.ndim :], grid.spacing, strict=True):
                metadata |= {f"PhysicalSize{axis}": float(size), f"PhysicalSize{axis}Unit": "mm"}
    if metadata is not None and len(array) > 1:
        metadata["axes"] = f"{metadata['axes']}S" if colour else f"C{metadata['axes']}"
    options: dict[str, Any] = {
        "photometric": "rgb" if colour else "minisblack",
        "compression": "zlib",
        "ome": metadata is not None,
        "metadata": metadata,
        "extrasamples": ["unassalpha"] if colour and len(array) == 4 else None,
    }
    values = np.moveaxis(array, 0, -1) if colour else array[0] if len(array) == 1 else array
    if grid.ndim == 2 and (colour or len(array) == 1) and array.size > LARGE:
        # Tile by tile: a copy of a large picture is never made.
        tiles = _tiles(values)
        tifffile.imwrite(path, tiles, shape=values.shape, dtype=values.dtype, tile=(BAND, BAND), **options)
    else:
        tifffile.imwrite(path, np.ascontiguousarray(values), **options)


def write_tiff_bands(path: Path, bands: Iterable[Array], grid: Grid, unit: str, *, channels: int, dtype: str) -> None:
    """Write a 2D picture of one to four channels that comes in (channel, `BAND`, x) parts, never held as a whole.

    Parameters
    ----------
    bands : from the first row to the last; the last may have fewer rows.
    grid, unit : of the whole.

    Raises
    ------
    OutputError
        When the place cannot be written, or what was written is not complete.
    """
    shape = (*grid.shape, channels) if channels > 1 else grid.shape
    parts = (np.moveaxis(band, 0, -1) if channels > 1 else band[0] for band in bands)
    metadata: dict[str, Any] | None = None
    if unit == "mm":
        metadata = {"axes": "YXS" if channels > 1 else "YX"}
        for axis, size in zip("YX", grid.spacing, strict=True):
            metadata |= {f"PhysicalSize{axis}": float(size), f"PhysicalSize{axis}Unit": "mm"}
    with verified_path(path, _complete) as temporary:
        tifffile.imwrite(
            temporary,
            (tile for part in parts for tile in _tiles(part)),
            shape=shape,
            dtype=dtype,
            tile=(BAND, BAND),
            photometric="rgb" if channels >= 3 else "minisblack",
            extrasamples=["unassalpha"] if channels == 4 else None,
            compression="zlib",
            ome=metadata is not None,
            metadata=metadata,
            bigtiff=True,
        )


def tiles_complete(file: tifffile.TiffFile) -> bool:
    """Tell whether all tiles of a picture that was just written lie within its file."""
    page = file.pages[0]
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    return min(page.databytecounts) > 0 and max(ends) <= file.filehandle.size


def _complete(file: Path) -> bool:
    with tifffile.TiffFile(file) as written:
        return tiles_complete(written)


def _tiles(values: Array) -> Iterator[Array]:
    """Yield the tiles of a (y, x[, channel]) picture row by row, those at the end filled up with 0."""
    for y in range(0, values.shape[0], BAND):
        for x in range(0, values.shape[1], BAND):
            tile = np.zeros((BAND, BAND, *values.shape[2:]), dtype=values.dtype)
            part = values[y : y + BAND, x : x + BAND]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile
