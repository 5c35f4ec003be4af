"""An image as a browser shows it: planes hung as radiologists expect, cut into tiles, with coarser levels."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Transform, jacobian_determinant
from roireg.core.warp import resample
from roireg.evaluate.palette import FOLDED
from roireg.evaluate.planes import Plane, display_planes, sample_plane
from roireg.evaluate.plots import intensity_window

__all__ = ["TILE", "ShownImage", "doubt_tile", "hung", "jacobian_tile", "plane_document", "tile_grid", "warped_tile"]

TILE = 512
"""Pixels along the side of a tile."""

LARGEST_RATIO = 4.0
"""Change of volume, up or down, at which the colours of det J end."""


@dataclass(frozen=True, eq=False)
class ShownImage:
    """One image, ready to be drawn.

    Attributes
    ----------
    image : the image. window : intensities shown as black and white.
    """

    image: Image
    window: tuple[float, float]

    @classmethod
    def of(cls, image: Image) -> ShownImage:
        """Return an image with the window that its values suggest."""
        return cls(image, intensity_window(image))

    @cached_property
    def planes(self) -> list[Plane]:
        """The planes through the middle; 2D images have one."""
        grid = self.image.grid
        return display_planes(grid, grid.center, unit=self.image.unit)

    @cached_property
    def levels(self) -> list[tuple[Tensor, Grid]]:
        """(values, grid) of the image and, in 2D, of ever coarser versions until one tile holds them.

        Colours beyond the third channel are left out; pictures of bytes stay bytes.
        """
        data = self.image.data[:3] if self.image.channels >= 3 else self.image.data[:1]
        pyramid = [(data, self.image.grid)]
        while self.image.ndim == 2 and max(pyramid[-1][0].shape[1:]) > TILE:
            values, grid = pyramid[-1]
            smaller = grid.with_shape([math.ceil(n / 2) for n in grid.shape])
            coarse = resample(Image(values, grid), smaller).data
            pyramid.append((coarse.round().to(values.dtype) if values.dtype == torch.uint8 else coarse, smaller))
        return pyramid

    @cached_property
    def range(self) -> tuple[float, float]:
        """The least and the greatest intensity; in 2D of the coarsest version."""
        data = self.levels[-1][0]
        return float(data.min()), float(data.max())

    def plane(self, name: str, index: int) -> Plane:
        """Return a plane by name, at a slice.

        Raises
        ------
        InputError
            When there is no such plane or slice.
        """
        for plane in self.planes:
            if plane.name == name:
                if not 0 <= index < plane.count:
                    raise InputError(f"{name} slices are numbered from 0 to {plane.count - 1}, found {index}")
                return plane.at(index)
        raise InputError(f"there is no plane {name!r}; use one of {', '.join(p.name for p in self.planes)}")

    def tile(
        self, plane: Plane, level: int, column: int, row: int, *, window: tuple[float, float] | None = None
    ) -> bytes:
        """Return one tile of the image as it lies, a PNG; gray or RGB."""
        box = _tile_box(plane, min(level, len(self.levels) - 1), column, row)
        values, grid = self.levels[min(level, len(self.levels) - 1)]
        view = hung(values, grid, _at_level(plane.native, grid) if plane.native.ndim == 2 else plane.native)
        part = view[:, box[0], box[1]].float().numpy()
        return png(_bytes_of(part, window or self.window))


def plane_document(plane: Plane) -> dict[str, Any]:
    """Return what a browser needs to lay a plane out and to turn pixels into world points and back.

    ``world`` is the (d, 4) matrix from (column, row, slice, 1) to the world; pixel (0, 0) is a centre.
    """
    start, d = plane.at(0).native, plane.native.ndim
    affine = start.affine
    across = np.zeros(d) if d == 2 else plane.at(1).native.affine[:-1, -1] - affine[:-1, -1]
    world = np.stack([affine[:-1, d - 1], affine[:-1, d - 2], across, affine[:-1, -1]], axis=1)
    rows, columns = start.shape[-2:]
    return {
        "name": plane.name,
        "rows": rows,
        "columns": columns,
        "count": plane.count,
        "world": world.tolist(),
        "size": [float(start.spacing[-1]), float(start.spacing[-2])],
        "letters": dict(zip(("left", "right", "top", "bottom"), plane.letters, strict=True)),
        "unit": plane.unit,
    }


def tile_grid(plane: Plane, level: int, column: int, row: int) -> Grid:
    """Return the grid of the pixels of a tile: at level L a pixel is as wide as 2^L voxels of the plane."""
    native = _coarser(plane.native, level)
    box = _tile_box(plane, level, column, row)
    lead = [0] * (native.ndim - 2)
    before = [*lead, -box[0].start, -box[1].start]
    after = [*lead, box[0].stop - native.shape[-2], box[1].stop - native.shape[-1]]
    return native.padded(before, after)


def warped_tile(
    shown: ShownImage,
    plane: Plane,
    transform: Transform | None,
    level: int,
    column: int,
    row: int,
    *,
    window: tuple[float, float] | None = None,
) -> bytes:
    """Return one tile of a plane of another image, filled with this one through a transform; clear outside it."""
    grid = tile_grid(plane, level, column, row)
    values, own = shown.levels[min(level, len(shown.levels) - 1)]
    part = sample_plane(values, own, grid, transform, fill=float("nan"))
    there = np.isfinite(part).all(axis=0)
    picture = _bytes_of(np.nan_to_num(part), window or shown.window)
    alpha = np.where(there, 255, 0).astype(np.uint8)
    return png(np.concatenate([picture, alpha[..., None]], axis=-1))


def jacobian_tile(transform: Transform, plane: Plane, level: int, column: int, row: int) -> bytes:
    """Return det J of a transform on a tile: orange grows, blue shrinks, clear stays, yellow folds."""
    grid = tile_grid(plane, level, column, row)
    around = [1] * grid.ndim if grid.ndim == 2 or grid.shape[0] == 1 else [0, 1, 1]
    inner = tuple(slice(n, -n) if n else slice(None) for n in around)
    determinant = jacobian_determinant(transform, grid.padded(around, around))[inner]
    det = determinant.reshape(grid.shape[-2:]).numpy()
    change = np.log(np.clip(det, 1e-3, None)) / math.log(LARGEST_RATIO)
    colour = np.where((change > 0)[..., None], np.array([255, 128, 0]), np.array([0, 128, 255]))
    alpha = np.clip(np.abs(change), 0, 1)[..., None] * 215
    folded = tuple(int(FOLDED[i : i + 2], 16) for i in (1, 3, 5))
    picture = np.concatenate([colour, alpha], axis=-1)
    picture[det <= 0] = (*folded, 255)
    return png(picture.astype(np.uint8))


def doubt_tile(radius: Tensor, grid: Grid, most: float, plane: Plane, level: int, column: int, row: int) -> bytes:
    """Return a tile of how far off counterparts may be: clear where little, purple where `most` or more."""
    target = tile_grid(plane, level, column, row)
    values = sample_plane(radius[None], grid, target, fill=most)[0]
    alpha = np.clip(values / most, 0, 1)[..., None] ** 2 * 220
    colour = np.broadcast_to(np.array([204, 121, 167]), (*values.shape, 3))
    return png(np.concatenate([colour, alpha], axis=-1).astype(np.uint8))


def png(picture: NDArray[np.uint8]) -> bytes:
    """Return (rows, columns, 1 to 4) bytes as a PNG: gray, gray with alpha, RGB or RGBA."""
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[picture.shape[-1]]
    stream = io.BytesIO()
    pixels = np.ascontiguousarray(picture[..., 0] if mode == "L" else picture)
    PIL.Image.frombytes(mode, (picture.shape[1], picture.shape[0]), pixels.tobytes()).save(
        stream, "PNG", compress_level=1
    )
    return stream.getvalue()


def _bytes_of(values: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = window
    scaled = np.clip((values - low) * (255.0 / max(high - low, 1e-12)), 0, 255)
    return np.asarray(np.moveaxis(scaled, 0, -1).round(), dtype=np.uint8)


def _coarser(native: Grid, level: int) -> Grid:
    """Return the grid over the same box whose shape `ShownImage.levels` has at a level."""
    shape = list(native.shape)
    for _ in range(level):
        shape[-2:] = [math.ceil(n / 2) for n in shape[-2:]]
    return native.with_shape(shape) if level else native


def _at_level(native: Grid, stored: Grid) -> Grid:
    """Return the hung grid of a plane with as many voxels per axis as the storage of a level has."""
    level = 0
    while sorted(_coarser(native, level).shape) != sorted(stored.shape):
        level += 1
    return _coarser(native, level)


def _tile_box(plane: Plane, level: int, column: int, row: int) -> tuple[slice, slice]:
    rows, columns = _coarser(plane.native, level).shape[-2:]
    if not (0 <= row * TILE < rows and 0 <= column * TILE < columns):
        raise InputError(f"level {level} of this plane has no tile in column {column}, row {row}")
    return (
        slice(row * TILE, min((row + 1) * TILE, rows)),
        slice(column * TILE, min((column + 1) * TILE, columns)),
    )


def hung(values: Tensor, grid: Grid, plane: Grid) -> Tensor:
    """Return (channel, rows, columns) values of a plane along the storage axes, without copying."""
    step = np.rint(np.linalg.inv(grid.affine[:-1, :-1]) @ plane.affine[:-1, :-1]).astype(int)
    corner = np.rint(grid.index_from_world(plane.origin)).astype(int)
    axes = [int(np.argmax(np.abs(step[:, k]))) for k in range(step.shape[1])]
    if grid.ndim == 3:
        across = axes[0]
        values = values.select(across + 1, int(corner[across]))
        axes = [a - (a > across) for a in axes[1:]]
        signs = [int(step[:, k].sum()) for k in (1, 2)]
    else:
        signs = [int(step[:, k].sum()) for k in (0, 1)]
    values = values.permute(0, axes[0] + 1, axes[1] + 1)
    turned = [k + 1 for k, sign in enumerate(signs) if sign < 0]
    return values.flip(turned) if turned else values
