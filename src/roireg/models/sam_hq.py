"""SAM-HQ: Segment Anything with a second mask head that reads early features of the encoder for sharper borders.

Ke et al., "Segment Anything in High Quality", NeurIPS 2023. Computed by `transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.family import Family
from roireg.models.hugging import HubFormat
from roireg.models.promptable import Prompts
from roireg.models.renaming import Rules
from roireg.models.sam import SamNetwork, hub_signs, published_sam, resize_sam, sam_card
from roireg.models.sam_names import ENCODER, PARTS, sam_names, sam_settings, vit_signs

__all__ = ["FAMILY", "SamHqNetwork"]

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


def _card(word: str, parameters: float, memory_mb: int) -> ModelCard:
    letter = word[0]
    return sam_card(
        f"sam-hq-vit-{word}",
        f"syscv-community/sam-hq-vit-{word}",
        parameters,
        memory_mb,
        family="sam-hq",
        size=f"ViT-{letter.upper()}",
        source="https://github.com/SysCV/sam-hq",
        files=(f"sam_hq_vit_{letter}.pth",),
        notes="Sharper borders than SAM; trained on photographs.",
    )


class SamHqNetwork(SamNetwork):
    """`SamHQModel` of transformers; masks are the sum of both heads, as its authors use them."""

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        out = self._encoder()(pixels)
        return {"image": out.last_hidden_state.float(), "early": out.intermediate_embeddings[0].float()}

    def _inputs(self, tensors: Mapping[str, Tensor], prompts: Prompts) -> dict[str, Any]:
        early = [tensors["early"].to(self.device)]
        return {**super()._inputs(tensors, prompts), "intermediate_embeddings": early}


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> dict[str, Any]:
    settings = sam_settings(shapes)
    settings["mask_decoder_config"]["vit_dim"] = settings["vision_config"]["hidden_size"]
    return settings


def _recognise(shapes: Shapes) -> Signs | None:
    return vit_signs(shapes) if "mask_decoder.hf_token.weight" in shapes else None


HUB = HubFormat("SamHQModel", "SamHQConfig", ("sam_hq",), hub_signs)

FAMILY = Family(
    name="sam-hq",
    title="SAM-HQ",
    cards=(_card("base", 94.8, 2300), _card("large", 313.5, 3800), _card("huge", 642.4, 5100)),
    model=SamHqNetwork,
    recognise=_recognise,
    rename=partial(sam_names, rules=NAMES),
    rules=NAMES,
    settings=_settings,
    published=published_sam,
    build=HUB.build,
    resize=resize_sam,
    hub=HUB,
)
