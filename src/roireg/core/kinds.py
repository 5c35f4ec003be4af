"""Whether whole numbers are names of regions or intensities, by how often a voxel has the value of the next."""

from __future__ import annotations

import torch

from roireg.core.image import Image

__all__ = ["LIKE", "UNLIKE", "count_and_likeness", "looks_like_labels"]

LOOKED_AT = 1_000_000
"""Voxels that tell."""

MANY = 32
"""Different values from which on they may be intensities."""

UNLIKE, LIKE = 0.45, 0.7
"""Share of voxels like the next: below the first of intensities, above the second of labels (organs 0.83 and more,
regions as small as blocks of two voxels 0.5; three quarters of 184 images below 0.3, the largest 0.71)."""


def looks_like_labels(image: Image) -> bool:
    """Tell whether values are names of regions: whole, few, and mostly the same from voxel to voxel.

    The commonest value, around the regions, is left out of the last. Masks of 0 and 1 are none: their mean, rounded,
    is a mask.
    """
    if image.channels != 1:
        return False
    lines = _lines(image)
    if not bool((lines == lines.round()).all()):
        return False
    values, share = _repeated(lines)
    return len(values) <= 256 and float(values[-1] - values[0]) >= 2 and share > LIKE


def count_and_likeness(labels: Image) -> tuple[int, float]:
    """Return how many values a label map has, and which share of its voxels has the value of the next.

    Atlases have thousands of values, but each for voxels that lie together. 0 and the commonest other value are left
    out, and so is what stands alone: points that are drawn as single voxels. Up to `MANY` values the share is 1.
    """
    lines = _lines(labels)
    values, share = _repeated(torch.where(lines == 0, torch.nan, lines))
    return len(values), share if len(values) > MANY else 1.0


def _lines(image: Image) -> torch.Tensor:
    """Return lines along the last axis that has more than one voxel, enough of them to tell."""
    data = image.data[0].squeeze()
    lines = data.reshape(-1, data.shape[-1] if data.ndim else 1)
    return lines[:: 1 + lines.numel() // LOOKED_AT].double()


def _repeated(lines: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the values, and how many of those before another value, without NaN and the commonest, are like it."""
    values, counts = torch.unique(lines[~lines.isnan()], return_counts=True)
    left, right = lines[:, :-1], lines[:, 1:]
    inside = ~left.isnan() & ~right.isnan()
    if len(values):
        inside &= left != values[counts.argmax()]
    return values, float((left == right)[inside].double().mean()) if bool(inside.any()) else 1.0
