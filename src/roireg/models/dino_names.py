"""Original DINOv2 and DINOv3 checkpoints in the words of transformers: tensor names and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from roireg.models.checkpoint import Shapes
from roireg.models.sam_names import Rules, count, rename

__all__ = ["dino_names", "dino_settings"]

HEAD = 64
"""Channels of one attention head in every published size."""

V2: Rules = (
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.layer.\1.attention."),
    (r"^blocks\.(\d+)\.ls(\d)\.gamma$", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
)

V3: Rules = (
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^storage_tokens$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"model.layer.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.attn\.", r"model.layer.\1.attention."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"model.layer.\1.mlp.up_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"model.layer.\1.mlp.down_proj."),
    (r"^blocks\.(\d+)\.ls(\d)\.gamma$", r"model.layer.\1.layer_scale\2.lambda1"),
    (r"^blocks\.(\d+)\.", r"model.layer.\1."),
)


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
            out[rename(name, V3 if third else V2)] = value
            continue
        for part, piece in zip("qkv", torch.chunk(value, 3), strict=True):
            if not (third and part == "k" and name.endswith("bias")):
                out[rename(name.replace(".qkv.", f".{part}_proj."), V3 if third else V2)] = piece
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
