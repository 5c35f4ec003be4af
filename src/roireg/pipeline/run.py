"""One registration: regions, pairs, prompts, stages, verdict, and the record of what was done."""

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
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.progress import Progress, ProgressEvent
from roireg.core.rois import Prompt, ROIPairs, ROISet
from roireg.core.seeds import generator
from roireg.core.transforms import Chain, Transform
from roireg.core.warp import halved
from roireg.fit import Candidate, Problem, Search, Trace
from roireg.fit.region_affine import affine_part
from roireg.match import SLICES, RegionCandidates, match_classes, match_labels, match_slices
from roireg.match.carry import Guide
from roireg.pipeline.checks import starting_map
from roireg.pipeline.config import QUICK_FIT, Config
from roireg.pipeline.prompt_settings import PROMPT_PRESETS
from roireg.pipeline.registration import Registration
from roireg.pipeline.session import PromptSession, prompt_pairs
from roireg.pipeline.steering import accepted, blocked, combined
from roireg.pipeline.tools import REGIONS, Tools, tell_time
from roireg.pipeline.verdict import judge
from roireg.segment import HierarchySegmenter, LabelSegmenter, Prepared

__all__ = ["Run", "Stopwatch", "label_regions", "no_pairs"]

LABEL_MEMORY = 400_000_000
"""Bytes of the masks of a label map at most; the regions of larger ones are kept coarser."""
TRUSTED = 4
"""Classes that a global map is tried from; fewer do not tell it, as parts of them may lie beyond an image."""
POSITIONS = {"identity": "where the images lie", "centers": "centres together"}
"""What a start that is given by a word is called."""


@dataclass(frozen=True, eq=False)
class Run:
    """One registration: what it works on and the steps of the recipe.

    Attributes
    ----------
    images : as the user has them, with masks.
    small : the same, large images halved, masks 0 or 1.
    pair : `small` with one channel each, on the device.
    doubts : further reasons not to trust the result.
    """

    images: Pair
    small: Pair
    pair: Pair
    settings: Config
    tools: Tools
    init: str | Transform
    device: torch.device
    seed: int
    clock: Stopwatch
    doubts: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        images: Pair,
        settings: Config,
        *,
        init: str | Transform,
        device: torch.device,
        seed: int,
        progress: Progress,
    ) -> Run:
        """Prepare a run between two images; loads the weights of a network.

        Raises
        ------
        InputError
            When a network or a feature map does not exist, or weights cannot be loaded.
        """
        masks = (images.fixed_mask, images.moving_mask)
        small = Pair(
            halved(images.fixed), halved(images.moving), *(m and m.with_data((m.data != 0).float()) for m in masks)
        )
        return cls(
            images=images,
            small=small,
            pair=small.gray().to(device),
            settings=settings,
            tools=Tools.of(settings, device, progress),
            init=init,
            device=device,
            seed=seed,
            clock=Stopwatch(progress),
        )

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
            if stage.idle:
                continue
            if stage.uses_pairs and not settled:
                problem, settled = self.paired(problem, transform, decisions, prompts, side), True
            with self.clock(stage.title):
                transform = stage(problem, transform)
        if not settled:
            problem = self.paired(problem, transform, decisions, prompts, side)
        with self.clock("judging the result"):
            result = Registration(
                fixed=self.images.fixed,
                moving=self.images.moving,
                transform=Chain((transform,)),
                pairs=problem.pairs or no_pairs(self.images),
                config=self.settings,
                timings=self.clock.seconds,
                provenance=self.provenance(name, problem.trace),
            )
            search = problem.search if self.settings.verdict.probability else None
            result = judge(result, problem.trace, search=search, fixed_mask=self.images.fixed_mask)
            result = result.doubted(self.doubts)
        self.clock.seconds["total"] = sum(self.clock.seconds.values())
        return result

    # -- regions ------------------------------------------------------------------------------------

    def problem(
        self, labels: tuple[Image, Image] | None, pairs: ROIPairs | None, decisions: ROIPairs | None
    ) -> Problem:
        """Return what the stages are to solve, with region pairs or with the regions to be paired."""
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
                for m, image in zip(labels, (self.images.fixed, self.images.moving), strict=True)
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
            embeddings=self.tools.embeddings(fixed, moving),
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
                self.images.fixed,
                self.images.moving,
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

    def drawn_pairs(self, guide: Guide | None) -> ROIPairs:
        """Region pairs of random prompts in the moving image (PromptReg), looked for where a guide says."""
        count, settings = self.settings.prompt.count, self.settings.prompt.settings
        session = self.session(guide=guide, settings=settings)
        mask, where = self.images.moving_mask, self.settings.prompt.where
        # Without a mask everything in the foreground is inside.
        where = "inside" if mask is None else where
        pairs = prompt_pairs(session, count, mask=mask, where=where, seed=self.seed)
        if not len(pairs):
            self.doubts.append(
                f"none of {count} random prompts has a counterpart; no region has a part in the result"
            )
        return pairs if len(pairs) else no_pairs(self.images)

    def starts(self) -> tuple[Candidate, ...]:
        """Positions that need no search: the one of the user, or where the images lie and centres together."""
        f, m = self.images.fixed.grid, self.images.moving.grid
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
        """Return the problem with region pairs: found under a start, joined with those of a person and of prompts."""
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
        """Pair the candidates, but for what the decisions of a person rule out."""
        candidates = problem.candidates
        assert candidates is not None
        # A start that nobody looked for or asked for says nothing about where partners lie.
        certain = not problem.searchable or any(isinstance(s, Search) for s in self.settings.stages)
        guide = affine_part(start, self.images.fixed.grid) if certain and self.settings.match.geometric else None
        excluded: tuple[tuple[int, int], ...] = ()
        if decisions is not None:
            places = np.argwhere(blocked(candidates.fixed, candidates.moving, decisions))
            excluded = tuple((int(m), int(f)) for m, f in places)
        pairs = candidates.paired(guide=guide, excluded=excluded, rng=generator(self.seed, stream="match"))
        return pairs if decisions is None else combined(decisions, pairs)

    def steered_pairs(
        self, problem: Problem, start: Transform, prompts: Sequence[Prompt | Image], side: str
    ) -> ROIPairs:
        """Add the pairs of prompts, with the status of accepted ones, and name the prompts that have none."""
        # A coarse deformation first: counterparts are looked for where it says.
        grid = self.images.fixed.grid
        guide = PROMPT_PRESETS["default"].guide_along(QUICK_FIT(problem, start), grid)
        # Prompts are given in the images as they are, not in those that were halved.
        whole = self.small.fixed is self.images.fixed and self.small.moving is self.images.moving
        session = self.session(guide=guide, prepared=self.prepared if whole else None)
        answers = session.answer(prompts, side=side)
        other = "moving" if side == "fixed" else "fixed"
        for number, answer in enumerate(answers.answers, start=1):
            if answer.pair is None:
                self.doubts.append(
                    f"prompt {number} has no counterpart in the {other} image and does not steer: {answer.reason}"
                )
        pairs = problem.pairs or no_pairs(self.images)
        return combined(accepted(answers.pairs), pairs) if len(answers.pairs) else pairs

    def session(self, **options: Any) -> PromptSession:
        """Return a session that shares the tools of the run."""
        return PromptSession.of(
            self.images.fixed,
            self.images.moving,
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
        fixed, moving = self.images.fixed, self.images.moving
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
    """Seconds per step; a listener is told when a step begins and ends."""

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
    """Return an empty set of pairs between two images."""
    return ROIPairs(ROISet.empty(pair.moving.grid), ROISet.empty(pair.fixed.grid), ())
