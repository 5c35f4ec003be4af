"""Known deformations: smooth, invertible, and written down in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.transforms import Affine, Transform

__all__ = ["GaussianBumps", "draw_affine", "draw_bumps"]

Array = NDArray[np.float64]

MAX_STRAIN = 0.6
"""Largest norm of the displacement gradient that is accepted; below 1 the map is one-to-one."""


@dataclass(frozen=True, eq=False)
class GaussianBumps(Transform):
    """x -> x + sum_k a_k exp(-|x - c_k|^2 / (2 s_k^2)), or the inverse of that map.

    Forward the map is exact. The inverse solves y = x + u(x) by the fixed-point iteration x <- y - u(x),
    which contracts because the gradient of u stays below :data:`MAX_STRAIN`, until no point moves by more
    than `tolerance`.

    Parameters
    ----------
    centers : (K, d) world points c_k, mm.
    widths : (K,) s_k, mm.
    amplitudes : (K, d) displacements a_k, mm, components (x, y[, z]).
    inverted : whether this object is the inverse map.
    tolerance : what the inverse may miss, mm.

    Raises
    ------
    InputError
        When the gradient of the displacement exceeds :data:`MAX_STRAIN` at a probed point.
    """

    centers: Array
    widths: Array
    amplitudes: Array
    inverted: bool = False
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("centers", "widths", "amplitudes"):
            value = np.array(getattr(self, name), dtype=np.float64)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        strain = self.strain(self._probes())
        if strain > MAX_STRAIN:
            raise InputError(
                f"the bumps strain space by {strain:.2f}, more than {MAX_STRAIN}, and may fold it; "
                "lower the displacement or widen the bumps"
            )

    @property
    def ndim(self) -> int:
        return int(self.centers.shape[1])

    def displacement(self, points: Tensor) -> Tensor:
        """(N, d) values of u at (N, d) world points, mm."""
        weights = self._weights(points)
        return weights @ torch.as_tensor(np.array(self.amplitudes), device=points.device)

    def strain(self, points: Array) -> float:
        """Largest spectral norm of the gradient of u at (N, d) points."""
        at = torch.as_tensor(np.asarray(points, dtype=np.float64))
        offsets = at[:, None] - torch.as_tensor(np.array(self.centers))
        slopes = -self._weights(at)[..., None] * offsets / torch.as_tensor(np.array(self.widths))[:, None] ** 2
        gradient = torch.einsum("ki,nkj->nij", torch.as_tensor(np.array(self.amplitudes)), slopes)
        return float(torch.linalg.matrix_norm(gradient, ord=2).max())

    def _weights(self, points: Tensor) -> Tensor:
        centers = torch.as_tensor(np.array(self.centers), device=points.device)
        widths = torch.as_tensor(np.array(self.widths), device=points.device)
        # |x - c|^2 multiplied out: (N, K) in memory instead of (N, K, d).
        squared = points.square().sum(1, keepdim=True) - 2 * points @ centers.T + centers.square().sum(1)
        return torch.exp(-0.5 * squared / widths**2)

    def _probes(self) -> Array:
        # A bump is steepest at distance s from its centre; probe a lattice of half that step over all of them.
        margin = 1.5 * self.widths.max()
        step = 0.5 * self.widths.min()
        axes = [
            np.arange(low - margin, high + margin + step, step)
            for low, high in zip(self.centers.min(0), self.centers.max(0), strict=True)
        ]
        return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=-1)

    def _map(self, points: Tensor) -> Tensor:
        if not self.inverted:
            return points + self.displacement(points)
        x = points - self.displacement(points)
        moving = torch.arange(len(points), device=points.device)
        while len(moving):
            improved = points[moving] - self.displacement(x[moving])
            change = (improved - x[moving]).norm(dim=-1)
            x[moving] = improved
            # What is left to go is at most MAX_STRAIN / (1 - MAX_STRAIN) times the last step.
            moving = moving[change * MAX_STRAIN / (1 - MAX_STRAIN) > self.tolerance]
        return x

    def inverse(self) -> GaussianBumps:
        return GaussianBumps(self.centers, self.widths, self.amplitudes, not self.inverted, self.tolerance)

    def __repr__(self) -> str:
        inverse = ", inverted" if self.inverted else ""
        return f"GaussianBumps({len(self.widths)} bumps in {self.ndim}D{inverse})"


def draw_bumps(
    rng: np.random.Generator,
    low: ArrayLike,
    high: ArrayLike,
    *,
    max_displacement_mm: float,
    count: int = 10,
    width_fraction: tuple[float, float] = (0.14, 0.24),
) -> GaussianBumps:
    """Draw bumps inside a box so that the largest displacement is the one asked for.

    Parameters
    ----------
    rng : where the draws come from.
    low, high : (d,) world corners of the box, mm.
    max_displacement_mm : largest length of u on a lattice over the box.
    count : number of bumps.
    width_fraction : range of the widths, as a fraction of the longest side of the box.

    Raises
    ------
    InputError
        When the displacement is too large for the box to stay free of folds.
    """
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    d = len(low)
    centers = rng.uniform(low, high, size=(count, d))
    widths = rng.uniform(*width_fraction, size=count) * float((high - low).max())
    amplitudes = rng.normal(size=(count, d))
    # Flat boxes (thin stacks) take less motion along their short side.
    amplitudes *= np.sqrt((high - low) / (high - low).max())
    lattice = np.meshgrid(*(np.linspace(a, b, 15) for a, b in zip(low, high, strict=True)), indexing="ij")
    points = torch.as_tensor(np.stack([a.ravel() for a in lattice], axis=-1))
    # Scaled down first, so that the check for folds sees only the final size.
    unit = GaussianBumps(centers, widths, 1e-6 * amplitudes)
    largest = float(unit.displacement(points).norm(dim=-1).max())
    return GaussianBumps(centers, widths, 1e-6 * amplitudes * (max_displacement_mm / largest))


def draw_affine(
    rng: np.random.Generator,
    center: ArrayLike,
    *,
    rotation_deg: float,
    translation_mm: float,
    scale: float,
) -> Affine:
    """Draw a rotation, a scale per world axis and a shift about a centre, each uniform in +- its limit."""
    center = np.asarray(center, dtype=np.float64)
    d = len(center)
    angles = np.deg2rad(rng.uniform(-rotation_deg, rotation_deg, size=3 if d == 3 else 1))
    rotation = np.eye(d)
    for (i, j), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=False):
        turn = np.eye(d)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    matrix = np.eye(d + 1)
    matrix[:d, :d] = rotation @ np.diag(1 + rng.uniform(-scale, scale, size=d))
    matrix[:d, d] = center + rng.uniform(-translation_mm, translation_mm, size=d) - matrix[:d, :d] @ center
    return Affine(matrix)
