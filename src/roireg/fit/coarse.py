"""The coarse stage of SAME++: the smoothest field through corresponding points (METHODS section 4.2).

The objective is quadratic. Each component of the field solves the same sparse, symmetric, positive definite system,
which is factorised once and solved exactly. A cosine transform would not do: it diagonalises the smoothness, but not
the sum over scattered points.
"""

from __future__ import annotations

from itertools import product
from typing import ClassVar, Literal

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse.linalg import splu

from roireg.core.grid import Grid
from roireg.core.transforms import Chain, DisplacementField, Transform, jacobian_determinant
from roireg.fit.flow import flow_of
from roireg.fit.stage import Problem, Stage

__all__ = ["Coarse", "control_grid", "interpolation", "smoothest_field"]

Array = NDArray[np.float64]


LEAST = 0.1
"""Least volume that the field leaves of any cell."""


class Coarse(Stage):
    """Smooth deformation, applied before the start, through the points that an earlier stage has matched."""

    title: ClassVar[str] = "fitting the coarse deformation"

    stage: Literal["coarse"] = "coarse"
    cells: int = Field(12, ge=2, le=24, description="control points along the longest axis")
    smoothness: float = Field(
        0.04, gt=0, allow_inf_nan=False, description="weight of squared differences between control points"
    )
    robust: bool = Field(True, description="weigh points down that stay far from their partners")

    def __call__(self, problem: Problem, start: Transform) -> Transform:
        points = problem.trace.points
        if points is None or not len(points):
            return start
        # Where the start has to find them: the field comes before it.
        target = start.inverse().map_points(points.moving) - points.fixed
        grid = control_grid(problem.pair.fixed.grid, self.cells)
        weights = np.ones(len(target))
        for _ in range(5 if self.robust else 1):
            field = smoothest_field(grid, points.fixed, target, weights=weights, smoothness=self.smoothness)
            rest = np.linalg.norm(interpolation(grid, points.fixed) @ field - target, axis=1)
            width = max(1.5 * float(np.median(rest)), 0.1 * float(grid.spacing.min()))
            weights = 1 / (1 + (rest / width) ** 2) ** 2
        there = _as_field(grid, field, problem)
        # Points that contradict each other fold the field; a stiffer one lies between them.
        smoothness = self.smoothness
        while float(jacobian_determinant(there, grid).min()) < LEAST:
            smoothness *= 4
            field = smoothest_field(grid, points.fixed, target, weights=weights, smoothness=smoothness)
            there = _as_field(grid, field, problem)
        return Chain((flow_of(there, there.inverse(), grid), start))


def _as_field(grid: Grid, field: Array, problem: Problem) -> DisplacementField:
    data = torch.as_tensor(field.T.reshape(grid.ndim, *grid.shape).copy(), dtype=torch.float32)
    return DisplacementField(grid, data.to(problem.pair.fixed.data.device))


def control_grid(grid: Grid, cells: int) -> Grid:
    """Return a grid over the same box with this many points along its longest axis and about equal spacing."""
    return grid.with_shape([int(n) for n in np.maximum(1, np.round(grid.extent / (grid.extent.max() / cells)))])


def interpolation(grid: Grid, points: Array) -> sparse.csr_matrix:
    """(N, M) matrix of linear interpolation of values on a grid, in storage order, at (N, d) world points.

    Points beyond the outer centres take the value at the border.
    """
    size = np.array(grid.shape)
    at = np.clip(grid.index_from_world(points), 0, size - 1)
    low = np.minimum(np.floor(at).astype(int), np.maximum(size - 2, 0))
    part = at - low
    rows, columns, values = [], [], []
    for corner in product((0, 1), repeat=grid.ndim):
        index = np.minimum(low + corner, size - 1)
        rows.append(np.arange(len(points)))
        columns.append(np.ravel_multi_index(tuple(index.T), grid.shape))
        values.append(np.where(np.array(corner, dtype=bool), part, 1 - part).prod(1))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(entries, shape=(len(points), grid.size))


def differences(shape: tuple[int, ...]) -> sparse.csr_matrix:
    """(E, M) forward differences along every axis of values in storage order."""
    blocks = []
    for axis, n in enumerate(shape):
        if n == 1:
            continue
        step = sparse.diags([-np.ones(n - 1), np.ones(n - 1)], [0, 1], shape=(n - 1, n))
        before, after = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
        blocks.append(sparse.kron(sparse.kron(sparse.eye(before), step), sparse.eye(after)))
    return sparse.csr_matrix(sparse.vstack(blocks) if blocks else sparse.csr_matrix((0, int(np.prod(shape)))))


def smoothest_field(
    grid: Grid, points: Array, displacements: Array, *, weights: Array | None = None, smoothness: float = 0.04
) -> Array:
    """(M, d) field on a grid, storage order, that minimises the SAME++ objective, mm.

    mean |u(p) - displacement|² (weighted) + smoothness * mean of squared forward differences over all control points
    and axes. Where no point is near, a field along the border goes on as it is.

    Parameters
    ----------
    points, displacements : (N, d) world mm, N >= 1.
    weights : (N,) non-negative, some positive.
    """
    weights = np.ones(len(points)) if weights is None else weights
    w = interpolation(grid, points)
    d = differences(grid.shape)
    share = sparse.diags(weights / weights.sum())
    system = w.T @ share @ w + smoothness / grid.size * (d.T @ d)
    # A control point that nothing reaches, on a lattice of one point, stays 0.
    system = sparse.csc_matrix(system + 1e-12 * sparse.eye(grid.size))
    return np.asarray(splu(system).solve(np.asarray(w.T @ share @ displacements)))
