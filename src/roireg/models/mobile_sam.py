"""MobileSAM: the decoder of Segment Anything on the small encoder TinyViT.

Zhang et al., "Faster Segment Anything", arXiv 2306.14289. Published as an original checkpoint.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.models.base import ModelCard
from roireg.models.checkpoint import fill, read_tensors, shapes_of, sizes_told
from roireg.models.hugging import build_empty
from roireg.models.precision import Precision
from roireg.models.renaming import Rules
from roireg.models.sam import SamNetwork, finish_sam, sam_card
from roireg.models.sam_names import NECK, PARTS, SHARED, sam_names
from roireg.models.sam_names import decoder_settings as decoder_of
from roireg.models.tiny_vit import TinyVit, TinyVitSizes

__all__ = ["CARDS", "MobileSamNetwork", "load"]

CARDS: tuple[ModelCard, ...] = (
    sam_card(
        "mobile-sam",
        None,
        10.1,
        500,
        family="mobile-sam",
        source="https://github.com/ChaoningZhang/MobileSAM",
        files=("mobile_sam.pt",),
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        notes="SAM with a small encoder; the fastest of the SAM kind at 1024 px.",
    ),
)

NAMES: Rules = (*NECK, ("image_encoder.", "vision_encoder."), *PARTS)

CLASSIFIER = ("image_encoder.norm_head.", "image_encoder.head.")
"""Tensors left over from the encoder's own training, of no use here."""


class MobileSamNetwork(SamNetwork):
    """SAM's decoder on `TinyVit`; the blocks of its encoder are the four stages."""

    def _layer(self, pixels: Tensor, layer: int) -> Tensor:
        encoder: Any = self._encoder()
        features: Tensor = encoder.after(pixels, layer)
        return features


def _build(sizes: TinyVitSizes, stand_in: dict[str, Any], **settings: Any) -> Any:
    """Build the network without memory for its weights, on `TinyVit` in place of a vision transformer."""
    network = build_empty("SamModel", "SamConfig", {**settings, "vision_config": stand_in})
    with torch.device("meta"):
        network.vision_encoder = TinyVit(sizes)
    return network


def load(
    card: ModelCard,
    path: Path,
    *,
    device: torch.device,
    digest: str,
    input_size: int | None = None,
    precision: Precision = None,
) -> SamNetwork:
    """Load from an original checkpoint; parameters and errors as `sam.load`."""
    tensors = {name: value for name, value in read_tensors(path).items() if not name.startswith(CLASSIFIER)}
    tensors = sam_names(tensors, NAMES)
    shapes = shapes_of(tensors)
    stand_in = {"hidden_size": 16, "num_hidden_layers": 0, "num_attention_heads": 1, "image_size": card.input_size}
    published = partial(_build, TinyVitSizes(), stand_in)
    with sizes_told(path, card.name, tensors, published=published, rules=NAMES):
        sizes = TinyVitSizes.of(shapes)
        # Nothing in the tensors tells the input size; the published one is the card's.
        settings = decoder_of(shapes, card.input_size)
        features = {"num_pos_feats": shapes[SHARED][1]}
    network = _build(sizes, stand_in | features, **settings)
    report = fill(network, tensors, source=path, name=card.name, rules=NAMES)
    return finish_sam(MobileSamNetwork, network, report, card, device, digest, input_size, precision)
