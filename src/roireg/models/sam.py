"""Segment Anything and its siblings of the same architecture: SAM, SlimSAM, MedSAM.

Kirillov et al., "Segment Anything", ICCV 2023. Computed by `transformers`; read from its folders and from the
original .pth files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roireg.core.errors import InputError
from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.family import Family
from roireg.models.hugging import HubFormat, part_of
from roireg.models.precision import compute_in
from roireg.models.preprocess import Preprocessing
from roireg.models.promptable import PromptableNetwork, Prompts
from roireg.models.renaming import Rules, count
from roireg.models.sam_names import ENCODER, PARTS, VITS, sam_names, sam_settings, vit_signs

__all__ = ["FAMILY", "SamNetwork", "check_size", "hub_signs", "published_sam", "resize_sam", "sam_card"]

NAMES: Rules = (*ENCODER, *PARTS)

PATCH = 16

SMALLEST = 64
"""Input size below which nothing is left to see."""


class SamNetwork(PromptableNetwork):
    """`SamModel` of transformers, or a network with the same parts."""

    def set_precision(self, dtype: torch.dtype) -> None:
        """Let encoder and mask decoder compute in a number format.

        Not the prompt encoder: points would be rounded to several pixels.
        """
        self._encoder().to(dtype)
        compute_in(self.network.mask_decoder, dtype)

    @property
    def layers(self) -> int:
        return len(self.network.vision_encoder.layers)

    def _encoder(self) -> nn.Module:
        return self.network.vision_encoder

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"image": self._encoder()(pixels).last_hidden_state.float()}

    def _layer(self, pixels: Tensor, layer: int) -> Tensor:
        encoder: Any = self._encoder()
        hidden = encoder.patch_embed(pixels)
        if encoder.pos_embed is not None:
            hidden = hidden + encoder.pos_embed
        for block in encoder.layers[: layer + 1]:
            hidden = block(hidden)
        return hidden.permute(0, 3, 1, 2)

    def _decode(self, tensors: Mapping[str, Tensor], prompts: Prompts, multimask: bool) -> tuple[Tensor, Tensor]:
        out = self.network(**self._inputs(tensors, prompts), multimask_output=multimask)
        return out.pred_masks.flatten(0, 1), out.iou_scores.flatten(0, 1)

    def _inputs(self, tensors: Mapping[str, Tensor], prompts: Prompts) -> dict[str, Any]:
        """Arrange prompts as transformers wants them: (image, prompt, ...).

        Without masks there is one image with P prompts. A mask belongs to an image there, so with masks the image
        stands P times with one prompt each.
        """
        axis = 0 if prompts.masks is None else 1
        count = 1 if prompts.masks is None else len(prompts.masks)
        return {
            "image_embeddings": tensors["image"].to(self.device).expand(count, -1, -1, -1),
            "input_points": None if prompts.points is None else prompts.points.unsqueeze(axis),
            "input_labels": None if prompts.labels is None else prompts.labels.unsqueeze(axis),
            "input_boxes": None if prompts.boxes is None else prompts.boxes.unsqueeze(axis),
            "input_masks": prompts.masks,
        }


def sam_card(name: str, hub_id: str | None, parameters: float, memory_mb: int, **more: Any) -> ModelCard:
    """Return the card of a model of this architecture; `more` replaces what is usual."""
    usual: dict[str, Any] = {
        "family": "sam",
        "source": "https://github.com/facebookresearch/segment-anything",
        "files": (),
        "code_licence": "Apache-2.0",
        "weights_licence": "Apache-2.0",
        "ndim": 2,
        "input_size": 1024,
        "size": "ViT-B",
        "prompts": frozenset({"point", "box", "mask"}),
        "preprocessing": Preprocessing(more.get("input_size", 1024)),
    }
    return ModelCard(name=name, hub_id=hub_id, parameters=parameters, memory_mb=memory_mb, **usual | more)


SHA256 = {
    "sam_vit_b_01ec64.pth": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    "sam_vit_l_0b3195.pth": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    "sam_vit_h_4b8939.pth": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
}
"""Of the published files; the digits in their names are the first of their MD5."""


def _sam(name: str, size: str, file: str, parameters: float, memory_mb: int) -> ModelCard:
    return sam_card(name, f"facebook/{name}", parameters, memory_mb, size=size, files=(file,), sha256=SHA256[file])


def _slim(name: str, percent: str, parameters: float, memory_mb: int, size: str) -> ModelCard:
    source = "https://github.com/czg1225/SlimSAM"
    hub_id, notes = f"Zigeng/SlimSAM-uniform-{percent}", f"SAM {size}."
    return sam_card(name, hub_id, parameters, memory_mb, source=source, size=size, notes=notes)


CARDS = (
    _sam("sam-vit-base", "ViT-B", "sam_vit_b_01ec64.pth", 93.7, 2200),
    _sam("sam-vit-large", "ViT-L", "sam_vit_l_0b3195.pth", 312.3, 3700),
    _sam("sam-vit-huge", "ViT-H", "sam_vit_h_4b8939.pth", 641.1, 5000),
    _slim("slimsam-50", "50", 28.0, 1900, "ViT-B pruned by half"),
    _slim("slimsam-77", "77", 9.7, 1800, "ViT-B pruned by 77 %"),
    sam_card(
        "medsam",
        "wanglab/medsam-vit-base",
        93.7,
        2200,
        source="https://github.com/bowang-lab/MedSAM",
        files=("medsam_vit_b.pth",),
        notes="Trained on medical images with box prompts; points and point grids are off what it was trained on.",
        preprocessing=Preprocessing(1024, layout="stretch", mean=None, resampling="bicubic"),
    ),
)


def _recognise(shapes: Shapes) -> Signs | None:
    others = any(".Adapter." in name or name.startswith("mask_decoder.hf_token.") for name in shapes)
    return None if others else vit_signs(shapes)


def hub_signs(config: Mapping[str, Any]) -> Signs:
    """Return what the configuration of a SAM or SAM-HQ tells."""
    vision = part_of(config, "vision_config")
    size = VITS.get((vision.get("hidden_size", 768), vision.get("num_hidden_layers", 12)), "")
    return Signs(size, vision.get("image_size", 1024))


def published_sam(shapes: Shapes) -> dict[str, Any]:
    """Return the settings of a SAM of as many blocks as the renamed tensors have, else as published."""
    return {"vision_config": {"num_hidden_layers": count(shapes, "vision_encoder.layers.#.") or 12}}


def resize_sam(network: Any, size: int | None, card: ModelCard) -> tuple[Any, int]:
    """Make a SAM see smaller or larger images, in place: its position embedding is interpolated bicubically.

    Raises
    ------
    InputError
        When the size is not a positive multiple of the patch size.
    """
    trained: int = network.config.vision_config.image_size
    if size is None or size == trained:
        return network, trained
    check_size(size, PATCH)
    cells = size // PATCH
    encoder, prompts = network.vision_encoder, network.prompt_encoder
    if getattr(encoder, "pos_embed", None) is not None:
        grid = F.interpolate(encoder.pos_embed.permute(0, 3, 1, 2), (cells, cells), mode="bicubic")
        encoder.pos_embed = nn.Parameter(grid.detach().permute(0, 2, 3, 1).contiguous())
        encoder.patch_embed.image_size = (size, size)
        encoder.image_size = size
    prompts.image_embedding_size = (cells, cells)
    prompts.input_image_size = size
    network.config.vision_config.image_size = size
    network.config.prompt_encoder_config.image_size = size
    network.config.prompt_encoder_config.image_embedding_size = cells
    return network, size


def check_size(size: int, multiple: int) -> int:
    """Return an input size that is a multiple of something.

    Raises
    ------
    InputError
        When it is not.
    """
    if size < SMALLEST or size % multiple:
        raise InputError(f"input size {size} is unsuitable; use a multiple of {multiple} from {SMALLEST} on")
    return size


HUB = HubFormat("SamModel", "SamConfig", ("sam",), hub_signs)

FAMILY = Family(
    name="sam",
    title="Segment Anything (SAM)",
    cards=CARDS,
    model=SamNetwork,
    recognise=_recognise,
    rename=sam_names,
    rules=NAMES,
    settings=lambda shapes, card, path: sam_settings(shapes),
    published=published_sam,
    build=HUB.build,
    resize=resize_sam,
    hub=HUB,
)
