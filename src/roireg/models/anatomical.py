"""The anatomical embedding of this project: what a voxel is part of, near and far, as unit vectors.

Trained on generated scenes alone (`roireg.train`), small enough to come with the package. The cards beside the
weights say how they were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.filters import gaussian_smooth, resize
from roireg.models.base import Embedding, LoadReport, ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.embedding_network import STRIDES, EmbeddingNet, joined_maps
from roireg.models.family import Family
from roireg.models.network import Network
from roireg.models.preprocess import VolumeInput

__all__ = ["FAMILY", "WEIGHTS", "EmbeddingModel", "weights_card"]

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the weights that come with the package."""

COARSEST = 16
"""Voxels per cell of the coarsest level of the network; inputs are padded to a multiple."""


@cache
def weights_card(ndim: int) -> dict[str, Any]:
    """Return what is known of the shipped weights: data, seeds, steps, time, SHA-256, results, limits."""
    card: dict[str, Any] = json.loads((WEIGHTS / f"embedding-{ndim}d.json").read_text(encoding="utf-8"))
    return card


class EmbeddingModel(Network):
    """An anatomical embedding; see `Network` and `DenseEncoder`. Inputs are shrunk to its size, the longest side."""

    def __init__(self, card: ModelCard, network: Any, size: int, *, key: str, report: LoadReport | None) -> None:
        layout: Any = torch.channels_last if card.ndim == 2 else torch.channels_last_3d
        super().__init__(card, network.to(memory_format=layout), size, key=key, report=report)
        assert isinstance(card.preprocessing, VolumeInput)
        self.preprocessing = self.volume = card.preprocessing

    def maps(self, data: Tensor) -> list[Tensor]:
        """Return the (dim, *cells) unit vectors at strides 2, 4 and 8 of a (1, *shape) image in 0..1.

        Cells tile the image from its first voxel on; the last ones may reach beyond it, where the border repeats.

        Raises
        ------
        InputError
            When the image has another dimension, the weights are random, or memory is too small.
        """
        shape = tuple(data.shape[1:])
        if len(shape) != self.card.ndim:
            raise InputError(f"{self.card.name} encodes {self.card.ndim}D images, found shape {shape}")
        padding = [p for n in reversed(shape) for p in (0, -n % COARSEST)]
        whole = F.pad(data[None].to(self.device, torch.float32), padding, mode="replicate")
        with self.encoding():
            maps = self.network(whole.to(self.dtype))
        return [
            m[(0, slice(None), *(slice(0, -(-n // stride)) for n in shape))].float()
            for m, stride in zip(maps, STRIDES, strict=True)
        ]

    def encode_dense(self, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Encode a raster: the map at stride 2, 4 or 8 for layer 0, 1 or 2, all of them joined at stride 2 if None.

        Raises
        ------
        InputError
            When there is no such layer, the dimension is another one, or memory is too small.
        """
        layer = self._block(layer, len(STRIDES))
        shape = tuple(raster.shape[1:])
        factor = min(1.0, self.size / max(shape))
        resized = tuple(max(1, round(n * factor)) for n in shape)
        per_axis = np.array(resized) / np.array(shape)
        data = raster.float().mean(0, keepdim=True) / 255
        data = resize(gaussian_smooth(data, 0.5 * np.sqrt(np.maximum(per_axis**-2.0 - 1, 0))), resized)
        maps = [m[None] for m in self.maps(data)]
        image = joined_maps(maps) if layer is None else maps[layer]
        scale = per_axis / STRIDES[layer or 0]
        return Embedding({"image": image}, shape, scale, 0.5 * scale - 0.5, tuple(image.shape[2:]))


def _recognise(shapes: Shapes) -> Signs | None:
    if "stem.conv.weight" not in shapes or "heads.2.weight" not in shapes:
        return None
    ndim = len(shapes["stem.conv.weight"]) - 2
    return Signs(f"{ndim}D")


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> Mapping[str, Any]:
    return EmbeddingNet.settings(shapes)


def _card(ndim: Any) -> ModelCard:
    known = weights_card(ndim)
    return ModelCard(
        name=f"embedding-{ndim}d",
        family="embedding",
        source="https://github.com/roireg/roireg",
        files=(f"embedding-{ndim}d.safetensors",),
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        ndim=ndim,
        input_size=INPUT[ndim],
        parameters=known["parameters_million"],
        memory_mb={2: 150, 3: 600}[ndim],
        notes="comes with roireg; trained on generated scenes only, seen no image of a patient",
        preprocessing=VolumeInput(spacing=None, patch=None),
        sha256=known["sha256"],
        size=f"{ndim}D",
    )


INPUT = {2: 256, 3: 128}
"""Longest side, in voxels, that inputs are shrunk to where nothing else is said."""

FAMILY = Family(
    name="embedding",
    title="anatomical embedding",
    cards=(_card(2), _card(3)),
    model=EmbeddingModel,
    recognise=_recognise,
    settings=_settings,
    build=lambda settings: EmbeddingNet(**settings),
)
