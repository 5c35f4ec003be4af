"""DINOv2 and DINOv3: encoders for dense features, without prompts.

Oquab et al., "DINOv2", TMLR 2024; Simeoni et al., "DINOv3", arXiv 2508.10104. Computed by `transformers`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.core.errors import InputError
from roireg.models.base import Embedding, LoadReport, ModelCard
from roireg.models.checkpoint import fill, read_tensors, shapes_of, sizes_told
from roireg.models.dino_names import RULES, dino_names, dino_settings
from roireg.models.hugging import build_empty, from_folder, transformers_class
from roireg.models.memory import memory_explained
from roireg.models.precision import Precision, choose_precision
from roireg.models.preprocess import Preprocessing

__all__ = ["CARDS", "DinoNetwork", "load"]

CLASSES = {"dinov2": ("Dinov2Model", "Dinov2Config"), "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig")}


def _card(name: str, hub_id: str, file: str, parameters: float, memory_mb: int, sha256: str) -> ModelCard:
    family = name.split("-")[0]
    third = family == "dinov3"
    licence = "DINOv3 License" if third else "Apache-2.0"
    size, patch = (768, 16) if third else (518, 14)
    return ModelCard(
        name=name,
        family=family,
        hub_id=hub_id,
        source=f"https://github.com/facebookresearch/{family}",
        files=(file,),
        code_licence=licence,
        weights_licence=licence,
        ndim=2,
        input_size=size,
        parameters=parameters,
        memory_mb=memory_mb,
        notes="Dense features only." + (" Ask for access on the hub first." if third else ""),
        preprocessing=Preprocessing(size, layout="patches", patch=patch),
        sha256=sha256,
    )


CARDS: tuple[ModelCard, ...] = (
    _card(
        "dinov2-small",
        "facebook/dinov2-small",
        "dinov2_vits14_pretrain.pth",
        22.1,
        200,
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    ),
    _card(
        "dinov2-base",
        "facebook/dinov2-base",
        "dinov2_vitb14_pretrain.pth",
        86.6,
        450,
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    ),
    _card(
        "dinov2-large",
        "facebook/dinov2-large",
        "dinov2_vitl14_pretrain.pth",
        304.4,
        1400,
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
    # Their files are named as torch.hub wants it: the digits are the first of the SHA-256.
    _card(
        "dinov3-small",
        "facebook/dinov3-vits16-pretrain-lvd1689m",
        "dinov3_vits16_pretrain_lvd1689m-08c60483.pth",
        21.6,
        250,
        "08c60483",
    ),
    _card(
        "dinov3-base",
        "facebook/dinov3-vitb16-pretrain-lvd1689m",
        "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth",
        85.7,
        500,
        "73cec8be",
    ),
)


class DinoNetwork:
    """A DINO encoder with its weights; see `DenseEncoder`.

    Parameters
    ----------
    card, key, report : see `PromptableNetwork`.
    network : the model of transformers.
    preprocessing : layout "patches"; its size is the longest side.
    """

    def __init__(
        self, card: ModelCard, network: Any, preprocessing: Preprocessing, *, key: str, report: LoadReport
    ) -> None:
        self.card = card
        self.network = network.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.key = key
        self.report = report
        self.encoded = 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return int(self.network.config.num_hidden_layers)

    @torch.no_grad()
    def encode_dense(self, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Encode; class and register tokens are dropped, the final normalisation is applied to every layer.

        Raises
        ------
        InputError
            When there is no such block.
        """
        if layer is not None and not -self.layers <= layer < self.layers:
            raise InputError(f"{self.card.name} has blocks 0 to {self.layers - 1}, not {layer}; choose one of these")
        pixels, frame = self.preprocessing(raster.to(self.device))
        self.encoded += 1
        with memory_explained(self.card, "encoding"):
            tokens = self._tokens(pixels.to(next(self.network.parameters()).dtype), layer)
        patch = self.preprocessing.patch
        rows, columns = frame.size[0] // patch, frame.size[1] // patch
        # Tokens for the class and the registers come first.
        image = tokens[:, tokens.shape[1] - rows * columns :].float().transpose(1, 2)
        scale, offset, covered = frame.cells(patch)
        return Embedding({"image": image.reshape(1, -1, rows, columns)}, frame.shape, scale, offset, covered)

    def _tokens(self, pixels: Tensor, layer: int | None) -> Tensor:
        chosen = self.layers - 1 if layer is None else range(self.layers)[layer]
        if chosen == self.layers - 1:
            last: Tensor = self.network(pixels).last_hidden_state
            return last
        # The first of the hidden states is what enters block 0.
        hidden = self.network(pixels, output_hidden_states=True).hidden_states[chosen + 1]
        norm = self.network.layernorm if self.card.family == "dinov2" else self.network.norm
        tokens: Tensor = norm(hidden)
        return tokens


def load(
    card: ModelCard,
    path: Path,
    *,
    device: torch.device,
    digest: str,
    input_size: int | None = None,
    precision: Precision = None,
) -> DinoNetwork:
    """Load from a Hugging Face folder or an original checkpoint.

    Parameters
    ----------
    input_size : longest side of what the network sees; rounded to a multiple of the patch per axis.

    Raises
    ------
    InputError
        When the file does not fit the card, or the size or number format is unsuitable.
    """
    dtype = choose_precision(precision, device)
    model, config = CLASSES[card.family]
    if path.is_dir():
        network, report = from_folder(model, path, name=card.name)
    else:
        tensors, rules = dino_names(read_tensors(path), card.family), RULES[card.family]
        published = partial(build_empty, model, config, {})
        with sizes_told(path, card.name, tensors, published=published, rules=rules):
            settings = dino_settings(shapes_of(tensors), card.family)
        # Built with memory: the frequencies of DINOv3 are computed, not stored.
        network = transformers_class(model)(transformers_class(config)(**settings))
        report = fill(network, tensors, source=path, name=card.name, rules=rules)
    patch = network.config.patch_size
    size = card.input_size if input_size is None else input_size
    if size < 2 * patch:
        raise InputError(f"input size {size} is unsuitable; use at least {2 * patch}, two patches")
    for parameter in network.parameters():
        # Not the buffers: rounded frequencies of DINOv3 would misplace its patches.
        parameter.data = parameter.data.to(dtype)
    how = replace(card.prepared(size), patch=patch)
    return DinoNetwork(card, network.to(device), how, key=card.key(digest, how, dtype), report=report)
