"""What a transform does to space: folding, spread of volume change, inverse and true-field errors.

Everything is measured slab by slab, so that a full-resolution CT grid needs little more than its result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.transforms import Transform, jacobian_determinant
from roireg.core.warp import SLAB_VOXELS, slab_points

__all__ = [
    "deformation_summary",
    "displacement_errors",
    "inverse_consistency",
    "jacobian_slabs",
    "overlap_mask",
    "sd_log_jacobian",
]

CLAMP = (1e-9, 1e9)
"""Bounds of det J before its logarithm is taken, those of the Learn2Reg evaluation."""


def jacobian_slabs(transform: Transform, grid: Grid) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, det J): slices along the first axis and the float32 determinants of their voxels.

    Equal to `core.transforms.jacobian_determinant` on the whole grid: every slab is computed with one more row
    on either side, so that differences across its faces are central too.
    """
    rows = max(1, SLAB_VOXELS // (grid.size // grid.shape[0]))
    rest = [0] * (grid.ndim - 1)
    for start in range(0, grid.shape[0], rows):
        stop = min(start + rows, grid.shape[0])
        low, high = max(0, start - 1), min(grid.shape[0], stop + 1)
        part = grid.padded([-low, *rest], [high - grid.shape[0], *rest])
        yield slice(start, stop), jacobian_determinant(transform, part)[start - low : stop - low]


def sd_log_jacobian(determinant: Tensor, *, offset: float = 0.0) -> float:
    """Return the standard deviation of log(clamp(det J + offset)) over all values given (population form).

    The clamp is [1e-9, 1e9], as in the Learn2Reg challenge (Hering et al., IEEE TMI 42(3), 2023). With
    `offset` 0 this is SDlogJ as the challenge describes it; its published script adds 3 to det J before the
    clamp, which `offset=3` reproduces (much smaller numbers, not comparable with the former).
    """
    return float(torch.log((determinant.double() + offset).clamp(*CLAMP)).std(correction=0))


def deformation_summary(transform: Transform, grid: Grid, mask: Tensor | None = None) -> dict[str, float]:
    """Folding and spread of the volume change of a transform at the voxels of the fixed grid.

    Parameters
    ----------
    transform : fixed to moving.
    grid : the fixed grid.
    mask : (*shape) bool, where to look; None is everywhere.

    Returns
    -------
    ``folding_percent`` share of voxels with det J ≤ 0 in percent, ``folded_voxels`` their number, ``sdlogj``
    and ``sdlogj_learn2reg`` (see `sd_log_jacobian`, offset 0 and 3), ``jacobian_min`` and ``jacobian_max``.

    Raises
    ------
    GeometryError
        When the mask does not have the shape of the grid.
    InputError
        When the mask is empty.
    """
    _check_mask(mask, grid)
    count, folded, low, high = 0, 0, math.inf, -math.inf
    sums = {offset: np.zeros(2) for offset in (0.0, 3.0)}
    for rows, determinant in jacobian_slabs(transform, grid):
        values = determinant.flatten() if mask is None else determinant[mask[rows].cpu()]
        if not len(values):
            continue
        count += len(values)
        folded += int((values <= 0).sum())
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        for offset, total in sums.items():
            logs = torch.log((values.double() + offset).clamp(*CLAMP))
            total += (float(logs.sum()), float(logs.square().sum()))
    spread = {o: math.sqrt(max(0.0, t[1] / count - (t[0] / count) ** 2)) for o, t in sums.items()}
    return {
        "folding_percent": 100 * folded / count,
        "folded_voxels": float(folded),
        "sdlogj": spread[0.0],
        "sdlogj_learn2reg": spread[3.0],
        "jacobian_min": low,
        "jacobian_max": high,
    }


def displacement_errors(
    transform: Transform, truth: Transform, grid: Grid, mask: Tensor | None = None
) -> dict[str, float]:
    """Distance |T(x) − T_true(x)| at the voxels of the fixed grid, in mm.

    Parameters
    ----------
    transform, truth : fixed to moving; a known field is a `DisplacementField`.
    grid : the fixed grid.
    mask : (*shape) bool, where to look (usually the body); None is everywhere.

    Returns
    -------
    ``displacement_error_mean``, ``_median``, ``_p95`` and ``_max``.

    Raises
    ------
    GeometryError
        When the mask does not have the shape of the grid.
    InputError
        When the mask is empty.
    """
    _check_mask(mask, grid)
    parts = []
    for rows, points in slab_points(grid, torch.device("cpu")):
        if mask is not None:
            points = points[mask[rows].flatten().cpu()]
        if len(points):
            parts.append((transform.map_points(points) - truth.map_points(points)).norm(dim=1).float().numpy())
    errors = np.concatenate(parts)
    return {
        "displacement_error_mean": float(errors.mean(dtype=np.float64)),
        "displacement_error_median": float(np.median(errors)),
        "displacement_error_p95": float(np.percentile(errors, 95)),
        "displacement_error_max": float(errors.max()),
    }


def inverse_consistency(
    transform: Transform, inverse: Transform, fixed_grid: Grid, moving_grid: Grid, *, samples: int = 50_000
) -> dict[str, float]:
    """There-and-back error |T⁻¹(T(x)) − x| in mm, at a regular lattice of points of the fixed grid.

    Only points whose image T(x) falls inside the moving grid count: an inverse is not defined elsewhere.

    Parameters
    ----------
    transform, inverse : fixed to moving, and moving to fixed.
    samples : upper bound of the number of lattice points.

    Returns
    -------
    ``inverse_consistency_mean``, ``_p99`` (99th percentile, insensitive to single points at the border of a
    field, where it jumps to 0) and ``_max``, all NaN when no point of the fixed grid falls inside the moving
    grid, and ``inverse_consistency_points``, how many did.
    """
    step = (fixed_grid.size / samples) ** (1 / fixed_grid.ndim)
    shape = [max(1, int(n / step)) for n in fixed_grid.shape] if step > 1 else fixed_grid.shape
    points = fixed_grid.with_shape(shape).points()
    mapped = transform.map_points(points)
    inside = moving_grid.contains(mapped)
    if not inside.any():
        return {
            "inverse_consistency_mean": math.nan,
            "inverse_consistency_p99": math.nan,
            "inverse_consistency_max": math.nan,
            "inverse_consistency_points": 0.0,
        }
    errors = np.linalg.norm(inverse.map_points(mapped[inside]) - points[inside], axis=1)
    return {
        "inverse_consistency_mean": float(errors.mean()),
        "inverse_consistency_p99": float(np.percentile(errors, 99)),
        "inverse_consistency_max": float(errors.max()),
        "inverse_consistency_points": float(len(errors)),
    }


def overlap_mask(transform: Transform | None, fixed_grid: Grid, moving_grid: Grid) -> Tensor:
    """(*fixed shape) bool: the fixed voxels whose image falls inside the moving grid; None is the identity."""
    mask = torch.empty(fixed_grid.shape, dtype=torch.bool, device="cpu")
    for rows, points in slab_points(fixed_grid, torch.device("cpu")):
        mapped = points if transform is None else transform.map_points(points)
        inside = moving_grid.contains(mapped.numpy())
        mask[rows] = torch.from_numpy(inside).reshape(mask[rows].shape)
    return mask


def _check_mask(mask: Tensor | None, grid: Grid) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool or tuple(mask.shape) != grid.shape:
        raise GeometryError(f"the mask is bool of shape {grid.shape}, found {mask.dtype} of {tuple(mask.shape)}")
    if not bool(mask.any()):
        raise InputError("the mask is empty: there is no voxel to measure at")
