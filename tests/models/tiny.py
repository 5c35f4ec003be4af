"""Tiny random networks of every architecture, saved in the formats in which the real ones are published.

`saved(kind, folder)` gives a path that `load` reads; `KINDS` lists them.
Inputs are 128 px (SAM, SAM-HQ, SAM 2, SAM-Med2D), or as asked for (MobileSAM); loading takes milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.models.sam_med3d_network import SamMed3DConfig, SamMed3DNetwork

SIZE = 128
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "output_channels": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 16,
    "window_size": 4,
    "global_attn_indexes": [1],
    "num_pos_feats": 16,
    "mlp_dim": 64,
}
PROMPTS: dict[str, Any] = {"hidden_size": 32, "image_size": SIZE, "patch_size": 16, "mask_input_channels": 4}
# Eight heads, as in every SAM: original checkpoints do not tell their number.
DECODER: dict[str, Any] = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 8, "iou_head_hidden_dim": 32}


def randomise(network: Any, seed: int = 0) -> Any:
    """Give every weight a random value, also those that start at zero or one; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if not value.is_floating_point() or "inv_freq" in name:
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.abs())
            else:
                centre = 1.0 if re.search(r"norm|\.bn\.", name) and name.endswith("weight") else 0.0
                value.copy_(centre + noise * (1.0 if "positional_embedding" in name else 0.1))
    return network.eval()


# -- networks -------------------------------------------------------------------------------------


def sam(seed: int = 0) -> Any:
    from transformers import SamConfig, SamModel

    config = SamConfig(vision_config=VISION, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
    return randomise(SamModel(config), seed)


def slimsam(seed: int = 0) -> Any:
    """A SAM pruned as SlimSAM is: all blocks and heads, fewer channels, a perceptron not four times as wide."""
    from transformers import SamConfig, SamModel

    pruned = {**VISION, "hidden_size": 28, "mlp_dim": 58}
    config = SamConfig(vision_config=pruned, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
    return randomise(SamModel(config), seed)


def sam_hq(seed: int = 0) -> Any:
    from transformers import SamHQConfig, SamHQModel

    decoder = {**DECODER, "vit_dim": VISION["hidden_size"]}
    config = SamHQConfig(vision_config=VISION, prompt_encoder_config=PROMPTS, mask_decoder_config=decoder)
    return randomise(SamHQModel(config), seed)


def sam2(seed: int = 0) -> Any:
    from transformers import Sam2Config, Sam2Model

    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 14, 7],
        "global_attention_blocks": [3],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[SIZE // 4] * 2, [SIZE // 8] * 2, [SIZE // 16] * 2],
        "fpn_hidden_size": 32,
    }
    config = Sam2Config(vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
    network = randomise(Sam2Model(config), seed)
    # One tensor in the published checkpoints.
    shared = network.shared_image_embedding.positional_embedding
    network.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    return network


def sam_med2d(seed: int = 0) -> Any:
    from roireg.models.sam_med2d import add_adapters

    network = sam(seed)
    add_adapters(network, 8)
    return randomise(network, seed)


def mobile_sam(seed: int = 0) -> Any:
    from roireg.models.tiny_vit import TinyVit, TinyVitSizes

    network = sam(seed)
    sizes = TinyVitSizes(
        widths=(8, 16, 20, 24), depths=(1, 1, 2, 1), windows=(7, 14, 7), heads=(2, 4, 3), expansion=2, channels=32
    )
    network.vision_encoder = TinyVit(sizes)
    return randomise(network, seed)


def dinov2(seed: int = 0, *, width: int = 32) -> Any:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=width, num_hidden_layers=3, num_attention_heads=2, image_size=70, patch_size=14)
    return randomise(Dinov2Model(config), seed)


def dinov3(seed: int = 0, *, width: int = 32) -> Any:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        num_register_tokens=4,
    )
    return randomise(DINOv3ViTModel(config), seed)


# -- original names, by a table of their own ------------------------------------------------------

