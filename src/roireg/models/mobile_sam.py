"""MobileSAM: the decoder of Segment Anything on the small encoder TinyViT.

Zhang et al., "Faster Segment Anything", arXiv 2306.14289. Published as an original checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.family import Family
from roireg.models.renaming import Rules
from roireg.models.sam import HUB, SamNetwork, resize_sam, sam_card
from roireg.models.sam_names import NECK, PARTS, SHARED, decoder_settings, sam_names
from roireg.models.tiny_vit import TinyVit, TinyVitSizes

__all__ = ["FAMILY", "MobileSamNetwork"]

CARD = sam_card(
    "mobile-sam",
    None,
    10.1,
    500,
    family="mobile-sam",
    size="TinyViT-5M",
    source="https://github.com/ChaoningZhang/MobileSAM",
    files=("mobile_sam.pt",),
    sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    notes="SAM with a small encoder; the fastest of the SAM kind at 1024 px.",
)

NAMES: Rules = (*NECK, ("image_encoder.", "vision_encoder."), *PARTS)

CLASSIFIER = ("image_encoder.norm_head.", "image_encoder.head.")
"""Tensors left over from the encoder's own training, of no use here."""

STAND_IN = {"hidden_size": 16, "num_hidden_layers": 0, "num_attention_heads": 1}
"""The smallest vision transformer, whose place `TinyVit` takes."""


class MobileSamNetwork(SamNetwork):
    """SAM's decoder on `TinyVit`; the blocks of its encoder are the four stages."""

    def _layer(self, pixels: Tensor, layer: int) -> Tensor:
        encoder: Any = self._encoder()
        return encoder.after(pixels, layer)


def _recognise(shapes: Shapes) -> Signs | None:
    first = shapes.get("image_encoder.patch_embed.seq.0.c.weight")
    return None if first is None else Signs(CARD.size if first[0] == 32 else "")


def _rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return sam_names({n: value for n, value in tensors.items() if not n.startswith(CLASSIFIER)}, NAMES)


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> dict[str, Any]:
    """Return the settings; nothing in the tensors tells the input size, so that it is the card's."""
    return {
        "encoder": asdict(TinyVitSizes.of(shapes)),
        "vision_config": {"image_size": card.input_size, "num_pos_feats": shapes[SHARED][1]},
        **decoder_settings(shapes, card.input_size),
    }


def _build(settings: Mapping[str, Any]) -> Any:
    decoder = {name: value for name, value in settings.items() if name != "encoder"}
    network = HUB.build({**decoder, "vision_config": STAND_IN | settings.get("vision_config", {})})
    network.vision_encoder = TinyVit(TinyVitSizes(**settings.get("encoder", {})))
    return network


FAMILY = Family(
    name="mobile-sam",
    title="MobileSAM",
    cards=(CARD,),
    model=MobileSamNetwork,
    recognise=_recognise,
    rename=_rename,
    rules=NAMES,
    settings=_settings,
    build=_build,
    resize=resize_sam,
)
