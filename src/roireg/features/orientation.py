"""Orientation channels: how strongly and along which line an image varies, whatever the sign of its contrast.

An edge and a ridge look alike, bright on dark equals dark on bright, and strength is measured against the
neighbourhood. Two images of the same thing in other modalities therefore have similar channels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.filters import gaussian_smooth, gradient

__all__ = ["orientation_channels", "steered"]

SCALE = 1.0
"""Standard deviation of the derivatives, in voxels."""
NEIGHBOURHOOD = 10.0
"""Standard deviation of the neighbourhood that strength is measured against, in voxels."""
BLUR = 1.0
"""Low-pass of the channels, in voxels: what a small error of the position does not change."""
STRONGEST = 4.0
"""Strength, in units of its neighbourhood, beyond which an edge counts no more."""


def orientation_channels(data: Tensor, weight: Tensor) -> Tensor:
    """Return the orientation channels of an image on an isotropic grid along the world axes.

    The local structure is the boundary tensor (Köthe, ICCV 2003): outer products of gradient and Hessian, so that
    edges and ridges count alike, as in the amplitude of a quadrature pair (log-Gabor). Its deviator tells
    orientation; its size, divided by the mean size in the neighbourhood, gives the strength.

    Parameters
    ----------
    data : (1, *spatial) image, axes in storage order.
    weight : (1, *spatial) in 0..1, where the image may be looked at; elsewhere nothing is used and channels are 0.

    Returns
    -------
    (4, y, x): strength times cos 2t, sin 2t, cos 4t, sin 4t of the angle t of the normal against world x;
    (5, z, y, x): strength times an orthonormal basis of the deviator in world axes. The weighted mean of every
    channel is 0.
    """
    d = data.ndim - 1
    tensor = _boundary_tensor(_within(data, weight, SCALE))
    deviator = _deviator(tensor, d)
    size = deviator.square().sum(0, keepdim=True).sqrt()
    usual = float(size[weight > 0.5].median()) if bool((weight > 0.5).any()) else 0.0
    # The size is a squared contrast; its root is proportional to contrast, and the root of that to a soft vote.
    strength = size.sqrt()
    local = _within(strength, weight, NEIGHBOURHOOD) + 0.5 * usual**0.5
    vote = (strength / local.clamp(min=1e-12)).clamp(max=STRONGEST).sqrt()
    direction = deviator / size.clamp(min=1e-20)
    if d == 2:
        c, s = direction
        direction = torch.stack([c, s, c * c - s * s, 2 * c * s])
    channels = gaussian_smooth(direction * vote * weight, BLUR)
    total = weight.sum().clamp(min=1e-6)
    mean = (channels * weight).flatten(1).sum(1) / total
    return (channels - mean.reshape(-1, *[1] * d)) * weight


def steered(channels: Tensor, rotation: NDArray[np.float64]) -> Tensor:
    """Return (C, ...) channels of an image as they are after the world was turned by a (d, d) rotation."""
    if len(rotation) == 2:
        angle = float(np.arctan2(rotation[1, 0], rotation[0, 0]))
        matrix = np.zeros((4, 4))
        for k, multiple in enumerate((2, 4)):
            c, s = np.cos(multiple * angle), np.sin(multiple * angle)
            matrix[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[c, -s], [s, c]]
    else:
        turned = rotation @ BASIS @ rotation.T
        matrix = np.einsum("aij,bij->ab", BASIS, turned)
    return torch.einsum("ab,b...->a...", torch.as_tensor(matrix).to(channels), channels)


def _within(data: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Gaussian low-pass that only looks where the weight is (normalised convolution, Knutsson and Westin 1993)."""
    return gaussian_smooth(data * weight, sigma) / gaussian_smooth(weight, sigma).clamp(min=1e-3)


def _boundary_tensor(smooth: Tensor) -> Tensor:
    """(d, d, *spatial) outer products of gradient and of Hessian (times the scale), components in world order."""
    first = gradient(smooth)[0].flip(0)
    second = gradient(first).flip(1) * SCALE
    return torch.einsum("i...,j...->ij...", first, first) + torch.einsum("ik...,kj...->ij...", second, second)


def _basis() -> NDArray[np.float64]:
    """(5, 3, 3) orthonormal basis of the symmetric matrices without trace."""
    r = 1 / np.sqrt(2)
    basis = [np.diag([r, -r, 0]), np.diag([1, 1, -2]) / np.sqrt(6)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        shear = np.zeros((3, 3))
        shear[i, j] = shear[j, i] = r
        basis.append(shear)
    return np.array(basis)


BASIS = _basis()


def _deviator(tensor: Tensor, d: int) -> Tensor:
    """(2 or 5, *spatial) coordinates of a symmetric tensor without its trace."""
    if d == 2:
        return torch.stack([tensor[0, 0] - tensor[1, 1], 2 * tensor[0, 1]])
    return torch.einsum("aij,ij...->a...", torch.as_tensor(BASIS).to(tensor), tensor)
