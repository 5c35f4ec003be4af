"""Separable filters and finite differences on (channel, *spatial) tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["box_mean", "convolve_axis", "gaussian_smooth", "gradient"]


def convolve_axis(data: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Correlate a (channel, *spatial) tensor with a 1D kernel along one spatial axis, borders repeated.

    `axis` counts spatial axes from 0; the kernel has an odd length.
    """
    radius = len(kernel) // 2
    n = data.shape[axis + 1]
    moved = data.reshape(int(np.prod(data.shape[: axis + 1])), 1, n, -1)
    padded = F.pad(moved, (0, 0, radius, radius), mode="replicate")
    return F.conv2d(padded, kernel.to(data).reshape(1, 1, -1, 1)).reshape(data.shape)


def gaussian_smooth(data: Tensor, sigma: Sequence[float] | NDArray[np.float64] | float) -> Tensor:
    """Gaussian low-pass of a (channel, *spatial) tensor, sigma in voxels per spatial axis, borders repeated."""
    for axis, s in enumerate(np.broadcast_to(np.asarray(sigma, dtype=float), (data.ndim - 1,))):
        if s < 0.05 or data.shape[axis + 1] == 1:
            continue
        radius = max(1, int(np.ceil(3 * s)))
        x = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (x / s) ** 2)
        data = convolve_axis(data, kernel / kernel.sum(), axis)
    return data


def box_mean(data: Tensor, radius: Sequence[int] | int) -> Tensor:
    """Mean over a box of 2 * radius + 1 voxels per spatial axis, the part inside the image only.

    `data` is (channel, *spatial); differentiable.
    """
    d = data.ndim - 1
    radii = [int(r) for r in np.broadcast_to(np.asarray(radius), (d,))]
    for axis, r in enumerate(radii):
        if r == 0 or data.shape[axis + 1] == 1:
            continue
        n = data.shape[axis + 1]
        moved = data.reshape(1, int(np.prod(data.shape[: axis + 1])), n, -1)
        averaged = F.avg_pool2d(moved, (2 * r + 1, 1), stride=1, padding=(r, 0), count_include_pad=False)
        data = averaged.reshape(data.shape)
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
