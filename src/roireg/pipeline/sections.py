"""The sections of the settings of a registration; `Config` holds one of each."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from roireg.core.errors import InputError
from roireg.core.words import ProfileName
from roireg.match import MatchOptions
from roireg.pipeline.prompt_settings import PROMPT_PRESETS, PromptSettings
from roireg.segment import EverythingOptions

__all__ = [
    "ClassesConfig",
    "MatchConfig",
    "NetworkConfig",
    "PromptConfig",
    "Section",
    "VerdictConfig",
    "known_or_near",
]


class Section(BaseModel):
    """Settings that belong together; frozen, and without room for unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _by_name(settings: object) -> object:
    """Return the prompt settings of a name such as "promptreg"."""
    if isinstance(settings, str):
        known_or_near(settings, tuple(PROMPT_PRESETS), what="prompt settings")
        return PROMPT_PRESETS[settings]
    return settings


class NetworkConfig(EverythingOptions):
    """A network for the regions, and for features named "model"; None leaves both to methods without weights."""

    model: str | None = Field(None, description="name or path of a network, see `roireg models list`")
    profile: ProfileName = Field("balanced", description="input size, precision and points of the network")
    window: str | tuple[float, float] | None = Field(
        None, description="CT window, a name or level and width; None takes the percentiles of the image"
    )
    slice_axis: Literal[0, 1, 2] | None = Field(
        None, description="storage axis along which 2D networks cut a volume; None: the coarsest"
    )
    cache: str | None = Field(
        None, description="folder that keeps encoded images between runs; None: for this run alone"
    )


class ClassesConfig(Section):
    """A segmenter that gives both images the same classes, which are the regions then."""

    segmenter: str | None = Field(
        None, description="network that names classes: name or path, see `roireg models list`"
    )
    command: str | None = Field(
        None, description="program that writes a label map, with {image} and {labels}; never from a settings file"
    )

    @property
    def used(self) -> bool:
        """Whether regions are classes."""
        return self.segmenter is not None or self.command is not None


class PromptConfig(Section):
    """Regions from prompts at random places instead of everywhere (PromptReg)."""

    count: int = Field(0, ge=0, description="random prompts; 0 looks for regions everywhere")
    where: Literal["inside", "outside"] = Field(
        "inside",
        description="whether random prompts lie inside or outside the mask of the moving image, if there is one",
    )
    settings: Annotated[PromptSettings, BeforeValidator(_by_name)] = PromptSettings()


class MatchConfig(MatchOptions):
    """Pairs of regions."""

    features: str = Field(
        "intensity", description="feature map that regions are compared by; model: that of the network"
    )
    position: float = Field(0.0, ge=0, description="weight of the position among the channels of intensity features")
    slices: bool = Field(False, description="match volumes slice by slice (SAMReg, Algorithm 1)")
    slice_axis: Literal[0, 1, 2] | None = Field(
        None, description="with slices: storage axis of the fixed volume to cut along; None: the coarsest"
    )
    slice_range: int = Field(11, ge=0, description="with slices: largest distance of partners, in slices")
    slice_range_mm: float | None = Field(
        None, gt=0, description="with slices: the same in mm, which then counts instead"
    )


class VerdictConfig(Section):
    """From which values on a result is doubted or failed; see docs/verdict.md."""

    folding_uncertain: float = Field(0.1, ge=0, description="% of folded voxels")
    folding_failed: float = Field(1.0, ge=0, description="% of folded voxels")
    stretch_uncertain: float = Field(0.65, ge=0, description="standard deviation of log det J (SDlogJ)")
    inverse_uncertain: float = Field(
        1.0, ge=0, description="99th percentile of the inverse consistency error, in voxels of the coarsest axis"
    )
    probability: bool = Field(
        True, description="estimate how probable it is that the result is right (a search of seconds)"
    )
    probability_uncertain: float = Field(
        0.5, ge=0, le=1, description="probability of a right result below which it is to be checked"
    )
    probability_sure: float = Field(
        0.65,
        ge=0,
        le=1,
        description="probability from which on a deformation that was left out, a lower local likeness and, between "
        "unlike images, a rival start are no doubts",
    )
    probability_failed: float = Field(
        0.1, ge=0, le=1, description="probability of a right result below which it is not to be used"
    )
    turned_uncertain: float = Field(
        0.97,
        ge=0,
        description="agreement of volumes after quarter and half turns, as a part of that of the result, above which "
        "the orientation is to be checked",
    )
    least_agreement: float = Field(
        0.3, ge=0, le=1, description="least share of region pairs that must end up together"
    )
    least_overlap: float = Field(
        0.5, ge=0, le=1, description="Dice of an accepted pair under the result below which the verdict doubts"
    )
    rival_margin: float = Field(
        0.02,
        ge=0,
        description="a start elsewhere counts as a rival if its trial ends at most this share higher than the best",
    )


def known_or_near(name: str, names: Sequence[str], *, what: str) -> None:
    """Refuse a name that is not among those known, suggesting the nearest.

    Raises
    ------
    InputError
        When it is not.
    """
    if name in names:
        return
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(names)}"
    raise InputError(f"{what} {name!r} is unknown; {hint}")
