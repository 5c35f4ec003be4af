"""Words that stand for settings, each declared once; imports nothing, so that they are checked before torch loads."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "CONVENTIONS",
    "FEATURES",
    "GUIDE_WORDS",
    "IMAGE_FORMATS",
    "INIT_WORDS",
    "MODELS",
    "OUTPUTS",
    "SECTIONS",
    "GlobalType",
    "GuideWord",
    "Interpolation",
    "PresetName",
    "ProfileName",
    "PromptPresetName",
    "SearchRange",
    "Side",
    "TransformType",
    "Unit",
]

Side = Literal["fixed", "moving"]
Unit = Literal["px", "mm"]
GlobalType = Literal["translation", "rigid", "similarity", "affine", "homography"]
TransformType = Literal["translation", "rigid", "similarity", "affine", "homography", "deformable"]
SearchRange = Literal["near", "full"]
Interpolation = Literal["nearest", "linear", "bspline", "lanczos"]

PresetName = Literal["default", "regions", "samreg", "promptreg", "paper", "same", "same-convex"]
"""Keys of `roireg.pipeline.PRESETS`."""

SECTIONS = ("preset", "segment", "network", "classes", "match", "prompt", "stages", "verdict")
"""What a settings file has: the name of a preset, and fields of `roireg.pipeline.Config`."""

PromptPresetName = Literal["default", "promptreg"]
"""Keys of `roireg.pipeline.prompt_settings.PROMPT_PRESETS`."""

ProfileName = Literal["fast", "balanced", "full"]
"""Keys of `roireg.models.profiles.PROFILES`."""

FEATURES = ("embedding", "fused", "intensity", "mind", "model")
"""Names of `roireg.features.available_extractors`; others may add to them."""

MODELS = (
    *("embedding-2d", "embedding-3d", "sam-vit-base", "sam-vit-large", "sam-vit-huge", "slimsam-50", "slimsam-77"),
    *("medsam", "sam-hq-vit-base", "sam-hq-vit-large", "sam-hq-vit-huge", "sam2.1-tiny", "sam2.1-small"),
    *("sam2.1-base-plus", "sam2.1-large", "medsam2", "sam-med2d", "mobile-sam", "sam-med3d-turbo", "sam-med3d"),
    *("vista3d", "nninteractive", "dinov2-small", "dinov2-base", "dinov2-large", "dinov3-small", "dinov3-base"),
    *("alike-t", "alike-n", "meshnet-30", "meshnet-21", "obelisk-tcia", "wnet-drive", "monai-bundle", "nnunet"),
    "totalsegmentator-layers",
)
"""Names of `roireg.models.available_models`; others may add to them."""

INIT_WORDS = ("auto", "identity", "centers")
"""Words that name a start; anything else is a transform."""

GuideWord = Literal["auto", "identity", "centers", "none"]
GUIDE_WORDS: tuple[GuideWord, ...] = get_args(GuideWord)
"""Words that name a guide; anything else is a transform."""

OUTPUTS = ("transform", "inverse", "warped", "pairs", "result", "report")
"""What a registration can write; the result always is, as the record of the folder."""

CONVENTIONS = ("ras", "fsl")
"""Marks before the name of a matrix, which alone does not say what it maps; see `roireg.io.read_transform`."""

IMAGE_FORMATS = "NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG, TIFF or BMP"
"""What images are read from, as messages say it; they read more."""
