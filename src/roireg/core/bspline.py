"""Free-form deformation: a displacement given by coefficients of uniform B-splines on a coarse grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor

from roireg.core.errors import GeometryError
from roireg.core.grid import Grid
from roireg.core.transforms import DisplacementField, Transform
from roireg.core.warp import voxel_coords

__all__ = ["BSpline"]

FIELD_VOXELS = 4_000_000
"""Upper limit for the samples of a spline that is turned into a displacement field."""


@dataclass(frozen=True, eq=False)
class BSpline(Transform):
    """x -> x + u(x), u a tensor product of uniform B-splines (Rueckert et al., IEEE TMI 1999).

    Where a point lies too close to the border for all its coefficients to exist, u is 0, as in ITK and elastix.

    Parameters
    ----------
    grid : where the coefficients lie (fixed world).
    coefficients : (d, *shape) float32 mm, components (x, y[, z]).
    order : degree of the splines, 1 to 3.

    Raises
    ------
    GeometryError
        When the shapes differ, the order is another, or an axis has fewer coefficients than one point needs.
    """

    grid: Grid
    coefficients: Tensor
    order: int = 3

    def __post_init__(self) -> None:
        DisplacementField(self.grid, self.coefficients)  # refuses other shapes
        if self.order not in (1, 2, 3):
            raise GeometryError(f"B-splines of degree 1 to 3 are known, found {self.order}")
        if min(self.grid.shape) <= self.order:
            raise GeometryError(
                f"B-splines of degree {self.order} need {self.order + 1} coefficients along every axis, found a grid "
                f"of shape {self.grid.shape}"
            )

    @property
    def ndim(self) -> int:
        return self.grid.ndim

    @property
    def domain(self) -> tuple[Tensor, Tensor]:
        """First and last voxel coordinate (x, y[, z]) of `grid` between which u is defined."""
        margin = 0.5 * (self.order - 1)
        last = torch.tensor(self.grid.shape[::-1], dtype=torch.float64, device="cpu") - 1 - margin
        return torch.full_like(last, margin), last

    def _map(self, points: Tensor) -> Tensor:
        coords = voxel_coords(self.grid, points)
        low, high = (bound.to(coords) for bound in self.domain)
        inside = ((coords >= low - 1e-9) & (coords <= high + 1e-9)).all(dim=-1, keepdim=True)
        size = torch.tensor(self.grid.shape[::-1], device=coords.device)
        first = torch.floor(coords - 0.5 * (self.order - 1)).long()
        # A point on the last face of the domain belongs to the cell before it.
        first = torch.minimum(first.clamp_min(0), size - self.order - 1)
        offset = coords - first
        strides = torch.tensor(np.cumprod([1, *self.grid.shape[::-1][:-1]]), device=coords.device)
        start = (first * strides).sum(dim=-1)
        weights = [_kernel(offset - k, self.order) for k in range(self.order + 1)]
        rows = self.coefficients.to(coords).reshape(self.ndim, -1).T.contiguous()
        u = torch.zeros_like(points)
        for taps in product(range(self.order + 1), repeat=self.ndim):
            step = int(sum(k * int(s) for k, s in zip(taps, strides, strict=True)))
            weight = torch.stack([weights[k][:, axis] for axis, k in enumerate(taps)]).prod(dim=0)
            u += weight[:, None] * rows[start + step]
        return points + u * inside

    @cached_property
    def field(self) -> DisplacementField:
        """The transform as a displacement field on its domain, up to 16 samples per cell (at most four million)."""
        low, high = (bound.numpy()[::-1] for bound in self.domain)
        cells = np.maximum(np.round(high - low), 1)
        per_cell = 16
        while per_cell > 1 and np.prod(cells * per_cell + 1) > FIELD_VOXELS:
            per_cell -= 1
        shape = (cells * per_cell + 1).astype(int)
        index_from_new = np.eye(self.ndim + 1)
        index_from_new[:-1, :-1] = np.diag((high - low) / (shape - 1))
        index_from_new[:-1, -1] = low
        grid = Grid(tuple(shape.tolist()), self.grid.affine @ index_from_new)
        return DisplacementField(grid, self.displacement_on(grid))

    def inverse(self) -> DisplacementField:
        """Return the inverse of `field`; see `DisplacementField.inverse`."""
        return self.field.inverse()

    def __repr__(self) -> str:
        return f"BSpline(degree {self.order}, {self.grid!r})"


def _kernel(x: Tensor, order: int) -> Tensor:
    """Return the centred uniform B-spline of a degree at `x`."""
    a = x.abs()
    if order == 1:
        return (1 - a).clamp_min(0)
    if order == 2:
        return torch.where(a < 0.5, 0.75 - a**2, 0.5 * (1.5 - a).clamp_min(0) ** 2)
    return torch.where(a < 1, 2 / 3 - a**2 + 0.5 * a**3, (2 - a).clamp_min(0) ** 3 / 6)
