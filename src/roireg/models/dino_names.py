"""Original DINOv2 and DINOv3 checkpoints in the words of transformers: tensor names and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from roireg.models.checkpoint import Shapes
from roireg.models.renaming import Rules, rename
from roireg.models.sam_names import count

__all__ = ["RULES", "dino_names", "dino_settings"]

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


def dino_settings(shapes: Shapes, family: str) -> dict[str, Any]:
    """Return the configuration of a DINO, as transformers takes it, from the shapes of its renamed tensors."""
    width = shapes["embeddings.cls_token"][-1]
    if family == "dinov3":
        return {
            "hidden_size": width,
            "intermediate_size": shapes["model.layer.0.mlp.up_proj.weight"][0],
            "num_hidden_layers": count(shapes, r"^model\.layer\.(\d+)\."),
            "num_attention_heads": width // HEAD,
            "patch_size": shapes["embeddings.patch_embeddings.weight"][-1],
            "num_register_tokens": shapes["embeddings.register_tokens"][1],
        }
    patch = shapes["embeddings.patch_embeddings.projection.weight"][-1]
    return {
        "hidden_size": width,
        "mlp_ratio": shapes["encoder.layer.0.mlp.fc1.weight"][0] // width,
        "num_hidden_layers": count(shapes, r"^encoder\.layer\.(\d+)\."),
        "num_attention_heads": width // HEAD,
        "patch_size": patch,
        "image_size": round((shapes["embeddings.position_embeddings"][1] - 1) ** 0.5) * patch,
        "use_mask_token": "embeddings.mask_token" in shapes,
    }
