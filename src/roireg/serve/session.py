"""One pair of images that a person works on: pictures, prompts, pairs, landmarks, fits, export."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.progress import Progress
from roireg.core.rois import Prompt, ROISet
from roireg.core.warp import resample
from roireg.core.words import INIT_WORDS
from roireg.io import read_image
from roireg.jobs.job import STAGES
from roireg.jobs.register import RegisterJob
from roireg.jobs.registering import start_of
from roireg.match import Guide, Transfer, transfer_prompt
from roireg.pipeline import register
from roireg.pipeline.config import QUICK
from roireg.pipeline.missing import without_missing
from roireg.pipeline.prompts import check_prompt
from roireg.pipeline.recipe import find_guide
from roireg.pipeline.session import SIDES, PromptSession, usual_features
from roireg.serve.apart import apart, waiting, warm
from roireg.serve.board import Board, BoardPair, History, Landmark, brushed, region_grid
from roireg.serve.fitting import Fitting
from roireg.serve.pictures import ShownImage
from roireg.serve.store import Store
from roireg.serve.tasks import Task, stand_behind

__all__ = ["SIDES", "PairSession", "Proposal", "other_side"]

Array = NDArray[np.float64]


def other_side(side: str) -> str:
    """Return the other of the two sides.

    Raises
    ------
    InputError
        When the side is none.
    """
    if side not in SIDES:
        raise InputError(f"a side is fixed or moving, found {side!r}")
    return "moving" if side == "fixed" else "fixed"


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a prompt led to, before anybody has decided.

    Attributes
    ----------
    side : where the prompt was given. prompt : the prompt. readings : regions that it may mean, smallest first.
    chosen : which of them; None where the answer is none of the readings.
    transfer : the counterpart, or why there is none.
    """

    side: str
    prompt: Prompt
    readings: ROISet
    chosen: int | None
    transfer: Transfer

    def pair(self, grids: dict[str, Any]) -> BoardPair | None:
        """Return the pair that accepting makes, on the grids of the session; None where there is no counterpart."""
        t = self.transfer
        if t.target is None:
            return None
        own = {self.side: t.source, other_side(self.side): t.target}
        prompt = self.prompt if self.side == "moving" else t.prompt
        return BoardPair(
            0,
            own["fixed"].on(grids["fixed"]),
            own["moving"].on(grids["moving"]),
            t.similarity,
            t.confidence,
            "prompt",
            prompts=() if prompt is None else (prompt,),
        )


