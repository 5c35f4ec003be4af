"""The terms of a fit: local correlation, feature distance, region agreement, smoothness.

Every similarity is a callable built once per level from the fixed side and called with the warped moving side.
Losses are means, so their weights do not depend on image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.filters import box_mean

__all__ = [
    "FeatureDistance",
    "LocalCorrelation",
    "RegionAgreement",
    "bending",
    "block_mean",
    "diffusion",
]

FLOOR = 1e-4
"""Variance (of intensities scaled to about 0..1) below which a window counts as flat: noise of 1 % of the range."""

NOISE_VARIANCES = 10.0
"""Variances of the noise of an image that are added to this: chance patterns are flat, too."""


def block_mean(data: Tensor, step: Sequence[int]) -> Tensor:
    """Mean over blocks of `step` voxels per spatial axis of a (channel, *spatial) tensor; ragged ends allowed."""
    pool = F.avg_pool3d if data.ndim == 4 else F.avg_pool2d
    return pool(data[None], tuple(step), ceil_mode=True, count_include_pad=False)[0]


def _outer(counts: Sequence[Tensor]) -> Tensor:
    """(1, *shape) product of one count per axis."""
    total = torch.ones(1)
    for line in counts:
        total = total[..., None] * line
    return total


def _block_sizes(shape: Sequence[int], step: Sequence[int]) -> Tensor:
    return _outer([(n - torch.arange(0, n, s)).clamp(max=s) for n, s in zip(shape, step, strict=True)])


def _window_sizes(shape: Sequence[int], radius: Sequence[int]) -> Tensor:
    lines = []
    for n, r in zip(shape, radius, strict=True):
        i = torch.arange(n)
        lines.append((i + r).clamp(max=n - 1) - (i - r).clamp(min=0) + 1)
    return _outer(lines)


class _FixedSide(NamedTuple):
    """What the fixed image adds to every window: mean and variance, and the weights they were taken with."""

    mean: Tensor
    variance: Tensor
    inside: Tensor | None  # (1, *spatial)
    share: Tensor | None  # of a window that is inside


class LocalCorrelation:
    """1 - weighted mean of the squared local correlation coefficient (LNCC², Cachier et al. 2003; Avants 2008).

    Windows sit on a lattice of `step` voxels and span (2 * radius + 1) * step voxels, which makes the box
    sums 2^d times cheaper than windows at every voxel at the same accuracy. The gradient with respect to the
    warped image is written out instead of traced. Squared correlation does not see the sign or the scale of
    the intensities, so maps between contrasts are matched as long as they are locally linear.

    Voxels of weight 0 take no part: windows count for as much as the weight at their centre, and means inside them
    are weighted means.

    Parameters
    ----------
    fixed : (1, *spatial) intensities scaled to about 0..1.
    step : lattice step in voxels per axis.
    radius : window radius in lattice steps per axis.
    weight : (1, *spatial) non-negative importance of every voxel, or None.
    noise : standard deviation of the noise. Windows in which there is little else count by their squared difference,
        so that chance patterns move them little.
    """

    def __init__(
        self,
        fixed: Tensor,
        *,
        step: Sequence[int],
        radius: Sequence[int],
        weight: Tensor | None = None,
        noise: float = 0.0,
    ) -> None:
        self.fixed, self.step, self.radius = fixed, tuple(step), tuple(radius)
        self.floor = FLOOR + NOISE_VARIANCES * noise**2
        self.alone = self.side(weight)
        self.weight = block_mean(torch.ones_like(fixed) if weight is None else weight, self.step)
        self.total = float(self.weight.sum().clamp(min=1e-6))
        # How many voxels a block and how many blocks a window has; fewer at ragged ends and at the border.
        self.block_size = _block_sizes(fixed.shape[1:], self.step).to(fixed)
        lattice = self.block_size.shape[1:]
        self.window_size = _window_sizes(lattice, self.radius).to(fixed)

    def window_mean(self, data: Tensor, inside: Tensor | None = None, share: Tensor | None = None) -> Tensor:
        """Window means on the lattice, of what is inside."""
        mean = box_mean(block_mean(data if inside is None else data * inside, self.step), self.radius)
        return mean if share is None else mean / share

    def side(self, inside: Tensor | None) -> _FixedSide:
        """Take the windows of the fixed image with (1, *spatial) weights."""
        share = None if inside is None else self.window_mean(inside).clamp(min=1e-6)
        mean = self.window_mean(self.fixed, inside, share)
        variance = (self.window_mean(self.fixed * self.fixed, inside, share) - mean**2).clamp(min=0) + self.floor
        return _FixedSide(mean, variance, inside, share)

    def coefficients(self, warped: Tensor, side: _FixedSide) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per window: (cc, cov / (var_f var_w), cc / var_w, mean_w), the floor added to variances and covariance.

        Adding it to all three keeps cc <= 1 with equality where both windows are equal, flat ones included, so
        equal images are exactly at the optimum.
        """
        data = torch.cat([warped, warped * warped, self.fixed * warped])
        mean, square, product = self.window_mean(data, side.inside, side.share).split(1)
        variance = (square - mean**2).clamp(min=0) + self.floor
        covariance = product - side.mean * mean + self.floor
        slope = covariance / (side.variance * variance)
        cc = slope * covariance
        return cc, slope, cc / variance, mean

    def __call__(self, warped: Tensor, moving_weight: Tensor | None = None) -> Tensor:
        """Loss of a warped (1, *spatial) image; `moving_weight` (1, *spatial) is its warped mask, if any."""
        loss: Tensor = _LocalCorrelationLoss.apply(warped, self, moving_weight)
        return loss


