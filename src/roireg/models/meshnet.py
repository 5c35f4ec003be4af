"""MeshNet (Fedorov et al., IJCNN 2017): dilated convolutions that name the tissues of a T1 brain (brainchop).

Files are those of brainchop (TensorFlow.js): `model.json` with the layers, `model.bin` with the weights, and
`colormap.json` with the names of the classes. The folder, or model.bin, is the model. A state_dict saved by torch is
read too; it has the dilations of the published models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.warp import resample
from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.classes import ClassNetwork, as_bytes
from roireg.models.family import Family

__all__ = ["FAMILY", "MeshNet"]

DILATIONS = (1, 2, 4, 8, 16, 8, 4, 2, 1)
"""Of the published models; a convolution of single voxels follows."""

NAMES = (
    "Unknown", "Cerebral-White-Matter", "Cerebral-Cortex", "Lateral-Ventricle", "Inferior-Lateral-Ventricle",
    "Cerebellum-White-Matter", "Cerebellum-Cortex", "Thalamus", "Caudate", "Putamen", "Pallidum", "3rd-Ventricle",
    "4th-Ventricle", "Brain-Stem", "Hippocampus", "Amygdala", "Accumbens-area", "VentralDC",
)  # fmt: skip
"""Classes of the published models, structures of FreeSurfer without their side."""

MIDDLE = frozenset({"3rd-Ventricle", "4th-Ventricle", "Brain-Stem"})
"""Structures that are there once."""

AXES = "LIA"
"""Where the axes of an array lead to, as FreeSurfer conforms images."""

SLICES = 32
"""Slices that a layer computes at once: bounds the memory beside that of two layers."""


class Layers(nn.Module):
    """Convolutions with exponential linear units, computed slab by slab, which changes nothing.

    Attributes
    ----------
    names : classes of the channels, background first.
    """

    def __init__(self, channels: int, names: tuple[str, ...], dilations: tuple[int, ...] = DILATIONS) -> None:
        super().__init__()
        inputs = (1, *[channels] * (len(dilations) - 1))
        self.names = names
        self.convs = nn.ModuleList(
            [nn.Conv3d(n, channels, 3, padding=d, dilation=d) for n, d in zip(inputs, dilations, strict=True)]
        )
        self.output = nn.Conv3d(channels, len(names), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, C, z, y, x) logits of a (1, 1, z, y, x) image."""
        for conv in self.convs:
            x = _slabs(conv, x)
        logits: Tensor = self.output(x)
        return logits


def _slabs(conv: Any, x: Tensor) -> Tensor:
    """Return ELU(conv(x)) of a convolution whose padding is its dilation."""
    reach, depth = int(conv.dilation[0]), x.shape[2]
    out = x.new_empty(1, conv.out_channels, *x.shape[2:])
    for first in range(0, depth, SLICES):
        last = min(first + SLICES, depth)
        low, high = max(0, first - reach), min(depth, last + reach)
        part = F.pad(x[:, :, low:high], (0, 0, 0, 0, reach - (first - low), reach - (high - last)))
        part = F.conv3d(part, conv.weight, conv.bias, padding=(0, reach, reach), dilation=conv.dilation)
        out[:, :, first:last] = F.elu_(part)
    return out


class MeshNet(ClassNetwork):
    """A MeshNet with its weights; see `ClassNetwork`."""

    @property
    def sided(self) -> frozenset[str]:
        return frozenset(self.classes) - MIDDLE

    def shown(self, image: Image) -> Image:
        """Return the image at 1 mm, its intensities from 0 to 1."""
        grid = image.grid.oriented(AXES).with_spacing(1.0)
        data = resample(image.gray(), grid).data.float()
        low, high = float(data.min()), float(data.max())
        return image.with_data((data - low) / max(high - low, 1e-6), grid)

    def probabilities(self, data: Tensor) -> Tensor:
        logits = self.network(data[None])[0]
        out = torch.empty((len(logits) - 1, *logits.shape[1:]), dtype=torch.uint8)
        for first in range(0, logits.shape[1], SLICES):
            part = logits[:, first : first + SLICES].softmax(0)
            out[:, first : first + SLICES] = as_bytes(part[1:])
        return out


