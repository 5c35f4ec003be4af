"""The same voxels stored in another order: flipped, with permuted axes, cropped."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.grid import Grid
from roireg.core.image import Image

__all__ = ["stored_on"]


def stored_on(image: Image, grid: Grid, *, tolerance: float = 0.01) -> Image | None:
    """Return an image whose voxels are voxels of another grid, stored as that grid stores them.

    Nothing is interpolated. The image may be a part of the grid, with 0 elsewhere, or reach beyond it on all sides,
    where it must be 0.

    Parameters
    ----------
    image : such as a label map that another program flipped, or cropped to what it shows.
    grid : where the voxels are wanted, such as that of the image the labels belong to.
    tolerance : distance, in voxels of `grid`, up to which two voxel centres are the same place.

    Returns
    -------
    The image on exactly `grid`; None where its voxels lie elsewhere, or values other than 0 beside the grid.
    """
    if image.ndim != grid.ndim:
        return None
    order = _order(image.grid, grid, tolerance)
    if order is None:
        return None
    axes, signs, start = order
    data = image.data.permute(0, *(int(a) + 1 for a in axes))
    flipped = [i + 1 for i, sign in enumerate(signs) if sign < 0]
    data = data.flip(flipped) if flipped else data
    shape = np.array(data.shape[1:])
    low = np.where(signs > 0, start, start - (shape - 1))  # index in `grid` of the first voxel of `data`
    high = low + shape
    within, around = (low >= 0) & (high <= grid.shape), (low <= 0) & (high >= grid.shape)
    if not (within.all() or around.all()):
        return None  # half beside: more likely the labels of another image than a crop
    first, last = np.maximum(low, 0), np.minimum(high, grid.shape)
    inner = data[(slice(None), *(slice(int(a), int(b)) for a, b in zip(first - low, last - low, strict=True)))]
    if int(torch.count_nonzero(inner)) != int(torch.count_nonzero(data)):
        return None
    if inner.shape[1:] == grid.shape:
        return image.with_data(inner.contiguous(), grid)
    whole = torch.zeros((image.channels, *grid.shape), dtype=data.dtype, device=data.device)
    whole[(slice(None), *(slice(int(a), int(b)) for a, b in zip(first, last, strict=True)))] = inner
    return image.with_data(whole, grid)


def _order(
    source: Grid, target: Grid, tolerance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None:
    """Return, per axis of `target`, the axis of `source`, its direction, and where its first voxel lies."""
    exact = np.linalg.inv(target.affine) @ source.affine
    linear = np.round(exact[:-1, :-1])
    if not np.array_equal(np.abs(linear).sum(0), np.ones(source.ndim)) or abs(np.linalg.det(linear)) != 1:
        return None
    start = np.round(exact[:-1, -1])
    ends = np.stack(np.meshgrid(*[(0, n - 1) for n in source.shape], indexing="ij"), -1).reshape(-1, source.ndim)
    off = ends @ (exact[:-1, :-1] - linear).T + exact[:-1, -1] - start
    if np.abs(off).max() > tolerance:
        return None
    axes = np.abs(linear).argmax(axis=1)
    signs = linear[np.arange(source.ndim), axes]
    return axes.astype(np.int64), signs.astype(np.int64), start.astype(np.int64)
