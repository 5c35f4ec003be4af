"""VoxelMorph (Balakrishnan et al., IEEE TMI 2019): a U-Net on both images side by side, by the network of MONAI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.deformer import (
    SQUARINGS,
    Deformer,
    DeformNet,
    awakened,
    deformer_card,
    monai,
    silenced,
    squarings_of,
)
from roireg.models.family import Family

__all__ = ["FAMILY", "VoxelMorph"]

FIRST, LAST = "backbone.net.0.0.conv.weight", "backbone.net.1.final_conv_out.conv.weight"


class VoxelMorph(DeformNet):
    """MONAI's `VoxelMorphUNet`; its tensors have the names that they have inside MONAI's `VoxelMorph`.

    Parameters
    ----------
    ndim, squarings : see `DeformNet`.
    width : channels of the first level; all others have twice as many, as published (16).
    """

    def __init__(self, ndim: int = 3, squarings: int = SQUARINGS, width: int = 16) -> None:
        super().__init__(ndim, squarings)
        self.backbone = monai("VoxelMorphUNet")(
            spatial_dims=ndim,
            in_channels=2,
            unet_out_channels=2 * width,
            channels=(width, *[2 * width] * 5, *[2 * width] * 2),
            final_conv_channels=(width, width),
        )
        awakened(self.backbone)
        silenced(self.backbone.net[1].final_conv_out)

    def pyramid(self, fixed: Tensor, moving: Tensor, depth: int | None = None) -> list[Tensor]:
        field: Tensor = self.backbone(torch.cat([moving, fixed], 1))
        return [field.flip(1)]


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> Mapping[str, Any]:
    first = shapes[FIRST]
    return {"ndim": len(first) - 2, "width": first[0], "squarings": squarings_of(shapes, card, path)}


FAMILY = Family(
    name="voxelmorph",
    title="VoxelMorph",
    cards=(deformer_card("voxelmorph", "https://arxiv.org/abs/1809.05231"),),
    model=Deformer,
    recognise=lambda shapes: Signs() if FIRST in shapes and LAST in shapes else None,
    settings=_settings,
    build=lambda settings: VoxelMorph(**settings),
)
