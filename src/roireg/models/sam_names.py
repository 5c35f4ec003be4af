"""Original SAM checkpoints in the words of transformers: tensor names, and the sizes that the tensors tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from roireg.models.base import Signs
from roireg.models.checkpoint import Shapes
from roireg.models.renaming import Rules, count, number_layers, rename

__all__ = ["ENCODER", "NECK", "PARTS", "SHARED", "decoder_settings", "sam_names", "sam_settings", "vit_signs"]

SHARED = "shared_image_embedding.positional_embedding"

AGAIN = "prompt_encoder.shared_embedding.positional_embedding"
"""The same tensor a second time, as transformers keeps it."""

PARTS: Rules = (
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", SHARED),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", AGAIN),
    ("prompt_encoder.point_embeddings.", "prompt_encoder.point_embed."),
    ("prompt_encoder.mask_downscaling.0.", "prompt_encoder.mask_embed.conv1."),
    ("prompt_encoder.mask_downscaling.1.", "prompt_encoder.mask_embed.layer_norm1."),
    ("prompt_encoder.mask_downscaling.3.", "prompt_encoder.mask_embed.conv2."),
    ("prompt_encoder.mask_downscaling.4.", "prompt_encoder.mask_embed.layer_norm2."),
    ("prompt_encoder.mask_downscaling.6.", "prompt_encoder.mask_embed.conv3."),
    ("mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("mask_decoder.output_upscaling.1.", "mask_decoder.upscale_layer_norm."),
    ("mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
    ("mask_decoder.transformer.norm_final_attn.", "mask_decoder.transformer.layer_norm_final_attn."),
    ("mask_decoder.transformer.layers.#.norm#.", "mask_decoder.transformer.layers.#.layer_norm#."),
)
"""Prompt encoder and mask decoder, which SAM, SAM-HQ, SAM-Med2D, MobileSAM and SAM 2 share."""

NECK: Rules = (
    ("image_encoder.neck.0.", "vision_encoder.neck.conv1."),
    ("image_encoder.neck.1.", "vision_encoder.neck.layer_norm1."),
    ("image_encoder.neck.2.", "vision_encoder.neck.conv2."),
    ("image_encoder.neck.3.", "vision_encoder.neck.layer_norm2."),
)

ENCODER: Rules = (
    *NECK,
    ("image_encoder.patch_embed.proj.", "vision_encoder.patch_embed.projection."),
    ("image_encoder.blocks.#.norm#.", "vision_encoder.layers.#.layer_norm#."),
    ("image_encoder.blocks.", "vision_encoder.layers."),
    ("image_encoder.", "vision_encoder."),
)


def sam_names(tensors: Mapping[str, Tensor], rules: Rules = (*ENCODER, *PARTS)) -> dict[str, Tensor]:
    """Return the tensors of an original SAM checkpoint under the names of transformers."""
    layers = number_layers(tensors)
    out = {rename(layers[name], rules): value for name, value in tensors.items() if name not in PIXELS}
    if SHARED in out:
        out[AGAIN] = out[SHARED]
    return out


PIXELS = ("pixel_mean", "pixel_std")
"""Constants that some checkpoints carry along."""


VITS = {
    (768, 12): "ViT-B",
    (1024, 24): "ViT-L",
    (1280, 32): "ViT-H",
    (384, 12): "ViT-B pruned by half",
    (168, 12): "ViT-B pruned by 77 %",
}
"""Published sizes by width and number of blocks."""


def vit_signs(shapes: Shapes, ndim: int = 2) -> Signs | None:
    """Return what the vision transformer of an original checkpoint tells; None where there is none of this ndim."""
    patch = shapes.get("image_encoder.patch_embed.proj.weight", ())
    if len(patch) != 2 + ndim:
        return None
    position = shapes.get("image_encoder.pos_embed")
    return Signs(
        VITS.get((patch[0], count(shapes, "image_encoder.blocks.#.")), ""),
        None if position is None or ndim == 3 else position[1] * patch[-1],
    )


def sam_settings(shapes: Shapes) -> dict[str, Any]:
    """Return the configuration of a SAM, as `SamConfig` takes it, from the shapes of its renamed tensors."""
    hidden, channels, patch, _ = shapes["vision_encoder.patch_embed.projection.weight"]
    cells = shapes["vision_encoder.pos_embed"][1]
    layers = count(shapes, "vision_encoder.layers.#.")
    relative = [shapes[f"vision_encoder.layers.{i}.attn.rel_pos_h"] for i in range(layers)]
    everywhere = [i for i, shape in enumerate(relative) if shape[0] == 2 * cells - 1]
    windows = {(shape[0] + 1) // 2 for i, shape in enumerate(relative) if i not in everywhere}
    return {
        "vision_config": {
            "hidden_size": hidden,
            "num_channels": channels,
            "patch_size": patch,
            "image_size": cells * patch,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // relative[0][1],
            "mlp_dim": shapes["vision_encoder.layers.0.mlp.lin1.weight"][0],
            "output_channels": shapes["vision_encoder.neck.conv1.weight"][0],
            "window_size": min(windows, default=14),
            "global_attn_indexes": everywhere,
            "qkv_bias": "vision_encoder.layers.0.attn.qkv.bias" in shapes,
            "num_pos_feats": shapes[SHARED][1],
        },
        **decoder_settings(shapes, cells * patch),
    }


def decoder_settings(shapes: Shapes, image_size: int, *, patch_size: int = 16) -> dict[str, Any]:
    """Return the configurations of prompt encoder and mask decoder from the shapes of their renamed tensors.

    Only the number of attention heads leaves no trace in the tensors; it is 8 in every published SAM.
    """
    width = shapes["mask_decoder.iou_token.weight"][1]
    narrow = shapes["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"][0]
    first = "mask_decoder.transformer.layers.0.mlp."
    widest = shapes.get(f"{first}lin1.weight") or shapes[f"{first}proj_in.weight"]
    return {
        "prompt_encoder_config": {
            "hidden_size": width,
            "image_size": image_size,
            "patch_size": patch_size,
            "mask_input_channels": shapes["prompt_encoder.mask_embed.conv2.weight"][0],
        },
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": widest[0],
            "num_hidden_layers": count(shapes, "mask_decoder.transformer.layers.#."),
            "num_attention_heads": 8,
            "attention_downsample_rate": width // narrow,
            "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
            "iou_head_depth": count(shapes, "mask_decoder.iou_prediction_head.layers.#.") + 2,
            "iou_head_hidden_dim": shapes["mask_decoder.iou_prediction_head.proj_in.weight"][0],
        },
    }
