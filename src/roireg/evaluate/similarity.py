"""How alike two images on one grid look, with and without trusting their contrast."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.filters import box_mean
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import resample, warp

__all__ = ["similarity"]


def similarity(
    fixed: Image,
    warped: Image,
    mask: Tensor | None = None,
    *,
    radius: int = 4,
    bins: int = 48,
    max_voxels: int = 1_500_000,
) -> dict[str, float]:
    """Compare two images on the same grid; colour images by their luma. All three values grow with likeness.

    Parameters
    ----------
    fixed, warped : images on equal grids.
    mask : (*shape) bool, where to compare (usually the overlap, see `overlap_mask`); None is everywhere.
    radius : half width, in voxels, of the cubic window of the local correlation.
    bins : intensity bins per image of the joint histogram.
    max_voxels : larger images are compared on a coarser grid over the same box.

    Returns
    -------
    ``ncc`` correlation coefficient inside the mask, −1..1, 0 when an image is constant there;
    ``lncc2`` mean squared correlation of local windows, 0..1, over the windows in which the fixed image is not
    constant; where the warped image is, the window counts 0 (Avants et al., Medical Image Analysis 12(1), 2008);
    ``nmi`` (H(A) + H(B)) / H(A, B) in 1..2 (Studholme et al., Pattern Recognition 32(1), 1999), which does not
    assume that equal tissue has equal or linearly related intensity; 1 when an image is constant.

    Raises
    ------
    GeometryError
        When the grids or the mask differ in shape or place.
    InputError
        When the mask is empty.
    """
    if not fixed.grid.is_close(warped.grid):
        raise GeometryError(f"images to compare share a grid, found {fixed.grid!r} and {warped.grid!r}")
    if mask is not None and tuple(mask.shape) != fixed.grid.shape:
        raise GeometryError(f"the mask has shape {fixed.grid.shape}, found {tuple(mask.shape)}")
    a, b = fixed.gray(), warped.gray()
    inside = torch.ones(fixed.grid.shape, dtype=torch.bool, device="cpu") if mask is None else mask.bool().cpu()
    grid = _coarser(fixed.grid, max_voxels)
    if grid is not fixed.grid:
        a, b = resample(a, grid), resample(b, grid)
        inside = warp(Image(inside[None], fixed.grid), None, grid, mode="nearest").data[0]
    if not bool(inside.any()):
        raise InputError("the mask is empty: there is no voxel to compare the images at")
    x, y = (image.data[:1].float().cpu() for image in (a, b))
    values = [v[0][inside].double() for v in (x, y)]
    return {
        "ncc": _correlation(values[0], values[1]),
        "lncc2": _local_correlation(x, y, inside, radius),
        "nmi": _mutual_information(values[0].numpy(), values[1].numpy(), bins),
    }


def _coarser(grid: Grid, max_voxels: int) -> Grid:
    """Return the grid, or one over its box with at most about `max_voxels` voxels, finest axes thinned first."""
    if grid.size <= max_voxels:
        return grid
    low, high = float(grid.spacing.min()), float(grid.extent.max())
    for _ in range(60):
        middle = (low * high) ** 0.5
        shape = np.maximum(1, np.floor(grid.extent / np.maximum(grid.spacing, middle)))
        low, high = (middle, high) if shape.prod() > max_voxels else (low, middle)
    shape = np.maximum(1, np.floor(grid.extent / np.maximum(grid.spacing, high)))
    return grid.with_shape([int(n) for n in shape])


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    power = float(a.square().sum() * b.square().sum())
    return float((a * b).sum()) / power**0.5 if power > 0 else 0.0


def _local_correlation(x: Tensor, y: Tensor, inside: Tensor, radius: int) -> float:
    # Centred and scaled first: variances as differences of means lose digits far from zero.
    x, y = ((v - v.mean()) / v.std(correction=0).clamp_min(1e-12) for v in (x, y))
    means = box_mean(torch.cat([x, y, x * x, y * y, x * y]), radius)
    mean_x, mean_y, square_x, square_y, product = means
    var_x, var_y = square_x - mean_x**2, square_y - mean_y**2
    # Below this a window is flat but for float32 rounding; its correlation would be noise.
    flat = 1e-5
    squared = (product - mean_x * mean_y) ** 2 / (var_x * var_y).clamp_min(flat**2)
    # Chosen by the fixed image alone, so that the values before and after average over the same windows.
    counted = torch.where(var_y > flat, squared.clamp(0, 1), 0.0)[inside & (var_x > flat)]
    return float(counted.double().mean()) if len(counted) else 0.0


def _mutual_information(a: NDArray[np.float64], b: NDArray[np.float64], bins: int) -> float:
    joint = np.histogram2d(_binned(a, bins), _binned(b, bins), bins=bins, range=[[0, bins], [0, bins]])[0]
    p = joint / joint.sum()
    total = _entropy(p)
    return float((_entropy(p.sum(0)) + _entropy(p.sum(1))) / total) if total > 0 else 1.0


def _binned(values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    # A few extreme voxels (implants, dead pixels) must not squeeze all tissue into one bin.
    low, high = np.percentile(values, [0.1, 99.9])
    if high <= low:
        low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.clip(np.floor(scaled * bins), 0, bins - 1)


def _entropy(p: NDArray[np.float64]) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
