"""One more point where two regions differ most: PromptReg's auxiliary prompts (Huang et al., 2025, equation 2).

Two things are mended. The printed cases are swapped: the directed distance from A to B is that of the point of A
furthest from B, so a large distance from the goal to the region means that the latter misses a part. And
distances are between regions, not contours: where a region is cut off, the cut lies inside the other one and would
count as an excess as large as what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid

__all__ = ["Discrepancy", "auxiliary_point", "discrepancy"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """How two regions differ at their worst.

    Attributes
    ----------
    missed : directed Hausdorff distance from the goal to the region, mm.
    excess : the directed distance the other way, mm.
    missed_at, excess_at : (d,) world points of the goal and of the region where those are reached.
    """

    missed: float
    excess: float
    missed_at: Array
    excess_at: Array


def discrepancy(goal: Tensor, region: Tensor, grid: Grid) -> Discrepancy:
    """Directed Hausdorff distances between two (*shape) regions, mm.

    Raises
    ------
    InputError
        When a region is empty.
    """
    a, b, corner = _cropped(goal, region)
    ends = []
    for one, other in ((a, b), (b, a)):
        away = ndimage.distance_transform_edt(~other, sampling=grid.spacing) * one
        place = np.unravel_index(int(np.argmax(away)), away.shape)
        ends.append((float(away[place]), grid.world_from_index(np.array(place) + corner)))
    return Discrepancy(ends[0][0], ends[1][0], ends[0][1], ends[1][1])


def auxiliary_point(
    goal: Tensor, region: Tensor, grid: Grid, *, tolerance: float, inward: float
) -> tuple[Array, int] | None:
    """Return the point that would mend a region, with its label, or None where both agree well enough.

    Parameters
    ----------
    goal, region : (*shape) bool, the region as it should be and as it is, on `grid`, already laid over each other.
    tolerance : σ, mm: directed distances that differ by no more ask for nothing.
    inward : ε, mm: how deep inside the goal a positive point is put, where the region is that thick.

    Returns
    -------
    (world point, 1) where a part is missed, (world point, 0) where the region overshoots.
    """
    d = discrepancy(goal, region, grid)
    if abs(d.missed - d.excess) <= tolerance:
        return None
    if d.missed < d.excess:
        return d.excess_at, 0
    a, _, corner = _cropped(goal, region)
    depth = ndimage.distance_transform_edt(np.pad(a, 1), sampling=grid.spacing)[(slice(1, -1),) * grid.ndim]
    index = np.argwhere(a)
    points = grid.world_from_index(index + corner)
    away = np.linalg.norm(points - d.missed_at, axis=1)
    near = away <= inward + float(grid.spacing.max()) / 2
    return points[int(np.argmax(np.where(near, depth[tuple(index.T)] - 1e-6 * away, -np.inf)))], 1


def _cropped(goal: Tensor, region: Tensor) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Both regions in their common box, and its first index."""
    a, b = goal.cpu().numpy(), region.cpu().numpy()
    if not (a.any() and b.any()):
        raise InputError("the distance between regions needs two that are not empty")
    box = ndimage.find_objects((a | b).astype(np.int8))[0]
    return a[box], b[box], np.array([part.start for part in box], dtype=np.int64)
