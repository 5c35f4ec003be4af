"""VISTA3D (He et al. 2024, arXiv 2406.05285): points or classes in a CT volume to masks, by the network of MONAI.

MONAI is imported when a model is loaded. The network is taken apart into its encoder and its point head, so that a
volume is encoded once however many points follow; MONAI's own forward pass and window inferer encode per prompt.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.models.base import MaskLogits, ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.family import Family
from roireg.models.volumes import Cube, VolumeInput, VolumeNetwork, stability, xyz

__all__ = ["FAMILY", "Vista3D"]

CARD = ModelCard(
    name="vista3d",
    family="vista3d",
    hub_id="MONAI/vista3d",
    source="https://huggingface.co/MONAI/vista3d",
    files=("models/model.pt",),
    code_licence="Apache-2.0",
    weights_licence="NVIDIA License (non-commercial)",
    ndim=3,
    input_size=128,
    parameters=218.0,
    memory_mb=3500,
    prompts=frozenset({"point"}),
    notes="only CT in Hounsfield units, at 1.5 mm; needs MONAI; weights for research and evaluation only; "
    "also answers class numbers (Vista3D.classes)",
    # Window and spacing of the published bundle.
    preprocessing=VolumeInput(spacing=1.5, patch=128, window=(-963.8247715525971, 1053.678477684517)),
    size="of 48 channels",
)

STRIDE = 16
"""The encoder halves its input four times; below twice this its normalisation has nothing to average."""

SUPPORTED = 132
"""Highest class number the network was trained on."""

FIRST = "image_encoder.encoder.conv_init.weight"
"""Tensor that has as many rows as the network has channels."""


class Vista3D(VolumeNetwork):
    """A VISTA3D, `monai.networks.nets.VISTA3D`; see `VolumeNetwork`."""

    def _check_layer(self, layer: int | None) -> None:
        if layer is not None:
            raise InputError(f"{self.card.name} gives features of its last layer only, not of {layer}; leave it out")

    def _features(self, data: Tensor, layer: int | None) -> Tensor:
        return self._branch(data, classes=False)

    def _branch(self, data: Tensor, *, classes: bool) -> Tensor:
        """Return the full-resolution map that the head for classes or for points reads."""
        data = (data.clamp(0, 255) / 255).to(self.dtype)
        features: Tensor = self.network.image_encoder(data, with_point=not classes, with_label=classes)[int(classes)]
        return features.float()

    def _answers(self, image: Tensor, points: Tensor, labels: Tensor, masks: Tensor | None) -> Tensor:
        # One after another: the point head holds several copies of the full-resolution features per prompt.
        return torch.cat(
            [
                self.network.point_head(image, p[None, k >= 0], k[None, k >= 0])
                for p, k in zip(points, labels, strict=True)
            ]
        )

    def classes(self, raster: Tensor, numbers: Sequence[int]) -> MaskLogits:
        """Segment trained classes (1 liver, 3 spleen, 5 right kidney ...) without a point; encodes the raster anew.

        Returns
        -------
        (K, 1, *shape) logits on the raster, and their stability.

        Raises
        ------
        InputError
            When there is no number, one is no trained class, or memory is too small.
        """
        if not numbers or not all(1 <= n <= SUPPORTED for n in numbers):
            raise InputError(f"classes of {self.card.name} are 1 to {SUPPORTED}, found {list(numbers)}")
        cube = Cube(tuple(raster.shape[1:]), self.size)
        data = cube.fill(raster.to(self.device))
        with self.encoding():
            features = self._branch(xyz(data[None]), classes=True)
        queries = torch.tensor(numbers, device=self.device)[:, None]
        with self.computing(f"segmenting {len(numbers)} classes"):
            logits = xyz(self.network.class_head(features, queries)[0])
            return MaskLogits(cube.release(logits), stability(logits))


def _plain(names: Mapping[str, Any]) -> dict[str, Any]:
    """Take away what the Hugging Face model, which wraps the network, puts before its names."""
    return {name.removeprefix("network."): value for name, value in names.items()}


def _recognise(shapes: Shapes) -> Signs | None:
    shapes = _plain(shapes)
    if not any(name.startswith(("class_head.", "point_head.")) for name in shapes):
        return None
    return Signs(CARD.size if shapes.get(FIRST, (0,))[0] == 48 else "")


def _build(settings: Mapping[str, Any]) -> Any:
    try:
        return importlib.import_module("monai.networks.nets").vista3d132(**{"encoder_embed_dim": 48, **settings})
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            'vista3d needs the package monai (1.4 or later); run pip install "roireg[models]"'
        ) from error


def _resize(network: Any, size: int | None, card: ModelCard) -> tuple[Any, int]:
    size = card.input_size if size is None else size
    if size < 2 * STRIDE or size % STRIDE:
        raise InputError(f"input size {size} is unsuitable; use a multiple of {STRIDE} from {2 * STRIDE} on")
    return network, size


FAMILY = Family(
    name="vista3d",
    title="VISTA3D",
    cards=(CARD,),
    model=Vista3D,
    recognise=_recognise,
    rename=_plain,
    settings=lambda shapes, card, path: {"encoder_embed_dim": shapes[FIRST][0]},
    build=_build,
    resize=_resize,
)
