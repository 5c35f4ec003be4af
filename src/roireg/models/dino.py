"""DINOv2 and DINOv3: encoders for dense features, without prompts.

Oquab et al., "DINOv2", TMLR 2024; Simeoni et al., "DINOv3", arXiv 2508.10104. Computed by `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.core.errors import InputError
from roireg.models.base import Embedding, LoadReport, ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.family import Family
from roireg.models.hugging import HubFormat
from roireg.models.preprocess import Preprocessing
from roireg.models.promptable import RasterNetwork
from roireg.models.renaming import Rules, count, rename

__all__ = ["FAMILIES", "DinoNetwork"]

SIZES = {(384, 12): "small", (768, 12): "base", (1024, 24): "large"}
"""Published sizes by width and number of blocks."""

HEAD = 64
"""Channels of one attention head in every published size."""

V2: Rules = (
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("norm.", "layernorm."),
    ("blocks.#.attn.proj.", "encoder.layer.#.attention.o_proj."),
    ("blocks.#.attn.", "encoder.layer.#.attention."),
    ("blocks.#.ls#.gamma", "encoder.layer.#.layer_scale#.lambda1"),
    ("blocks.#.", "encoder.layer.#."),
)

V3: Rules = (
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("storage_tokens", "embeddings.register_tokens"),
    ("patch_embed.proj.", "embeddings.patch_embeddings."),
    ("blocks.#.attn.proj.", "model.layer.#.attention.o_proj."),
    ("blocks.#.attn.", "model.layer.#.attention."),
    ("blocks.#.mlp.fc1.", "model.layer.#.mlp.up_proj."),
    ("blocks.#.mlp.fc2.", "model.layer.#.mlp.down_proj."),
    ("blocks.#.ls#.gamma", "model.layer.#.layer_scale#.lambda1"),
    ("blocks.#.", "model.layer.#."),
)

RULES = {"dinov2": V2, "dinov3": V3}


def dino_names(tensors: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Return the tensors of an original checkpoint under the names of transformers.

    Query, key and value are one matrix there and three here. DINOv3 masks the bias of its keys, which here has none.
    """
    third = family == "dinov3"
    out: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if third and (name.endswith("attn.qkv.bias_mask") or name == "rope_embed.periods"):
            continue
        if ".attn.qkv." not in name:
            out[rename(name, RULES[family])] = value
            continue
        for part, piece in zip("qkv", torch.chunk(value, 3), strict=True):
            if not (third and part == "k" and name.endswith("bias")):
                out[rename(name.replace(".qkv.", f".{part}_proj."), RULES[family])] = piece
    mask = out.get("embeddings.mask_token")
    if third and mask is not None:
        out["embeddings.mask_token"] = mask.reshape(1, 1, -1)
    return out


def _settings_v2(shapes: Shapes, card: ModelCard, path: Path) -> dict[str, Any]:
    width = shapes["embeddings.cls_token"][-1]
    patch = shapes["embeddings.patch_embeddings.projection.weight"][-1]
    return {
        "hidden_size": width,
        "mlp_ratio": shapes["encoder.layer.0.mlp.fc1.weight"][0] // width,
        "num_hidden_layers": count(shapes, "encoder.layer.#."),
        "num_attention_heads": width // HEAD,
        "patch_size": patch,
        "image_size": round((shapes["embeddings.position_embeddings"][1] - 1) ** 0.5) * patch,
        "use_mask_token": "embeddings.mask_token" in shapes,
    }


def _settings_v3(shapes: Shapes, card: ModelCard, path: Path) -> dict[str, Any]:
    width = shapes["embeddings.cls_token"][-1]
    return {
        "hidden_size": width,
        "intermediate_size": shapes["model.layer.0.mlp.up_proj.weight"][0],
        "num_hidden_layers": count(shapes, "model.layer.#."),
        "num_attention_heads": width // HEAD,
        "patch_size": shapes["embeddings.patch_embeddings.weight"][-1],
        "num_register_tokens": shapes["embeddings.register_tokens"][1],
    }


