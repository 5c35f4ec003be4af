"""Stages, the steps towards a transform: a problem and a start go in, a transform comes out.

A preset is a list of stages, applied one after the other, each to the same problem and to what the stage before
found. A stage is a pydantic model whose fields are its options, so its options, its place in a settings file and its
help are declared once; a subclass is known to settings files by its name as soon as its module is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.progress import Progress, silent
from roireg.core.rois import ROIPairs
from roireg.core.transforms import Affine, Transform, VelocityField
from roireg.core.warp import warp
from roireg.fit.search import GlobalSearch, SearchOptions
from roireg.match.candidates import RegionCandidates
from roireg.match.stable_points import PointPairs

__all__ = ["Candidate", "Problem", "Stage", "StageField", "Trace", "stage_named"]


@dataclass(frozen=True)
class Candidate:
    """An affine with the reason it is considered and how well the images agree under it.

    Attributes
    ----------
    trial : what a short deformation from it came to, if one was tried.
    """

    affine: Affine
    source: str
    score: float = float("nan")
    trial: Transform | None = None


@dataclass
class Trace:
    """What stages learn besides a transform, for the stages after them and for the verdict.

    Attributes
    ----------
    source : where the global map came from, in words.
    loss : what the trial deformation from that map reached.
    rivals : global maps somewhere else, with the losses of their trials, best first.
    trial : the trial deformation from the map itself; None where there was none.
    uncertainty : how far off the global map is at most, mm; None: anything.
    perspective : the part of the transform that is the perspective of a photograph.
    search : the global search between the images, once there was one: its masks and channels serve again.
    points : corresponding points that a stage has matched.
    notes : doubts about what a stage did, in words; each makes a result uncertain.
    """

    source: str = "where the images lie"
    loss: float = float("nan")
    rivals: tuple[tuple[Affine, float], ...] = ()
    trial: Transform | None = None
    uncertainty: float | None = None
    perspective: VelocityField | None = None
    search: GlobalSearch | None = None
    points: PointPairs | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Problem:
    """What the stages work on.

    Attributes
    ----------
    pair : one-channel images on the device of the computation, masks 0 or 1.
    pairs : corresponding regions; None where none have been looked for.
    trusted : pairs whose affine map is worth a try whatever the images say: those of label maps, those that a person
        has accepted.
    candidates : regions of both images before they are paired; None where pairs were given.
    starts : positions that need no search, the preferred first.
    searchable : whether a stage may look for another global map than the start.
    encodings : feature maps (fixed, moving) of a network, on grids of their own, for stages whose features are
        "model".
    seed : of every random choice.
    trace : what stages learn; the only part that changes.
    progress : is told what is being done.
    """

    pair: Pair
    pairs: ROIPairs | None = None
    trusted: ROIPairs | None = None
    candidates: RegionCandidates | None = None
    starts: tuple[Candidate, ...] = ()
    searchable: bool = True
    encodings: tuple[Image, Image] | None = None
    seed: int = 0
    trace: Trace = field(default_factory=Trace)
    progress: Progress = silent

    @property
    def search(self) -> GlobalSearch:
        """The global search between the images, made when it is first needed."""
        if self.trace.search is None:
            self.trace.search = GlobalSearch(self.pair, SearchOptions())
        return self.trace.search

    @property
    def active_pairs(self) -> ROIPairs | None:
        """The pairs that are not rejected, on the device of the images; None where there is none."""
        if self.pairs is None or not len(self.pairs.active):
            return None
        device = self.pair.fixed.data.device
        return ROIPairs(self.pairs.moving.to(device), self.pairs.fixed.to(device), self.pairs.active.pairs)

    def moved(self, start: Transform) -> Problem:
        """Return the problem that is left after a start: moving image, mask, encoding and regions moved by it.

        They lie on the grid of the fixed image, an eighth wider on every side, or where they are coarser on one of
        about their own voxel size.
        """

        def onto_fixed(image: Image, fill: float | None = None) -> Image:
            grid = self.pair.fixed.grid
            grid = grid.with_spacing(np.maximum(grid.spacing, float(image.grid.spacing.min())))
            margin = [-(-n // 8) if n > 1 else 0 for n in grid.shape]
            return warp(image.with_data(image.data.float()), start, grid.padded(margin, margin), fill=fill)

        pair, pairs, encodings = self.pair, self.pairs, self.encodings
        mask = pair.moving_mask or pair.moving.with_data(torch.ones_like(pair.moving.data))
        mask = onto_fixed(mask, fill=0.0)
        whole = pair.moving_mask is None and bool((warp(mask, None, pair.fixed.grid).data > 0).all())
        pair = replace(pair, moving=onto_fixed(pair.moving), moving_mask=None if whole else mask)
        if pairs is not None and len(pairs.moving):
            soft = onto_fixed(Image(pairs.moving.masks.float(), pairs.moving.grid), fill=0.0)
            pairs = replace(pairs, moving=replace(pairs.moving, masks=soft.data > 0.5, grid=soft.grid))
        if encodings is not None:
            encodings = (encodings[0], onto_fixed(encodings[1]))
        return replace(self, pair=pair, pairs=pairs, candidates=None, encodings=encodings)


_STAGES: dict[str, type[Stage]] = {}


class Stage(BaseModel, ABC):
    """One step: its options are its fields, and calling it performs it.

    A subclass names itself by a field `stage` with a Literal type and default.

    Attributes
    ----------
    title : what progress calls it.
    uses_pairs : whether region pairs must be there when it is called.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: ClassVar[str] = "fitting"
    uses_pairs: ClassVar[bool] = False

    stage: str

    @property
    def idle(self) -> bool:
        """Whether the options leave the stage out."""
        return False

    def check(self, ndim: int) -> None:
        """Refuse, before anything is computed, options that cannot be used on images of a dimension.

        Raises
        ------
        InputError
            When they cannot.
        """

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        name = cls.model_fields["stage"].default
        if not isinstance(name, str):
            raise TypeError(f"{cls.__name__} is a stage and needs a name: stage: Literal['name'] = 'name'")
        other = _STAGES.get(name)
        if other is not None and other.__qualname__ != cls.__qualname__:
            raise TypeError(f"there is a stage {name!r} already: {other.__qualname__}")
        _STAGES[name] = cls

    @abstractmethod
    def __call__(self, problem: Problem, start: Transform) -> Transform:
        """Return a better transform (fixed world -> moving world) than `start`, or `start` itself."""


def stage_named(name: str) -> type[Stage]:
    """Return the stage that settings files call by a name.

    Raises
    ------
    InputError
        When there is none.
    """
    if name not in _STAGES:
        raise InputError(f"there is no stage {name!r}; use one of {', '.join(sorted(_STAGES))}")
    return _STAGES[name]


def _from_settings(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    name = value.get("stage")
    if not isinstance(name, str) or name not in _STAGES:
        names = ", ".join(sorted(_STAGES))
        problems = [
            {"type": "literal_error", "loc": ("stage",), "ctx": {"expected": f"one of {names}"}, "input": name}
        ]
    else:
        try:
            return _STAGES[name].model_validate(value)
        except ValidationError as error:
            problems = [{**problem, "loc": (name, *problem["loc"])} for problem in error.errors()]
    raise PydanticCustomError("stage_option", "a wrong option", {"problems": problems})


StageField = Annotated[SerializeAsAny[Stage], BeforeValidator(_from_settings)]
"""A stage in a settings model: from its options and its name, written with both."""
