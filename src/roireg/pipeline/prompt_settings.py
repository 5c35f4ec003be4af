"""How a prompt session prepares images and carries prompts, and the named settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.transforms import Transform
from roireg.core.words import GuideWord
from roireg.match.carry import Guide, scale_of
from roireg.match.transfer_options import PROMPTREG, TransferOptions

__all__ = ["PROMPT_PRESETS", "PromptSettings", "prompt_settings"]


class PromptSettings(BaseModel):
    """How prompts are carried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    transfer: TransferOptions = TransferOptions()
    standardise: bool = Field(
        True, description="compare features around their common mean and spread; false takes them as they are"
    )
    views: int = Field(0, ge=0, description="random flips, turns, scales and gammas of the image, answers averaged")
    scales: tuple[float, float] = Field((0.8, 1.25), description="range of the scales of the views")
    gammas: tuple[float, float] = Field((0.8, 1.25), description="range of the exponents of the views' intensities")
    width: float = Field(
        0.03, gt=0, description="standard deviation of where the guide expects a prompt, fraction of the mean extent"
    )
    loose_width: float = Field(
        0.15, gt=0, description="the same for a guide that is a guess: where images lie, or a failed registration"
    )
    guide: GuideWord = Field("auto", description="where prompts are expected, unless a call says otherwise")

    def guide_along(self, transform: Transform, grid: Grid, *, loose: bool = False) -> Guide:
        """Return the guide of a transform from points of the fixed image, with its grid, to the moving one."""
        share = self.loose_width if loose else self.width
        return Guide(transform, transform.inverse(), share * scale_of(grid))


PROMPT_PRESETS = {
    "default": PromptSettings(),
    "promptreg": PromptSettings(
        transfer=PROMPTREG, standardise=False, views=6, scales=(0.5, 2.5), gammas=(1.0, 1.0), guide="none"
    ),
}
"""Named settings: `default`, and `promptreg` as published (Huang et al., 2025), which never abstains."""


def prompt_settings(name: str | PromptSettings) -> PromptSettings:
    """Return settings by name; settings are returned as they are.

    Raises
    ------
    InputError
        When there are none of this name.
    """
    if isinstance(name, PromptSettings):
        return name
    if name not in PROMPT_PRESETS:
        raise InputError(f"there are no prompt settings {name!r}; use one of {', '.join(PROMPT_PRESETS)}")
    return PROMPT_PRESETS[name]
