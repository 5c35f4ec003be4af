"""ALIKE (Zhao et al., IEEE Transactions on Multimedia 2022): key points and a descriptor for every pixel.

Written from the paper. Four blocks see the image ever more coarsely; what they see is laid over each other at full
resolution, and one more convolution makes a descriptor and a score of it. Key points are where the score is highest
around them, to a part of a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roireg.models.base import Embedding, KeyPoints, ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.family import Family
from roireg.models.preprocess import Preprocessing
from roireg.models.promptable import RasterNetwork

__all__ = ["FAMILY", "Alike", "AlikeNet"]

STRIDES = (1, 2, 8, 32)
"""Pixels per cell of what each block sees."""

RADIUS = 2
"""Pixels around a key point within which no score is higher."""

SHARPNESS = 0.1
"""Temperature of the mean place of scores around a key point."""

LEAST = 0.05
"""Scores of key points are at least so high."""

BLANK = 1e-3
"""Range of intensities, of 0..1, in which there is nothing to describe."""


class Block(nn.Module):
    """Two 3 x 3 convolutions; with a short way beside them, but for the first block."""

    def __init__(self, inputs: int, outputs: int, *, short: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = nn.Conv2d(inputs, outputs, 1) if short else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, y, x) of (N, inputs, y, x)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out if self.downsample is None else out + self.downsample(x))


class AlikeNet(nn.Module):
    """The network.

    Parameters
    ----------
    channels : of the four blocks. dim : numbers of a descriptor.
    """

    def __init__(self, channels: tuple[int, int, int, int] = (8, 16, 32, 64), dim: int = 64) -> None:
        super().__init__()
        inputs = (3, *channels)
        for k in range(4):
            setattr(self, f"block{k + 1}", Block(inputs[k], channels[k], short=k > 0))
            setattr(self, f"conv{k + 1}", nn.Conv2d(channels[k], dim // 4, 1, bias=False))
        self.convhead2 = nn.Conv2d(dim, dim + 1, 1, bias=False)

    def blocks(self, x: Tensor) -> list[Tensor]:
        """Return what the four blocks see of (N, 3, y, x) colours 0..1, whose sides are multiples of 32."""
        maps: list[Tensor] = []
        for k, pool in enumerate((1, 2, 4, 4)):
            x = getattr(self, f"block{k + 1}")(F.max_pool2d(x, pool) if pool > 1 else x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, dim, y, x) unit descriptors and (N, 1, y, x) scores 0..1; see `blocks`."""
        parts = []
        for k, seen in enumerate(self.blocks(x)):
            part = F.relu(getattr(self, f"conv{k + 1}")(seen))
            if STRIDES[k] > 1:
                # As the weights were trained: the outer cells of both resolutions lie over each other.
                part = F.interpolate(part, scale_factor=STRIDES[k], mode="bilinear", align_corners=True)
            parts.append(part)
        out = self.convhead2(torch.cat(parts, 1))
        return F.normalize(out[:, :-1], dim=1), out[:, -1:].sigmoid()


