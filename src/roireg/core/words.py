"""Words that stand for settings, each declared once; imports nothing, so that they are checked before torch loads."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "CONVENTIONS",
    "GUIDE_WORDS",
    "IMAGE_FORMATS",
    "INIT_WORDS",
    "OUTPUTS",
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

PromptPresetName = Literal["default", "promptreg"]
"""Keys of `roireg.pipeline.prompt_settings.PROMPT_PRESETS`."""

ProfileName = Literal["fast", "balanced", "full"]
"""Keys of `roireg.models.profiles.PROFILES`."""

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
