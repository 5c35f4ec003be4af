"""Which network a checkpoint or folder holds, told from its tensors or its configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roireg.core.errors import InputError
from roireg.models.checkpoint import Shapes, read_tensors, shapes_of
from roireg.models.hugging import model_type_of

__all__ = ["Detected", "detect", "detect_shapes"]

VITS = {
    (768, 12): "ViT-B",
    (1024, 24): "ViT-L",
    (1280, 32): "ViT-H",
    (384, 12): "ViT-B pruned by half",
    (168, 12): "ViT-B pruned by 77 %",
}
HIERAS = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base-plus", (144, 48): "large"}
DINOS = {(384, 12): "small", (768, 12): "base", (1024, 24): "large"}
"""Published sizes by width and number of blocks."""

FOLDERS = {
    "sam": "sam",
    "sam_hq": "sam-hq",
    "sam2": "sam2",
    "sam2_video": "sam2",
    "dinov2": "dinov2",
    "dinov3_vit": "dinov3",
}
"""Family by "model_type" of a Hugging Face folder."""

TITLES = {
    "sam": "Segment Anything (SAM)",
    "sam-hq": "SAM-HQ",
    "sam2": "SAM 2",
    "sam-med2d": "SAM-Med2D",
    "sam-med3d": "SAM-Med3D",
    "mobile-sam": "MobileSAM",
    "vista3d": "VISTA3D",
    "dinov2": "DINOv2",
    "dinov3": "DINOv3",
}


@dataclass(frozen=True)
class Detected:
    """What a file holds.

    Attributes
    ----------
    family : as in `ModelCard`.
    size : "ViT-B", "tiny", ...; empty when it is none of the published sizes.
    input_size : side of the input in pixels that it was saved for, where that can be told.
    """

    family: str
    size: str = ""
    input_size: int | None = None

    @property
    def words(self) -> str:
        """The network in words, for messages."""
        return f"{TITLES[self.family]} {self.size or 'of no published size'}"


def detect(path: Path) -> Detected:
    """Say which network a checkpoint file or a Hugging Face folder holds.

    Raises
    ------
    InputError
        When it cannot be read or is of no known architecture.
    """
    if path.is_dir():
        return _of_folder(path, model_type_of(path))
    found = detect_shapes(shapes_of(read_tensors(path)))
    if found is None:
        raise InputError(
            f"{path}: the tensors are of no architecture known here ({', '.join(TITLES.values())}); for a model in "
            "the Hugging Face format name its folder, with config.json"
        )
    return found


def detect_shapes(shapes: Shapes) -> Detected | None:
    """Say which network original tensor names and shapes belong to, or None."""
    shapes = {name.removeprefix("network."): shape for name, shape in shapes.items()}
    if "image_encoder.trunk.patch_embed.proj.weight" in shapes:
        width = shapes["image_encoder.trunk.patch_embed.proj.weight"][0]
        return Detected("sam2", HIERAS.get((width, _blocks(shapes, "image_encoder.trunk.blocks")), ""))
    if "image_encoder.patch_embed.seq.0.c.weight" in shapes:
        width = shapes["image_encoder.patch_embed.seq.0.c.weight"][0]
        return Detected("mobile-sam", "TinyViT-5M" if width == 32 else "")
    if patch := shapes.get("image_encoder.patch_embed.proj.weight"):
        size = VITS.get((patch[0], _blocks(shapes, "image_encoder.blocks")), "")
        if len(patch) == 5:
            return Detected("sam-med3d", size)
        position = shapes.get("image_encoder.pos_embed")
        side = None if position is None else position[1] * patch[-1]
        if any(".Adapter." in name for name in shapes):
            return Detected("sam-med2d", size, side)
        return Detected("sam-hq" if "mask_decoder.hf_token.weight" in shapes else "sam", size, side)
    if any(name.startswith(("class_head.", "point_head.")) for name in shapes):
        width = shapes.get("image_encoder.encoder.conv_init.weight", (0,))[0]
        return Detected("vista3d", "of 48 channels" if width == 48 else "")
    # DINOv2 with registers is a network of its own.
    if "cls_token" in shapes and "blocks.0.ls1.gamma" in shapes and "register_tokens" not in shapes:
        size = DINOS.get((shapes["cls_token"][-1], _blocks(shapes, "blocks")), "")
        return Detected("dinov3" if "storage_tokens" in shapes else "dinov2", size)
    return None


def _blocks(shapes: Shapes, prefix: str) -> int:
    pattern = re.compile(rf"^{re.escape(prefix)}\.(\d+)\.")
    return max((int(match[1]) for name in shapes if (match := pattern.match(name))), default=-1) + 1


def _of_folder(folder: Path, kind: str) -> Detected:
    if kind not in FOLDERS:
        raise InputError(
            f"{folder}: holds a model of type {kind!r}; this program reads {', '.join(FOLDERS)} (see `roireg models "
            "list`)"
        )
    family = FOLDERS[kind]
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vision = _part(config, "vision_config")
    if family in ("sam", "sam-hq"):
        size = VITS.get((vision.get("hidden_size", 768), vision.get("num_hidden_layers", 12)), "")
        return Detected(family, size, vision.get("image_size", 1024))
    if family == "sam2":
        backbone = _part(vision, "backbone_config")
        widths = backbone.get("embed_dim_per_stage") or [96]
        blocks = backbone.get("blocks_per_stage") or [1, 2, 7, 2]
        side = _part(config, "prompt_encoder_config").get("image_size", 1024)
        return Detected(family, HIERAS.get((widths[0], sum(blocks)), ""), side)
    return Detected(family, DINOS.get((config.get("hidden_size", 768), config.get("num_hidden_layers", 12)), ""))


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}