# -- files ----------------------------------------------------------------------------------------


def _recognise(shapes: Shapes) -> Signs | None:
    if any("_gn/" in name for name in shapes):
        return None  # layers with normalisation, which this network has not
    shapes = {_plain(name): shape for name, shape in shapes.items()}
    first, last = shapes.get("convs.0.weight"), shapes.get("output.weight")
    if first is None or last is None or len(first) != 5:
        return None
    # Kernels of TensorFlow have their channels last.
    channels, classes = (first[0], last[0]) if first[1] == 1 else (first[-1], last[-1])
    return Signs(f"{channels} channels, {classes} classes")


def _plain(name: str) -> str:
    """Return the name here of a tensor: "conv3d_4/kernel" is "convs.2.weight", as activations are counted too."""
    layer, _, part = name.partition("/")
    if part not in ("kernel", "bias"):
        return name
    place = "output" if layer == "output" else f"convs.{int(layer.split('_')[1]) // 2}"
    return f"{place}.{'weight' if part == 'kernel' else 'bias'}"


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        _plain(name): value.permute(4, 3, 0, 1, 2) if name.endswith("/kernel") else value
        for name, value in tensors.items()
    }


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> Mapping[str, Any]:
    channels, classes = shapes["convs.0.weight"][0], shapes["output.weight"][0]
    depth = sum(name.endswith(".weight") for name in shapes) - 1
    names = NAMES if classes == len(NAMES) else tuple(f"class {k}" for k in range(classes))
    dilations = DILATIONS if depth == len(DILATIONS) else None
    folder = path.parent
    if path.name == "model.bin":
        document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        layers = document["modelTopology"]["model_config"]["config"]["layers"]
        rates = [layer["config"]["dilation_rate"][0] for layer in layers if layer["class_name"] == "Conv3D"]
        dilations = tuple(rates[:-1])
        if (folder / "colormap.json").is_file():
            names = tuple(json.loads((folder / "colormap.json").read_text(encoding="utf-8"))["labels"])
    if dilations is None or len(names) != classes:
        raise InputError(
            f"{path}: has {depth} layers and {classes} classes, of which nothing says more; add model.json"
        )
    return {"channels": channels, "names": names, "dilations": dilations}


def _build(settings: Mapping[str, Any]) -> Layers:
    return Layers(**{"channels": 30, "names": NAMES, **settings})


def _card(name: str, folder: str, channels: int, parameters: float, memory_mb: int, sha256: str) -> ModelCard:
    return ModelCard(
        name=name,
        family="meshnet",
        source="https://github.com/neuroneural/brainchop",
        files=("model.bin", "model.json", "colormap.json"),
        url=f"https://raw.githubusercontent.com/neuroneural/brainchop/4c87885/public/models/{folder}/",
        code_licence="MIT",
        weights_licence="MIT",
        ndim=3,
        input_size=256,
        parameters=parameters,
        memory_mb=memory_mb,
        notes="17 structures of a T1 brain; left and right are told apart by the midplane",
        sha256=sha256,
        size=f"{channels} channels, 18 classes",
    )


FAMILY = Family(
    name="meshnet",
    title="MeshNet",
    cards=(
        _card(
            "meshnet-30",
            "model30chan18cls",
            30,
            0.196,
            2300,
            "7039651d91c4cee0b7b1ddfe93fe2f5cb9b71d99f5a126fdef407e2a36bb52d4",
        ),
        _card(
            "meshnet-21",
            "model18cls",
            21,
            0.096,
            1700,
            "725096439f64ece1ca45ec3c5115c9fa6004f6538cac3032b85966d3772b605e",
        ),
    ),
    model=MeshNet,
    recognise=_recognise,
    rename=_renamed,
    settings=_settings,
    build=_build,
)
