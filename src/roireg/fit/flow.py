"""Flows: the stationary velocity whose flow is a known smooth map, and its continuation beyond its lattice."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.transforms import Transform, VelocityField, exponential

__all__ = ["faded", "flow_of"]


def flow_of(forward: Transform, back: Transform, grid: Grid, *, rounds: int = 6) -> VelocityField:
    """Return a velocity on a lattice whose flow is nearly a given map.

    Half the difference of the displacement and that of the inverse is the logarithm up to third order; what its flow
    still misses is added, round after round, while that decreases.

    Parameters
    ----------
    forward, back : a smooth map and its inverse, or an approximation of it; displacements in mm.
    """
    voxel = torch.as_tensor(np.linalg.inv(grid.affine[:-1, :-1])[::-1].copy(), dtype=torch.float32)

    def in_voxels(transform: Transform) -> Tensor:
        return torch.einsum("ij,j...->i...", voxel, transform.displacement_on(grid))

    target = in_voxels(forward)
    velocity = 0.5 * (target - in_voxels(back))
    best, least = velocity, float("inf")
    for _ in range(rounds):
        missing = target - exponential(velocity)
        error = float(missing.square().mean())
        if not error < least:
            break
        best, least = velocity, error
        velocity = velocity + 0.5 * missing
    return VelocityField(*faded(grid, torch.einsum("ij,j...->i...", torch.linalg.inv(voxel), best)))


def faded(grid: Grid, field: Tensor) -> tuple[Grid, Tensor]:
    """Return a (d, *shape) field in mm on a wider lattice, faded to 0 outside its own, not cut off at the border.

    Points that flow out of the image would otherwise meet a jump, and the inverse would not bring them back. The
    margin is twice the largest displacement along each axis.
    """
    linear = torch.as_tensor(np.linalg.inv(grid.affine[:-1, :-1]), dtype=torch.float32, device=field.device)
    reach = torch.einsum("ij,j...->i...", linear, field).abs().flatten(1).amax(1)
    margin = [math.ceil(2 * float(r)) if float(r) > 0 else 0 for r in reach]
    for axis, width in enumerate(margin):
        n = field.shape[axis + 1]
        outside = torch.arange(-width, n + width, device=field.device)
        distance = torch.maximum(-outside, outside - (n - 1)).clamp(min=0)
        fade = torch.cos(0.5 * math.pi * distance / (width + 1)) ** 2
        shape = [1] * field.ndim
        shape[axis + 1] = -1
        field = field.index_select(axis + 1, outside.clamp(0, n - 1)) * fade.reshape(shape)
    return grid.padded(margin, margin), field
