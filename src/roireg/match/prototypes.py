"""Region prototypes: the mean feature of a region (Huang et al., SAMReg, MICCAI 2024, section 2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.filters import apply_along
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.core.warp import sample, voxel_coords

__all__ = ["prototypes", "resize_masks", "weighted_mean"]


def resize_masks(rois: ROISet, grid: Grid, *, mode: str = "soft") -> Tensor:
    """Bring region masks to the grid of a feature map.

    Parameters
    ----------
    rois : K regions on a grid of their own, same world as `grid` (shape and affine may differ).
    grid : the grid of the features.
    mode : "soft" shares every mask voxel among the nearest voxels of `grid` by linear weights (the transpose
        of linear interpolation): areas are conserved and no region vanishes, however small. "nearest"
        looks the mask up at the centre of every voxel of `grid`, as the published code does; a small region
        may vanish.

    Returns
    -------
    (K, *grid.shape) float32. Soft: volume of the region per voxel in units of the voxel volume of `grid`
    (what falls outside `grid` counts at its border). Nearest: 0 or 1.

    Raises
    ------
    GeometryError
        When the regions and the grid differ in dimension.
    InputError
        When the mode is unknown.
    """
    if rois.grid.ndim != grid.ndim:
        raise GeometryError(f"regions are {rois.grid.ndim}D and the feature map is {grid.ndim}D; they must agree")
    if mode not in ("soft", "nearest"):
        raise InputError(f"mask resizing {mode!r} is unknown; use soft or nearest")
    device = rois.masks.device
    if mode == "soft":
        ratio = float(np.prod(rois.grid.spacing) / np.prod(grid.spacing))
        if not len(rois):
            return torch.zeros((0, *grid.shape), device=device)
        if rois.grid == grid:
            return rois.masks.float()
        shares = _axis_shares(rois.grid, grid)
        parts = [_splat(m, rois.grid, grid) if shares is None else _share(m, shares) for m in rois.masks]
        return torch.stack(parts) * ratio
    points = torch.as_tensor(grid.points(), device=device)
    coords = voxel_coords(rois.grid, points).float().reshape(1, *grid.shape, grid.ndim)
    masks = rois.masks.float()
    if len(masks) == 0:
        return torch.zeros((0, *grid.shape), device=device)
    return sample(masks[None], coords, mode="nearest", padding="zeros")[0]


def _axis_shares(source: Grid, grid: Grid) -> list[Tensor] | None:
    """Per axis the (to, from) weights with which voxels share themselves out; None for grids with other axes."""
    linear = np.linalg.inv(grid.affine) @ source.affine
    scale = np.diag(linear)[:-1]
    if np.abs(linear[:-1, :-1] - np.diag(scale)).max() > 1e-6 * np.abs(scale).max():
        return None
    shares = []
    for n, m, s, shift in zip(source.shape, grid.shape, scale, linear[:-1, -1], strict=True):
        position = (torch.arange(n, dtype=torch.float64) * s + shift).clamp(0, m - 1)
        low = position.floor().clamp(max=max(m - 2, 0)).long()
        share = torch.zeros(m, n, dtype=torch.float64)
        share[low, torch.arange(n)] = 1 - (position - low)
        share[(low + 1).clamp(max=m - 1), torch.arange(n)] += position - low
        shares.append(share.float())
    return shares


def _share(mask: Tensor, shares: Sequence[Tensor]) -> Tensor:
    """Do what `_splat` does one axis after the other, for grids with the same axes; what shrinks most comes first."""
    out = mask[None].float()
    for axis in sorted(range(len(shares)), key=lambda a: shares[a].shape[0] / shares[a].shape[1]):
        if not torch.equal(shares[axis], torch.eye(*shares[axis].shape)):
            out = apply_along(out, shares[axis], axis)
    return out[0]


def _splat(mask: Tensor, source: Grid, grid: Grid) -> Tensor:
    """Add every voxel of a mask to the 2^d voxels of `grid` around it, linear weights summing to 1."""
    index = torch.nonzero(mask).double()
    linear = np.linalg.inv(grid.affine) @ source.affine
    matrix = torch.as_tensor(linear, device=mask.device)
    position = torch.addmm(matrix[:-1, -1], index, matrix[:-1, :-1].T)
    last = torch.tensor([n - 1 for n in grid.shape], dtype=torch.float64, device=mask.device)
    position = torch.minimum(position.clamp(min=0), last)
    low = position.floor().clamp(max=(last - 1).clamp(min=0))
    fraction = position - low
    strides = torch.tensor(
        [int(np.prod(grid.shape[a + 1 :])) for a in range(grid.ndim)], dtype=torch.long, device=mask.device
    )
    base = low.long() @ strides
    out = torch.zeros(grid.size, dtype=torch.float64, device=mask.device)
    for corner in itertools.product((0, 1), repeat=grid.ndim):
        offset = torch.tensor(corner, dtype=torch.float64, device=mask.device)
        if any(c and n == 1 for c, n in zip(corner, grid.shape, strict=True)):
            continue
        weight = torch.where(offset > 0, fraction, 1 - fraction).prod(dim=1)
        out.index_add_(0, base + int((offset.long() * strides).sum()), weight)
    return out.reshape(grid.shape).float()


def weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    """(K, C) mean of (C, *shape) features under (K, *shape) weights; rows without weight are 0."""
    flat = weights.flatten(1)
    total = flat.sum(1, keepdim=True)
    mean = flat @ features.flatten(1).T.to(flat) / total.clamp(min=1e-30)
    return torch.where(total > 0, mean, torch.zeros_like(mean))


def prototypes(features: Image, rois: ROISet, *, mode: str = "soft") -> Tensor:
    """(K, C) mean feature of every region, p = sum(M F) / sum(M).

    With mode "nearest" a region that vanishes on the feature grid has the prototype 0, whose cosine with
    everything is 0. See `resize_masks` for the modes and errors.
    """
    return weighted_mean(features.data.float(), resize_masks(rois, features.grid, mode=mode))
