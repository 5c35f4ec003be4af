"""The network of the anatomical embedding: a small U-Net with a descriptor at strides 2, 4 and 8.

Nothing in it can tell where in an image a voxel lies: borders repeat (zeros would be a landmark of their own), there
is no coordinate and no attention over positions. A constant image has the same descriptor everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roireg.core.filters import resize

__all__ = ["STRIDES", "EmbeddingNet", "joined_maps"]

STRIDES = (2, 4, 8)
"""Voxels of the input per cell of each map; the last level of the network, stride 16, only gives context."""


class EmbeddingNet(nn.Module):
    """U-Net whose decoder levels end in unit vectors.

    Parameters
    ----------
    ndim : 2 or 3.
    widths : channels at strides 2, 4, 8 and 16.
    dim : channels of every descriptor.
    """

    def __init__(self, ndim: int = 2, widths: Sequence[int] = (24, 40, 72, 128), dim: int = 32) -> None:
        super().__init__()
        a, b, c, d = widths
        self.ndim = ndim
        self.stem = _Unit(ndim, 1, a, kernel=5, stride=2)
        self.level1 = _Unit(ndim, a, a)
        self.level2 = nn.Sequential(_Unit(ndim, a, b, stride=2), _Residual(ndim, b))
        self.level3 = nn.Sequential(_Unit(ndim, b, c, stride=2), _Residual(ndim, c), _Residual(ndim, c))
        self.level4 = nn.Sequential(_Unit(ndim, c, d, stride=2), _Residual(ndim, d), _Residual(ndim, d))
        self.up3 = nn.Sequential(_Unit(ndim, c + d, c, kernel=1), _Unit(ndim, c, c))
        self.up2 = nn.Sequential(_Unit(ndim, b + c, b, kernel=1), _Unit(ndim, b, b))
        self.up1 = nn.Sequential(_Unit(ndim, a + b, a, kernel=1), _Unit(ndim, a, a))
        conv = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.heads = nn.ModuleList([conv(n, dim, 1) for n in (a, b, c)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the descriptors of (B, 1, *spatial) images in 0..1: (B, dim, *cells) of length 1 for each stride."""
        x1 = self.level1(self.stem(x - 0.5))
        x2 = self.level2(x1)
        x3 = self.level3(x2)
        x4 = self.level4(x3)
        y3 = self.up3(torch.cat([x3, _enlarged(x4, x3)], 1))
        y2 = self.up2(torch.cat([x2, _enlarged(y3, x2)], 1))
        y1 = self.up1(torch.cat([x1, _enlarged(y2, x1)], 1))
        return [F.normalize(head(y), dim=1) for head, y in zip(self.heads, (y1, y2, y3), strict=True)]

    @classmethod
    def settings(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Read the parameters of the network off the shapes of its tensors."""
        widths = [shapes[f"{level}.0.conv.weight"][0] for level in ("level2", "level3", "level4")]
        stem = shapes["stem.conv.weight"]
        return {"ndim": len(stem) - 2, "widths": (stem[0], *widths), "dim": shapes["heads.0.weight"][0]}


class _Unit(nn.Module):
    """Convolution with repeated borders, batch normalisation, ReLU."""

    def __init__(self, ndim: int, i: int, o: int, *, kernel: int = 3, stride: int = 1, active: bool = True) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if ndim == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.pad = [kernel // 2] * (2 * ndim)
        self.conv = conv(i, o, kernel, stride, bias=False)
        self.norm = norm(o, momentum=0.05)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        if self.pad[0]:
            x = F.pad(x, self.pad, mode="replicate")
        y: Tensor = self.norm(self.conv(x))
        return F.relu(y, inplace=True) if self.active else y


class _Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, ndim: int, width: int) -> None:
        super().__init__()
        self.first = _Unit(ndim, width, width)
        self.second = _Unit(ndim, width, width, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)), inplace=True)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(x, size=like.shape[2:], mode=mode, align_corners=False)


def joined_maps(maps: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Return the maps of all strides as one of the finest: (B, dim of all, *cells), of about unit length.

    The product of two such vectors is the weighted mean of the cosines at all strides.

    Parameters
    ----------
    weights : of the maps; None weighs them alike.
    """
    shares = [1.0] * len(maps) if weights is None else list(weights)
    cells = tuple(maps[0].shape[2:])
    parts = []
    for part, share in zip(maps, shares, strict=True):
        wide = resize(part.float().flatten(0, 1), cells).unflatten(0, part.shape[:2])
        parts.append(F.normalize(wide, dim=1) * (share / sum(shares)) ** 0.5)
    return torch.cat(parts, dim=1)