ORIGINAL = [
    ("shared_image_embedding.positional_embedding", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    ("prompt_encoder.point_embed.", "prompt_encoder.point_embeddings."),
    ("mask_embed.conv1", "mask_downscaling.0"),
    ("mask_embed.layer_norm1", "mask_downscaling.1"),
    ("mask_embed.conv2", "mask_downscaling.3"),
    ("mask_embed.layer_norm2", "mask_downscaling.4"),
    ("mask_embed.conv3", "mask_downscaling.6"),
    ("upscale_conv1", "output_upscaling.0"),
    ("upscale_layer_norm", "output_upscaling.1"),
    ("upscale_conv2", "output_upscaling.3"),
    ("layer_norm_final_attn", "norm_final_attn"),
    ("hq_token", "hf_token"),
    ("hq_mask_mlp", "hf_mlp"),
    ("compress_vit_conv1", "compress_vit_feat.0"),
    ("compress_vit_norm", "compress_vit_feat.1"),
    ("compress_vit_conv2", "compress_vit_feat.3"),
    ("mask_decoder.encoder_conv1", "mask_decoder.embedding_encoder.0"),
    ("mask_decoder.encoder_norm", "mask_decoder.embedding_encoder.1"),
    ("mask_decoder.encoder_conv2", "mask_decoder.embedding_encoder.3"),
    ("mask_decoder.mask_conv1", "mask_decoder.embedding_maskfeature.0"),
    ("mask_decoder.mask_norm", "mask_decoder.embedding_maskfeature.1"),
    ("mask_decoder.mask_conv2", "mask_decoder.embedding_maskfeature.3"),
    ("neck.conv1", "neck.0"),
    ("neck.layer_norm1", "neck.1"),
    ("neck.conv2", "neck.2"),
    ("neck.layer_norm2", "neck.3"),
    ("patch_embed.projection", "patch_embed.proj"),
    ("mlp.adapter.", "Adapter."),
    ("mlp.mlp.", "mlp."),
    ("layer_norm", "norm"),
    ("no_memory_embedding", "no_mem_embed"),
    ("o_proj", "out_proj"),
]


def original(network: Any) -> dict[str, Tensor]:
    """Return the weights under the names of the authors' own code."""
    out = {}
    names = set(network.state_dict())
    for name, value in network.state_dict().items():
        if name == "prompt_encoder.shared_embedding.positional_embedding":
            continue
        out[_original_name(name, names)] = value.clone()
    return out


def _original_name(name: str, names: set[str]) -> str:
    if match := re.match(r"(.*)\.(proj_in|proj_out|layers\.(\d+))\.(weight|bias)$", name):
        owner = match[1]
        inner = sum(f"{owner}.layers.{i}.weight" in names for i in range(9))
        number = {"proj_in": 0, "proj_out": inner + 1}.get(match[2], int(match[3] or 0) + 1)
        name = f"{owner}.layers.{number}.{match[4]}"
    for theirs, authors in ORIGINAL:
        if "out_proj" in name and theirs == "o_proj":
            continue
        name = name.replace(theirs, authors)
    return re.sub(
        r"^vision_encoder\.layers\.(\d+)\.(?!blocks|downsample)", r"image_encoder.blocks.\1.", name
    ).replace("vision_encoder.", "image_encoder.")


def original_sam2(network: Any) -> dict[str, Tensor]:
    """The same for SAM 2, with some of the tensors of its memory."""
    out = {"maskmem_tpos_enc": torch.zeros(7, 1, 1, 4), "memory_attention.norm.weight": torch.ones(8)}
    for name, value in original(network).items():
        if name == "prompt_encoder.point_embeddings.weight":
            for i, row in enumerate(value):
                out[f"sam_prompt_encoder.point_embeddings.{i}.weight"] = row[None].clone()
            continue
        name = re.sub(r"^(prompt_encoder|mask_decoder)\.", r"sam_\1.", name)
        name = name.replace("image_encoder.backbone.", "image_encoder.trunk.")
        out[re.sub(r"neck\.convs\.(\d+)\.", r"neck.convs.\1.conv.", name)] = value
    return out


def original_dino(network: Any) -> dict[str, Tensor]:
    """The same for DINO of either version, whose heads must have 64 channels as the published ones."""
    third = network.config.model_type == "dinov3_vit"
    own = {name: value.clone() for name, value in network.state_dict().items()}
    out: dict[str, Tensor] = {"rope_embed.periods": torch.ones(16)} if third else {}
    owner = "model.layer." if third else "encoder.layer."
    for i in range(network.config.num_hidden_layers):
        attention = f"{owner}{i}.attention."
        for kind in ("weight", "bias"):
            parts = [own.pop(f"{attention}{part}_proj.{kind}", None) for part in "qkv"]
            # The original keeps a bias for the keys and masks it.
            full = [torch.full_like(parts[0], 7.0) if part is None else part for part in parts]
            out[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(full)
        if third:
            out[f"blocks.{i}.attn.qkv.bias_mask"] = torch.ones(len(full[0]) * 3)
    pairs = [
        (owner, "blocks."),
        ("attention.o_proj", "attn.proj"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("up_proj", "fc1"),
        ("down_proj", "fc2"),
        ("patch_embeddings.projection.", "patch_embed.proj."),
        ("patch_embeddings.", "patch_embed.proj."),
        ("register_tokens", "storage_tokens"),
        ("position_embeddings", "pos_embed"),
        ("embeddings.", ""),
        ("layernorm.", "norm."),
    ]
    for name, value in own.items():
        for theirs, authors in pairs:
            name = name.replace(theirs, authors)
        out[name] = value.reshape(1, -1) if name == "mask_token" else value
    return out


# -- files ----------------------------------------------------------------------------------------


def save_folder(network: Any, folder: Path) -> Path:
    """Save in the Hugging Face format: config.json and model.safetensors."""
    from transformers.utils import logging as chatter

    chatter.disable_progress_bar()
    network.save_pretrained(folder)
    chatter.enable_progress_bar()
    return folder


def save_bin_folder(network: Any, folder: Path) -> Path:
    """Save as the hub has MedSAM: config.json, preprocessor_config.json and pytorch_model.bin, no safetensors."""
    network.config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "SamImageProcessor"}')
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    return folder


def save_file(tensors: Mapping[str, Tensor], path: Path, *, under: str | None = None) -> Path:
    """Save as the authors do, under "model" where they do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(tensors) if under is None else {under: dict(tensors), "epoch": 3}, path)
    return path


def _sam2_file(folder: Path, seed: int) -> Path:
    network = sam2(seed)
    # No published size: its configuration has to lie beside it.
    network.config.save_pretrained(folder)
    return save_file(original_sam2(network), folder / "sam2.pt", under="model")


def sam_folder(folder: Path, seed: int = 0) -> Path:
    """A tiny SAM (128 px, 8 x 8 x 32 embedding) as a Hugging Face folder; loads with `load(folder)`."""
    return save_folder(sam(seed), folder)


KINDS: dict[str, Callable[[Path, int], Path]] = {
    "sam": sam_folder,
    "sam-file": lambda folder, seed: save_file(original(sam(seed)), folder / "sam.pth"),
    "slimsam": lambda folder, seed: save_folder(slimsam(seed), folder),
    "sam-hq": lambda folder, seed: save_folder(sam_hq(seed), folder),
    "sam-hq-file": lambda folder, seed: save_file(original(sam_hq(seed)), folder / "sam_hq.pth"),
    "sam2": lambda folder, seed: save_folder(sam2(seed), folder),
    "sam2-file": _sam2_file,
    "sam-med2d": lambda folder, seed: save_file(original(sam_med2d(seed)), folder / "med2d.pth", under="model"),
    "mobile-sam": lambda folder, seed: save_file(original(mobile_sam(seed)), folder / "mobile.pt"),
}
"""Promptable models, by architecture and format."""

ENCODERS: dict[str, Callable[[Path, int], Path]] = {
    "dinov2": lambda folder, seed: save_folder(dinov2(seed), folder),
    "dinov3": lambda folder, seed: save_folder(dinov3(seed), folder),
}


def saved(kind: str, folder: Path, seed: int = 0) -> Path:
    """Save a tiny network of a kind below a folder and return the path to load."""
    return {**KINDS, **ENCODERS}[kind](folder / kind, seed)


def sam_med3d(folder: Path) -> Path:
    """Save a small SAM-Med3D with random weights as its authors publish theirs."""
    config = SamMed3DConfig(
        side=32, patch=8, width=24, heads=2, windows=(3, 4), embedding=48, mask_channels=8,
        decoder_hidden=32, quality_hidden=16,
    )  # fmt: skip
    torch.manual_seed(8)
    network = SamMed3DNetwork(config)
    for name, value in network.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(value, std=0.2)
    path = folder / "sam_med3d_turbo.pth"
    torch.save({"model_state_dict": network.state_dict()}, path)
    return path


def vista3d(folder: Path) -> Path:
    """Save a narrow VISTA3D with random weights as its bundle has them; needs MONAI."""
    from monai.networks.nets import vista3d132

    path = folder / "model.pt"
    torch.save(randomise(vista3d132(encoder_embed_dim=8)).state_dict(), path)
    return path
