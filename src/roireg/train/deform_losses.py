"""What a deformation network is trained by: images that agree, labels that agree, a smooth field, a known field.

Images are (B, 1, *shape), fields (B, d, *shape) in voxels; every loss is a mean over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from roireg.core.filters import box_mean, gaussian_smooth

__all__ = [
    "Similarity",
    "cosine_distance",
    "dice_distance",
    "dissimilarity",
    "known_distance",
    "label_masks",
    "roughness",
]

Similarity = Literal["lncc", "ncc", "mse"]

FLOOR = 1e-4
"""Variance added to windows of images in 0..1, so that empty ones agree and have no gradient."""


def dissimilarity(fixed: Tensor, moved: Tensor, kind: Similarity, *, radius: int = 4) -> Tensor:
    """Return how unlike two images are: 0 is equal.

    Parameters
    ----------
    kind : lncc, one minus the mean squared local correlation coefficient (Avants et al. 2008); ncc, one minus that of
        the whole image; mse, the mean squared difference.
    radius : of the windows of lncc in voxels.
    """
    if kind == "mse":
        return (fixed - moved).square().mean()
    a, b = fixed.flatten(0, 1), moved.flatten(0, 1)
    if kind == "ncc":
        a, b = a.flatten(1), b.flatten(1)
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        covariance, variances = (a * b).mean(1) + FLOOR, (a.square().mean(1) + FLOOR) * (b.square().mean(1) + FLOOR)
        return (1 - covariance / variances.sqrt()).mean()
    # One set of box sums for all images.
    means = box_mean(torch.cat([a, b, a * a, b * b, a * b]), radius)
    mean_a, mean_b, square_a, square_b, product = means.chunk(5)
    variance_a = (square_a - mean_a**2).clamp(min=0) + FLOOR
    variance_b = (square_b - mean_b**2).clamp(min=0) + FLOOR
    covariance = product - mean_a * mean_b + FLOOR
    return 1 - (covariance.square() / (variance_a * variance_b)).mean()


def roughness(field: Tensor, kind: Literal["diffusion", "bending"] = "diffusion") -> Tensor:
    """Return the mean squared first, or second (mixed ones twice), differences of a field, summed over components."""
    total = field.new_zeros(())
    axes = [axis for axis in range(2, field.ndim) if field.shape[axis] > 2]
    for i, axis in enumerate(axes):
        slope = field.diff(dim=axis)
        if kind == "diffusion":
            total = total + slope.square().sum(1).mean()
            continue
        for other in axes[: i + 1]:
            total = total + (1 if other == axis else 2) * slope.diff(dim=other).square().sum(1).mean()
    return total


def known_distance(displacement: Tensor, known: Tensor, valid: Tensor) -> Tensor:
    """Return the mean distance in voxels of two displacements where `valid` (B, *shape) says that one is known."""
    distance = ((displacement - known).square().sum(1) + 1e-6).sqrt()
    return (distance * valid).sum() / valid.sum().clamp(min=1)


def cosine_distance(fixed: Tensor, moved: Tensor) -> Tensor:
    """Return one minus the mean cosine of (B, C, *cells) features."""
    return 1 - torch.nn.functional.cosine_similarity(fixed, moved, dim=1, eps=1e-6).mean()


def label_masks(fixed: Tensor, moving: Tensor, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (B, K, *shape) masks of labels that both images of a pair have, up to `count` of each drawn at random.

    Parameters
    ----------
    fixed, moving : (B, *shape) label maps; 0 is no label.

    Returns
    -------
    K is the largest number of a pair; where a pair has fewer, masks of both sides are empty.
    """
    chosen = []
    for one, other in zip(fixed, moving, strict=True):
        common = sorted(set(one.unique().tolist()) & set(other.unique().tolist()) - {0})
        order = torch.randperm(len(common), generator=draw).tolist()
        chosen.append([common[k] for k in order[:count]])
    most = max(len(labels) for labels in chosen)
    sides = []
    for maps in (fixed, moving):
        masks = torch.zeros(len(maps), most, *maps.shape[1:], device=maps.device)
        for k, labels in enumerate(chosen):
            for n, label in enumerate(labels):
                masks[k, n] = (maps[k] == label).float()
        sides.append(masks)
    return sides[0], sides[1]


def dice_distance(fixed: Tensor, moved: Tensor, scales: Sequence[float] = (0.0, 1.0, 2.0, 4.0)) -> Tensor:
    """Return one minus the soft Dice of masks, a mean over Gaussian scales (Hu et al. 2018).

    The wide ones pull masks together that do not overlap.

    Parameters
    ----------
    fixed, moved : (B, K, *shape) masks; pairs of empty ones take no part. Without any mask the distance is 0.
    scales : standard deviations in voxels.
    """
    there = fixed.flatten(2).sum(2) > 0
    if not bool(there.any()):
        return moved.sum() * 0
    a, b = fixed[there], moved[there]
    total = a.new_zeros(())
    for scale in scales:
        wide_a, wide_b = (gaussian_smooth(m, scale).flatten(1) for m in (a, b))
        # Squares in the denominator (Milletari et al., 3DV 2016): soft masks that are equal are at the optimum.
        whole = wide_a.square().sum(1) + wide_b.square().sum(1)
        total = total + (1 - 2 * (wide_a * wide_b).sum(1) / whole.clamp(min=1e-6)).mean()
    return total / len(scales)
