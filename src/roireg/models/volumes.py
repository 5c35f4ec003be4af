"""What the promptable networks for volumes share: input, geometry, quality, memory.

A 3D network sees a cube of a fixed number of voxels. Whoever prompts it brings the image to the spacing it was
trained at (`VolumeInput`); the network itself fits any raster into its cube (`Cube`) and takes it out again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from roireg.core.errors import InputError
from roireg.core.filters import gaussian_smooth, resize
from roireg.models.base import Embedding, LoadReport, MaskLogits, ModelCard, PromptableModel
from roireg.models.network import Network
from roireg.models.preprocess import VolumeInput

__all__ = ["Cube", "VolumeInput", "VolumeModel", "VolumeNetwork", "check_points", "stability"]


@runtime_checkable
class VolumeModel(PromptableModel, Protocol):
    """A promptable network for volumes."""

    volume: VolumeInput


@dataclass(frozen=True)
class Cube:
    """How a raster of any shape lies in the cube that a network sees: shrunk if too large, padded at the far ends.

    Attributes
    ----------
    shape : of the raster, (z, y, x). side : of the cube in voxels.
    """

    shape: tuple[int, ...]
    side: int

    @property
    def resized(self) -> tuple[int, ...]:
        """Shape of the raster inside the cube; nothing is ever enlarged."""
        factor = min(1.0, self.side / max(self.shape))
        return tuple(max(1, round(n * factor)) for n in self.shape)

    @property
    def factor(self) -> NDArray[np.float64]:
        """Voxels of the cube per voxel of the raster, per axis."""
        return np.array(self.resized) / np.array(self.shape)

    def fill(self, raster: Tensor) -> Tensor:
        """Bring a (1 or 3, *shape) raster into the cube: (1, side, side, side), channels averaged, padding 0."""
        data = raster.float().mean(0, keepdim=True)
        shrink = 1 / self.factor
        data = gaussian_smooth(data, 0.5 * np.sqrt(np.maximum(shrink**2 - 1, 0)))
        data = resize(data, self.resized)
        padding = [p for n in reversed(self.resized) for p in (0, self.side - n)]
        return F.pad(data, padding)

    def coordinates(self, points: Tensor) -> Tensor:
        """Map (..., 3) raster coordinates to coordinates in the cube, both (z, y, x), centres at whole numbers."""
        factor = torch.as_tensor(self.factor, dtype=points.dtype, device=points.device)
        return (points + 0.5) * factor - 0.5

    def release(self, logits: Tensor) -> Tensor:
        """Bring (P, K, n, n, n) logits over the cube onto the raster: (P, K, *shape)."""
        flat = resize(logits.flatten(0, 1), (self.side,) * 3)
        inside = flat[(slice(None), *(slice(0, n) for n in self.resized))]
        return resize(inside, self.shape).unflatten(0, logits.shape[:2])

    def index_map(self, stride: int) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[int, ...]]:
        """Return scale, offset and covered cells (see `Embedding`) of a map with one cell per `stride` voxels."""
        scale = self.factor / stride
        return scale, 0.5 * scale - 0.5, tuple(-(-n // stride) for n in self.resized)


def check_points(card: ModelCard, points: Tensor | None, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (P, N, 3) points and their (P, N) labels where they fit together.

    Raises
    ------
    InputError
        When there are no points, shapes do not fit, or a prompt has padding only.
    """
    if points is None or labels is None or points.ndim != 3 or points.shape[-1] != 3 or 0 in points.shape:
        shape = "none" if points is None else f"shape {tuple(points.shape)}"
        raise InputError(f"{card.name} needs points of shape (prompts, points, 3) with labels, found {shape}")
    if labels.shape != points.shape[:2]:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit points of shape {tuple(points.shape)}; "
            "give one label per point"
        )
    if not bool((labels >= 0).any(1).all()):
        raise InputError(f"a prompt for {card.name} has no point with label 0 or 1; give at least one")
    return points, labels