class _LocalCorrelationLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, warped, term, moving_weight):  # type: ignore[no-untyped-def]
        side, weight = term.alone, term.weight
        if moving_weight is not None:
            side = term.side(moving_weight if side.inside is None else side.inside * moving_weight)
            weight = weight * block_mean(moving_weight, term.step)
        cc, slope, ratio, mean = term.coefficients(warped, side)
        weight = weight / term.total
        loss = 1 - (cc * weight).sum()
        if side.share is not None:
            weight = weight / side.share
        ctx.save_for_backward(warped, slope * weight, ratio * weight, mean)
        ctx.term, ctx.side = term, side
        return loss

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        warped, slope, ratio, mean = ctx.saved_tensors
        term, side = ctx.term, ctx.side
        # d cc / d w_i = (2 / window size) * (slope (f_i - mean_f) - ratio (w_i - mean_w)), summed over windows:
        # The adjoint of a box mean is a box sum of what is divided by the window size first; the adjoint of a block
        # mean spreads evenly over the block.
        spread = box_mean(torch.cat([slope, ratio * mean - slope * side.mean, ratio]) / term.window_size, term.radius)
        spread = spread * (term.window_size / term.block_size)
        for axis, step in enumerate(term.step):
            spread = spread.repeat_interleave(step, axis + 1).narrow(axis + 1, 0, warped.shape[axis + 1])
        a, b, c = spread.split(1)
        gradient = (a * term.fixed + b - c * warped) * (-2 * upstream)
        return gradient if side.inside is None else gradient * side.inside, None, None


class FeatureDistance:
    """Weighted mean squared distance of dense features (MIND-SSC, embeddings ...), summed over channels.

    Parameters
    ----------
    fixed : (C, *spatial) features.
    weight : (1, *spatial) importance, or None.
    """

    def __init__(self, fixed: Tensor, *, weight: Tensor | None = None) -> None:
        self.fixed = fixed
        self.weight = torch.ones_like(fixed[:1]) if weight is None else weight
        self.total = float(self.weight.sum().clamp(min=1e-6))

    def __call__(self, warped: Tensor, moving_weight: Tensor | None = None) -> Tensor:
        """Loss of warped (C, *spatial) features; `moving_weight` (1, *spatial) is the warped moving mask."""
        weight = self.weight if moving_weight is None else self.weight * moving_weight
        return ((warped - self.fixed) ** 2 * weight).sum() / self.total


class RegionAgreement:
    """Per-region loss on truncated signed distances, plus Dice and squared error of the soft masks.

    The distance part pulls regions together also where they do not overlap, which Dice cannot; Dice and the
    squared error (SAMReg's L_roi, equally weighted) take over near the boundary.

    Parameters
    ----------
    fixed : (K, *spatial) signed distances of the fixed regions divided by the truncation distance,
        clamped to -1..1, negative inside.
    weight : (K,) weight of every pair in the loss.
    tolerance : (K,) how far distances may differ at no cost. Of regions that have one the shape does not count, so
        that a pair pulls things together and leaves it to the images where exactly they end. None is 0 for all.
    softness : half-width of the soft boundary, as a fraction of the truncation distance.
    """

    def __init__(
        self, fixed: Tensor, weight: Tensor, *, tolerance: Tensor | None = None, softness: float = 0.1
    ) -> None:
        self.fixed, self.softness, self.weight = fixed, softness, weight
        tolerance = torch.zeros_like(weight) if tolerance is None else tolerance
        self.shaped = (tolerance == 0).to(weight)
        self.tolerance = tolerance.reshape(-1, *[1] * (fixed.ndim - 1))
        self.mask = torch.sigmoid(-fixed / softness)
        self.axes = tuple(range(1, fixed.ndim))
        # Each region is judged over its own truncation band, so that small ones count as much as large ones.
        self.band = ((fixed < 1).float()).sum(self.axes).clamp(min=1)

    def __call__(self, warped: Tensor) -> Tensor:
        """Loss of the warped (K, *spatial) signed distances of the moving regions."""
        apart = ((warped - self.fixed).abs() - self.tolerance).clamp(min=0)
        distance = apart.square().sum(self.axes) / self.band
        mask = torch.sigmoid(-warped / self.softness)
        both = (mask * self.mask).sum(self.axes)
        # Squares in the denominator (Milletari et al., 3DV 2016): with sums, soft masks that are equal would not be
        # at the optimum, and the fit would squeeze their boundaries.
        dice = 1 - 2 * both / (mask.square() + self.mask.square()).sum(self.axes).clamp(min=1e-6)
        square = ((mask - self.mask) ** 2).sum(self.axes) / self.band
        return ((distance + (dice + square) * self.shaped) * self.weight).sum()


def diffusion(field: Tensor, spacing: NDArray[np.float64]) -> Tensor:
    """Mean squared forward difference per mm of a (d, *spatial) field in mm; `spacing` in mm, storage order.

    Dimensionless (mm per mm): 0.01 means a typical stretch of 10 %.
    """
    total = field.new_zeros(())
    for axis, step in enumerate(spacing):
        if field.shape[axis + 1] > 1:
            total = total + (field.diff(dim=axis + 1) / float(step)).square().sum(0).mean()
    return total


def bending(field: Tensor, spacing: NDArray[np.float64]) -> Tensor:
    """Mean squared second difference per mm (mixed terms twice) of a (d, *spatial) field in mm; 1/mm²."""
    total = field.new_zeros(())
    for i, a in enumerate(spacing):
        for j, b in enumerate(spacing[: i + 1]):
            if min(field.shape[i + 1] - (i == j), field.shape[j + 1]) < 2:
                continue
            second = field.diff(dim=i + 1).diff(dim=j + 1) / float(a * b)
            if second.numel():
                total = total + (1 if i == j else 2) * second.square().sum(0).mean()
    return total
