"""What requests to the viewer's server carry, as `roireg.serve.api` takes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from roireg.core.words import PresetName, SearchRange, Side, TransformType

__all__ = [
    "BrushBody",
    "ExportBody",
    "FilesBody",
    "FitBody",
    "LandmarkBody",
    "LiveBody",
    "OpenBody",
    "PairBody",
    "PointsBody",
    "PromptBody",
    "ScaleBody",
]

Point = Annotated[list[FiniteFloat], Field(min_length=2, max_length=3)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OpenBody(_Body):
    """A pair to open: two images, or the folder of a result. Paths, or `upload:NAME`."""

    fixed: str | None = None
    moving: str | None = None
    result: str | None = None
    preset: PresetName = "default"
    type: TransformType | None = None
    search: SearchRange | None = None
    seed: Annotated[int, Field(ge=0)] = 0


class PointsBody(_Body):
    """World points of one side."""

    side: Side
    points: Annotated[list[Point], Field(max_length=10_000)]


class PromptBody(_Body):
    """What a person points at: points with labels 1 (inside) or 0 (outside), a box, or both; world coordinates."""

    side: Side
    points: Annotated[list[Point], Field(max_length=200)] = []
    labels: list[Literal[0, 1]] = []
    box: Annotated[list[Point], Field(min_length=2, max_length=2)] | None = None


class ScaleBody(_Body):
    """Take the next larger (1) or smaller (-1) region."""

    step: Literal[-1, 1]


class PairBody(_Body):
    """What changes about a pair."""

    status: Literal["proposed", "accepted", "rejected"] | None = None
    name: Annotated[str, Field(max_length=80)] | None = None


class BrushBody(_Body):
    """A stroke with a round brush, world coordinates and radius."""

    side: Side
    points: Annotated[list[Point], Field(min_length=1, max_length=2_000)]
    radius: Annotated[float, Field(gt=0, le=1e6)]
    erase: bool = False


class FilesBody(_Body):
    """Files of both sides."""

    fixed: str | None = None
    moving: str | None = None


class LandmarkBody(_Body):
    """A landmark in one image; without a number the first that lacks this side, else a new one."""

    side: Side
    point: Point
    id: int | None = None
    name: Annotated[str, Field(max_length=80)] | None = None


class FitBody(_Body):
    """Which fit: full, or a coarse refit; or whether edits are followed by refits."""

    kind: Literal["full", "refit"] = "full"


class LiveBody(_Body):
    """Whether edits are followed by refits."""

    live: bool


class ExportBody(_Body):
    """Where to: a folder inside that of the server; None takes the one that the session was opened with."""

    folder: Annotated[str, Field(max_length=200)] | None = None
