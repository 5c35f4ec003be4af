"""Hybrid OBELISK-Net (Heinrich et al., Medical Image Analysis 2019): organs in abdominal CT by sparse sampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import resample
from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.classes import ClassNetwork, as_bytes
from roireg.models.family import Family
from roireg.models.preprocess import FAT

__all__ = ["FAMILY", "Obelisk"]

NAMES = (
    "background", "spleen", "pancreas", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "duodenum",
)  # fmt: skip
"""Classes of the models trained on TCIA pancreas CT and BTCV."""

SIDE = 144
"""Voxels along each axis of what the network sees."""

AXES = "LAI"
"""Where the axes of an array lead to."""

LEAK = 0.025

AIR = -300.0
"""Hounsfield units above which a voxel belongs to the body."""

TRIMMED = 0.002
"""Share of the body that may lie beyond either side of its box: tables and tubes are thin."""


class Sampled(nn.Module):
    """An OBELISK layer: intensities at learnt offsets from every place, then a dense block of single voxels.

    Parameters
    ----------
    count : offsets. groups : in which they are first combined. channels : of the result.
    """

    def __init__(self, count: int, groups: int, channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1, count, 1, 1, 3))
        self.a = nn.Conv3d(count, 128, 1, groups=groups, bias=False)
        inputs = (128, 160, 192, 224)
        self.norms = nn.ModuleList([nn.BatchNorm3d(n) for n in inputs])
        self.convs = nn.ModuleList(
            [nn.Conv3d(n, c, 1, bias=False) for n, c in zip(inputs, (32, 32, 32, channels), strict=True)]
        )

    def forward(self, image: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return (1, channels, *shape) features of a (1, 1, *size) image."""
        # As torch sampled when the models were trained: -1 and 1 are the centres of the outer voxels.
        axes = [torch.linspace(-1, 1, n, device=image.device) for n in shape]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1).reshape(1, 1, -1, 1, 3)
        values = F.grid_sample(image, (places + self.offset)[0][None], align_corners=True)
        x = F.leaky_relu(self.a(values.reshape(1, -1, *shape)), LEAK)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            new = F.leaky_relu(conv(norm(x)), LEAK)
            x = torch.cat((x, new), 1) if conv is not self.convs[-1] else new
        return x


