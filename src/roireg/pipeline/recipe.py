"""The recipe: check, regions, pairs, prompts, stages, verdict."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy
import torch

from roireg import __version__
from roireg.core.ambient import limited_threads, own_settings
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import Prompt, ROIPairs, ROISet
from roireg.core.seeds import generator, resolve_device
from roireg.core.transforms import Chain, Transform
from roireg.core.warp import halved
from roireg.core.words import SearchRange, TransformType
from roireg.fit import Candidate, Problem, Search, Trace
from roireg.fit.region_affine import affine_part
from roireg.io import ImageLike, LabelsLike, TransformLike
from roireg.match import SLICES, RegionCandidates, match_classes, match_labels, match_slices
from roireg.match.carry import Guide
from roireg.pipeline.checks import check_guide, check_inputs, starting_map
from roireg.pipeline.config import QUICK, QUICK_FIT, Config
from roireg.pipeline.config import preset as preset_named
from roireg.pipeline.inputs import images_of, labels_of, start_of
from roireg.pipeline.missing import masked, without_missing
from roireg.pipeline.prompt_settings import PROMPT_PRESETS, PromptSettings, prompt_settings
from roireg.pipeline.prompts import check_prompts
from roireg.pipeline.registration import Registration
from roireg.pipeline.session import SIDES, PromptSession, prompt_pairs
from roireg.pipeline.steering import accepted, blocked, combined
from roireg.pipeline.tools import REGIONS, Tools, tell_time
from roireg.pipeline.verdict import judge
from roireg.segment import HierarchySegmenter, LabelSegmenter, Prepared

__all__ = ["find_guide", "register"]

LABEL_MEMORY = 400_000_000
"""Bytes of the masks of a label map at most; the regions of larger ones are kept coarser."""
HEAVIEST = 1e6
"""Largest weight of regions, beside which nothing else counts."""
TRUSTED = 4
"""Classes that a global map is tried from; fewer do not tell it, as parts of them may lie beyond an image."""
POSITIONS = {"identity": "where the images lie", "centers": "centres together"}
"""What a start that is given by a word is called."""


@own_settings()
def register(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    preset: str = "default",
    config: Config | None = None,
    type: TransformType | None = None,
    search: SearchRange | None = None,
    pairs: ROIPairs | None = None,
    fixed_rois: LabelsLike | None = None,
    moving_rois: LabelsLike | None = None,
    fixed_mask: LabelsLike | None = None,
    moving_mask: LabelsLike | None = None,
    prompts: Prompt | Image | Sequence[Prompt | Image] = (),
    prompt_side: str = "fixed",
    roi_weight: float | None = None,
    pairs_only: bool = False,
    init: str | TransformLike = "auto",
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Registration:
    """Register two images by corresponding regions.

    Parameters
    ----------
    fixed, moving : images of the same dimension, any grids in one world (LPS mm; raster images: pixels): an `Image`,
        a path, ``(array, spacing)``, an image of SimpleITK or nibabel, see `roireg.io.as_image`. NaN is no data: such
        voxels are left out of the comparison, see `without_missing`.
    preset, config : settings; `config` wins over the name.
    type : what may move: "translation", "rigid", "similarity", "affine", "homography" (2D), or "deformable" and None,
        what the settings say. search : "full" tries all rotations of volumes.
    pairs : known region pairs. Accepted ones are kept and rejected ones never used; if every pair is one or the
        other, more pairs are looked for, unless `pairs_only`. If any is merely proposed, no others are looked for.
    fixed_rois, moving_rois : label maps used as regions (METHODS Case 1), equal ids correspond; in the same forms, or
        an array alone in the shape of the image.
    fixed_mask, moving_mask : label maps in the same forms, not 0 where the images are to be compared.
    prompts : points and boxes, or masks (not 0 inside) on the grid of their image, each for one region that matters.
        Their counterparts are found, and the pairs are as good as accepted. A prompt without a counterpart is named
        in the reasons.
    prompt_side : "fixed" or "moving": the image the prompts are given in.
    roi_weight : weight in the dense fit of the pairs of label maps (its option `label_weight`), else of accepted
        pairs and prompts (`accepted_weight`), else of all region pairs (`region_weight`).
    pairs_only : look for no pairs beside `pairs`.
    init : "auto" (where the images lie, unless a stage finds something better), "identity" (exactly that), "centers"
        (grid centres together), or any transform, a file or one of SimpleITK: the stages go on from it, and it stays
        a part of the result.
    device : "auto", "cpu", "cuda", "cuda:N" or "mps".
    threads : CPU threads while this runs, for the whole process; None takes as many as torch has.
    seed : of every random choice.
    progress : is told what is being done.

    Raises
    ------
    InputError, GeometryError
        When an input is unsuitable; see :func:`roireg.pipeline.checks.check_inputs`.
    """
    settings = (config or preset_named(preset)).with_type(type, search)
    (fixed, moving), init = images_of(fixed, moving), start_of(init)
    (fixed, fixed_known), (moving, moving_known) = without_missing(fixed), without_missing(moving)
    maps = check_inputs(
        fixed,
        moving,
        fixed_mask=labels_of(fixed_mask, fixed, "fixed mask"),
        moving_mask=labels_of(moving_mask, moving, "moving mask"),
        fixed_rois=labels_of(fixed_rois, fixed, "fixed regions"),
        moving_rois=labels_of(moving_rois, moving, "moving regions"),
        pairs=pairs,
        init=init,
    )
    maps = replace(
        maps,
        fixed_mask=masked(maps.fixed_mask, fixed_known),
        moving_mask=masked(maps.moving_mask, moving_known),
    )
    if prompt_side not in SIDES:
        raise InputError(f"prompts are given in the fixed or in the moving image, found {prompt_side!r}")
    checked = check_prompts(prompts, fixed if prompt_side == "fixed" else moving)
    if settings.classes.used and (pairs is not None or fixed_rois is not None):
        raise InputError(
            "a segmenter of classes says what corresponds, as ROI pairs and label maps do; give one of them"
        )
    if pairs is not None and fixed_rois is not None:
        raise InputError("region label maps and ROI pairs both say what corresponds; give one of them")
    decisions = None
    if pairs is not None and not pairs_only and all(p.status != "proposed" for p in pairs.pairs):
        pairs, decisions = None, pairs
    if pairs is not None and not len(pairs.active):
        raise InputError(
            "every ROI pair is rejected and no others are looked for; accept at least one, or leave --pairs-only out"
        )
    labels = None if maps.fixed_rois is None or maps.moving_rois is None else (maps.fixed_rois, maps.moving_rois)
    if roi_weight is not None:
        if not 0 <= roi_weight <= HEAVIEST:
            raise InputError(f"the weight of regions is a number from 0 to {HEAVIEST:g}, found {roi_weight}")
        decided = pairs or decisions
        if labels is not None:
            option = "label_weight"
        elif checked or (decided is not None and any(p.status == "accepted" for p in decided.pairs)):
            option = "accepted_weight"
        else:
            option = "region_weight"
        settings = settings.with_options("velocity", **{option: roi_weight})

    where = resolve_device(device)
    masks = (maps.fixed_mask, maps.moving_mask)
    small = Pair(halved(fixed), halved(moving), *(m and m.with_data((m.data != 0).float()) for m in masks))
    run = Run(
        given=Pair(fixed, moving, *masks),
        small=small,
        pair=small.gray().to(where),
        settings=settings,
        tools=Tools.of(settings, where, progress),
        init=init,
        device=where,
        seed=seed,
        clock=Stopwatch(progress),
    )
    with limited_threads(threads):
        if settings.prompt.count and pairs is None and decisions is None and labels is None:
            pairs = run.drawn_pairs()
        return run.registration(
            labels=labels,
            pairs=pairs,
            decisions=decisions,
            prompts=checked,
            side=prompt_side,
            name=preset if config is None else "custom",
        )


def find_guide(
    fixed: Image,
    moving: Image,
    guide: str | Transform | None = None,
    *,
    settings: str | PromptSettings = "default",
    device: str = "auto",
    seed: int = 0,
) -> Guide | None:
    """Return where things of the fixed image are to be expected in the moving one.

    Parameters
    ----------
    guide : "auto" (a quick registration, seconds), "identity" (where the images lie), "centers" (grid centres
        together), "none" (anywhere), or a transform from fixed to moving points, for instance of a finished
        registration; None takes what the settings say.
    settings : a name of `PROMPT_PRESETS` or settings; they say how wide the guide is.
    device, seed : of the registration.

    Raises
    ------
    InputError
        When the guide is none of these.
    """
    settings = prompt_settings(settings)
    guide = settings.guide if guide is None else guide
    if guide == "none":
        return None
    if guide == "auto":
        result = register(fixed, moving, config=QUICK, device=device, seed=seed)
        return settings.guide_along(result.transform, fixed.grid, loose=result.verdict == "failed")
    if isinstance(guide, Transform):
        return settings.guide_along(guide, fixed.grid)
    check_guide(guide)
    return settings.guide_along(starting_map(guide, fixed.grid, moving.grid), fixed.grid, loose=True)


@dataclass(frozen=True, eq=False)
class Run:
    """One registration: what it works on and the steps of the recipe.

    Attributes
    ----------
    given : the images as given, with masks. small : the same, large images halved, masks 0 or 1. pair : that with one
        channel each, on the device.
    doubts : what a reader of the verdict must know besides.
    """

    given: Pair
    small: Pair
    pair: Pair
    settings: Config
    tools: Tools
    init: str | Transform
    device: torch.device
    seed: int
    clock: Stopwatch
    doubts: list[str] = field(default_factory=list)

    def registration(
        self,
        *,
        labels: tuple[Image, Image] | None,
        pairs: ROIPairs | None,
        decisions: ROIPairs | None,
        prompts: Sequence[Prompt | Image],
        side: str,
        name: str,
    ) -> Registration:
        """Take the steps, see `register`; `labels` are (fixed, moving) and `decisions` pairs beside those to find."""
        with self.clock(REGIONS):
            problem = self.problem(labels, pairs, decisions)
        transform: Transform = problem.starts[0].affine if isinstance(self.init, str) else self.init
        settled = False
        for stage in self.settings.stages:
            if stage.uses_pairs and not settled:
                problem, settled = self.paired(problem, transform, decisions, prompts, side), True
            with self.clock(stage.title):
                transform = stage(problem, transform)
        if not settled:
            problem = self.paired(problem, transform, decisions, prompts, side)
        with self.clock("judging the result"):
            result = Registration(
                fixed=self.given.fixed,
                moving=self.given.moving,
                transform=Chain((transform,)),
                pairs=problem.pairs or no_pairs(self.given),
                config=self.settings,
                timings=self.clock.seconds,
                provenance=self.provenance(name, problem.trace),
            )
            search = problem.search if self.settings.verdict.probability else None
            result = judge(result, problem.trace, search=search, fixed_mask=self.given.fixed_mask)
            result = result.doubted(self.doubts)
        self.clock.seconds["total"] = sum(self.clock.seconds.values())
        return result

    # -- regions ------------------------------------------------------------------------------------

    def problem(
        self, labels: tuple[Image, Image] | None, pairs: ROIPairs | None, decisions: ROIPairs | None
    ) -> Problem:
        """Return what the stages are to solve: with pairs, or with the regions that they are made of."""
        starts = self.starts()
        problem = Problem(
            self.pair,
            pairs=pairs,
            starts=starts,
            searchable=self.init == "auto",
            encodings=self.tools.encodings(self.small.fixed, self.small.moving, self.settings),
            seed=self.seed,
            trace=Trace(source=starts[0].source),
            progress=self.clock.progress,
        )
        if labels is not None:
            regions = [
                label_regions(m, image)
                for m, image in zip(labels, (self.given.fixed, self.given.moving), strict=True)
            ]
            pairs = match_labels(regions[0], regions[1])
            return replace(problem, pairs=pairs, trusted=pairs)
        if pairs is not None:
            return problem
        if self.class_pairs is not None:
            classes = self.class_pairs
            problem = replace(problem, trusted=classes if len(classes) >= TRUSTED else None)
            if not any(isinstance(stage, Search) for stage in self.settings.stages):
                return replace(problem, pairs=classes)
        m, (fixed, moving) = self.settings.match, (self.small.fixed, self.small.moving)
        tell_time(self.clock.progress, self.tools.segmenter, moving, fixed, slices=m.slices, axis=m.slice_axis)
        if m.slices and fixed.ndim == 3:
            pairs = self.slice_pairs()
            return replace(problem, pairs=pairs if decisions is None else combined(decisions, pairs))
        # Few classes do not tell a position: the search looks at regions of all kinds.
        kinds = self.prepared
        if self.class_pairs is not None:
            anything = HierarchySegmenter(self.settings.segment)
            kinds = anything.prepare(fixed), anything.prepare(moving)
        candidates = RegionCandidates(
            fixed=kinds[0].regions(),
            moving=kinds[1].regions(),
            fixed_features=self.tools.encode(fixed),
            moving_features=self.tools.encode(moving),
            options=m,
        )
        sure = tuple(p for p in decisions.pairs if p.status == "accepted") if decisions is not None else ()
        trusted = replace(decisions, pairs=sure) if decisions is not None and sure else problem.trusted
        return replace(problem, candidates=candidates, trusted=trusted)

    @cached_property
    def prepared(self) -> tuple[Prepared, Prepared]:
        """What the segmenter makes of the fixed and the moving image."""
        segmenter = self.tools.segmenter
        return segmenter.prepare(self.small.fixed), segmenter.prepare(self.small.moving)

    @cached_property
    def class_pairs(self) -> ROIPairs | None:
        """Pairs of the classes of both images; None where the segmenter names none."""
        if not self.tools.segmenter.classed:
            return None
        pairs = match_classes(self.prepared[0].regions(), self.prepared[1].regions())
        if not len(pairs):
            self.doubts.append("the segmenter gave the images no class in common; no class has a part in the result")
        return pairs

    def slice_pairs(self) -> ROIPairs:
        """Region pairs of SAMReg's Algorithm 1."""
        m = self.settings.match
        with self.clock(SLICES):
            return match_slices(
                self.given.fixed,
                self.given.moving,
                self.tools.segmenter,
                self.tools.encode,
                axis=m.slice_axis,
                reach=m.slice_range,
                reach_mm=m.slice_range_mm,
                options=m,
                keep_unmatched=False,
                rng=generator(self.seed, stream="match"),
                progress=self.clock.progress,
            )

    def drawn_pairs(self) -> ROIPairs:
        """Region pairs of random prompts in the moving image (PromptReg)."""
        count, settings = self.settings.prompt.count, self.settings.prompt.settings
        init = "none" if settings.guide == "none" else self.init
        guide = find_guide(
            self.given.fixed, self.given.moving, init, settings=settings, device=str(self.device), seed=self.seed
        )
        session = self.session(guide=guide, settings=settings)
        mask, where = self.given.moving_mask, self.settings.prompt.where
        # Without a mask everything in the foreground is inside.
        where = "inside" if mask is None else where
        pairs = prompt_pairs(session, count, mask=mask, where=where, seed=self.seed)
        if not len(pairs):
            self.doubts.append(
                f"none of {count} random prompts has a counterpart; no region has a part in the result"
            )
        return pairs if len(pairs) else no_pairs(self.given)

    def starts(self) -> tuple[Candidate, ...]:
        """Positions that need no search: what the user says, else where the images lie, else centres together."""
        f, m = self.given.fixed.grid, self.given.moving.grid
        if isinstance(self.init, Transform):
            return (Candidate(affine_part(self.init, f), "given transform"),)
        words = [self.init]
        if self.init == "auto":
            apart = np.abs(m.center - f.center).max() >= float(f.spacing.min())
            words = ["identity", "centers"] if apart else ["identity"]
        return tuple(Candidate(affine_part(starting_map(w, f, m), f), POSITIONS[w]) for w in words)

    # -- pairs --------------------------------------------------------------------------------------

    def paired(
        self,
        problem: Problem,
        start: Transform,
        decisions: ROIPairs | None,
        prompts: Sequence[Prompt | Image],
        side: str,
    ) -> Problem:
        """Return the problem with region pairs: found under a start, joined with those of people and prompts."""
        if self.class_pairs is not None and problem.pairs is None:
            problem = replace(problem, pairs=self.class_pairs)
        elif problem.candidates is not None:
            with self.clock("pairing regions"):
                problem = replace(problem, pairs=self.found_pairs(problem, start, decisions))
        if prompts:
            with self.clock("carrying prompts"):
                problem = replace(problem, pairs=self.steered_pairs(problem, start, prompts, side))
        network = self.tools.network
        if network is not None and not (problem.pairs and len(problem.pairs.active)):
            name = network.model.card.name
            self.doubts.append(f"{name} led to no region pair; the result rests on the images alone")
        return problem

    def found_pairs(self, problem: Problem, start: Transform, decisions: ROIPairs | None) -> ROIPairs:
        """Pairs of the candidates; what a person has said rules some of them out."""
        candidates = problem.candidates
        assert candidates is not None
        # A start that nobody looked for or asked for says nothing about where partners lie.
        certain = not problem.searchable or any(isinstance(s, Search) for s in self.settings.stages)
        guide = affine_part(start, self.given.fixed.grid) if certain and self.settings.match.geometric else None
        excluded: tuple[tuple[int, int], ...] = ()
        if decisions is not None:
            places = np.argwhere(blocked(candidates.fixed, candidates.moving, decisions))
            excluded = tuple((int(m), int(f)) for m, f in places)
        pairs = candidates.paired(guide=guide, excluded=excluded, rng=generator(self.seed, stream="match"))
        return pairs if decisions is None else combined(decisions, pairs)

    def steered_pairs(
        self, problem: Problem, start: Transform, prompts: Sequence[Prompt | Image], side: str
    ) -> ROIPairs:
        """Add the pairs of prompts, as certain as a person is, and name the prompts that have none."""
        # A coarse deformation first: counterparts are looked for where it says.
        grid = self.given.fixed.grid
        guide = PROMPT_PRESETS["default"].guide_along(QUICK_FIT(problem, start), grid)
        # Prompts are given in the images as they are, not in those that were halved.
        whole = self.small.fixed is self.given.fixed and self.small.moving is self.given.moving
        session = self.session(guide=guide, prepared=self.prepared if whole else None)
        answers = session.answer(prompts, side=side)
        other = "moving" if side == "fixed" else "fixed"
        for number, answer in enumerate(answers.answers, start=1):
            if answer.pair is None:
                self.doubts.append(
                    f"prompt {number} has no counterpart in the {other} image and does not steer: {answer.reason}"
                )
        pairs = problem.pairs or no_pairs(self.given)
        return combined(accepted(answers.pairs), pairs) if len(answers.pairs) else pairs

    def session(self, **options: Any) -> PromptSession:
        """Return a session that shares the tools of the run."""
        return PromptSession.of(
            self.given.fixed,
            self.given.moving,
            segmenter=self.tools.segmenter,
            features=self.tools.extractor,
            device=str(self.device),
            seed=self.seed,
            progress=self.clock.progress,
            **options,
        )

    # -- the record ---------------------------------------------------------------------------------

    def provenance(self, name: str, trace: Trace) -> dict[str, object]:
        """Return versions, device, seed, settings and inputs."""
        fixed, moving = self.given.fixed, self.given.moving
        origin = {} if self.tools.network is None else {"model": self.tools.network.origin}
        return {
            "roireg": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "seed": self.seed,
            "preset": name,
            "start": trace.source,
            **origin,
            "fixed": {"name": fixed.name, "grid": repr(fixed.grid), **fixed.metadata},
            "moving": {"name": moving.name, "grid": repr(moving.grid), **moving.metadata},
            "settings": self.settings.model_dump(mode="json"),
        }


def label_regions(labels: Image, image: Image) -> ROISet:
    """Return the classes of a label map as regions, at its own resolution where memory allows."""
    segmenter = LabelSegmenter(labels.data[0], labels.grid)
    voxels = max(LABEL_MEMORY // max(1, len(segmenter.present)), 1000)
    return replace(segmenter, max_voxels=voxels)(image)


class Stopwatch:
    """Seconds per step, told to a listener as they begin and end."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.progress = progress

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        self.progress(ProgressEvent(step, 0.0))
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start
        self.progress(ProgressEvent(step, 1.0))


def no_pairs(pair: Pair) -> ROIPairs:
    return ROIPairs(ROISet.empty(pair.moving.grid), ROISet.empty(pair.fixed.grid), ())