class Alike(RasterNetwork):
    """An ALIKE with its weights; see `Network`, `DenseEncoder` and `KeyPointModel`.

    Its size is the longest side of the input.
    """

    def encode_dense(self, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Encode a raster: unit descriptors of pixels, or what one of the four blocks sees.

        Raises
        ------
        InputError
            When there is no such block, or memory is too small.
        """
        block = self._block(layer, len(STRIDES))
        pixels, frame = self.preprocessing(raster.to(self.device))
        with self.encoding():
            pixels = pixels.to(self.dtype)
            image = self.network(pixels)[0] if block is None else self.network.blocks(pixels)[block]
        return self.embedding({"image": image.float()}, frame, STRIDES[block or 0])

    def key_points(self, raster: Tensor, *, count: int) -> KeyPoints:
        """Return the key points of a raster, see `KeyPointModel.key_points`."""
        pixels, frame = self.preprocessing(raster.to(self.device))
        with self.encoding():
            descriptors, scores = (t.float() for t in self.network(pixels.to(self.dtype)))
        places, values = peaks(scores[0, 0], count=count)
        if float(pixels.amax() - pixels.amin()) < BLANK:
            places, values = places[:0], values[:0]
        size = places.new_tensor(frame.size)
        around = (2 * (places + 0.5) / size - 1).flip(-1)[None, None]
        text = F.grid_sample(descriptors, around, mode="bilinear", align_corners=False, padding_mode="border")
        scale = places.new_tensor(frame.scale.tolist())
        return KeyPoints((places + 0.5) / scale - 0.5, F.normalize(text[0, :, 0].T, dim=1), values)


def peaks(scores: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Return (N, 2) places (y, x) of the highest peaks of (y, x) scores, and the (N,) scores, the highest first.

    The place is the mean of the pixels around the highest one, weighted by the exponential of their scores: the
    paper's differentiable key points. None lie at the border, where the window would be cut.
    """
    side = 2 * RADIUS + 1
    highest = F.max_pool2d(scores[None, None], side, stride=1, padding=RADIUS)[0, 0]
    candidates = torch.zeros_like(scores)
    inner = (slice(RADIUS, -RADIUS),) * 2
    candidates[inner] = torch.where((scores == highest) & (scores >= LEAST), scores, 0.0)[inner]
    values, index = candidates.flatten().topk(min(count, candidates.numel()))
    index, values = index[values > 0], values[values > 0]
    windows = F.unfold(scores[None, None], side, padding=RADIUS)[0][:, index].T
    weight = ((windows - windows.amax(1, keepdim=True)) / SHARPNESS).softmax(1)
    steps = torch.arange(side, device=scores.device) - RADIUS
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2).to(weight.dtype)
    centre = torch.stack([index // scores.shape[1], index % scores.shape[1]], -1)
    return centre + weight @ offsets, values


# -- files ----------------------------------------------------------------------------------------


def _channels(shapes: Shapes) -> tuple[int, ...]:
    return tuple(shapes[f"block{k}.conv1.weight"][0] for k in (1, 2, 3, 4))


def _recognise(shapes: Shapes) -> Signs | None:
    if not {"block1.conv1.weight", "block4.downsample.weight", "convhead2.weight"} <= shapes.keys():
        return None
    sizes = {(8, 16, 32, 64): "tiny", (16, 32, 64, 128): "normal"}
    return Signs(next((name for channels, name in sizes.items() if channels == _channels(shapes)), ""))


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> Mapping[str, Any]:
    return {"channels": _channels(shapes), "dim": shapes["convhead2.weight"][1]}


def _card(name: str, file: str, size: str, parameters: float, sha256: str) -> ModelCard:
    return ModelCard(
        name=name,
        family="alike",
        source="https://github.com/Shiaoming/ALIKE",
        files=(file,),
        url="https://raw.githubusercontent.com/Shiaoming/ALIKE/4e61fc7/models/",
        code_licence="BSD-3-Clause",
        weights_licence="BSD-3-Clause",
        input_size=640,
        parameters=parameters,
        memory_mb=700,
        notes="trained on photographs; also key points for the start (stages.search.key_point_model)",
        preprocessing=Preprocessing(640, layout="patches", mean=(0, 0, 0), std=(255, 255, 255), patch=32),
        sha256=sha256,
        size=size,
    )


FAMILY = Family(
    name="alike",
    title="ALIKE",
    cards=(
        _card(
            "alike-t",
            "alike-t.pth",
            "tiny",
            0.08,
            "c0840329a6b88518d914b03af2be956f5607055a389ba17441db02bb94f7d12e",
        ),
        _card(
            "alike-n",
            "alike-n.pth",
            "normal",
            0.32,
            "8bd4789272eec779be280f8fc1007608ff604241440a0a3377c1559199412ee3",
        ),
    ),
    model=Alike,
    recognise=_recognise,
    settings=_settings,
    build=lambda settings: AlikeNet(**settings),
)