class DinoNetwork(RasterNetwork):
    """A DINO encoder; see `Network` and `DenseEncoder`. Its size is the longest side of the input."""

    def __init__(self, card: ModelCard, network: Any, size: int, *, key: str, report: LoadReport | None) -> None:
        super().__init__(card, network, size, key=key, report=report)
        self.preprocessing = replace(self.preprocessing, patch=network.config.patch_size)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Let all parameters compute in a number format.

        Not the buffers: rounded frequencies of DINOv3 would misplace its patches.
        """
        for parameter in self.network.parameters():
            parameter.data = parameter.data.to(dtype)

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return int(self.network.config.num_hidden_layers)

    def encode_dense(self, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Encode; class and register tokens are dropped, the final normalisation is applied to every layer.

        Raises
        ------
        InputError
            When there is no such block.
        """
        block = self._block(layer, self.layers)
        pixels, frame = self.preprocessing(raster.to(self.device))
        with self.encoding():
            tokens = self._tokens(pixels.to(self.dtype), block)
        patch = self.preprocessing.patch
        rows, columns = frame.size[0] // patch, frame.size[1] // patch
        # Tokens for the class and the registers come first.
        image = tokens[:, tokens.shape[1] - rows * columns :].float().transpose(1, 2)
        return self.embedding({"image": image.reshape(1, -1, rows, columns)}, frame, patch)

    def _tokens(self, pixels: Tensor, block: int | None) -> Tensor:
        if block in (None, self.layers - 1):
            return self.network(pixels).last_hidden_state
        # The first of the hidden states is what enters block 0.
        hidden = self.network(pixels, output_hidden_states=True).hidden_states[(block or 0) + 1]
        norm = self.network.layernorm if self.card.family == "dinov2" else self.network.norm
        return norm(hidden)


def _recognise(shapes: Shapes, third: bool) -> Signs | None:
    # DINOv2 with registers is a network of its own.
    if "blocks.0.ls1.gamma" not in shapes or "cls_token" not in shapes or "register_tokens" in shapes:
        return None
    if ("storage_tokens" in shapes) != third:
        return None
    return Signs(SIZES.get((shapes["cls_token"][-1], count(shapes, "blocks.#.")), ""))


def _hub_signs(config: Mapping[str, Any]) -> Signs:
    return Signs(SIZES.get((config.get("hidden_size", 768), config.get("num_hidden_layers", 12)), ""))


def _resize(network: Any, size: int | None, card: ModelCard) -> tuple[Any, int]:
    """Return the network: it sees any size, rounded to a multiple of the patch per axis."""
    patch = network.config.patch_size
    size = card.input_size if size is None else size
    if size < 2 * patch:
        raise InputError(f"input size {size} is unsuitable; use at least {2 * patch}, two patches")
    return network, size


def _card(family: str, size: str, hub: str, file: str, parameters: float, memory_mb: int, sha256: str) -> ModelCard:
    third = family == "dinov3"
    licence = "DINOv3 License" if third else "Apache-2.0"
    side, patch = (768, 16) if third else (518, 14)
    return ModelCard(
        name=f"{family}-{size}",
        family=family,
        hub_id=f"facebook/{hub}",
        source=f"https://github.com/facebookresearch/{family}",
        files=(file,),
        code_licence=licence,
        weights_licence=licence,
        ndim=2,
        input_size=side,
        parameters=parameters,
        memory_mb=memory_mb,
        notes="Dense features only." + (" Ask for access on the hub first." if third else ""),
        preprocessing=Preprocessing(side, layout="patches", patch=patch),
        sha256=sha256,
        size=size,
    )


def _v2(size: str, parameters: float, memory_mb: int, sha256: str) -> ModelCard:
    file = f"dinov2_vit{size[0]}14_pretrain.pth"
    return _card("dinov2", size, f"dinov2-{size}", file, parameters, memory_mb, sha256)


def _v3(size: str, parameters: float, memory_mb: int, sha256: str) -> ModelCard:
    """Return a card; files are named as torch.hub wants it: the digits are the first of the SHA-256."""
    name = f"vit{size[0]}16"
    file = f"dinov3_{name}_pretrain_lvd1689m-{sha256}.pth"
    return _card("dinov3", size, f"dinov3-{name}-pretrain-lvd1689m", file, parameters, memory_mb, sha256)


CARDS = {
    "dinov2": (
        _v2("small", 22.1, 200, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
        _v2("base", 86.6, 450, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"),
        _v2("large", 304.4, 1400, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"),
    ),
    "dinov3": (
        _v3("small", 21.6, 250, "08c60483"),
        _v3("base", 85.7, 500, "73cec8be"),
    ),
}


def _family(
    name: str,
    title: str,
    hub: HubFormat,
    settings: Callable[[Shapes, ModelCard, Path], Mapping[str, Any]],
) -> Family:
    return Family(
        name=name,
        title=title,
        cards=CARDS[name],
        model=DinoNetwork,
        recognise=partial(_recognise, third=name == "dinov3"),
        rename=partial(dino_names, family=name),
        rules=RULES[name],
        settings=settings,
        build=partial(_build, hub),
        resize=_resize,
        hub=hub,
    )


def _build(hub: HubFormat, settings: Mapping[str, Any]) -> Any:
    # With memory, whatever the caller wants: the frequencies of DINOv3 are computed, not stored.
    with torch.device("cpu"):
        return hub.build(settings)


FAMILIES = (
    _family("dinov2", "DINOv2", HubFormat("Dinov2Model", "Dinov2Config", ("dinov2",), _hub_signs), _settings_v2),
    _family(
        "dinov3", "DINOv3", HubFormat("DINOv3ViTModel", "DINOv3ViTConfig", ("dinov3_vit",), _hub_signs), _settings_v3
    ),
)
