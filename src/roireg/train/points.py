"""Corresponding points of scene pairs, as a training step takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.train.scenes import ScenePair

__all__ = ["PointBatch", "point_batch"]

BORDER, INSIDE = 0.5, 0.4
"""Parts of the points that lie at borders of labels, and inside labels but the surround; the rest is anywhere."""


@dataclass(frozen=True, eq=False)
class PointBatch:
    """B pairs of images with N corresponding points each.

    Attributes
    ----------
    fixed, moving : (B, 1, *shape) images.
    fixed_points, moving_points : (B, N, d) float32 voxel indices, components in storage order.
    fixed_codes : (B, N) labels of the points.
    moving_labels : (B, *shape) labels of the moving images.
    """

    fixed: Tensor
    moving: Tensor
    fixed_points: Tensor
    moving_points: Tensor
    fixed_codes: Tensor
    moving_labels: Tensor

    def to(self, device: torch.device) -> PointBatch:
        """Return the batch on another device."""
        return PointBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def point_batch(pairs: Sequence[ScenePair], rng: np.random.Generator, count: int) -> PointBatch:
    """Draw `count` points of every pair and put the pairs together."""
    fixed_points, moving_points, codes = [], [], []
    for pair in pairs:
        shape = tuple(pair.valid.shape)
        chosen = _chosen(pair, rng, count)
        fixed_points.append(torch.as_tensor(np.stack(np.unravel_index(chosen, shape), axis=-1)).float())
        moving_points.append(pair.moving_from_fixed.reshape(-1, len(shape))[chosen])
        codes.append(pair.fixed_labels.reshape(-1)[chosen])
    return PointBatch(
        torch.stack([p.fixed for p in pairs]),
        torch.stack([p.moving for p in pairs]),
        torch.stack(fixed_points),
        torch.stack(moving_points),
        torch.stack(codes),
        torch.stack([p.moving_labels for p in pairs]),
    )


def _chosen(pair: ScenePair, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Return flat indices of fixed voxels; where nothing is shown in both images, of any."""
    labels, valid = pair.fixed_labels.numpy(), pair.valid.numpy()
    border = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        ahead = [slice(None)] * labels.ndim
        ahead[axis] = slice(1, None)
        border[tuple(ahead)] |= np.diff(labels, axis=axis) != 0
    anywhere = np.flatnonzero(valid)
    if not len(anywhere):
        anywhere = np.arange(valid.size)
    parts = [np.flatnonzero(border & valid), np.flatnonzero((labels > 0) & valid), anywhere]
    counts = [int(BORDER * count), int(INSIDE * count)]
    counts.append(count - sum(counts))
    drawn = [(p if len(p) >= 8 else anywhere)[rng.integers(0, len(p) if len(p) >= 8 else len(anywhere), n)]
             for p, n in zip(parts, counts, strict=True)]  # fmt: skip
    return np.concatenate(drawn)
