"""VISTA3D (He et al. 2024, arXiv 2406.05285): points or classes in a CT volume to masks, by the network of MONAI.

MONAI is imported when a model is loaded. The network is taken apart into its encoder and its heads, so that a
volume is encoded once however many points or classes follow; MONAI's own forward pass and window inferer encode per
prompt.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.core.image import Image
from roireg.core.warp import resample
from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.classes import ClassNetwork, as_bytes
from roireg.models.family import Family
from roireg.models.volumes import VolumeInput, VolumeNetwork, xyz
from roireg.models.windows import in_windows

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
    "as --segmenter it names 117 structures of the body",
    # Window and spacing of the published bundle.
    preprocessing=VolumeInput(spacing=1.5, patch=128, window=(-963.8247715525971, 1053.678477684517)),
    size="of 48 channels",
)

STRIDE = 16
"""The encoder halves its input four times; below twice this its normalisation has nothing to average."""

NUMBERED = (
    "liver", "", "spleen", "pancreas", "right kidney", "aorta", "inferior vena cava", "right adrenal gland",
    "left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum", "left kidney", "bladder", "",
    "portal vein and splenic vein", "", "small bowel", "", "", "brain", *[""] * 5, "left lung upper lobe",
    "left lung lower lobe", "right lung upper lobe", "right lung middle lobe", "right lung lower lobe",
    *(f"vertebrae L{k}" for k in range(5, 0, -1)), *(f"vertebrae T{k}" for k in range(12, 0, -1)),
    *(f"vertebrae C{k}" for k in range(7, 0, -1)), "trachea", "left iliac artery", "right iliac artery",
    "left iliac vena", "right iliac vena", "colon", *(f"left rib {k}" for k in range(1, 13)),
    *(f"right rib {k}" for k in range(1, 13)), "left humerus", "right humerus", "left scapula", "right scapula",
    "left clavicula", "right clavicula", "left femur", "right femur", "left hip", "right hip", "sacrum",
    "left gluteus maximus", "right gluteus maximus", "left gluteus medius", "right gluteus medius",
    "left gluteus minimus", "right gluteus minimus", "left autochthon", "right autochthon", "left iliopsoas",
    "right iliopsoas", "left atrial appendage", "brachiocephalic trunk", "left brachiocephalic vein",
    "right brachiocephalic vein", "left common carotid artery", "right common carotid artery", "costal cartilages",
    "heart", "left kidney cyst", "right kidney cyst", "prostate", "pulmonary vein", "skull", "spinal cord", "sternum",
    "left subclavian artery", "right subclavian artery", "superior vena cava", "thyroid gland", "vertebrae S1",
    *[""] * 4, "airway",
)  # fmt: skip
"""Classes by their number, from 1 on; without a name are tumours, and what other classes are parts of."""

CLASSES = {name: number for number, name in enumerate(NUMBERED, start=1) if name and name != "airway"}
"""Name -> number of the structures of a body that do not overlap."""

FIRST = "image_encoder.encoder.conv_init.weight"
"""Tensor that has as many rows as the network has channels."""


class Vista3D(VolumeNetwork, ClassNetwork):
    """A VISTA3D, `monai.networks.nets.VISTA3D`; see `VolumeNetwork` and `ClassNetwork`."""

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

    # -- classes ----------------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(CLASSES)

    def shown(self, image: Image) -> Image:
        """Return a CT at 1.5 mm, its window from 0 to 255, in the axes of the training."""
        gray = image.gray()
        assert self.volume.spacing is not None
        seen = resample(gray, gray.grid.oriented("SAR").with_spacing(self.volume.spacing))
        return seen.with_data(self.volume.raster(seen.data, name=image.name))

    def probabilities(self, data: Tensor) -> Tensor:
        """Return the probabilities of all classes, of blocks of voxels where they would not fit into memory."""
        numbers = torch.tensor(list(CLASSES.values()), device=self.device)[:, None]

        def answer(window: Tensor) -> Tensor:
            logits: Tensor = self.network.class_head(self._branch(window, classes=True), numbers)[0]
            return logits[:, 0].sigmoid()[None]

        result = in_windows(xyz(data[None]), answer, (self.size,) * 3, len(numbers))
        return as_bytes(xyz(result)[0])


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
