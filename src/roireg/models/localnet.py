"""LabelReg's LocalNet (Hu et al., Medical Image Analysis 2018), by the network of MONAI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.deformer import Deformer, DeformNet, deformer_card, monai, silenced, squarings_of
from roireg.models.family import Family

__all__ = ["FAMILY", "LocalNet"]

FIRST, LAST = "localnet.encode_convs.0.0.conv.weight", "localnet.output_block.layers.0.conv.weight"


class LocalNet(DeformNet):
    """MONAI's `LocalNet`, whose field is a mean over levels; interpolated linearly between them, as first published.

    Parameters
    ----------
    ndim, squarings : see `DeformNet`; published as a displacement.
    width : channels of the first level; the next have two, four, ... times as many.
    levels : how often the images are halved.
    """

    def __init__(self, ndim: int = 3, squarings: int = 0, width: int = 8, levels: int = 3) -> None:
        super().__init__(ndim, squarings)
        self.localnet = monai("LocalNet")(
            spatial_dims=ndim,
            in_channels=2,
            num_channel_initial=width,
            extract_levels=tuple(range(levels + 1)),
            out_channels=ndim,
            mode="bilinear" if ndim == 2 else "trilinear",
            align_corners=False,
        )
        output = self.localnet.output_block
        output.mode, output.align_corners = self.localnet.mode, False
        silenced(output)

    def pyramid(self, fixed: Tensor, moving: Tensor, depth: int | None = None) -> list[Tensor]:
        field: Tensor = self.localnet(torch.cat([moving, fixed], 1))
        return [field.flip(1)]


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> Mapping[str, Any]:
    first = shapes[FIRST]
    levels = sum(name.startswith("localnet.output_block.layers.") for name in shapes if name.endswith("conv.weight"))
    squarings = squarings_of(shapes, card, path)
    return {"ndim": len(first) - 2, "width": first[0], "levels": levels - 1, "squarings": squarings}


FAMILY = Family(
    name="localnet",
    title="LocalNet",
    cards=(deformer_card("localnet", "https://doi.org/10.1016/j.media.2018.07.002"),),
    model=Deformer,
    recognise=lambda shapes: Signs() if FIRST in shapes and LAST in shapes else None,
    settings=_settings,
    build=lambda settings: LocalNet(**settings),
)
