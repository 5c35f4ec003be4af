"""MobileSAM: the decoder of Segment Anything on the small encoder TinyViT.

Zhang et al., "Faster Segment Anything", arXiv 2306.14289. Published as an original checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.models.base import ModelCard
from roireg.models.checkpoint import fill, read_tensors, shapes_of, sizes_told
from roireg.models.precision import Precision
from roireg.models.sam import SamNetwork, build_empty, finish_sam, sam_card
from roireg.models.sam_names import ENCODER, PARTS, SHARED, sam_names
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
        notes="SAM with a small encoder; the fastest of the SAM kind at 1024 px.",
    ),
)

CLASSIFIER = ("image_encoder.norm_head.", "image_encoder.head.")
"""Tensors left over from the encoder's own training, of no use here."""


class MobileSamNetwork(SamNetwork):
    """SAM's decoder on `TinyVit`; the blocks of its encoder are the four stages."""

    def _layer(self, pixels: Tensor, layer: int) -> Tensor:
        encoder: Any = self._encoder()
        features: Tensor = encoder.after(pixels, layer)
        return features


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
    tensors = sam_names(tensors, (*ENCODER, *PARTS))
    shapes = shapes_of(tensors)
    stand_in = {"hidden_size": 16, "num_hidden_layers": 0, "num_attention_heads": 1, "image_size": card.input_size}
    with sizes_told(path, card.name):
        sizes = TinyVitSizes.of(shapes)
        # Nothing in the tensors tells the input size; the published one is the card's.
        settings = decoder_of(shapes, card.input_size)
        settings["vision_config"] = {**stand_in, "num_pos_feats": shapes[SHARED][1]}
    network = build_empty("SamModel", "SamConfig", settings)
    with torch.device("meta"):
        network.vision_encoder = TinyVit(sizes)
    report = fill(network, tensors, source=path, name=card.name)
    return finish_sam(MobileSamNetwork, network, report, card, device, digest, input_size, precision)