class PairSession:
    """A pair of images and everything decided about it. Threads may share it.

    Parameters
    ----------
    name : of the session, in addresses.
    job : the registration as a job: paths of the images, options, and where a result goes.
    fixed, moving : the images where they are known already; None reads those of the job.
    result : a finished registration of them.
    """

    def __init__(
        self,
        name: str,
        job: RegisterJob,
        *,
        fixed: Image | None = None,
        moving: Image | None = None,
        result: Any = None,
    ) -> None:
        self.name, self.job = name, job
        pictures = job.pictures
        images = (
            read_image(job.fixed, finite=False, **pictures[0]) if fixed is None else fixed,
            read_image(job.moving, finite=False, **pictures[1]) if moving is None else moving,
        )
        if images[0].ndim != images[1].ndim:
            raise InputError(
                f"{images[0].name} is {images[0].ndim}D but {images[1].name} is {images[1].ndim}D; open two images "
                "of the same dimension"
            )
        self.shown = {side: ShownImage.of(image) for side, image in zip(SIDES, images, strict=True)}
        self.grids = {side: region_grid(image) for side, image in zip(SIDES, images, strict=True)}
        self.history = History()
        self.proposal: Proposal | None = None
        self.prompts: PromptSession | None = None
        self.guide: Guide | None = None
        self.lock = threading.RLock()
        self._computing = threading.Lock()
        self.version = 0
        self.marks = 0
        self._shows: tuple[Any, Any] = ((), None)
        self.preparing: Task | None = None
        self.note = ""
        self.closed = False
        self.store: Store | None = None
        self.outlines: WeakKeyDictionary[ROISet, dict[tuple[str, int], Any]] = WeakKeyDictionary()
        self.fitting = Fitting(self)
        if result is not None:
            self.fitting.take_result(result)

    # -- reading ----------------------------------------------------------------------------------

    @property
    def board(self) -> Board:
        """The pairs and landmarks as they are now."""
        return self.history.board

    @property
    def images(self) -> tuple[Image, Image]:
        """The fixed and the moving image."""
        return self.shown["fixed"].image, self.shown["moving"].image

    @cached_property
    def coarse(self) -> tuple[Image, Image]:
        """Both images on the grids of their regions, voxels without a value filled: what must be quick works on."""
        fixed, moving = (resample(without_missing(self.shown[side].image)[0], self.grids[side]) for side in SIDES)
        return fixed, moving

    @property
    def unit(self) -> str:
        """Unit of lengths: mm, or px for pictures."""
        return self.images[0].unit

    def map_points(self, points: ArrayLike, side: str) -> tuple[Array, Array]:
        """Return the counterparts (N, d) of world points of a side and how far they may be off, (N,).

        Without any transform yet they are where they are, and may be anywhere.
        """
        other_side(side)
        places = np.asarray(points, dtype=np.float64)
        if places.ndim != 2 or places.shape[1] != self.images[0].ndim or not np.isfinite(places).all():
            raise InputError(f"expected points of {self.images[0].ndim} numbers each")
        with self.lock:
            transform = self.fitting.way(side)
        mapped = places if transform is None else transform.map_points(places)
        return mapped, self.fitting.uncertainty(places if side == "fixed" else mapped)

    def changed(self) -> None:
        """Tell everybody who listens that there is something new."""
        with self.lock:
            self.version += 1
            shows = self.board.pairs, self.proposal
            if shows[0] is not self._shows[0] or shows[1] is not self._shows[1]:
                self._shows, self.marks = shows, self.marks + 1

    # -- preparing --------------------------------------------------------------------------------

    def prepare(self) -> Task:
        """Begin to make both images answer prompts; done once."""
        with self.lock:
            if self.preparing is None or self.preparing.state in ("failed", "stopped"):
                shares = {"encoding the images": 3.0, **STAGES}
                task = Task("prepare", self._prepare, shares=shares, changed=self.changed, behind=False)
                self.preparing = task.start()
            return self.preparing

    def _prepare(self, progress: Progress) -> None:
        fixed, moving = self.images
        if self.fitting.fit is None:
            warm()
        if self.prompts is None:
            # There will be a guide.
            features = usual_features(guided=True)
            session = PromptSession.of(
                fixed, moving, features=features, device=self.job.device, seed=self.job.seed, progress=progress
            )
            # Until something better is known: where the images lie, or their centres on one another.
            loose = find_guide(fixed, moving, "identity" if fixed.grid.overlap(moving.grid) > 0.3 else "centers")
            with self.lock:
                self.prompts, self.guide = session, self.guide or loose
            self.changed()
        # From here on clicks are answered, and come first.
        stand_behind()
        if self.fitting.fit is None:
            word = self.job.init if self.job.init in INIT_WORDS else start_of(self.job)
            quick = apart(
                register, progress, *self.coarse, config=QUICK, init=word, device=self.job.device, seed=self.job.seed
            )
            self.fitting.take_guide(replace(quick, fixed=fixed, moving=moving))

    # -- prompts ----------------------------------------------------------------------------------

    def ask(self, prompt: Prompt, side: str) -> Proposal:
        """Find the region that a prompt means and its counterpart; it becomes the proposal.

        Raises
        ------
        InputError
            When the images are not prepared yet, or the prompt lies outside.
        """
        other_side(side)
        session = self._session()
        checked = check_prompt(prompt, self.shown[side].image)
        source, target, guide = self._ways(session, side)
        with self._computing, waiting():
            transfer = transfer_prompt(checked, source, target, guide=guide, options=session.settings.transfer)
            readings = source.prepared.answer(checked)
        order = np.argsort(readings.volumes, kind="stable")
        readings = readings.subset([int(k) for k in order])
        chosen = _same_region(readings, transfer.source)
        return self._propose(Proposal(side, checked, readings, chosen, transfer))

    def ask_scale(self, step: int) -> Proposal:
        """Take a larger (1) or smaller (-1) reading of the prompt instead.

        Raises
        ------
        InputError
            When there is no proposal, or no reading in that direction.
        """
        proposal = self.proposal
        if proposal is None:
            raise InputError("click into an image first; then other sizes of the region can be chosen")
        count = len(proposal.readings)
        chosen = (0 if step > 0 else count - 1) if proposal.chosen is None else proposal.chosen + step
        if not 0 <= chosen < count:
            raise InputError(f"this is the {'largest' if step > 0 else 'smallest'} region at this place")
        session = self._session()
        source, target, guide = self._ways(session, proposal.side)
        with self._computing, waiting():
            transfer = transfer_prompt(
                proposal.readings.subset([chosen]), source, target, guide=guide, options=session.settings.transfer
            )
        return self._propose(replace(proposal, chosen=chosen, transfer=transfer))

    def dismiss(self) -> None:
        """Forget the proposal."""
        with self.lock:
            self.proposal = None
        self.changed()

    def accept_proposal(self) -> int:
        """Make the proposal an accepted pair, in place of an earlier answer for the same region; return its number.

        Raises
        ------
        InputError
            When there is no proposal, or it has no counterpart.
        """
        with self.lock:
            if self.proposal is None:
                raise InputError("there is nothing to accept; click into an image first")
            pair = self.proposal.pair(self.grids)
            if pair is None:
                raise InputError(f"there is no counterpart to accept: {self.proposal.transfer.reason}")
            board, number = self.board.with_answer(replace(pair, status="accepted"))
            self.proposal = None
            action = "accept" if board.used > self.board.used else "replace"
            self.decide(board, action, pair=number, confidence=round(pair.confidence, 3))
            return number

    def _propose(self, proposal: Proposal) -> Proposal:
        with self.lock:
            self.proposal = proposal
        self.changed()
        return proposal

    def _session(self) -> PromptSession:
        if self.prompts is None:
            task = self.preparing
            if task is not None and task.state == "failed":
                raise InputError(f"the images could not be prepared: {task.error}")
            raise InputError("the images are still being prepared; try again in a moment")
        return self.prompts

    def _ways(self, session: PromptSession, side: str) -> tuple[Any, Any, Guide | None]:
        guide = self.guide
        if side == "fixed":
            return session.fixed, session.moving, guide
        return session.moving, session.fixed, None if guide is None else guide.reversed

    # -- decisions --------------------------------------------------------------------------------

    def decide(self, board: Board, action: str, *, refits: bool = True, **details: Any) -> None:
        """Take a board that a person has changed; pairs that changed are fitted again."""
        with self.lock:
            self.history.change(board, action, **details)
        self._kept(refits)

    def _kept(self, refits: bool) -> None:
        self.changed()
        if self.store is not None:
            self.store.wanted()
        if refits:
            self.fitting.wanted()

    def undo(self, *, forward: bool = False) -> str | None:
        """Take back the last change, or do it again; return what it was."""
        with self.lock:
            before = self.board
            action = self.history.redo() if forward else self.history.undo()
            pairs = before.pairs != self.board.pairs
        if action is not None:
            self._kept(pairs)
        return action

    def brush(self, number: int, side: str, points: Array, radius: float, *, erase: bool) -> None:
        """Change a region of a pair along a stroke; see `roireg.serve.board.brushed`."""
        other_side(side)
        with self.lock:
            pair = self.board.pair(number)
            region = brushed(pair.region(side), points, radius, erase=erase)
            changed = replace(pair, fixed=region) if side == "fixed" else replace(pair, moving=region)
            action = "erase" if erase else "brush"
            self.decide(self.board.with_pair(replace(changed, edited=True)), action, pair=number, side=side)

    def place_landmark(self, side: str, point: ArrayLike, number: int | None = None, name: str | None = None) -> int:
        """Set a landmark in one image; without a number the first that lacks this side, else a new one.

        Raises
        ------
        InputError
            When the point lies outside the image, or the number is unknown.
        """
        other_side(side)
        place = np.asarray(point, dtype=np.float64)
        grid = self.shown[side].image.grid
        if place.shape != (grid.ndim,) or not np.isfinite(place).all() or not grid.contains(place):
            raise InputError("a landmark lies inside its image; move it there")
        with self.lock:
            marks = self.board.landmarks
            mark = next((m for m in marks if m.number == number), None)
            if number is not None and mark is None:
                raise InputError(f"there is no landmark {number}")
            if number is None:
                mark = next((m for m in marks if getattr(m, side) is None), None)
            if mark is None:
                count = max((m.number for m in marks), default=0) + 1
                mark = Landmark(count, f"L{count}")
            where = tuple(float(v) for v in place)
            mark = replace(mark, name=name or mark.name)
            mark = replace(mark, fixed=where) if side == "fixed" else replace(mark, moving=where)
            self.decide(self.board.with_landmark(mark), "landmark", refits=False, landmark=mark.number, side=side)
            return mark.number

    def landmark_errors(self) -> dict[int, float]:
        """Return how far the transform misses every landmark that is set on both sides, in world units."""
        marks = self.board.complete_landmarks()
        if not marks:
            return {}
        mapped, _ = self.map_points(np.array([m.fixed for m in marks], dtype=np.float64), "fixed")
        return {m.number: float(np.linalg.norm(p - np.asarray(m.moving))) for m, p in zip(marks, mapped, strict=True)}

    @property
    def tasks(self) -> list[Task]:
        """What runs or ran in threads of its own."""
        return [task for task in (self.preparing, self.fitting.task) if task is not None]

    # -- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Ask what is running to stop; nothing more is begun."""
        self.closed = True
        for task in self.tasks:
            task.stop()
        self.changed()


def _same_region(readings: ROISet, region: ROISet) -> int | None:
    if not len(region) or readings.grid != region.grid:
        return None
    for k, mask in enumerate(readings.masks):
        if bool((mask == region.masks[0]).all()):
            return k
    return None
