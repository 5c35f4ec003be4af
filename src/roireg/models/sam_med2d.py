"""SAM-Med2D: Segment Anything at 256 px with one adapter per block, trained on 4.6 million medical images.

Cheng et al., "SAM-Med2D", arXiv 2308.16184. Published as an original checkpoint; everything but the adapters is
computed by `transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roireg.models.base import ModelCard
from roireg.models.checkpoint import fill, read_tensors, shapes_of, sizes_told
from roireg.models.hugging import build_empty
from roireg.models.precision import Precision
from roireg.models.preprocess import Preprocessing
from roireg.models.renaming import Rules
from roireg.models.sam import SamNetwork, check_size, finish_sam, published_sam, sam_card
from roireg.models.sam_names import ENCODER, PARTS, sam_names, sam_settings

__all__ = ["CARDS", "Adapter", "add_adapters", "load"]

BLOCKS: Rules = (
    ("image_encoder.blocks.#.mlp.", "vision_encoder.layers.#.mlp.mlp."),
    ("image_encoder.blocks.#.Adapter.", "vision_encoder.layers.#.mlp.adapter."),
)

NAMES: Rules = (*BLOCKS, *ENCODER, *PARTS)

CARDS: tuple[ModelCard, ...] = (
    sam_card(
        "sam-med2d",
        None,
        271.2,
        1300,
        family="sam-med2d",
        source="https://github.com/OpenGVLab/SAM-Med2D",
        files=("sam-med2d_b.pth",),
        input_size=256,
        notes="Trained on medical images of many kinds with points, boxes and masks; the file has 2.6 GB.",
        # Its authors resize to a square without interpolation, for training and prediction.
        preprocessing=Preprocessing(256, layout="stretch", resampling="nearest"),
    ),
)


class Adapter(nn.Module):
    """Channel attention, then a convolution at half the resolution and back, added to the input and normalised.

    Maps (B, h, w, width) to the same; h and w must be even.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.channel = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, width, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weighted = x * self.channel(x.mean((1, 2), keepdim=True))
        detail: Tensor = self.spatial(weighted.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        adapted: Tensor = self.norm(x + detail)
        return adapted


class _AdaptedMlp(nn.Module):
    """Stands where a block has its perceptron: mlp(n) + adapter(n)."""

    def __init__(self, mlp: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.mlp = mlp
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        both: Tensor = self.mlp(x) + self.adapter(x)
        return both


def add_adapters(network: Any, hidden: int) -> None:
    """Give every block of a `SamModel` an adapter of this inner width, in place."""
    for block in network.vision_encoder.layers:
        block.mlp = _AdaptedMlp(block.mlp, Adapter(network.config.vision_config.hidden_size, hidden))


def _published(tensors: Mapping[str, Tensor]) -> Any:
    network = published_sam(tensors)
    with torch.device("meta"):
        add_adapters(network, network.config.vision_config.hidden_size // 4)
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
    """Load from an original checkpoint; parameters and errors as `sam.load`, sizes are multiples of 32."""
    if input_size is not None:
        check_size(input_size, 32)
    tensors = sam_names(read_tensors(path), NAMES)
    shapes = shapes_of(tensors)
    plain = {name.replace(".mlp.mlp.", ".mlp."): shape for name, shape in shapes.items()}
    published = partial(_published, tensors)
    with sizes_told(path, card.name, tensors, published=published, rules=NAMES):
        settings = sam_settings(plain)
        inner = shapes["vision_encoder.layers.0.mlp.adapter.channel.0.weight"][0]
    network = build_empty("SamModel", "SamConfig", settings)
    with torch.device("meta"):
        add_adapters(network, inner)
    report = fill(network, tensors, source=path, name=card.name, rules=NAMES)
    return finish_sam(SamNetwork, network, report, card, device, digest, input_size, precision)
