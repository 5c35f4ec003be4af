"""Sampling and resampling: the only `grid_sample` in the project.

Coordinates handed to :func:`sample` are *voxel coordinates in reversed storage order* (x, y[, z]), the
order `grid_sample` and world displacements use; integer values are voxel centres.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.filters import gaussian_smooth
from roireg.core.grid import Grid
from roireg.core.image import LARGE, Image

__all__ = [
    "LARGE",
    "PointMap",
    "halved",
    "halved_grid",
    "identity_coords",
    "resample",
    "sample",
    "slab_points",
    "warp",
]

SLAB_VOXELS = 2_000_000
"""How many voxels are mapped at once; bounds the temporary memory of every full-resolution warp."""


class PointMap(Protocol):
    """Anything that maps world points to world points (every transform of this package)."""

    def map_points(self, points: Tensor) -> Tensor:
        """Map (N, d) float64 world points to (N, d) float64 world points."""
        ...


@lru_cache(maxsize=6)
@torch.inference_mode(False)
def identity_coords(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the (*shape, d) float32 voxel coordinates (x, y[, z]) of every voxel, cached; never write to it."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)


def sample(data: Tensor, coords: Tensor, *, mode: str = "linear", padding: str = "border") -> Tensor:
    """Interpolate `data` at voxel coordinates.

    Parameters
    ----------
    data : (batch, channel, *spatial) float tensor.
    coords : (batch, *out, d) voxel coordinates, components in reversed storage order (x, y[, z]).
    mode : "linear" or "nearest".
    padding : "border" repeats the outermost voxel, "zeros" fades to 0 outside the grid.

    Returns
    -------
    (batch, channel, *out) tensor.
    """
    if mode == "nearest":
        # grid_sample rounds ties to even, which skips every other voxel at half-voxel shifts; ITK rounds half up.
        coords = torch.floor(coords + 0.5)
    shape = data.shape[2:]
    scale = torch.tensor([2.0 / n for n in reversed(shape)], dtype=coords.dtype, device=coords.device)
    # align_corners=False keeps axes of one voxel well defined: voxel 0 spans [-0.5, 0.5].
    normalised = torch.addcmul(0.5 * scale - 1.0, coords, scale).to(data.dtype)
    points = math.prod(normalised.shape[1:-1])
    parts = _parts(data, points)
    if parts > 1:
        flat = F.pad(normalised.reshape(points, -1), (0, 0, 0, -points % parts))
        normalised = flat.reshape(parts, *[1] * (len(shape) - 1), -1, len(shape))
    values = F.grid_sample(
        data.expand(parts * data.shape[0], *data.shape[1:]),
        normalised,
        mode="bilinear" if mode == "linear" else "nearest",
        padding_mode=padding,
        align_corners=False,
    )
    if parts > 1:
        values = values.flatten(2).transpose(0, 1).flatten(1)[:, :points].reshape(1, -1, *coords.shape[1:-1])
    return values


def _parts(data: Tensor, points: int) -> int:
    """Into how many batch items to cut the points of one image: torch samples every item on one thread."""
    worthwhile = 5_000 if data.ndim == 5 else 50_000
    if data.device.type != "cpu" or data.shape[0] != 1 or points < worthwhile:
        return 1
    return torch.get_num_threads()


def point_dtype(device: torch.device) -> torch.dtype:
    """Return the precision of world points: float64 wherever the device has it (Apple GPUs do not)."""
    return torch.float32 if device.type == "mps" else torch.float64


def slab_points(grid: Grid, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, points): slices along the first axis and the float64 world points of their voxels."""
    dtype = point_dtype(device)
    affine = torch.as_tensor(np.array(grid.affine), dtype=dtype, device=device)
    per_row = max(1, grid.size // grid.shape[0])
    rows = max(1, SLAB_VOXELS // per_row)
    rest = [torch.arange(n, dtype=dtype, device=device) for n in grid.shape[1:]]
    for start in range(0, grid.shape[0], rows):
        stop = min(start + rows, grid.shape[0])
        first = torch.arange(start, stop, dtype=dtype, device=device)
        index = torch.stack([a.reshape(-1) for a in torch.meshgrid(first, *rest, indexing="ij")], dim=-1)
        yield slice(start, stop), torch.addmm(affine[:-1, -1], index, affine[:-1, :-1].T)


def voxel_coords(grid: Grid, points: Tensor) -> Tensor:
    """Map (..., d) world points to (..., d) voxel coordinates of `grid` in reversed storage order."""
    inverse = torch.as_tensor(np.linalg.inv(grid.affine)[::-1].copy(), dtype=points.dtype, device=points.device)
    return points @ inverse[1:, :-1].T + inverse[1:, -1]


def warp(
    image: Image,
    transform: PointMap | None,
    grid: Grid,
    *,
    mode: str = "linear",
    fill: float | Sequence[float] | None = None,
) -> Image:
    """Resample an image (or label map) through a pull-back transform onto a grid.

    Parameters
    ----------
    image : the moving image.
    transform : maps world points of `grid` (fixed) to world points of `image` (moving); None is the identity.
    grid : the fixed grid.
    mode : "linear" or "nearest" (label maps: no new label appears).
    fill : value outside the moving image, one for all channels or one each; None repeats its border.

    Returns
    -------
    The warped image on `grid`, same channel count and type of data, worked through piece by piece.
    """
    data = image.data
    whole = not data.is_floating_point()
    # A large picture stays in the type it is stored in; only the part that a piece reaches is made float.
    large = whole and data.numel() > LARGE
    working = data if large else _as_float(data)
    size = torch.tensor(image.grid.shape[::-1], device=data.device)
    dtype = data.dtype if whole else working.dtype
    out = torch.empty((image.channels, *grid.shape), dtype=dtype, device=data.device)
    outside_values = None if fill is None else _per_channel(fill, image, working)
    for piece, points in _tiles(grid, data.device) if large else slab_points(grid, data.device):
        mapped = points if transform is None else transform.map_points(points)
        coords = voxel_coords(image.grid, mapped)
        target = out[:, piece] if isinstance(piece, slice) else out[(slice(None), *piece)]
        shape = target.shape[1:]
        source, first = _reached(working, coords) if large else (working, None)
        place = coords if first is None else coords - first
        values = sample(source[None], place.float().reshape(1, *shape, image.ndim), mode=mode)[0]
        if outside_values is not None:
            # A voxel reaches half a voxel beyond its centre, as in ITK: no fading at the border.
            outside = ((coords < -0.5) | (coords > size - 0.5)).any(dim=-1).reshape(shape)
            values = torch.where(outside, outside_values.to(values.dtype), values)
        target.copy_(values.round_() if whole else values)
    return image.with_data(out, grid)


def _as_float(data: Tensor) -> Tensor:
    if data.is_floating_point():
        return data
    # float32 holds integers exactly up to 2^24 only; some atlases use larger labels.
    return data.double() if data.dtype in (torch.int32, torch.int64) else data.float()


def _per_channel(fill: float | Sequence[float], image: Image, working: Tensor) -> Tensor:
    values = torch.as_tensor(fill, dtype=torch.float64, device=working.device).reshape(-1)
    return values.expand(image.channels).reshape(-1, *[1] * image.ndim)


def _tiles(grid: Grid, device: torch.device) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Yield (slices, points) of pieces that are about as long along every axis; see `slab_points`."""
    dtype = point_dtype(device)
    affine = torch.as_tensor(np.array(grid.affine), dtype=dtype, device=device)
    side = max(1, int((SLAB_VOXELS / 2) ** (1 / grid.ndim)))
    for starts in itertools.product(*(range(0, n, side) for n in grid.shape)):
        stops = [min(a + side, n) for a, n in zip(starts, grid.shape, strict=True)]
        axes = [torch.arange(a, b, dtype=dtype, device=device) for a, b in zip(starts, stops, strict=True)]
        index = torch.stack([a.reshape(-1) for a in torch.meshgrid(*axes, indexing="ij")], dim=-1)
        slices = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
        yield slices, torch.addmm(affine[:-1, -1], index, affine[:-1, :-1].T)


def _reached(data: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of `data` that (N, d) voxel coordinates reach, as float, and where it begins."""
    size = torch.tensor(data.shape[:0:-1], device=coords.device)
    low = coords.amin(dim=0).floor().sub(1).clamp(min=0).minimum(size - 1).long()
    high = coords.amax(dim=0).ceil().add(2).clamp(min=1).minimum(size).maximum(low + 1).long()
    part = data[(slice(None), *(slice(int(a), int(b)) for a, b in zip(low.flip(0), high.flip(0), strict=True)))]
    return _as_float(part), low


def resample(image: Image, grid: Grid, *, mode: str = "linear") -> Image:
    """Resample onto another grid in world space; linear mode low-passes first where the new grid is coarser.

    The low-pass is an integer box average (exact and cheap for large factors) followed by a Gaussian whose
    standard deviation makes up for the remaining factor r: sigma = 0.5 * sqrt(r^2 - 1) voxels.
    """
    if mode == "linear":
        image = _low_pass(image, grid)
        if image.grid.is_close(grid, tolerance=1e-9):  # whole factors: the block means are the result
            return image
    return warp(image, None, grid, mode=mode)


def _low_pass(image: Image, grid: Grid) -> Image:
    # Factor per image axis: how many of its voxels one voxel of the new grid spans along that axis.
    step = np.abs(np.linalg.inv(image.grid.affine[:-1, :-1]) @ grid.affine[:-1, :-1]).max(axis=1)
    pool = np.minimum(np.maximum(1, np.floor(step + 1e-6)).astype(int), image.grid.shape)
    means = block_means(image, pool)
    rest = step / pool
    sigma = 0.5 * np.sqrt(np.maximum(rest**2 - 1, 0))
    return image.with_data(gaussian_smooth(means.data, sigma), means.grid)


def block_means(image: Image, pool: Sequence[int] | NDArray[np.int64]) -> Image:
    """Return float32 means over blocks of so many voxels per axis, ragged at the ends, on the grid of the blocks."""
    data = _pooled(image.data, tuple(int(p) for p in pool))
    return image.with_data(data, _blocks(image.grid, pool, tuple(data.shape[1:])))


def block_grid(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """Return the grid of so many blocks of 1, 2, 4, 8 or 16 voxels along every axis, ragged at the far ends."""
    block = next(b for b in (1, 2, 4, 8, 16) if shape == tuple(-(-n // b) for n in grid.shape))
    return _blocks(grid, [block] * grid.ndim, shape)


def _blocks(grid: Grid, pool: Sequence[int] | NDArray[np.int64], shape: tuple[int, ...]) -> Grid:
    if max(pool) == 1:
        return grid
    index_from_new = np.eye(grid.ndim + 1)
    index_from_new[:-1, :-1] = np.diag(pool)
    index_from_new[:-1, -1] = (np.asarray(pool) - 1) / 2
    return Grid(shape, grid.affine @ index_from_new)


def _pooled(data: Tensor, pool: tuple[int, ...]) -> Tensor:
    """Return the float32 means of blocks, ragged at the ends; worked through in slabs, so `data` is not copied."""
    if max(pool) == 1:
        return data.float()
    average = F.avg_pool3d if len(pool) == 3 else F.avg_pool2d
    shape = [-(-n // p) for n, p in zip(data.shape[1:], pool, strict=True)]
    out = torch.empty((len(data), *shape), dtype=torch.float32, device=data.device)
    rows = pool[0] * max(1, SLAB_VOXELS // (data[:, 0].numel() * pool[0]))
    for a in range(0, data.shape[1], rows):
        part = data[:, a : a + rows].to(torch.float32, memory_format=torch.contiguous_format)
        first = a // pool[0]
        # The last slab may be thinner than a block.
        block = (min(pool[0], part.shape[1]), *pool[1:])
        out[:, first : first + -(-part.shape[1] // pool[0])] = average(
            part[None], block, ceil_mode=True, count_include_pad=False
        )[0]
    return out


def halved(image: Image, *, most: int = 6_000_000) -> Image:
    """Return an image on its `halved_grid`."""
    grid = halved_grid(image.grid, most=most)
    return image if grid is image.grid else resample(image, grid)


def halved_grid(grid: Grid, *, most: int = 6_000_000) -> Grid:
    """Return the grid of a large picture halved to at most `most` pixels; registration looks at 1.5 million at most.

    Grids of volumes, and of pictures of at most `LARGE` pixels, are returned as they are.
    """
    factor = 1
    while grid.ndim == 2 and grid.size > LARGE and grid.size > most * factor**2:
        factor *= 2
    return grid if factor == 1 else grid.with_shape([n // factor for n in grid.shape])
