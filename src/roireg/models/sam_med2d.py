"""SAM-Med2D: Segment Anything at 256 px with one adapter per block, trained on 4.6 million medical images.

Cheng et al., "SAM-Med2D", arXiv 2308.16184. Published as an original checkpoint; everything but the adapters is
computed by `transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.family import Family
from roireg.models.preprocess import Preprocessing
from roireg.models.renaming import Rules
from roireg.models.sam import HUB, SamNetwork, check_size, published_sam, resize_sam, sam_card
from roireg.models.sam_names import ENCODER, PARTS, sam_names, sam_settings, vit_signs

__all__ = ["FAMILY", "Adapter", "add_adapters"]

BLOCKS: Rules = (
    ("image_encoder.blocks.#.mlp.", "vision_encoder.layers.#.mlp.mlp."),
    ("image_encoder.blocks.#.Adapter.", "vision_encoder.layers.#.mlp.adapter."),
)

NAMES: Rules = (*BLOCKS, *ENCODER, *PARTS)

CARD = sam_card(
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
        return self.norm(x + detail)


class _AdaptedMlp(nn.Module):
    """Stands where a block has its perceptron: mlp(n) + adapter(n)."""

    def __init__(self, mlp: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.mlp = mlp
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x) + self.adapter(x)


def add_adapters(network: Any, hidden: int) -> None:
    """Give every block of a `SamModel` an adapter of this inner width, in place."""
    for block in network.vision_encoder.layers:
        block.mlp = _AdaptedMlp(block.mlp, Adapter(network.config.vision_config.hidden_size, hidden))


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> dict[str, Any]:
    plain = {name.replace(".mlp.mlp.", ".mlp."): shape for name, shape in shapes.items()}
    return {**sam_settings(plain), "adapter": shapes["vision_encoder.layers.0.mlp.adapter.channel.0.weight"][0]}


def _build(settings: Mapping[str, Any]) -> Any:
    network = HUB.build({name: value for name, value in settings.items() if name != "adapter"})
    add_adapters(network, settings.get("adapter", network.config.vision_config.hidden_size // 4))
    return network


def _resize(network: Any, size: int | None, card: ModelCard) -> tuple[Any, int]:
    """Resize as any SAM; the adapters halve the map, so that sizes are multiples of 32."""
    return resize_sam(network, size if size is None else check_size(size, 32), card)


def _recognise(shapes: Shapes) -> Signs | None:
    return vit_signs(shapes) if any(".Adapter." in name for name in shapes) else None


FAMILY = Family(
    name="sam-med2d",
    title="SAM-Med2D",
    cards=(CARD,),
    model=SamNetwork,
    recognise=_recognise,
    rename=partial(sam_names, rules=NAMES),
    rules=NAMES,
    settings=_settings,
    published=published_sam,
    build=_build,
    resize=_resize,
)
