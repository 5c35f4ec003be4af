"""Separable filters and finite differences on (channel, *spatial) tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["apply_along", "box_mean", "gaussian_smooth", "gradient", "resize"]


def apply_along(data: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply a (channel, *spatial) tensor by an (m, n) matrix along one spatial axis (0 = first) of length n.

    A matrix product beats a 1D convolution or pooling on the CPU for the axis lengths of images (3 channels on
    80 x 96 x 112 voxels: a Gaussian in 30 against 195 ms; a box mean five times as fast, seven with its gradient)
    and takes any border rule and any change of length.
    """
    n = data.shape[axis + 1]
    before, after = math.prod(data.shape[: axis + 1]), math.prod(data.shape[axis + 2 :])
    matrix = matrix.to(data)
    flat = data.reshape(before, n, after)
    out = flat[..., 0] @ matrix.T if after == 1 else torch.matmul(matrix, flat)
    return out.reshape(*data.shape[: axis + 1], matrix.shape[0], *data.shape[axis + 2 :])


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def gaussian_matrix(n: int, sigma: float) -> Tensor:
    """(n, n) float32 matrix of a Gaussian low-pass, sigma in voxels, weights renormalised at the borders."""
    x = torch.arange(n, dtype=torch.float64, device="cpu")
    weights = torch.exp(-0.5 * ((x[:, None] - x[None]) / sigma) ** 2)
    # What float32 cannot add to 1 is left out: denormal numbers make a product 50 times slower.
    weights[weights < 1e-9] = 0
    return (weights / weights.sum(1, keepdim=True)).float()


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def box_matrix(n: int, radius: int) -> Tensor:
    """(n, n) float64 matrix of the mean over 2 * radius + 1 neighbours, those inside 0..n-1 only."""
    x = torch.arange(n, device="cpu")
    near = ((x[:, None] - x[None]).abs() <= radius).double()
    return near / near.sum(1, keepdim=True)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def interpolation_matrix(n: int, m: int) -> Tensor:
    """(m, n) float32 matrix of linear interpolation from n to m voxels that span the same length."""
    x = ((torch.arange(m, dtype=torch.float64, device="cpu") + 0.5) * n / m - 0.5).clamp(0, n - 1)
    low = x.floor().long().clamp(max=max(n - 2, 0))
    matrix = torch.zeros(m, n, dtype=torch.float64, device="cpu")
    rows = torch.arange(m, device="cpu")
    matrix[rows, low] = 1 - (x - low)
    matrix[rows, (low + 1).clamp(max=n - 1)] += x - low
    return matrix.float()


def gaussian_smooth(data: Tensor, sigma: Sequence[float] | NDArray[np.float64] | float) -> Tensor:
    """Gaussian low-pass of a (channel, *spatial) tensor, sigma in voxels per spatial axis.

    Weights are renormalised at the borders, so constants stay constant. Differentiable.
    """
    for axis, s in enumerate(np.broadcast_to(np.asarray(sigma, dtype=float), (data.ndim - 1,))):
        if s >= 0.05 and data.shape[axis + 1] > 1:
            data = apply_along(data, gaussian_matrix(data.shape[axis + 1], round(float(s), 4)), axis)
    return data


def resize(data: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear interpolation of a (channel, *spatial) tensor to another spatial shape over the same box."""
    for axis, m in enumerate(shape):
        n = data.shape[axis + 1]
        if n != m:
            data = apply_along(data, interpolation_matrix(n, int(m)), axis)
    return data


def box_mean(data: Tensor, radius: Sequence[int] | int) -> Tensor:
    """Mean over a box of 2 * radius + 1 voxels per spatial axis, the part inside the image only.

    `data` is (channel, *spatial); differentiable.
    """
    for axis, r in enumerate(np.broadcast_to(np.asarray(radius, dtype=int), (data.ndim - 1,))):
        if r > 0 and data.shape[axis + 1] > 1:
            data = apply_along(data, box_matrix(data.shape[axis + 1], int(r)), axis)
    return data


def gradient(data: Tensor, spacing: Sequence[float] | NDArray[np.float64] | None = None) -> Tensor:
    """Central differences of a (channel, *spatial) tensor (one-sided at the borders).

    Returns (channel, d, *spatial), derivatives along the storage axes, per mm when `spacing` (mm per axis)
    is given, per voxel otherwise. Axes of one voxel have derivative 0.
    """
    d = data.ndim - 1
    steps = np.ones(d) if spacing is None else np.asarray(spacing, dtype=float)
    parts = [
        torch.gradient(data, spacing=float(steps[a]), dim=a + 1)[0]
        if data.shape[a + 1] > 1
        else torch.zeros_like(data)
        for a in range(d)
    ]
    return torch.stack(parts, dim=1)
