"""How a prompt is carried over: every setting, and the published ones."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DEFAULT_TRANSFER", "PROMPTREG", "TransferOptions"]


class TransferOptions(BaseModel):
    """How a prompt is carried over. Lengths are fractions of the geometric mean extent of the target image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: Literal["argmax", "soft", "inverse"] = Field(
        "soft",
        description="how a similarity map becomes a point: maximum, mean around it, or linearised inverse",
    )
    pointwise: bool = Field(
        False,
        description="every point of a prompt finds its own place, as published; false places the first and keeps the "
        "others around it as the guide turns and stretches them",
    )
    joint: bool = Field(
        True,
        description="choose the region meant and its counterpart together by how well they fit, and let views refine "
        "them; false takes the segmenter's first answers, as published",
    )
    readings: int = Field(3, ge=1, description="answers to the prompt that are considered as the region meant")
    reading_penalty: float = Field(
        0.4, ge=0, description="how much better than the first answer another one must be, in the log of the fit"
    )
    places: int = Field(3, ge=1, description="maxima of the similarity map that are tried")
    sharpness: float = Field(4.0, ge=0, description="weight of a cosine against the log of the position prior")
    peak_radius: float = Field(0.04, gt=0, description="radius of a maximum of the similarity map")
    unlike: float = Field(
        0.5, gt=0, description="difference of standardised features at which the appearance has fallen to exp(-1/2)"
    )
    certainty: float = Field(0.25, ge=0, description="exponent of the segmenter's own scores in the fit")
    rounds: int = Field(0, ge=0, description="largest number of auxiliary points; on real pairs they changed nothing")
    tolerance: float = Field(
        0.05, ge=0, description="auxiliary points: none where the directed distances differ by no more than this"
    )
    inward: float = Field(0.01, ge=0, description="auxiliary points: how deep inside the region they are put")
    threshold: float = Field(
        0.5, gt=0, le=1, description="probability, averaged over the views, from which a voxel is in the region"
    )
    least_confidence: float = Field(0.45, ge=0, le=1, description="confidence below which there is no answer")


DEFAULT_TRANSFER = TransferOptions()

PROMPTREG = TransferOptions(
    place="inverse",
    pointwise=True,
    joint=False,
    readings=1,
    places=1,
    rounds=5,
    tolerance=0.1,
    inward=0.01,
    least_confidence=0.0,
)
"""PromptReg as published: first answers, linearised inverse, σ = 20 and ε = 2 of 200 pixels, no gate.

The way back is not part of it; it is taken all the same, and the confidence says what came of it.
"""
