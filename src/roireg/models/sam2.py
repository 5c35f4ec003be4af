"""SAM 2.1 as an image model, and MedSAM2, which is its smallest size trained on medical images at 512 px.

Ravi et al., "SAM 2", arXiv 2408.00714; Ma et al., "MedSAM2", arXiv 2504.03600. Computed by `transformers`; the memory
that follows objects through videos is not loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.core.errors import InputError
from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.family import Family
from roireg.models.hugging import HubFormat, part_of
from roireg.models.preprocess import Preprocessing
from roireg.models.promptable import Prompts
from roireg.models.renaming import Rules, count
from roireg.models.sam import SamNetwork, check_size, sam_card
from roireg.models.sam_names import PARTS, decoder_settings, sam_names

__all__ = ["FAMILY", "Sam2Network"]

DECODER = "mask_decoder.transformer.layers.#."

NAMES: Rules = (
    ("image_encoder.trunk.patch_embed.proj.", "vision_encoder.backbone.patch_embed.projection."),
    ("image_encoder.trunk.blocks.#.norm#.", "vision_encoder.backbone.blocks.#.layer_norm#."),
    ("image_encoder.trunk.", "vision_encoder.backbone."),
    ("image_encoder.neck.convs.#.conv.", "vision_encoder.neck.convs.#."),
    ("no_mem_embed", "no_memory_embedding"),
    *(
        (f"sam_{DECODER}{attention}.out_proj.", f"{DECODER}{attention}.o_proj.")
        for attention in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
    ),
    (
        "sam_mask_decoder.transformer.final_attn_token_to_image.out_proj.",
        "mask_decoder.transformer.final_attn_token_to_image.o_proj.",
    ),
    *((f"sam_{before}", after) for before, after in PARTS),
    ("sam_prompt_encoder.", "prompt_encoder."),
    ("sam_mask_decoder.", "mask_decoder."),
)

VIDEO = re.compile(
    r"^(memory_\w+\.|maskmem_tpos_enc|no_mem_pos_enc|mask_downsample\.|obj_ptr_|no_obj_|image_encoder\.neck\.position)"
)
"""Tensors that only videos need."""

ATTENTION: dict[tuple[int, int], dict[str, Any]] = {
    (96, 12): {"first_heads": 1, "windows": [8, 4, 14, 7], "everywhere": [5, 7, 9]},
    (96, 16): {"first_heads": 1, "windows": [8, 4, 14, 7], "everywhere": [7, 10, 13]},
    (112, 24): {"first_heads": 2, "windows": [8, 4, 14, 7], "everywhere": [12, 16, 20]},
    (144, 48): {"first_heads": 2, "windows": [8, 4, 16, 8], "everywhere": [23, 33, 43]},
}
"""What the tensors do not tell, by width and number of blocks: tiny, small, base-plus and large."""


SIZES = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base-plus", (144, 48): "large"}
"""Published sizes by width and number of blocks."""

SHA256 = {
    "tiny": "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    "small": "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    "base-plus": "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    "large": "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
}


def _card(size: str, parameters: float, memory_mb: int) -> ModelCard:
    return sam_card(
        f"sam2.1-{size}",
        f"facebook/sam2.1-hiera-{size}",
        parameters,
        memory_mb,
        family="sam2",
        size=size,
        source="https://github.com/facebookresearch/sam2",
        files=(f"sam2.1_hiera_{size.replace('-', '_')}.pt",),
        sha256=SHA256[size],
        notes="Faster than SAM at equal quality; trained on photographs and videos.",
        preprocessing=Preprocessing(1024, layout="stretch"),
    )


CARDS = (
    _card("tiny", 38.9, 700),
    _card("small", 46.0, 750),
    _card("base-plus", 80.8, 1000),
    _card("large", 224.4, 1800),
    sam_card(
        "medsam2",
        "wanglab/MedSAM2",
        38.9,
        350,
        family="sam2",
        size="tiny",
        source="https://github.com/bowang-lab/MedSAM2",
        files=("MedSAM2_latest.pt",),
        weights_licence="CC-BY-SA-4.0",
        input_size=512,
        notes="Trained on slices of CT, MR, PET, ultrasound and endoscopy, mostly with box prompts.",
        # Trained on slices that PIL resized with its default.
        preprocessing=Preprocessing(512, layout="stretch", resampling="bicubic"),
    ),
)


class Sam2Network(SamNetwork):
    """`Sam2Model` of transformers; keeps two finer maps beside the image map for its decoder."""

    @property
    def layers(self) -> int:
        encoder: Any = self._encoder()
        return len(encoder.backbone.blocks)

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        network: Any = self.network
        fine, middle, coarse = self._encoder()(pixels).fpn_hidden_states
        decoder = network.mask_decoder
        return {
            "image": coarse.float() + network.no_memory_embedding.reshape(1, -1, 1, 1),
            "fine": decoder.conv_s0(fine).float(),
            "middle": decoder.conv_s1(middle).float(),
        }

    def _layer(self, pixels: Tensor, layer: int) -> Tensor:
        encoder: Any = self._encoder()
        hidden = encoder.backbone.patch_embed(pixels)
        hidden = hidden + encoder.backbone._get_pos_embed(hidden.shape[1:3])
        for block in encoder.backbone.blocks[: layer + 1]:
            hidden = block(hidden)
        return hidden.permute(0, 3, 1, 2)

    def _inputs(self, tensors: Mapping[str, Tensor], prompts: Prompts) -> dict[str, Any]:
        inputs = super()._inputs(tensors, prompts)
        images = inputs["image_embeddings"]
        others = [tensors[name].to(self.device).expand(len(images), -1, -1, -1) for name in ("fine", "middle")]
        if prompts.points is None and prompts.boxes is None:
            # transformers would show one empty prompt for one image only.
            inputs["input_points"] = images.new_zeros((len(images), 1, 1, 2))
            inputs["input_labels"] = -torch.ones((len(images), 1, 1), dtype=torch.int64, device=images.device)
        return {**inputs, "image_embeddings": [*others, images]}


def _recognise(shapes: Shapes) -> Signs | None:
    first = shapes.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = count(shapes, "image_encoder.trunk.blocks.#.")
    return None if first is None else Signs(SIZES.get((first[0], blocks), ""))


def _hub_signs(config: Mapping[str, Any]) -> Signs:
    backbone = part_of(part_of(config, "vision_config"), "backbone_config")
    widths = backbone.get("embed_dim_per_stage") or [96]
    blocks = backbone.get("blocks_per_stage") or [1, 2, 7, 2]
    side = part_of(config, "prompt_encoder_config").get("image_size", 1024)
    return Signs(SIZES.get((widths[0], sum(blocks)), ""), side)


def _rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = sam_names({name: value for name, value in tensors.items() if not VIDEO.match(name)}, NAMES)
    points = sorted(name for name in out if re.match(r"^prompt_encoder\.point_embed\.\d+\.weight$", name))
    if points:
        out["prompt_encoder.point_embed.weight"] = torch.cat([out.pop(name) for name in points])
    return out


def _settings(shapes: Shapes, card: ModelCard, path: Path) -> dict[str, Any]:
    """Return the configuration as `Sam2Config` takes it.

    An original checkpoint of none of the published sizes needs the config.json of its Hugging Face form beside it.
    """
    block = "vision_encoder.backbone.blocks"
    blocks = count(shapes, f"{block}.#.")
    # A block with a projection beside the attention opens a stage.
    starts = [0, *(i for i in range(1, blocks) if f"{block}.{i}.proj.weight" in shapes)]
    widths = [shapes[f"{block}.{i}.attn.proj.weight"][0] for i in starts]
    attention = ATTENTION.get((widths[0], blocks))
    if attention is None:
        return _settings_beside(path, widths[0], blocks)
    channels = shapes["vision_encoder.neck.convs.0.weight"][0]
    return {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": widths[0],
                "num_attention_heads": attention["first_heads"],
                "window_positional_embedding_background_size": list(shapes["vision_encoder.backbone.pos_embed"][-2:]),
                "blocks_per_stage": [b - a for a, b in pairwise([*starts, blocks])],
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [attention["first_heads"] * 2**i for i in range(len(widths))],
                "window_size_per_stage": attention["windows"],
                "global_attention_blocks": attention["everywhere"],
            },
            "backbone_channel_list": widths[::-1],
            "fpn_hidden_size": channels,
        },
        **decoder_settings(shapes, card.input_size),
    }


def _settings_beside(path: Path, width: int, blocks: int) -> dict[str, Any]:
    config = path.with_name("config.json")
    if not config.is_file():
        raise InputError(
            f"{path}: holds a SAM 2 with {blocks} blocks, the first {width} wide, which is none of the published "
            "sizes; put the config.json of its Hugging Face form beside it"
        )
    return HUB.settings(config.parent)


def _resize(network: Any, size: int | None, card: ModelCard) -> tuple[Any, int]:
    """Tell a network the size of its input; its weights fit any multiple of 32."""
    size = check_size(network.config.prompt_encoder_config.image_size if size is None else size, 32)
    prompts = network.prompt_encoder
    cells = size // SamNetwork.stride
    network.backbone_feature_sizes = [[4 * cells] * 2, [2 * cells] * 2, [cells] * 2]
    prompts.image_embedding_size = (cells, cells)
    prompts.mask_input_size = (4 * cells, 4 * cells)
    prompts.input_image_size = size
    network.config.prompt_encoder_config.image_size = size
    return network, size


HUB = HubFormat("Sam2Model", "Sam2Config", ("sam2", "sam2_video"), _hub_signs)

FAMILY = Family(
    name="sam2",
    title="SAM 2",
    cards=CARDS,
    model=Sam2Network,
    recognise=_recognise,
    rename=_rename,
    rules=NAMES,
    settings=_settings,
    build=HUB.build,
    resize=_resize,
    hub=HUB,
)
