"""Registration while a person works: full fits, quick ones after every edit, and what follows from the last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent
from roireg.core.rois import ROIPairs
from roireg.core.transforms import Transform
from roireg.core.warp import resample
from roireg.evaluate import MetricValue
from roireg.evaluate.choice import Body, pairs_in_bodies
from roireg.fit.region_affine import affine_part
from roireg.fit.velocity import Velocity
from roireg.jobs.job import STAGES
from roireg.jobs.reading import with_settings
from roireg.jobs.registering import registered, start_of
from roireg.match import Guide
from roireg.pipeline import Config, Registration, register
from roireg.pipeline.config import VerdictConfig
from roireg.pipeline.prompt_settings import PROMPT_PRESETS
from roireg.serve.apart import apart
from roireg.serve.board import Board, board_pairs, roi_pairs
from roireg.serve.local import LocalDoubt
from roireg.serve.places import Place, places_of
from roireg.serve.tasks import Stopped, Task

if TYPE_CHECKING:
    from roireg.serve.session import PairSession

__all__ = ["LIVE_SECONDS", "Fitting"]

LIVE_SECONDS = 5.0
"""A refit after an edit is begun by itself as long as the last one took less."""

QUIET = 0.35
"""Seconds without an edit before a refit begins."""

REFIT = Config(
    stages=(Velocity(levels=2, max_voxels=40_000, iterations=(25, 15), checked=False),),
    verdict=VerdictConfig(probability=False),
)
"""The deformation again, coarse, from the global map as it is and the pairs as they are.