def stability(logits: Tensor, *, offset: float = 1.0) -> Tensor:
    """Intersection over union of the masks at thresholds +offset and -offset, over all but the first two axes.

    Stands for the quality of a mask where a network has no trained estimate of its own; 0 for an empty mask.
    """
    flat = logits.flatten(2)
    inner, outer = (flat > offset).sum(-1), (flat > -offset).sum(-1)
    return inner / outer.clamp(min=1)


class VolumeNetwork(Network, ABC):
    """A network that sees a cube of a volume; see `Network`, `PromptableModel` and `DenseEncoder`.

    One mask per prompt, whose `quality` is its stability: the networks have no trained estimate of it. They were
    trained on arrays in the order x, y, z, so that what goes in and comes out is transposed.

    Attributes
    ----------
    volume : how it wants its images.
    """

    def __init__(self, card: ModelCard, network: Any, size: int, *, key: str, report: LoadReport | None) -> None:
        super().__init__(card, network, size, key=key, report=report)
        assert isinstance(card.preprocessing, VolumeInput)
        self.volume = replace(card.preprocessing, patch=size)

    def _encoder(self) -> nn.Module:
        return self.network.image_encoder

    def encode(self, raster: Tensor) -> Embedding:
        """Encode a (1 or 3, z, y, x) raster; see `encode_dense`."""
        return self.encode_dense(raster)

    def encode_dense(self, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Encode a (1 or 3, z, y, x) raster for features: the map the decoder reads, or that after a block.

        Raises
        ------
        InputError
            When there is no such block, or the device has too little memory.
        """
        cube = Cube(tuple(raster.shape[1:]), self.size)
        data = cube.fill(raster.to(self.device))
        self._check_layer(layer)
        with self.encoding():
            features = self._features(xyz(data[None]), layer)
        scale, offset, covered = cube.index_map(self.size // features.shape[-1])
        return Embedding({"image": xyz(features).contiguous()}, cube.shape, scale, offset, covered)

    def decode(
        self,
        embedding: Embedding,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> MaskLogits:
        """Answer P prompts of points, one mask each whatever `multimask` says; see `PromptableModel.decode`.

        Raises
        ------
        InputError
            When there are no points, there are prompts of a kind that the network does not take, shapes do not fit,
            or the device has too little memory.
        """
        if boxes is not None or (masks is not None and "mask" not in self.card.prompts):
            others = "not boxes" if "mask" in self.card.prompts else "neither boxes nor masks"
            raise InputError(f"{self.card.name} takes points, {others}; give a point inside the region")
        points, labels = check_points(self.card, points, labels)
        cube = Cube(embedding.shape, self.size)
        places = cube.coordinates(points.to(self.device, torch.float32)).flip(-1)
        image = xyz(embedding.tensors["image"].to(self.device))
        with self.computing(f"answering {len(places)} prompts"):
            logits = xyz(self._answers(image, places, labels.to(self.device), masks)).contiguous()
            return MaskLogits(logits, stability(logits))

    def upscale(self, logits: Tensor, embedding: Embedding) -> Tensor:
        """Bring (P, K, n, n, n) logits onto the raster; see `PromptableModel.upscale`."""
        with self.computing("bringing masks to full resolution"):
            return Cube(embedding.shape, self.size).release(logits)

    @abstractmethod
    def _check_layer(self, layer: int | None) -> None:
        """Refuse a block that the network does not have."""

    @abstractmethod
    def _features(self, data: Tensor, layer: int | None) -> Tensor:
        """Return the float32 (1, C, a, b, c) map of a (1, 1, x, y, z) cube with values of a raster."""

    @abstractmethod
    def _answers(self, image: Tensor, points: Tensor, labels: Tensor, masks: Tensor | None) -> Tensor:
        """Return (P, 1, a, b, c) logits from the map and (P, N, 3) points (x, y, z) of the cube."""


def xyz(volumes: Tensor) -> Tensor:
    """Swap the order of the last three axes between z, y, x and x, y, z."""
    return volumes.transpose(-1, -3)
