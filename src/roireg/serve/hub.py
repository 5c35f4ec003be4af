"""All sessions of one server: opened, found by name, closed; the folders that it may read and write."""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from roireg.core.errors import InputError
from roireg.io import read_labels, read_pairs, read_points
from roireg.jobs.stored import stored_image
from roireg.match import match_labels
from roireg.pipeline import load
from roireg.pipeline.checks import labels_on
from roireg.pipeline.run import label_regions
from roireg.serve.access import confined
from roireg.serve.board import Landmark, board_pairs
from roireg.serve.exporting import ViewerJob
from roireg.serve.session import PairSession
from roireg.serve.store import Store
from roireg.serve.tasks import Task

__all__ = ["Hub", "MissingError"]

MOST_SESSIONS = 8
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


class MissingError(InputError):
    """There is no session of this name."""


@dataclass
class Hub:
    """The sessions of a server.

    Attributes
    ----------
    roots : folders whose files requests may name; none: uploads alone.
    out : folder that results are exported into.
    keep : folder that unfinished work is kept in; None keeps nothing.
    work : folder of uploads, removed at the end.
    """

    roots: Sequence[Path] = ()
    out: Path = Path()
    keep: Path | None = None
    work: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="roireg-serve-")))
    sessions: dict[str, PairSession] = field(default_factory=dict)
    closing: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._count = itertools.count(1)
        self._left: list[Task] = []
        self.uploads.mkdir(exist_ok=True)

    @property
    def uploads(self) -> Path:
        """Where uploaded files lie."""
        return self.work / "uploads"

    def get(self, name: str) -> PairSession:
        """Return a session by its name.

        Raises
        ------
        MissingError
            When there is none.
        """
        session = self.sessions.get(name)
        if session is None:
            raise MissingError(f"there is no session {name!r}; it was closed, or the server was started again")
        return session

    def place(self, text: str) -> Path:
        """Return the file or folder that a request names, see `roireg.serve.access.confined`."""
        if text.startswith("upload:"):
            return confined(text.removeprefix("upload:"), [self.uploads])
        return confined(text, self.roots)

    def upload_place(self, name: str) -> Path:
        """Return where an upload goes.

        Raises
        ------
        InputError
            When the name is not a plain file name.
        """
        if not NAME.fullmatch(name):
            raise InputError("an upload has a plain file name: letters, digits, dots, hyphens and underscores")
        return self.uploads / name

    def out_place(self, text: str | None, session: PairSession) -> Path:
        """Return the folder that a session is exported into; names lie in the folder of the server."""
        return session.job.out if not text else confined(text, [self.out])

    def open(
        self,
        job: ViewerJob,
        *,
        images: tuple[Any, Any] = (None, None),
        result: Any = None,
        begin: bool = True,
    ) -> PairSession:
        """Open a session for the pair of a job.

        Parameters
        ----------
        images : (fixed, moving) where they are read already. result : a finished registration of them.
        begin : start to prepare the images for prompts.

        Raises
        ------
        InputError
            When the images cannot be read or do not belong together, or too many sessions are open.
        """
        if len(self.sessions) >= MOST_SESSIONS:
            raise InputError(f"{MOST_SESSIONS} pairs are open, the most that one server keeps; close one first")
        rois, points = (job.fixed_rois, job.moving_rois), (job.fixed_points, job.moving_points)
        plain = replace(job, fixed_rois=None, moving_rois=None, fixed_points=None, moving_points=None)
        with self._lock:
            name = f"pair{next(self._count)}"
        session = PairSession(name, plain, fixed=images[0], moving=images[1], result=result)
        if rois[0] is not None and rois[1] is not None:
            take_labels(session, rois[0], rois[1])
        if points[0] is not None or points[1] is not None:
            take_points(session, points[0], points[1])
        if self.keep is not None:
            stamp = "" if result is None else str(getattr(result, "record", {}).get("stamp", "result"))
            session.store = Store.of(self.keep, session, stamp)
            session.store.restore()
        with self._lock:
            self.sessions[name] = session
        if begin:
            session.prepare()
        return session

    def open_result(
        self, folder: Path, out: Path, *, fixed: Path | None = None, moving: Path | None = None, begin: bool = True
    ) -> PairSession:
        """Open a stored result with the images that it was made from."""
        saved = load(folder)
        places = stored_image(saved.record, "fixed", fixed), stored_image(saved.record, "moving", moving)
        known = {"preset", "fill", "device", "seed", "init", "type", "search", "roi_weight", "features", "model"}
        known |= {"frame", "level", "page", "channel", "profile", "window"}
        arguments = {k: v for k, v in saved.provenance.get("arguments", {}).items() if k in known}
        job = ViewerJob(fixed=places[0], moving=places[1], out=out, **arguments)
        return self.open(job, result=saved, begin=begin)

    def close(self, name: str) -> None:
        """Close a session."""
        session = self.get(name)
        with self._lock:
            self.sessions.pop(name, None)
        if session.store is not None:
            session.store.flush()
        session.close()
        with self._lock:
            # What was asked to stop, but has not come to its next step.
            self._left = [task for task in (*self._left, *session.tasks) if task.running]

    def end(self, *, wait: float = 0.0) -> bool:
        """Close everything and remove what was uploaded; return whether all work has ended after so many seconds."""
        self.closing = True
        for name in list(self.sessions):
            self.close(name)
        until = time.monotonic() + wait
        for task in self._left:
            task.join(max(0.0, until - time.monotonic()))
        shutil.rmtree(self.work, ignore_errors=True)
        return not any(task.running for task in self._left)


def take_labels(session: PairSession, fixed: Path, moving: Path) -> int:
    """Take the classes of two label maps as accepted pairs; return how many there are.

    Raises
    ------
    InputError
        When the maps do not lie on their images, or share no class.
    """
    images = session.images
    maps = [
        labels_on(read_labels(path, frame=frame), image)
        for path, frame, image in zip((fixed, moving), session.job.frames, images, strict=True)
    ]
    regions = [label_regions(m, image) for m, image in zip(maps, images, strict=True)]
    pairs = board_pairs(match_labels(regions[0], regions[1]), (session.grids["fixed"], session.grids["moving"]))
    if not pairs:
        raise InputError(f"{fixed} and {moving} share no label; equal numbers correspond")
    board = session.board.with_new(replace(p, status="accepted") for p in pairs)
    session.decide(board, "labels", count=len(pairs))
    return len(pairs)


def take_pairs(session: PairSession, path: Path) -> int:
    """Take the pairs of a folder or .zip; return how many there are."""
    pairs = board_pairs(read_pairs(path), (session.grids["fixed"], session.grids["moving"]))
    session.decide(session.board.with_new(pairs), "pairs", count=len(pairs))
    return len(pairs)


def take_points(session: PairSession, fixed: Path | None, moving: Path | None) -> int:
    """Take the points of files as landmarks, equal rows as one; return how many there are."""
    sets = [None if path is None else read_points(path) for path in (fixed, moving)]
    count = max(0 if s is None else len(s) for s in sets)
    board = session.board
    first = max((m.number for m in board.landmarks), default=0)
    for k in range(count):
        sides = [tuple(s.points[k].tolist()) if s is not None and k < len(s) else None for s in sets]
        names = [s.names[k] for s in sets if s is not None and k < len(s) and s.names[k]]
        number = first + k + 1
        board = board.with_landmark(Landmark(number, names[0] if names else f"L{number}", sides[0], sides[1]))
    session.decide(board, "landmarks", refits=False, count=count)
    return count
