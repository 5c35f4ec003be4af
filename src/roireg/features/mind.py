"""MIND-SSC: the self-similarity context of every voxel, robust to contrast changes between modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.filters import box_mean
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.noise import noise_level
from roireg.core.warp import resample

__all__ = ["MindFeatures", "mind_offsets", "mind_ssc"]


NOISE_VARIANCES = 20.0
"""Patches that differ by less, in variances of the noise, are alike: noise alone is no structure."""


def mind_offsets(shape: Sequence[int], spacing: Sequence[float] | NDArray[np.float64], radius: float) -> list[int]:
    """Return the patch offset in voxels per storage axis: `radius` mm, rounded, at least 1.

    An axis of one voxel has offset 0. An axis whose voxels are coarser than the radius uses its direct
    neighbours, which then lie further away than `radius`; there is no closer information on it.
    """
    steps = np.maximum(1, np.round(radius / np.asarray(spacing, dtype=float))).astype(int)
    return [min(int(step), n - 1) for step, n in zip(steps, shape, strict=True)]


def mind_ssc(
    data: Tensor,
    *,
    spacing: Sequence[float] | NDArray[np.float64] | None = None,
    radius: float | None = None,
    patch: int = 1,
    noise: float = 0.0,
) -> Tensor:
    """Self-similarity context descriptor of Heinrich et al. (MICCAI 2013, LNCS 8149:187-194, eq. 2-3).

    Two patches around neighbours of a voxel are compared for every pair of direct neighbours that are not
    opposite to each other: 12 channels in 3D; the 2D analogue has 4. exp(-(D - min D) / V), with V the mean
    of D over the channels, bounded to [0.001, 1000] of its image mean; 1 marks the most similar pair.

    Parameters
    ----------
    data : (1, *spatial) float tensor, storage order; differentiable.
    spacing : mm per storage axis; None takes 1.
    radius : distance of a neighbour in mm, rounded to whole voxels (`mind_offsets`); None takes the
        smallest spacing.
    patch : half width of the compared patches, in offsets (1 gives 3 x 3 [x 3] voxels for an offset of 1).
    noise : standard deviation of the noise; V is at least 20 of its variances (not in the paper), so that chance
        patterns of flat regions are no structure.

    Returns
    -------
    (12 or 4, *spatial) tensor with values in (0, 1]; a constant image gives 1 everywhere.

    Raises
    ------
    InputError
        When the data does not have one channel and 2 or 3 spatial axes.
    """
    d = data.ndim - 1
    if d not in (2, 3) or data.shape[0] != 1:
        raise InputError(f"MIND-SSC needs data of shape (1, *spatial) in 2D or 3D, found {tuple(data.shape)}")
    shape = tuple(data.shape[1:])
    steps = np.ones(d) if spacing is None else np.asarray(spacing, dtype=float)
    offsets = mind_offsets(shape, steps, float(steps.min()) if radius is None else radius)
    patches = [min(o * patch, n - 1) for o, n in zip(offsets, shape, strict=True)]
    # Padded once, so that every shift below is a view.
    margin = [o + r for o, r in zip(offsets, patches, strict=True)]
    pad = [m for axis in reversed(margin) for m in (axis, axis)]
    padded = F.pad(data[None], pad, mode="replicate")[0]

    neighbours = [tuple(sign * offsets[a] if i == a else 0 for i in range(d)) for a in range(d) for sign in (-1, 1)]
    channels: dict[tuple[int, ...], Tensor] = {}
    order: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for i, j in combinations(range(2 * d), 2):
        if i // 2 != j // 2:
            order.append(_anchored(neighbours[i], neighbours[j]))
    # Each difference vector serves two pairs (anchored at different neighbours): half the box filters.
    for _, step in order:
        if step not in channels:
            low = [max(0, -s) for s in step]
            high = [n - max(0, s) for n, s in zip(padded.shape[1:], step, strict=True)]
            here = padded[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))]
            there = padded[(slice(None), *(slice(a + s, b + s) for a, b, s in zip(low, high, step, strict=True)))]
            channels[step] = box_mean((here - there) ** 2, patches)
    distance = torch.cat([_crop(channels[step], start, step, margin, shape) for start, step in order])
    distance = distance - distance.amin(0, keepdim=True)
    variance = distance.mean(0, keepdim=True)
    mean = float(variance.detach().mean())
    floor = max(0.001 * mean, NOISE_VARIANCES * noise**2, torch.finfo(data.dtype).tiny)
    return torch.exp(-distance / variance.clamp(floor, max(1000 * mean, floor)))


def _anchored(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (start, step) of the pair with a step whose first non-zero component is positive."""
    step = tuple(q - p for p, q in zip(a, b, strict=True))
    if next((s for s in step if s), 1) > 0:
        return a, step
    return b, tuple(-s for s in step)


def _crop(
    field: Tensor, start: tuple[int, ...], step: tuple[int, ...], margin: list[int], shape: tuple[int, ...]
) -> Tensor:
    """Cut from a difference image the part that belongs to the image shifted by `start`."""
    index = [slice(None)]
    for s, v, m, n in zip(start, step, margin, shape, strict=True):
        first = m + s - max(0, -v)
        index.append(slice(first, first + n))
    return field[tuple(index)]


@dataclass(frozen=True)
class MindFeatures:
    """MIND-SSC at the resolution of a grid.

    Parameters
    ----------
    radius : distance of the compared neighbours in mm; None takes the smallest spacing of the grid.
    patch : half width of the compared patches, in offsets.
    centred : subtract the channel mean at every voxel, so that cosines between voxels spread over [-1, 1]
        instead of crowding near 1.
    """

    radius: float | None = None
    patch: int = 1
    centred: bool = False

    def __call__(self, image: Image, grid: Grid) -> Image:
        """Return the (12 or 4, *grid.shape) descriptor of the gray image resampled onto `grid`."""
        gray = resample(image.gray(), grid)
        data = gray.data.float()
        noise = noise_level(data)
        features = mind_ssc(data, spacing=grid.spacing, radius=self.radius, patch=self.patch, noise=noise)
        if self.centred:
            features = features - features.mean(0, keepdim=True)
        return image.with_data(features, grid)