class HybridNet(nn.Module):
    """A small U-Net whose coarse levels are told of their surroundings by two OBELISK layers.

    Attributes
    ----------
    names : classes of the channels, background first.
    """

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        super().__init__()
        self.names = names
        count = len(names)
        plan = {
            "0": (1, 4, 1), "1": (4, 16, 2), "11": (16, 16, 1), "2": (16, 32, 2), "22": (32, 32, 1), "3": (32, 32, 1),
            "6bU": (64, 32, 1), "6U": (64, 12, 1), "7U": (16, count, 1),
        }  # fmt: skip
        self.conv = nn.ModuleDict({k: nn.Conv3d(n, c, 3, stride=s, padding=1) for k, (n, c, s) in plan.items()})
        self.batch = nn.ModuleDict({k: nn.BatchNorm3d(c) for k, (_, c, _) in plan.items()})
        self.near, self.far = Sampled(128, 2, 16), Sampled(512, 4, 32)
        self.last = nn.Conv3d(count, count, 1)

    def _step(self, name: str, *x: Tensor) -> Tensor:
        return F.leaky_relu(self.batch[name](self.conv[name](torch.cat(x, 1))), LEAK)

    def forward(self, image: Tensor) -> Tensor:
        """Return (1, C, *shape) logits of a (1, 1, *shape) image."""
        once = F.avg_pool3d(image, 3, padding=1, stride=1)
        twice = F.avg_pool3d(once, 3, padding=1, stride=1)
        full = self._step("0", image)
        half = self._step("11", self._step("1", full))
        quarter = self._step("3", self._step("22", self._step("2", half)))
        shapes = [tuple(x.shape[2:]) for x in (full, half, quarter)]
        eighth = tuple((n + 1) // 2 for n in shapes[2])
        x = self._step("6bU", quarter, _resized(self.far(twice, eighth), shapes[2]))
        x = self._step("6U", _resized(x, shapes[1]), _resized(self.near(once, shapes[2]), shapes[1]), half)
        logits: Tensor = self.last(self._step("7U", _resized(x, shapes[0]), full))
        return logits


def _resized(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size=shape, mode="trilinear", align_corners=False)


class Obelisk(ClassNetwork):
    """A hybrid OBELISK-Net with its weights; see `ClassNetwork`."""

    def shown(self, image: Image) -> Image:
        """Return the box of the body in 144 voxels along each axis, -1024 HU as 0 and 0 HU as 1."""
        gray = image.gray()
        lowest = float(gray.data.min())
        if lowest > FAT:
            raise InputError(
                f"{image.name}: {self.card.name} reads CT in Hounsfield units (air -1000, fat -100), found "
                f"{lowest:g} as the lowest value; convert the image, or choose another segmenter"
            )
        grid = _body(gray).oriented(AXES).with_shape((SIDE,) * 3)
        return image.with_data(resample(gray, grid).data.float().clamp(min=-1024) / 1024 + 1, grid)

    def probabilities(self, data: Tensor) -> Tensor:
        return as_bytes(self.network(data[None])[0].softmax(0)[1:])


def _body(image: Image) -> Grid:
    """Return the part of the grid of a CT that the body lies in, as far as it goes beyond a few voxels."""
    grid, inside = image.grid, image.data[0] > AIR
    if not bool(inside.any()):
        return grid
    low, high = [], []
    for axis, n in enumerate(grid.shape):
        share = inside.sum(tuple(a for a in range(3) if a != axis)).double().cumsum(0) / inside.sum()
        low.append(int((share > TRIMMED).int().argmax()))
        high.append(n - 1 - int((share > 1 - TRIMMED).int().argmax()))
    return grid.padded([-n for n in low], [-n for n in high])


def _plain(name: str) -> str:
    """Return the name here of a tensor of the authors: "linear2c.weight" is "far.convs.1.weight"."""
    stem, _, part = name.partition(".")
    if stem in ("offset1", "offset2"):
        return "near.offset" if stem == "offset1" else "far.offset"
    if stem == "conv77U":
        return f"last.{part}"
    for start, kind in (("linear", "convs"), ("batch", "norms")):
        if stem.startswith(start) and stem[-1] in "abcde" and len(stem) == len(start) + 2:
            side, number = "near" if stem[-2] == "1" else "far", "abcde".index(stem[-1])
            if kind == "convs":
                return f"{side}.a.{part}" if number == 0 else f"{side}.convs.{number - 1}.{part}"
            return f"{side}.norms.{number}.{part}"
    for start in ("conv", "batch"):
        if stem.startswith(start) and part:
            return f"{start}.{stem.removeprefix(start)}.{part}"
    return name


def _recognise(shapes: Shapes) -> Signs | None:
    if not {"offset1", "offset2", "conv77U.weight"} <= shapes.keys() and "near.offset" not in shapes:
        return None
    classes = {_plain(name): shape for name, shape in shapes.items()}["last.weight"][0]
    return Signs(f"{classes} classes")


def _settings(shapes: Shapes, card: ModelCard, path: object) -> Mapping[str, Any]:
    classes = shapes["last.weight"][0]
    return {"names": NAMES if classes == len(NAMES) else tuple(f"class {k}" for k in range(classes))}


FAMILY = Family(
    name="obelisk",
    title="hybrid OBELISK-Net",
    cards=(
        ModelCard(
            name="obelisk-tcia",
            family="obelisk",
            source="https://github.com/mattiaspaul/OBELISK",
            files=("obeliskhybrid_tcia_fold1.pth",),
            url="https://raw.githubusercontent.com/mattiaspaul/OBELISK/b80daf8/models/",
            code_licence="MIT",
            weights_licence="MIT",
            ndim=3,
            input_size=SIDE,
            parameters=0.23,
            memory_mb=1500,
            notes="8 organs in CT of the upper abdomen (Hounsfield units), trained on images cropped to it",
            sha256="4337240affcf636fd8d7fddd10c86a0cb3877cabb6111d8bb1a0f9e0333212b6",
            size="9 classes",
        ),
    ),
    model=Obelisk,
    recognise=_recognise,
    rename=lambda tensors: {_plain(name): value for name, value in tensors.items()},
    settings=_settings,
    build=lambda settings: HybridNet(**settings),
)