How probable it is that the map is right takes a search for others, five times as long as all else; a full fit tells.
"""

REFIT_VOXELS = {2: 150_000, 3: 100_000}
"""Voxels of the images of a refit: borders of regions are fitted at all of them, which takes most of its time."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A transform with what is known of it.

    Attributes
    ----------
    kind : "guide" (a quick registration that guides prompts), "refit" (coarse, after an edit), "full" or "stored".
    registration : the result; of a stored one what was stored.
    board : the board that it was made from. seconds : how long it took.
    """

    kind: str
    transform: Transform
    inverse: Transform
    verdict: str
    reasons: tuple[str, ...]
    metrics: dict[str, MetricValue]
    registration: Registration | None
    board: Board
    seconds: float = 0.0


class Fitting:
    """The fits of a session.

    Attributes
    ----------
    fit : the last one; None before the first.
    version : counts the transforms. task : the fit that runs or ran last.
    live : whether edits are followed by a refit. note : what to know about that.
    """

    def __init__(self, session: PairSession) -> None:
        self.session = session
        self.fit: Fit | None = None
        self.version = 0
        self.task: Task | None = None
        self.live, self.note = True, ""
        self.doubt: LocalDoubt | None = None
        self.places: list[Place] = []
        self._again = False
        self._timer: threading.Timer | None = None

    # -- what is known ----------------------------------------------------------------------------

    @property
    def transform(self) -> Transform | None:
        """Fixed world -> moving world as it is now."""
        return None if self.fit is None else self.fit.transform

    def way(self, side: str) -> Transform | None:
        """Return the map of points of a side to the other one; before any fit that of the guide, if there is one."""
        if self.fit is not None:
            return self.fit.transform if side == "fixed" else self.fit.inverse
        guide = self.session.guide
        return None if guide is None else guide.forward if side == "fixed" else guide.backward

    def uncertainty(self, fixed_points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far off counterparts may be, (N,) world units; see `roireg.serve.local`."""
        guide, doubt = self.session.guide, self.doubt
        if doubt is not None:
            return doubt.at(fixed_points)
        if guide is None:
            return np.full(len(fixed_points), float(self.session.images[0].grid.extent.max()))
        return np.full(len(fixed_points), guide.width)

    def document(self) -> dict[str, Any]:
        """Return what people are told of the last fit."""
        fit = self.fit
        document: dict[str, Any] = {
            "version": self.version,
            "live": self.live,
            "note": self.note,
            "task": None if self.task is None else self.task.document(),
            "fit": None,
        }
        if fit is not None:
            document["fit"] = {
                "kind": fit.kind,
                "verdict": fit.verdict,
                "reasons": list(fit.reasons),
                "metrics": {name: m.as_dict() for name, m in fit.metrics.items()},
                "seconds": round(fit.seconds, 2),
                "current": fit.board.pairs == self.session.board.pairs,
                "places": [place.document() for place in self.places],
            }
        return document

    # -- what changes it --------------------------------------------------------------------------

    def take_result(self, result: Any) -> None:
        """Take a finished registration, or one that was stored: its transform, verdict and pairs."""
        own = isinstance(result, Registration)
        fit = Fit(
            "full" if own else "stored",
            result.transform,
            result.inverse,
            result.verdict,
            tuple(result.reasons),
            dict(result.metrics),
            result if own else None,
            self.session.board,
        )
        try:
            pairs = board_pairs(result.pairs, self._grids)
        except InputError:
            pairs = []  # it was saved without them
        session = self.session
        with session.lock:
            session.history.settle(session.board.with_new(pairs))
            self._take(replace(fit, board=session.board))
        self._look(self.fit)

    def start(self, kind: str = "full") -> Task:
        """Begin a full fit, or a refit.

        Raises
        ------
        InputError
            When one is running already.
        """
        if kind not in ("full", "refit"):
            raise InputError(f"a fit is full or refit, found {kind!r}")
        return self.run(kind, self.full if kind == "full" else self._refit)

    def run(self, kind: str, work: Callable[[Progress], object]) -> Task:
        """Run other work that must not meet a fit; a refit gives way to it, and an export waits for a full fit.

        Raises
        ------
        InputError
            When a fit is running that the work cannot wait for, or an export.
        """
        with self.session.lock:
            before = self.task
            if before is None or not before.running:
                return self._begun(kind, work)
            if before.kind == "refit":
                before.stop(wait=2.0)
                return self._begun(kind, work)
            if before.kind == "full" and kind == "export":
                return self._begun(kind, partial(_after, before, work))
            name = {"full": "registration"}.get(before.kind, before.kind)
            raise InputError(f"the {name} is still running; wait for it or cancel it")

    def set_live(self, live: bool) -> None:
        """Say whether edits are followed by refits."""
        self.live, self.note = live, ""
        self.session.changed()
        if live:
            self.wanted()

    def _begun(self, kind: str, work: Callable[[Progress], object]) -> Task:
        self.task = Task(kind, work, shares=STAGES, changed=self.session.changed)
        self.task.start()
        self.session.changed()
        return self.task

    def wanted(self) -> None:
        """Refit once nothing has been edited for a moment, if that is quick."""
        session = self.session
        with session.lock:
            if not self.live or self.fit is None or session.closed:
                return
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(QUIET, self._begin)
            self._timer.daemon = True
            self._timer.start()

    def _begin(self) -> None:
        session = self.session
        with session.lock:
            if session.closed or not self.live:
                return
            if self.task is not None and self.task.running:
                self._again = self.task.kind == "refit"
                return
            if not session.board.chosen("accepted", "proposed"):
                return
            self.start("refit")

    # -- the work ---------------------------------------------------------------------------------

    @property
    def _grids(self) -> tuple[Any, Any]:
        return self.session.grids["fixed"], self.session.grids["moving"]

    @cached_property
    def _small(self) -> tuple[Image, Image]:
        """Both images as a refit takes them."""
        fixed, moving = (
            resample(image, image.grid.coarsened(REFIT_VOXELS[image.ndim])) for image in self.session.coarse
        )
        return fixed, moving

    @cached_property
    def _bodies(self) -> tuple[Body, Body]:
        """Where both images show something."""
        fixed, moving = (Body(image) for image in self.session.coarse)
        return fixed, moving

    def _steering(self, board: Board) -> ROIPairs:
        """Return the pairs that a refit follows."""
        kept = board.chosen("accepted")
        if self.session.images[0].ndim == 2 or not kept:
            return roi_pairs(board.chosen("accepted", "proposed"), self._grids)
        # What is found in volumes takes no part in their fits, and borders cost as much as they have voxels.
        pairs, (fixed, moving) = roi_pairs(kept, self._grids), self._small
        return replace(pairs, fixed=pairs.fixed.on(fixed.grid), moving=pairs.moving.on(moving.grid))

    def full(self, progress: Progress) -> None:
        """Register as the job of the session says, from the decisions as they are; see `start`."""
        session, job = self.session, self.session.job
        board = session.board
        decided = board.chosen("accepted", "rejected")
        pairs = roi_pairs(decided, self._grids) if decided else None
        result = apart(registered, progress, job, *session.images, with_settings(job), start_of(job), pairs)
        fixed, moving = session.images
        result = replace(result, fixed=fixed, moving=moving)
        self._finish("full", result, board)

    def _refit(self, progress: Progress) -> None:
        session, fit = self.session, self.fit
        assert fit is not None
        board = session.board
        fixed, moving = self._small
        result = apart(
            register,
            progress,
            fixed,
            moving,
            config=REFIT,
            pairs=self._steering(board),
            pairs_only=True,
            init=affine_part(fit.transform, fixed.grid),
            device=session.job.device,
            seed=session.job.seed,
        )
        fixed, moving = session.images
        self._finish("refit", replace(result, fixed=fixed, moving=moving), board)
        seconds = result.timings["total"]
        if seconds > LIVE_SECONDS:
            self.live = False
            self.note = f"a refit takes {seconds:.0f} s here; press F when you want one"
        if self._again:
            self._again = False
            self.wanted()

    def _finish(self, kind: str, result: Registration, board: Board) -> None:
        session = self.session
        inverse = result.inverse  # computed once, here
        fit = Fit(
            kind,
            result.transform,
            inverse,
            result.verdict,
            result.reasons,
            result.metrics,
            result,
            board,
            result.timings["total"],
        )
        proposals = self._worth_showing(result.pairs) if kind == "full" else None
        with session.lock:
            if proposals is not None:
                current = session.board
                session.history.settle(current.proposed_again(proposals, self._grids))
                if current.pairs == board.pairs:
                    fit = replace(fit, board=session.board)
            self._take(fit)
        self._look(fit)

    def _worth_showing(self, pairs: ROIPairs) -> ROIPairs:
        """Return pairs without those of air, or of what else surrounds the body."""
        if not pairs.pairs:
            return pairs
        within = pairs_in_bodies(pairs, *self._bodies)
        return replace(pairs, pairs=tuple(pairs.pairs[i] for i in within))

    def take_guide(self, result: Registration) -> None:
        """Take the quick registration that guides prompts, unless there is something better."""
        if self.fit is None:
            self._finish("guide", result, self.session.board)
            if self.session.board.chosen("accepted"):
                self.wanted()  # what was kept before there was an alignment

    def _take(self, fit: Fit) -> None:
        session = self.session
        self.fit, self.version = fit, self.version + 1
        self.doubt, self.places = None, []
        loose = fit.verdict == "failed"
        settings = PROMPT_PRESETS["default"]
        share = settings.guide_along(fit.transform, session.images[0].grid, loose=loose).width
        session.guide = Guide(fit.transform, fit.inverse, share)

    def _look(self, fit: Fit | None) -> None:
        """Measure where the fit is to be doubted; it is shown as soon as it is known."""
        if fit is None:
            return
        session = self.session
        doubt = LocalDoubt.of(*session.coarse, fit.transform)
        places = places_of(session.images, fit.transform, fit.inverse, session.board, doubt)
        with session.lock:
            if self.fit is fit:
                self.doubt, self.places = doubt, places
        session.changed()


def _after(before: Task, work: Callable[[Progress], object], progress: Progress) -> None:
    """Wait for a task, showing its stages, and work then; who stops the waiting stops both."""
    while before.running:
        try:
            progress(ProgressEvent(before.stage, 0.0))
        except Stopped:
            before.stop(wait=2.0)
            raise
        before.join(0.1)
    work(progress)
