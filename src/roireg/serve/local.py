"""How far off a counterpart may be, place by place: how far the images could be shifted and still agree."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.core.warp import resample, sample, voxel_coords, warp

__all__ = ["LocalDoubt"]

Array = NDArray[np.float64]

VOXELS = {2: 25_000, 3: 60_000}
"""Voxels of the grid it is measured on."""

REACH = {2: 5, 3: 2}
"""Steps of that grid, in every direction, at which the images are compared."""

WINDOW = {2: 3, 3: 2}
"""Radius of the window that is compared, in steps."""

SHARPNESS = 12.0
"""Exponent of the local correlation: places whose squared correlation is 0.1 lower count a third as much."""


@dataclass(frozen=True, eq=False)
class LocalDoubt:
    """The measure on a coarse grid over the fixed image.

    Attributes
    ----------
    grid : where it was measured.
    radius : (*shape) root mean square, in world units, of the shifts after which the images still agree, each
        weighted by how well they do. It grows where nothing is to be seen, and where another place fits better.
    agreement : (*shape) squared local correlation without a shift, 0..1.
    """

    grid: Grid
    radius: Tensor
    agreement: Tensor

    @classmethod
    def of(cls, fixed: Image, moving: Image, transform: Transform) -> LocalDoubt:
        """Measure how sharply the images agree under a transform (fixed world -> moving world)."""
        d = fixed.ndim
        grid = fixed.grid.coarsened(VOXELS[d])
        coarse = moving.grid.coarsened(2**d * VOXELS[d])
        a = resample(fixed, grid).gray().data[None].float()
        b = warp(resample(moving, coarse).gray(), transform, grid).data[None].float()
        a, b = (torch.nan_to_num(x) for x in (a, b))
        radius, reach = WINDOW[d], [min(REACH[d], n - 1) for n in grid.shape]
        mean_a, mean_b = _box(a, radius), _box(b, radius)
        var_a = (_box(a * a, radius) - mean_a**2).clamp(min=0)
        var_b = (_box(b * b, radius) - mean_b**2).clamp(min=0)
        floor = 1e-4 * float(a.var() + 1e-12), 1e-4 * float(b.var() + 1e-12)
        total = torch.zeros_like(a)
        squares = torch.zeros_like(a)
        agreement = torch.zeros_like(a)
        padded = [
            F.pad(x, [r for n in reversed(reach) for r in (n, n)], mode="replicate") for x in (b, mean_b, var_b)
        ]
        axes = grid.affine[:-1, :-1]
        for shift in itertools.product(*(range(-n, n + 1) for n in reach)):
            part = tuple(slice(n + s, n + s + m) for n, s, m in zip(reach, shift, grid.shape, strict=True))
            moved, mean, var = (x[(slice(None), slice(None), *part)] for x in padded)
            covariance = _box(a * moved, radius) - mean_a * mean
            squared = (covariance**2 / ((var_a + floor[0]) * (var + floor[1]))).clamp(0, 1)
            weight = torch.exp(SHARPNESS * (squared - 1))
            total += weight
            squares += weight * float(np.square(axes @ np.array(shift)).sum())
            if not any(shift):
                agreement = squared
        return cls(grid, torch.sqrt(squares / total)[0, 0], agreement[0, 0])

    def at(self, points: Array) -> Array:
        """Return the radius at fixed-world points (N, d), (N,) world units."""
        coords = voxel_coords(self.grid, torch.from_numpy(np.ascontiguousarray(points)))
        place = coords.float().reshape(1, -1, *[1] * (self.grid.ndim - 1), self.grid.ndim)
        values = sample(self.radius[None, None], place)
        return np.asarray(values.reshape(-1).double().numpy())

    @property
    def most(self) -> float:
        """The radius of a place where nothing says where the counterpart is, world units."""
        return float(np.sqrt(2 / 3) * max(REACH[self.grid.ndim] * self.grid.spacing))

    def least_agreement(self) -> tuple[Array, float]:
        """Return the fixed-world point where the images agree least, edges of the image aside, and how much."""
        inner = tuple(slice(n // 10, max(n // 10 + 1, n - n // 10)) for n in self.grid.shape)
        part = self.agreement[inner]
        index = np.array(np.unravel_index(int(part.argmin()), part.shape)) + [s.start for s in inner]
        return self.grid.world_from_index(index), float(part.min())


def _box(values: Tensor, radius: int) -> Tensor:
    """Return means over windows; at the border over what is there."""
    pool = F.avg_pool2d if values.ndim == 4 else F.avg_pool3d
    size = [min(2 * radius + 1, 2 * ((n - 1) // 2) + 1) for n in values.shape[2:]]
    return pool(values, size, stride=1, padding=[n // 2 for n in size], count_include_pad=False)
