"""The first layers of TotalSegmentator as 3D features, as the metric IMPACT uses them (arXiv 2503.24121).

Two convolutions with instance normalisation: the first stage of the network for MR and CT (Akinci D'Antonoli et al.,
Radiology 2025). They are published as TorchScript; only its tensors are read (`roireg.models.torchscript`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from roireg.core.errors import InputError
from roireg.models.base import Embedding, LoadReport, ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.family import Family
from roireg.models.network import Network
from roireg.models.preprocess import VolumeInput

__all__ = ["FAMILY", "FirstLayers", "Stage"]

LEAK = 0.01


class Stage(nn.Module):
    """Two 3 x 3 x 3 convolutions, each with instance normalisation and a leaky ReLU."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.Conv_0 = nn.Conv3d(1, channels, 3, padding=1)
        self.Norm_0 = nn.InstanceNorm3d(channels, affine=True)
        self.Conv_1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.Norm_1 = nn.InstanceNorm3d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, z, y, x) features of a (N, 1, z, y, x) image."""
        x = F.leaky_relu(self.Norm_0(self.Conv_0(x)), LEAK)
        return F.leaky_relu(self.Norm_1(self.Conv_1(x)), LEAK)


class FirstLayers(Network):
    """The first stage of a segmentation network; see `Network` and `DenseEncoder`.

    Attributes
    ----------
    volume : how it wants its images.
    """

    def __init__(self, card: ModelCard, network: Any, size: int, *, key: str, report: LoadReport | None) -> None:
        super().__init__(card, network, size, key=key, report=report)
        assert isinstance(card.preprocessing, VolumeInput)
        self.volume = card.preprocessing

    def encode_dense(self, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Encode a raster, a cell per voxel; every channel has mean 0 and deviation 1, so that cosines tell much.

        Raises
        ------
        InputError
            When another layer than 0 is asked for, or memory is too small.
        """
        self._block(layer, 1)
        if raster.ndim != 4:
            raise InputError(f"{self.card.name} encodes volumes, found shape {tuple(raster.shape[1:])}")
        data = raster.to(self.device).float().mean(0, keepdim=True)
        data = (data - data.mean()) / data.std().clamp(min=1e-3)
        with self.encoding():
            # The network was trained on arrays in the order z, y, x.
            image = self.network.DownConvBlock_0(data[None].to(self.dtype)).float()
        image = F.instance_norm(image)
        shape = tuple(raster.shape[1:])
        return Embedding({"image": image}, shape, np.ones(3), np.zeros(3), shape)


def _recognise(shapes: Shapes) -> Signs | None:
    first = shapes.get("DownConvBlock_0.Conv_0.weight")
    if first is None or len(first) != 5 or len(shapes) != 8:
        return None
    return Signs("32 channels" if first[0] == 32 else "")


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> Mapping[str, Any]:
    return {"channels": shapes["DownConvBlock_0.Conv_0.weight"][0]}


FAMILY = Family(
    name="totalsegmentator-layers",
    title="first layers of TotalSegmentator",
    cards=(
        ModelCard(
            name="totalsegmentator-layers",
            family="totalsegmentator-layers",
            source="https://huggingface.co/VBoussot/impact-torchscript-models",
            files=("M730_1_Layers.pt",),
            url="https://raw.githubusercontent.com/SuperElastix/elastix/0c0b19f/Testing/Data/",
            code_licence="Apache-2.0",
            weights_licence="Apache-2.0",
            ndim=3,
            input_size=256,
            parameters=0.029,
            memory_mb=4000,
            notes="32 features of 5 voxels around, trained on MR and CT of all of the body",
            preprocessing=VolumeInput(spacing=1.5, patch=None),
            sha256="2c4adabe47012e9da7c9d74ffe506bd6e60638494b3351d3c16f36d816aa926a",
            size="32 channels",
        ),
    ),
    model=FirstLayers,
    recognise=_recognise,
    settings=_settings,
    build=lambda settings: nn.ModuleDict({"DownConvBlock_0": Stage(**settings)}),
)
