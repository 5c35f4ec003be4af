"""From a rough global map to the best one nearby: Levenberg-Marquardt on the correlation of two feature images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.filters import gaussian_smooth, gradient
from roireg.core.grid import Grid
from roireg.core.warp import sample
from roireg.features.orientation import steered
from roireg.fit.search.maps import Model, generators, moved, rotation_of

__all__ = ["Agreement", "FixedSide", "MovingSide", "agreement", "climb", "contrast_agreement"]

Array = NDArray[np.float64]

BINS = 32
"""Bins of the intensity of the moving image when its contrast is mapped to that of the fixed one."""


@dataclass(frozen=True, eq=False)
class FixedSide:
    """Where two images are compared: world points, what the fixed image has there, and how much it counts."""

    points: Array  # (N, d)
    values: Tensor  # (C, N)
    weight: Tensor  # (N,)
    cell: float  # mm, of the grid that the values come from
    stride: float = 1.0  # points of the grid that one of these points stands for

    @classmethod
    def of(cls, values: Tensor, weight: Tensor, grid: Grid, most: int) -> FixedSide:
        """Take at most about `most` of the voxels that count, evenly (every k-th)."""
        index = torch.nonzero(weight.reshape(-1) > 0.01)[:, 0]
        every = max(1, -(-len(index) // most))
        index = index[every // 2 :: every]
        where = np.stack(np.unravel_index(index.numpy(), grid.shape), axis=-1)
        flat = values.reshape(len(values), -1)[:, index]
        points = grid.world_from_index(where)
        return cls(points, flat, weight.reshape(-1)[index], float(grid.spacing.min()), float(every))


@dataclass(frozen=True, eq=False)
class MovingSide:
    """What can be sampled of the moving image: values, their world derivatives, and a weight, on one grid."""

    stack: Tensor  # (C + C d + 1, *shape)
    grid: Grid
    channels: int
    turns: bool  # channels tell orientations, which turn with the map

    @classmethod
    def of(cls, values: Tensor, weight: Tensor, grid: Grid, *, turns: bool) -> MovingSide:
        """Store (C, *shape) values with their derivatives along world x, y[, z], per mm."""
        slope = gradient(values, grid.spacing)
        direction = torch.as_tensor(grid.direction.copy(), dtype=values.dtype)
        slope = torch.einsum("wa,ca...->cw...", direction, slope).flatten(0, 1)
        return cls(torch.cat([values, slope, weight]), grid, len(values), turns)


@dataclass(frozen=True)
class Agreement:
    """How well two images agree under a map.

    Attributes
    ----------
    correlation : of all channels over the shared part, -1..1. shared : weight of the shared part, in points.
    """

    correlation: float
    shared: float


@dataclass(frozen=True, eq=False)
class _View:
    values: Tensor  # (C, N)
    slope: Tensor | None  # (C, d, N) along moving-world axes
    weight: Tensor  # (N,)
    linear: Array | None  # (N, d, d) or (d, d) derivative of the map


def _look(fixed: FixedSide, moving: MovingSide, matrix: Array, *, slope: bool) -> _View:
    """Sample the moving side at the mapped points."""
    d = moving.grid.ndim
    homogeneous = fixed.points @ matrix[-1, :-1] + matrix[-1, -1]
    where = (fixed.points @ matrix[:-1, :-1].T + matrix[:-1, -1]) / homogeneous[:, None]
    coords = moving.grid.index_from_world(where)[:, ::-1]
    shape = np.array(moving.grid.shape[::-1])
    # Between voxel centres: beyond the outermost ones values are repeated, which would pull.
    edge = np.where(shape > 1, 0.0, 0.5)
    inside = ((coords >= -edge) & (coords <= shape - 1 + edge)).all(1) & (homogeneous > 0)
    count = moving.channels
    stack = moving.stack if slope else torch.cat([moving.stack[:count], moving.stack[-1:]])
    flat = torch.as_tensor(coords.copy(), dtype=torch.float32).reshape(1, *[1] * (d - 1), -1, d)
    samples = sample(stack[None], flat)[0].reshape(len(stack), -1)
    weight = fixed.weight * samples[-1] * torch.as_tensor(inside, dtype=torch.float32)
    values = samples[:count]
    slopes = samples[count:-1].reshape(count, d, -1) if slope else None
    if moving.turns:
        back = rotation_of(matrix[:-1, :-1]).T
        values = steered(values, back)
        slopes = None if slopes is None else steered(slopes, back)
    if not slope:
        return _View(values, slopes, weight, None)
    linear = matrix[:-1, :-1]
    if np.any(matrix[-1, :-1]):
        linear = (linear - where[:, :, None] * matrix[-1, :-1]) / homogeneous[:, None, None]
    return _View(values, slopes, weight, linear)


def agreement(fixed: FixedSide, moving: MovingSide, matrix: Array) -> Agreement:
    """Return the correlation of both sides under a map, less the mean of each channel over the shared part."""
    view = _look(fixed, moving, matrix, slope=False)
    return _correlation(fixed.values, view.values, view.weight, fixed.stride)


def _correlation(f: Tensor, m: Tensor, weight: Tensor, stride: float) -> Agreement:
    total = float(weight.sum())
    if total < 1e-6:
        return Agreement(-1.0, 0.0)
    f = f - (f * weight).sum(1, keepdim=True) / total
    m = m - (m * weight).sum(1, keepdim=True) / total
    product = float((weight * f * m).sum())
    energy = float((weight * f * f).sum()) * float((weight * m * m).sum())
    return Agreement(product / max(energy, 1e-20) ** 0.5, total * stride)


def climb(
    fixed: FixedSide,
    moving: MovingSide,
    start: Array,
    model: Model,
    *,
    steps: int,
    centre: Array,
    radius: float,
    contrast: bool = False,
    tolerance: float = 1e-3,
) -> Array:
    """Return the map of a model near `start` under which both sides agree best.

    Every step fits the moving values linearly to the fixed ones over the shared part (so the correlation is what
    grows, as in ECC, Evangelidis and Psarakis, PAMI 2008) and solves the damped normal equations for a step along
    the generators of the model; a step that does not raise the correlation is taken back and damped.

    Parameters
    ----------
    start : a map of the model. centre, radius : of the fixed image in mm; they scale the generators.
    contrast : one channel only; the moving intensities are first sent through the curve that explains the fixed
        ones best (the correlation ratio of Roche et al., MICCAI 1998), so that contrasts may differ.
    tolerance : steps that move the rim by less than this part of a cell end the climb.
    """
    basis = generators(len(centre), model)
    local = np.c_[(fixed.points - centre) / radius, np.ones(len(fixed.points))]
    velocity = np.einsum("kij,nj->kni", basis, local)
    # Of a homography: the derivative of the perspective division at the identity.
    velocity = (velocity[..., :-1] - local[:, :-1] * velocity[..., -1:]) * radius
    speed = torch.as_tensor(velocity, dtype=torch.float32)
    matrix, damping = start, 1e-3
    best, system = _normal_equations(fixed, moving, matrix, speed, contrast)
    for _ in range(steps):
        hessian, slope = system
        damped = hessian + damping * np.diag(np.diag(hessian) + 1e-12 * np.trace(hessian))
        step = np.asarray(np.linalg.lstsq(damped, slope, rcond=None)[0], dtype=np.float64)
        trial = moved(matrix, step, basis, centre, radius)
        score, fresh = _normal_equations(fixed, moving, trial, speed, contrast)
        if score > best:
            matrix, best, system, damping = trial, score, fresh, max(damping / 10, 1e-6)
            if np.abs(step).max() * radius < tolerance * fixed.cell:
                break
        else:
            damping = max(damping, 1e-4) * 10
            if damping > 1e3:
                break
    return matrix


def _normal_equations(
    fixed: FixedSide, moving: MovingSide, matrix: Array, speed: Tensor, contrast: bool
) -> tuple[float, tuple[Array, Array]]:
    """Correlation at a map, and (K, K) and (K,) of the linearised fit there."""
    view = _look(fixed, moving, matrix, slope=True)
    assert view.slope is not None and view.linear is not None
    m, slope, weight = view.values, view.slope, view.weight
    if contrast:
        curve = ContrastCurve.of(fixed.values[0], m[0], weight)
        m, slope = curve(m), slope * curve.derivative(m)[:, None]
    score = _correlation(fixed.values, m, weight, fixed.stride).correlation
    total = weight.sum().clamp(min=1e-6)
    f0 = fixed.values - (fixed.values * weight).sum(1, keepdim=True) / total
    m0 = m - (m * weight).sum(1, keepdim=True) / total
    gain = (weight * f0 * m0).sum() / (weight * m0 * m0).sum().clamp(min=1e-12)
    linear = torch.as_tensor(view.linear, dtype=torch.float32)
    pulled = torch.einsum("cwn,wv->cvn" if linear.ndim == 2 else "cwn,nwv->cvn", slope, linear)
    jacobian = gain * torch.einsum("cvn,knv->kcn", pulled, speed)
    jacobian = jacobian - (jacobian * weight).sum(-1, keepdim=True) / total
    residual = f0 - gain * m0
    flat = (jacobian * weight).flatten(1)
    hessian = (flat @ jacobian.flatten(1).T).double().numpy()
    return score, (hessian, (flat @ residual.flatten()).double().numpy())


@dataclass(frozen=True, eq=False)
class ContrastCurve:
    """A curve from moving to fixed intensities, linear between evenly spaced knots."""

    knots: Tensor  # (K,) values
    low: float
    step: float

    @classmethod
    def of(cls, f: Tensor, m: Tensor, weight: Tensor) -> ContrastCurve:
        """Fit the mean fixed intensity for every moving intensity; f, m and weight are (N,)."""
        low, high = float(m.min()), float(m.max())
        step = max((high - low) / (BINS - 1), 1e-12)
        place = ((m - low) / step).clamp(0, BINS - 1.001)
        index, part = place.long(), place.frac()
        sums = torch.zeros(2, BINS, dtype=torch.float64)
        for offset, share in ((0, 1 - part), (1, part)):
            vote = (weight * share).double()
            sums[0].index_add_(0, index + offset, vote * f.double())
            sums[1].index_add_(0, index + offset, vote)
        # Neighbouring knots lend each other what they saw; a knot that nobody saw takes it all from them.
        sums = gaussian_smooth(sums.float(), 1.0).double()
        return cls((sums[0] / sums[1].clamp(min=1e-9)).float(), low, step)

    def __call__(self, m: Tensor) -> Tensor:
        """Map moving intensities of any shape."""
        place = ((m - self.low) / self.step).clamp(0, BINS - 1.001)
        index = place.long()
        return torch.lerp(self.knots[index], self.knots[index + 1], place.frac())

    def derivative(self, m: Tensor) -> Tensor:
        """Slope of the curve at moving intensities of any shape."""
        index = ((m - self.low) / self.step).clamp(0, BINS - 1.001).long()
        return (self.knots[index + 1] - self.knots[index]) / self.step


def contrast_agreement(fixed: FixedSide, moving: MovingSide, matrix: Array) -> tuple[float, float]:
    """Return the share of fixed intensities that moving ones explain by a straight line and by a curve, 0..1."""
    view = _look(fixed, moving, matrix, slope=False)
    f, m = fixed.values[0], view.values[0]
    line = _correlation(f[None], m[None], view.weight, 1.0).correlation
    curve = _correlation(f[None], ContrastCurve.of(f, m, view.weight)(m)[None], view.weight, 1.0).correlation
    return line**2 * float(line > 0), max(curve, 0.0) ** 2
