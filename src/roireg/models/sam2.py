"""SAM 2.1 as an image model, and MedSAM2, which is its smallest size trained on medical images at 512 px.

Ravi et al., "SAM 2", arXiv 2408.00714; Ma et al., "MedSAM2", arXiv 2504.03600. Computed by `transformers`; the memory
that follows objects through videos is not loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.core.errors import InputError
from roireg.models.base import LoadReport, ModelCard
from roireg.models.checkpoint import Shapes, fill, read_tensors, shapes_of, sizes_told
from roireg.models.hugging import build_empty, from_folder, transformers_class
from roireg.models.precision import Precision, choose_precision, compute_in
from roireg.models.preprocess import Preprocessing
from roireg.models.promptable import PromptableNetwork, Prompts
from roireg.models.renaming import Rules
from roireg.models.sam import SamNetwork, check_size, sam_card
from roireg.models.sam_names import PARTS, count, decoder_settings, sam_names

__all__ = ["CARDS", "Sam2Network", "load"]

STRIDE = 16

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


def _card(name: str, hub_id: str, file: str, parameters: float, memory_mb: int, **more: Any) -> ModelCard:
    usual: dict[str, Any] = {
        "family": "sam2",
        "source": "https://github.com/facebookresearch/sam2",
        "files": (file,),
        "notes": "Faster than SAM at equal quality; trained on photographs and videos.",
        "preprocessing": Preprocessing(1024, layout="stretch"),
    }
    return sam_card(name, hub_id, parameters, memory_mb, **{**usual, **more})


CARDS: tuple[ModelCard, ...] = (
    _card(
        "sam2.1-tiny",
        "facebook/sam2.1-hiera-tiny",
        "sam2.1_hiera_tiny.pt",
        38.9,
        700,
        sha256="7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    ),
    _card(
        "sam2.1-small",
        "facebook/sam2.1-hiera-small",
        "sam2.1_hiera_small.pt",
        46.0,
        750,
        sha256="6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    ),
    _card(
        "sam2.1-base-plus",
        "facebook/sam2.1-hiera-base-plus",
        "sam2.1_hiera_base_plus.pt",
        80.8,
        1000,
        sha256="a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    _card(
        "sam2.1-large",
        "facebook/sam2.1-hiera-large",
        "sam2.1_hiera_large.pt",
        224.4,
        1800,
        sha256="2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
    ),
    _card(
        "medsam2",
        "wanglab/MedSAM2",
        "MedSAM2_latest.pt",
        38.9,
        350,
        source="https://github.com/bowang-lab/MedSAM2",
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


def load(
    card: ModelCard,
    path: Path,
    *,
    device: torch.device,
    digest: str,
    input_size: int | None = None,
    precision: Precision = None,
) -> PromptableNetwork:
    """Load from a Hugging Face folder or an original checkpoint; as `sam.load`, sizes are multiples of 32.

    An original checkpoint of none of the published sizes needs the config.json of its Hugging Face form beside it.
    """
    dtype = choose_precision(precision, device)
    network, report = _from_folder(path, card) if path.is_dir() else _from_file(path, card)
    trained = network.config.prompt_encoder_config.image_size
    size = check_size(trained if input_size is None else input_size, 32)
    _resize(network, size)
    network.to(device)
    network.vision_encoder.to(dtype)
    compute_in(network.mask_decoder, dtype)
    how = card.prepared(size)
    return Sam2Network(card, network, how, key=card.key(digest, how, dtype), report=report, stride=STRIDE)


def _from_folder(path: Path, card: ModelCard) -> tuple[Any, LoadReport]:
    network, report = from_folder("Sam2Model", path, name=card.name)
    return network, report


def _from_file(path: Path, card: ModelCard) -> tuple[Any, LoadReport]:
    tensors = sam_names({n: value for n, value in read_tensors(path).items() if not VIDEO.match(n)}, NAMES)
    points = [name for name in tensors if re.match(r"^prompt_encoder\.point_embed\.\d+\.weight$", name)]
    if points:
        tensors["prompt_encoder.point_embed.weight"] = torch.cat([tensors.pop(name) for name in sorted(points)])
    shapes = shapes_of(tensors)
    published = partial(build_empty, "Sam2Model", "Sam2Config", {})
    with sizes_told(path, card.name, tensors, published=published, rules=NAMES):
        settings = _settings(shapes, path, card.input_size)
    network = build_empty("Sam2Model", "Sam2Config", settings)
    return network, fill(network, tensors, source=path, name=card.name, rules=NAMES)


def _settings(shapes: Shapes, path: Path, image_size: int) -> dict[str, Any]:
    """Return the configuration as `Sam2Config` takes it."""
    block = "vision_encoder.backbone.blocks"
    blocks = count(shapes, rf"^{re.escape(block)}\.(\d+)\.")
    # A block with a projection beside the attention opens a stage.
    starts = [0, *(i for i in range(1, blocks) if f"{block}.{i}.proj.weight" in shapes)]
    widths = [shapes[f"{block}.{i}.attn.proj.weight"][0] for i in starts]
    known = ATTENTION.get((widths[0], blocks))
    if known is None:
        return _settings_beside(path, widths[0], blocks)
    channels = shapes["vision_encoder.neck.convs.0.weight"][0]
    return {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": widths[0],
                "num_attention_heads": known["first_heads"],
                "window_positional_embedding_background_size": list(shapes["vision_encoder.backbone.pos_embed"][-2:]),
                "blocks_per_stage": [b - a for a, b in pairwise([*starts, blocks])],
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [known["first_heads"] * 2**i for i in range(len(widths))],
                "window_size_per_stage": known["windows"],
                "global_attention_blocks": known["everywhere"],
            },
            "backbone_channel_list": widths[::-1],
            "fpn_hidden_size": channels,
        },
        **decoder_settings(shapes, image_size),
    }


def _settings_beside(path: Path, width: int, blocks: int) -> dict[str, Any]:
    config = path.with_name("config.json")
    if not config.is_file():
        raise InputError(
            f"{path}: holds a SAM 2 with {blocks} blocks, the first {width} wide, which is none of the published "
            "sizes; put the config.json of its Hugging Face form beside it"
        )
    settings = transformers_class("Sam2Config").from_pretrained(config.parent, local_files_only=True).to_dict()
    names = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    return {name: settings[name] for name in names}


def _resize(network: Any, size: int) -> None:
    """Tell a network the size of its input; its weights fit any."""
    prompts = network.prompt_encoder
    cells = size // STRIDE
    network.backbone_feature_sizes = [[4 * cells] * 2, [2 * cells] * 2, [cells] * 2]
    prompts.image_embedding_size = (cells, cells)
    prompts.mask_input_size = (4 * cells, 4 * cells)
    prompts.input_image_size = size
    network.config.prompt_encoder_config.image_size = size
