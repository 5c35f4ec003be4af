"""Segment Anything and its siblings of the same architecture: SAM, SlimSAM, MedSAM.

Kirillov et al., "Segment Anything", ICCV 2023. Computed by `transformers`; read from its folders and from the
original .pth files.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roireg.core.errors import InputError
from roireg.models.base import LoadReport, ModelCard
from roireg.models.checkpoint import fill, read_tensors, shapes_of, sizes_told
from roireg.models.hugging import build_empty, from_folder
from roireg.models.precision import Precision, choose_precision, compute_in
from roireg.models.preprocess import Preprocessing
from roireg.models.promptable import PromptableNetwork, Prompts
from roireg.models.renaming import Rules
from roireg.models.sam_names import ENCODER, PARTS, count, sam_names, sam_settings

__all__ = ["CARDS", "SamNetwork", "check_size", "finish_sam", "load", "published_sam", "resize_sam", "sam_card"]

NAMES: Rules = (*ENCODER, *PARTS)

PATCH = 16

SMALLEST = 64
"""Input size below which nothing is left to see."""


class SamNetwork(PromptableNetwork):
    """`SamModel` of transformers, or a network with the same parts."""

    @property
    def layers(self) -> int:
        return len(self.network.vision_encoder.layers)  # type: ignore[union-attr, arg-type]

    def _encoder(self) -> nn.Module:
        encoder: nn.Module = self.network.vision_encoder  # type: ignore[assignment]
        return encoder

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
    known: dict[str, Any] = {
        "family": "sam",
        "source": "https://github.com/facebookresearch/segment-anything",
        "files": (),
        "code_licence": "Apache-2.0",
        "weights_licence": "Apache-2.0",
        "ndim": 2,
        "input_size": 1024,
        "prompts": frozenset({"point", "box", "mask"}),
        "preprocessing": Preprocessing(more.get("input_size", 1024)),
    }
    return ModelCard(name=name, hub_id=hub_id, parameters=parameters, memory_mb=memory_mb, **{**known, **more})


def _sam(name: str, file: str, parameters: float, memory_mb: int, sha256: str) -> ModelCard:
    return sam_card(name, f"facebook/{name}", parameters, memory_mb, files=(file,), sha256=sha256)


def _slim(name: str, hub_id: str, parameters: float, memory_mb: int, notes: str) -> ModelCard:
    source = "https://github.com/czg1225/SlimSAM"
    return sam_card(name, hub_id, parameters, memory_mb, source=source, notes=notes)


# The digits in the names of the files are the first of their MD5.
CARDS: tuple[ModelCard, ...] = (
    _sam(
        "sam-vit-base",
        "sam_vit_b_01ec64.pth",
        93.7,
        2200,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    _sam(
        "sam-vit-large",
        "sam_vit_l_0b3195.pth",
        312.3,
        3700,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    _sam(
        "sam-vit-huge",
        "sam_vit_h_4b8939.pth",
        641.1,
        5000,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    _slim("slimsam-50", "Zigeng/SlimSAM-uniform-50", 28.0, 1900, "SAM ViT-B pruned by half."),
    _slim("slimsam-77", "Zigeng/SlimSAM-uniform-77", 9.7, 1800, "SAM ViT-B pruned by 77 %."),
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


def load(
    card: ModelCard,
    path: Path,
    *,
    device: torch.device,
    digest: str,
    input_size: int | None = None,
    precision: Precision = None,
) -> SamNetwork:
    """Load a network of this family from a Hugging Face folder or an original checkpoint.

    Parameters
    ----------
    digest : SHA-256 of the weights, for the key.
    input_size : side of the input in pixels, a multiple of 16; the size trained for if None.

    Raises
    ------
    InputError
        When the file does not fit the card, or the size or number format is unsuitable.
    """
    if path.is_dir():
        network, report = from_folder("SamModel", path, name=card.name)
    else:
        tensors = sam_names(read_tensors(path), NAMES)
        with sizes_told(path, card.name, tensors, published=partial(published_sam, tensors), rules=NAMES):
            settings = sam_settings(shapes_of(tensors))
        network = build_empty("SamModel", "SamConfig", settings)
        report = fill(network, tensors, source=path, name=card.name, rules=NAMES)
    return finish_sam(SamNetwork, network, report, card, device, digest, input_size, precision)


def finish_sam(
    kind: type[SamNetwork],
    network: Any,
    report: LoadReport,
    card: ModelCard,
    device: torch.device,
    digest: str,
    input_size: int | None,
    precision: Precision,
) -> SamNetwork:
    """Resize a loaded network, choose its number format, put it on its device and wrap it."""
    dtype = choose_precision(precision, device)
    size = network.config.vision_config.image_size
    if input_size is not None and input_size != size:
        resize_sam(network, input_size)
        size = input_size
    network.to(device)
    network.vision_encoder.to(dtype)
    # Not the prompt encoder: points would be rounded to several pixels.
    compute_in(network.mask_decoder, dtype)
    how = card.prepared(size)
    return kind(card, network, how, key=card.key(digest, how, dtype), report=report, stride=PATCH)


def published_sam(tensors: Mapping[str, Tensor], model: str = "SamModel", config: str = "SamConfig") -> Any:
    """Build a SAM of as many blocks as the renamed tensors have, else as published: names to compare theirs with."""
    layers = count(tensors, r"^vision_encoder\.layers\.(\d+)\.")
    return build_empty(model, config, {"vision_config": {"num_hidden_layers": layers or 12}})


def resize_sam(network: Any, size: int) -> None:
    """Make a SAM see smaller or larger images, in place: its position embedding is interpolated bicubically.

    Raises
    ------
    InputError
        When the size is not a positive multiple of the patch size.
    """
    cells = check_size(size, PATCH) // PATCH
    encoder, prompts = network.vision_encoder, network.prompt_encoder
    if getattr(encoder, "pos_embed", None) is not None:
        grid = F.interpolate(encoder.pos_embed.permute(0, 3, 1, 2), (cells, cells), mode="bicubic")
        encoder.pos_embed = nn.Parameter(grid.permute(0, 2, 3, 1).contiguous(), requires_grad=False)
        encoder.patch_embed.image_size = (size, size)
        encoder.image_size = size
    prompts.image_embedding_size = (cells, cells)
    prompts.input_image_size = size
    network.config.vision_config.image_size = size
    network.config.prompt_encoder_config.image_size = size
    network.config.prompt_encoder_config.image_embedding_size = cells


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
