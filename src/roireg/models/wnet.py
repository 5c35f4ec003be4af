"""W-Net (Galdran et al., Scientific Reports 2022): vessels in photographs of the retina, by two small U-Nets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roireg.core.image import Image
from roireg.core.warp import resample
from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.classes import ClassNetwork, as_bytes
from roireg.models.family import Family
from roireg.models.preprocess import to_raster

__all__ = ["FAMILY", "WNet"]

SIDE = 512
"""Pixels along the longer side of what the network sees."""

STRIDE = 4
"""Pixels per cell of the coarsest level; sizes are multiples of it."""

DARK = 12.0
"""Brightness out of 255 below which a pixel lies beside the field of view."""


def _unit(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    """Two convolutions beside a short way, behind a pooling or not."""

    def __init__(self, inputs: int, outputs: int, pool: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.block = nn.Sequential(*_unit(inputs, outputs), *_unit(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return torch.as_tensor(self.block(x) + self.shortcut(x))


class Up(nn.Module):
    """One level of the way back to full resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up_layer = nn.ModuleDict({"block": nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, stride=2))})
        self.conv_layer = Block(2 * outputs, outputs, False)
        self.conv_bridge_layer = nn.ModuleDict({"block": nn.Sequential(*_unit(outputs, outputs))})

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        bridged = self.conv_bridge_layer["block"](skip)
        return torch.as_tensor(self.conv_layer(torch.cat((self.up_layer["block"](x), bridged), 1)))


class UNet(nn.Module):
    """A U-Net of residual blocks; `layers` are the channels of its levels."""

    def __init__(self, inputs: int, layers: Sequence[int]) -> None:
        super().__init__()
        steps = list(itertools.pairwise(layers))
        self.first = Block(inputs, layers[0], False)
        self.down_path = nn.ModuleList([Block(a, b, True) for a, b in steps])
        self.up_path = nn.ModuleList([Up(b, a) for a, b in reversed(steps)])
        self.final = nn.Conv2d(layers[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.first(x)]
        for down in self.down_path:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.up_path:
            x = up(x, skips.pop())
        return torch.as_tensor(self.final(x))


class TwoNets(nn.Module):
    """A U-Net, and one that sees the image beside the answer of the first.

    Attributes
    ----------
    names : background and the class of the one channel.
    """

    names = ("background", "vessel")

    def __init__(self, layers: Sequence[int] = (8, 16, 32)) -> None:
        super().__init__()
        self.unet1, self.unet2 = UNet(3, layers), UNet(4, layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 1, y, x) logits of (N, 3, y, x) colours from 0 to 1."""
        return torch.as_tensor(self.unet2(torch.cat((x, self.unet1(x)), 1)))


class WNet(ClassNetwork):
    """A W-Net with its weights; see `ClassNetwork`."""

    def shown(self, image: Image) -> Image:
        """Return the picture at 512 pixels along its longer side, colours from 0 to 1."""
        factor = SIDE / max(image.grid.shape)
        grid = image.grid.with_shape([max(1, round(n * factor / STRIDE)) * STRIDE for n in image.grid.shape])
        # Colours as they are: 0 to 255 of a photograph.
        plain = float(image.data.min()) >= 0 and 1 < float(image.data.max()) <= 255
        return image.with_data(to_raster(resample(image, grid).data, window="none" if plain else None) / 255, grid)

    def probabilities(self, data: Tensor) -> Tensor:
        """Return the mean over the image and its mirror images, as published, 0 beside the field of view."""
        flips: tuple[list[int], ...] = ([], [-1], [-2], [-1, -2])
        total = torch.stack([self.network(data.flip(f)[None])[0].sigmoid().flip(f) for f in flips]).mean(0)
        beside = (data.amax(0, keepdim=True) * 255 < DARK).float()
        # The border of the field of view looks like a vessel.
        beside = F.max_pool2d(beside[None], 9, 1, 4)[0]
        return as_bytes(total * (1 - beside))


def _recognise(shapes: Shapes) -> Signs | None:
    if not {"unet1.first.block.0.weight", "unet2.final.weight"} <= shapes.keys():
        return None
    layers = _settings(shapes)["layers"]
    return Signs("" if layers != (8, 16, 32) else "of 8, 16 and 32 channels")


def _settings(shapes: Shapes, card: object = None, path: object = None) -> Mapping[str, Any]:
    first = shapes["unet1.first.block.0.weight"][0]
    depth = sum(name.startswith("unet1.down_path.") and name.endswith(".block.0.weight") for name in shapes)
    rest = (shapes[f"unet1.down_path.{k}.block.0.weight"][0] for k in range(depth))
    return {"layers": (first, *rest)}


FAMILY = Family(
    name="wnet",
    title="W-Net",
    cards=(
        ModelCard(
            name="wnet-drive",
            family="wnet",
            source="https://github.com/agaldran/lwnet",
            files=("model_checkpoint.pth",),
            url="https://raw.githubusercontent.com/agaldran/lwnet/ce72dda/experiments/wnet_drive/",
            code_licence="MIT",
            weights_licence="MIT",
            ndim=2,
            input_size=SIDE,
            parameters=0.07,
            memory_mb=200,
            notes="vessels in colour photographs of the retina",
            sha256="91f0cada4b26ece63464b05be60f9b3a51f1bcd1f764081d07d3a35961118de1",
            size="of 8, 16 and 32 channels",
        ),
    ),
    model=WNet,
    recognise=_recognise,
    settings=_settings,
    build=lambda settings: TwoNets(**settings),
)
