"""Where a region's prototype is found in the other image: similarity maps and the points they lead to.

The steps of PromptReg's primary prompt (Huang et al., "Register Anything", 2025, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image

__all__ = [
    "inverse_prompt",
    "peaks",
    "position_prior",
    "similarity_map",
    "similarity_maps",
    "soft_argmax",
    "standardised",
]

Array = NDArray[np.float64]


def standardised(a: Image, b: Image) -> tuple[Image, Image]:
    """Shift and scale every channel of two feature maps by its mean and spread over both together.

    Features of many encoders share one large direction, so that all cosines are near 1; around the common mean
    they spread over [-1, 1]. Channels that are constant in both maps become 0.

    Raises
    ------
    InputError
        When the maps differ in channels.
    """
    if a.channels != b.channels:
        raise InputError(f"feature maps of both images need the same channels, found {a.channels} and {b.channels}")
    flat = [image.data.float().flatten(1) for image in (a, b)]
    mean = (flat[0].mean(1) + flat[1].mean(1)) / 2
    power = sum((f - mean[:, None]).square().mean(1) for f in flat) / 2
    spread = torch.as_tensor(power).sqrt()
    scale = torch.where(spread > 1e-6, 1 / spread.clamp(min=1e-6), torch.zeros_like(spread))
    shape = (-1, *[1] * a.ndim)
    maps = [image.with_data((image.data.float() - mean.reshape(shape)) * scale.reshape(shape)) for image in (a, b)]
    return maps[0], maps[1]


def similarity_map(features: Image, prototype: Tensor) -> Tensor:
    """(*shape) cosine of every feature with a (C,) prototype, 0 where either is 0; see `similarity_maps`."""
    return similarity_maps(features, prototype[None])[0]


def similarity_maps(features: Image, prototypes: Tensor) -> Tensor:
    """(K, *shape) cosines of every feature with (K, C) prototypes, 0 where either is 0.

    Raises
    ------
    InputError
        When the prototypes have another number of channels.
    """
    if prototypes.shape[1:] != (features.channels,):
        raise InputError(
            f"a prototype of {features.channels} channels is needed, found {tuple(prototypes.shape[1:])}"
        )
    data = features.data.float()
    unit = prototypes.to(data)
    unit = unit / unit.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return torch.einsum("kc,c...->k...", unit, data) / data.square().sum(0).sqrt().clamp(min=1e-12)


def position_prior(grid: Grid, point: Array, width: float) -> Tensor:
    """(*shape) logarithm of a Gaussian around a (d,) world point, 0 at the point; `width` in mm."""
    return torch.as_tensor(-_squared_distance(grid, point) / (2 * width**2), dtype=torch.float32)


def peaks(score: Tensor, grid: Grid, *, count: int, apart: float) -> list[tuple[Array, float]]:
    """Return the highest places of a (*shape) score, at least `apart` mm from each other, as (world point, score)."""
    values = score.detach().double().cpu().numpy().ravel().copy()
    maxima: list[tuple[Array, float]] = []
    for _ in range(count):
        best = int(np.argmax(values))
        if not np.isfinite(values[best]):
            break
        place = grid.world_from_index(np.unravel_index(best, grid.shape))
        maxima.append((place, float(values[best])))
        values[_squared_distance(grid, place).ravel() < max(apart, 1e-9) ** 2] = -np.inf
    return maxima


def soft_argmax(score: Tensor, grid: Grid, around: Array, *, radius: float) -> Array:
    """Mean world point under exp(score) within `radius` mm of a point; the point itself where no voxel is near."""
    near = np.nonzero(_squared_distance(grid, around) <= radius**2)
    if not len(near[0]):
        return np.asarray(around, dtype=np.float64)
    values = score.detach().cpu().numpy()[near].astype(np.float64)
    weights = np.exp(values - values.max())
    return np.asarray(weights @ grid.world_from_index(np.stack(near, axis=-1)) / weights.sum())


def _squared_distance(grid: Grid, point: Array) -> Array:
    """(*shape) squared distance of all voxels from a (d,) world point, mm²; no list of points is made."""
    total = np.zeros(grid.shape)
    for row, start in zip(grid.affine[:-1, :-1], grid.origin - point, strict=True):
        steps = np.ogrid[tuple(slice(n) for n in grid.shape)]
        total += sum((w * step for w, step in zip(row, steps, strict=True)), start) ** 2
    return total


def inverse_prompt(
    features: Image,
    prototype: Tensor,
    start: Array,
    prototype_at: Callable[[Array], Tensor | None],
    *,
    step: float,
    rounds: int = 3,
) -> Array:
    """Find the prompt whose region has a given prototype: Z = Z0 + J⁺ J_sim⁺ (S(G) − S(G0)), repeated.

    PromptReg's equation 1 with its matrices in the order in which their shapes fit: the difference between the
    similarity map of the prototype looked for and that of the prototype found gives, through the pseudo-inverse of
    dS_i/dG = (F_i / |F_i| − S_i G / |G|) / |G|, the change of prototype; the pseudo-inverse of J = dG/dZ turns it
    into a change of prompt. Segmenters answer in steps, so J is a central difference over `step` mm, and a move
    is at most one step and only kept where it brings the prototypes closer.

    Parameters
    ----------
    features : map of the image that is searched.
    prototype : (C,) G, from the other image.
    start : (d,) world point Z0.
    prototype_at : (d,) world point -> (C,) prototype of the region that a prompt there gives, None where there is
        none (outside the image).
    """
    here = np.asarray(start, dtype=np.float64)
    current = prototype_at(here)
    if current is None:
        return here
    goal = similarity_map(features, prototype).flatten()
    unit = (features.data.float() / features.data.float().norm(dim=0).clamp(min=1e-12)).flatten(1)
    target = prototype / prototype.norm().clamp(min=1e-12)
    for _ in range(rounds):
        columns = [_slope(prototype_at, here, axis, step) for axis in range(len(here))]
        length = current.norm().clamp(min=1e-12)
        have = unit.T @ (current / length)
        # dS/dG, one row per place; its normal equations are C x C.
        rows = (unit.T - have[:, None] * (current / length)[None]) / length
        normal = (rows.T @ rows).double()
        change = torch.linalg.pinv(normal, rcond=1e-6, hermitian=True) @ (rows.T @ (goal - have)).double()
        jacobian = torch.stack(columns, dim=1).double()
        move = (torch.linalg.pinv(jacobian, rcond=1e-3) @ change).numpy()
        length_mm = float(np.linalg.norm(move))
        if not np.isfinite(length_mm) or length_mm < 1e-6:
            return here
        move *= min(1.0, step / length_mm)
        closeness = float((current / length) @ target)
        better = None
        for shorten in (1.0, 0.5, 0.25):
            there = here + shorten * move
            candidate = prototype_at(there)
            if (
                candidate is not None
                and float(candidate / candidate.norm().clamp(min=1e-12) @ target) > closeness + 1e-6
            ):
                better = (there, candidate)
                break
        if better is None:
            return here
        here, current = better
    return here


def _slope(prototype_at: Callable[[Array], Tensor | None], here: Array, axis: int, step: float) -> Tensor:
    """(C,) derivative of the prototype per mm along a world axis; one-sided at the border of the image."""
    offset = np.zeros(len(here))
    offset[axis] = step
    ends = [(prototype_at(here + sign * offset), sign) for sign in (1.0, -1.0)]
    valid = [(p, sign) for p, sign in ends if p is not None]
    centre = prototype_at(here)
    assert centre is not None
    if len(valid) == 2:
        return (valid[0][0] - valid[1][0]) / (2 * step)
    return (valid[0][0] - centre) * (valid[0][1] / step) if valid else torch.zeros_like(centre)
