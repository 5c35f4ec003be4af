"""SAM-HQ: Segment Anything with a second mask head that reads early features of the encoder for sharper borders.

Ke et al., "Segment Anything in High Quality", NeurIPS 2023. Computed by `transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.models.base import ModelCard
from roireg.models.checkpoint import fill, read_tensors, shapes_of, sizes_told
from roireg.models.hugging import build_empty, from_folder
from roireg.models.precision import Precision
from roireg.models.promptable import Prompts
from roireg.models.renaming import Rules
from roireg.models.sam import SamNetwork, finish_sam, published_sam, sam_card
from roireg.models.sam_names import ENCODER, PARTS, sam_names, sam_settings

__all__ = ["CARDS", "SamHqNetwork", "load"]

HEAD: Rules = (
    ("mask_decoder.hf_token.", "mask_decoder.hq_token."),
    ("mask_decoder.hf_mlp.", "mask_decoder.hq_mask_mlp."),
    ("mask_decoder.compress_vit_feat.0.", "mask_decoder.compress_vit_conv1."),
    ("mask_decoder.compress_vit_feat.1.", "mask_decoder.compress_vit_norm."),
    ("mask_decoder.compress_vit_feat.3.", "mask_decoder.compress_vit_conv2."),
    ("mask_decoder.embedding_encoder.0.", "mask_decoder.encoder_conv1."),
    ("mask_decoder.embedding_encoder.1.", "mask_decoder.encoder_norm."),
    ("mask_decoder.embedding_encoder.3.", "mask_decoder.encoder_conv2."),
    ("mask_decoder.embedding_maskfeature.0.", "mask_decoder.mask_conv1."),
    ("mask_decoder.embedding_maskfeature.1.", "mask_decoder.mask_norm."),
    ("mask_decoder.embedding_maskfeature.3.", "mask_decoder.mask_conv2."),
)

NAMES: Rules = (*HEAD, *ENCODER, *PARTS)


def _card(name: str, hub_id: str, file: str, parameters: float, memory_mb: int) -> ModelCard:
    return sam_card(
        name,
        hub_id,
        parameters,
        memory_mb,
        family="sam-hq",
        source="https://github.com/SysCV/sam-hq",
        files=(file,),
        notes="Sharper borders than SAM; trained on photographs.",
    )


CARDS: tuple[ModelCard, ...] = (
    _card("sam-hq-vit-base", "syscv-community/sam-hq-vit-base", "sam_hq_vit_b.pth", 94.8, 2300),
    _card("sam-hq-vit-large", "syscv-community/sam-hq-vit-large", "sam_hq_vit_l.pth", 313.5, 3800),
    _card("sam-hq-vit-huge", "syscv-community/sam-hq-vit-huge", "sam_hq_vit_h.pth", 642.4, 5100),
)


class SamHqNetwork(SamNetwork):
    """`SamHQModel` of transformers; masks are the sum of both heads, as its authors use them."""

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        out = self._encoder()(pixels)
        return {"image": out.last_hidden_state.float(), "early": out.intermediate_embeddings[0].float()}

    def _inputs(self, tensors: Mapping[str, Tensor], prompts: Prompts) -> dict[str, Any]:
        early = [tensors["early"].to(self.device)]
        return {**super()._inputs(tensors, prompts), "intermediate_embeddings": early}


def load(
    card: ModelCard,
    path: Path,
    *,
    device: torch.device,
    digest: str,
    input_size: int | None = None,
    precision: Precision = None,
) -> SamNetwork:
    """Load from a Hugging Face folder or an original checkpoint; parameters and errors as `sam.load`."""
    if path.is_dir():
        network, report = from_folder("SamHQModel", path, name=card.name)
    else:
        tensors = sam_names(read_tensors(path), NAMES)
        published = partial(published_sam, tensors, "SamHQModel", "SamHQConfig")
        with sizes_told(path, card.name, tensors, published=published, rules=NAMES):
            settings = sam_settings(shapes_of(tensors))
        settings["mask_decoder_config"]["vit_dim"] = settings["vision_config"]["hidden_size"]
        network = build_empty("SamHQModel", "SamHQConfig", settings)
        report = fill(network, tensors, source=path, name=card.name, rules=NAMES)
    return finish_sam(SamHqNetwork, network, report, card, device, digest, input_size, precision)
