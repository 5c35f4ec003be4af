"""The deformation network of SAME++ (Tian et al., 2023): a U-Net that sees how alike the embeddings around it are.

The paper gives the principle (correlation of both embeddings in a 3³ window beside the images at the first level, a
velocity, seven squarings); the layers are this project's own, and so are correlations at strides 4 and 8, whose
windows reach four and eight voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.deformer import SQUARINGS, Deformer, DeformNet, deformer_card, enlarged, silenced, squarings_of
from roireg.models.described import Describer
from roireg.models.family import Family

__all__ = ["FAMILY", "SameNet", "correlation"]

FIRST, LAST = "images.0.weight", "head.weight"


class SameNet(DeformNet):
    """U-Net with levels at strides 2, 4, 8 and 16; the field is given at stride 2 and interpolated.

    The shipped anatomical embedding is looked at, not trained, and no part of the weights.

    Parameters
    ----------
    ndim, squarings : see `DeformNet`.
    width : channels at stride 2; the next have two, three and four times as many.
    everywhere : see correlations at strides 2, 4 and 8; else at stride 2 alone, as published.
    """

    def __init__(
        self, ndim: int = 3, squarings: int = SQUARINGS, width: int = 16, *, everywhere: bool = True
    ) -> None:
        super().__init__(ndim, squarings)
        a, b, c, d = width, 2 * width, 3 * width, 4 * width
        conv = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.describe = Describer(ndim)
        self.images = nn.Sequential(conv(2, a, 3, stride=2, padding=1), nn.LeakyReLU(0.2))
        self.level1 = _Unit(ndim, a + 3**ndim, a)
        self.everywhere = everywhere
        more = 3**ndim if everywhere else 0
        self.level2 = nn.ModuleList([_Unit(ndim, a, b, stride=2), _Unit(ndim, b + more, b)])
        self.level3 = nn.ModuleList([_Unit(ndim, b, c, stride=2), _Unit(ndim, c + more, c)])
        self.level4 = nn.Sequential(_Unit(ndim, c, d, stride=2), _Unit(ndim, d, d))
        self.up3 = _Unit(ndim, c + d, c)
        self.up2 = _Unit(ndim, b + c, b)
        self.up1 = nn.Sequential(_Unit(ndim, a + b, a), _Unit(ndim, a, a))
        self.head = conv(a, ndim, 3, padding=1)
        silenced(self.head)

    def pyramid(self, fixed: Tensor, moving: Tensor, depth: int | None = None) -> list[Tensor]:
        here, there = self.describe(fixed), self.describe(moving)
        x1 = self.images(torch.cat([fixed, moving], 1) - 0.5)
        x1 = self.level1(torch.cat([x1, correlation(here, there).to(x1.dtype)], 1))
        levels = [x1]
        for first, second in (self.level2, self.level3):
            x = first(levels[-1])
            if self.everywhere:
                here, there = _coarser(here), _coarser(there)
                x = torch.cat([x, correlation(here, there).to(x.dtype)], 1)
            levels.append(second(x))
        _, x2, x3 = levels
        x4 = self.level4(x3)
        y3 = self.up3(torch.cat([x3, enlarged(x4, tuple(x3.shape[2:]))], 1))
        y2 = self.up2(torch.cat([x2, enlarged(y3, tuple(x2.shape[2:]))], 1))
        y1 = self.up1(torch.cat([x1, enlarged(y2, tuple(x1.shape[2:]))], 1))
        return [enlarged(self.head(y1), tuple(fixed.shape[2:]))]


class _Unit(nn.Sequential):
    """Convolution, normalisation over groups of channels, leaky ReLU."""

    def __init__(self, ndim: int, i: int, o: int, *, stride: int = 1) -> None:
        conv = nn.Conv2d if ndim == 2 else nn.Conv3d
        groups = next(g for g in (8, 4, 2, 1) if o % g == 0)
        super().__init__(conv(i, o, 3, stride, 1), nn.GroupNorm(groups, o), nn.LeakyReLU(0.2, inplace=True))


def _coarser(vectors: Tensor) -> Tensor:
    """Return vectors of length 1 of cells twice as long."""
    pool = F.avg_pool2d if vectors.ndim == 4 else F.avg_pool3d
    return F.normalize(pool(vectors, 2), dim=1)


def correlation(fixed: Tensor, moving: Tensor) -> Tensor:
    """Return (B, 3^d, *cells) dot products of (B, C, *cells) vectors with those of a 3^d window in the other image.

    Displacements in storage order, the last axis fastest; beyond the border the moving image repeats.
    """
    d = fixed.ndim - 2
    wide = F.pad(moving, [1] * (2 * d), mode="replicate")
    shape = fixed.shape[2:]
    products = []
    for shift in product(range(3), repeat=d):
        part: Any = (..., *(slice(k, k + n) for k, n in zip(shift, shape, strict=True)))
        products.append((fixed * wide[part]).sum(1))
    return torch.stack(products, 1)


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> Mapping[str, Any]:
    first = shapes[FIRST]
    everywhere = shapes["level2.1.0.weight"][1] > shapes["level2.1.0.weight"][0]
    squarings = squarings_of(shapes, card, path)
    return {"ndim": len(first) - 2, "width": first[0], "squarings": squarings, "everywhere": everywhere}


FAMILY = Family(
    name="same",
    title="U-Net of SAME++",
    cards=(deformer_card("same", "https://arxiv.org/abs/2311.14986"),),
    model=Deformer,
    recognise=lambda shapes: Signs() if FIRST in shapes and LAST in shapes else None,
    settings=_settings,
    build=lambda settings: SameNet(**settings),
)
