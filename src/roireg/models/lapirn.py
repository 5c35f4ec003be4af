"""LapIRN (Mok and Chung, MICCAI 2020): a pyramid of three networks, each refining the field of the coarser one.

The tensors have the names and shapes of the authors' published files, which can be loaded where a user has them; the
code is this project's own, in 2D too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.deformer import (
    SQUARINGS,
    Deformer,
    DeformNet,
    deformer_card,
    enlarged,
    integrated,
    silenced,
    squarings_of,
    warped,
)
from roireg.models.family import Family

__all__ = ["FAMILY", "LapIRN"]

REACH = 0.4
"""Largest part of half an image that one level moves anything."""

LEVELS = 3
FIRST = "model_lvl2.model_lvl1.input_encoder_lvl1.0.weight"


class LapIRN(DeformNet):
    """Levels at a quarter, a half and the whole of the resolution, by residual blocks at half of theirs.

    Parameters
    ----------
    ndim, squarings : see `DeformNet`; published with both, as `diff` and as `disp`.
    width : channels of every level, four times the start channel of the authors (7).
    """

    multiple = 8

    def __init__(self, ndim: int = 3, squarings: int = SQUARINGS, width: int = 28) -> None:
        super().__init__(ndim, squarings)
        _lay(self, ndim, width, coarser=_Level(ndim, width, _Level(ndim, width)))

    def pyramid(self, fixed: Tensor, moving: Tensor, depth: int | None = None) -> list[Tensor]:
        finest: Any = self
        levels = [finest.model_lvl2.model_lvl1, finest.model_lvl2, finest]
        pairs = [(moving, fixed)]
        for _ in range(LEVELS - 1):
            pairs.insert(0, (_halved(pairs[0][0]), _halved(pairs[0][1])))
        fields: list[Tensor] = []
        inner: Tensor | None = None
        for (x, y), level in zip(pairs[: depth or LEVELS], levels, strict=False):
            before = None
            shown = [x, y]
            if fields:
                # In parts of half an image a field is the same at every level.
                coarse = integrated(fields[-1], self.squarings)
                moved = _voxels(_raised(_parts(coarse), tuple(x.shape[2:])))
                before = _raised(_parts(fields[-1]), tuple(x.shape[2:]))
                shown = [warped(x, moved), y, before]
            seen = level.input_encoder_lvl1(torch.cat(shown, 1))
            inner = level.down_conv(seen) if inner is None else level.down_conv(seen) + inner
            inner = level.up(level.resblock_group_lvl1(inner))
            part = REACH * level.output_lvl1(torch.cat([inner, seen], 1))
            fields.append(_voxels(part if before is None else part + before))
        return fields


class _Level(nn.Module):
    def __init__(self, ndim: int, width: int, coarser: nn.Module | None = None) -> None:
        super().__init__()
        _lay(self, ndim, width, coarser)


def _lay(level: Any, ndim: int, width: int, coarser: nn.Module | None) -> None:
    """Give a module the layers of a level, under the names of the authors."""
    conv, up = (nn.Conv2d, nn.ConvTranspose2d) if ndim == 2 else (nn.Conv3d, nn.ConvTranspose3d)
    seen = 2
    if coarser is not None:
        level.add_module("model_lvl2" if hasattr(coarser, "model_lvl1") else "model_lvl1", coarser)
        seen = 2 + ndim

    def two(i: int, middle: int, o: int) -> list[nn.Module]:
        first, second = (conv(a, b, 3, padding=1, bias=False) for a, b in ((i, middle), (middle, o)))
        return [first, nn.LeakyReLU(0.2), second]

    level.input_encoder_lvl1 = nn.Sequential(*two(seen, width, width))
    level.down_conv = conv(width, width, 3, 2, 1, bias=False)
    blocks = [layer for _ in range(5) for layer in (_Block(conv, width), nn.LeakyReLU(0.2))]
    level.resblock_group_lvl1 = nn.Sequential(*blocks)
    level.up = up(width, width, 2, 2, bias=False)
    level.output_lvl1 = nn.Sequential(*two(2 * width, width, ndim), nn.Softsign())
    silenced(level.output_lvl1[2])


class _Block(nn.Module):
    """Two convolutions, each after its activation, beside the identity."""

    def __init__(self, conv: Any, width: int) -> None:
        super().__init__()
        self.conv1 = conv(width, width, 3, padding=1, bias=False)
        self.conv2 = conv(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(x, 0.2)
        out: Tensor = self.conv2(F.leaky_relu(self.conv1(y), 0.2)) + x
        return out


def _halved(image: Tensor) -> Tensor:
    pool = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
    return pool(image, 3, 2, 1, count_include_pad=False)


def _raised(field: Tensor, shape: tuple[int, ...]) -> Tensor:
    return enlarged(field, shape)


def _half_sides(field: Tensor) -> Tensor:
    """Half of the distance of the outer centres, (x, y[, z]), as a part that broadcasts."""
    sides = [(n - 1) / 2 for n in reversed(field.shape[2:])]
    return torch.tensor(sides, device=field.device, dtype=field.dtype).reshape(1, -1, *[1] * len(sides))


def _voxels(parts: Tensor) -> Tensor:
    return parts * _half_sides(parts)


def _parts(voxels: Tensor) -> Tensor:
    return voxels / _half_sides(voxels).clamp(min=0.5)


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> Mapping[str, Any]:
    first = shapes[FIRST]
    return {"ndim": len(first) - 2, "width": first[0], "squarings": squarings_of(shapes, card, path)}


FAMILY = Family(
    name="lapirn",
    title="LapIRN",
    cards=(deformer_card("lapirn", "https://github.com/cwmok/LapIRN"),),
    model=Deformer,
    recognise=lambda shapes: Signs() if FIRST in shapes else None,
    settings=_settings,
    build=lambda settings: LapIRN(**settings),
)
