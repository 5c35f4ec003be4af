"""What leaves a session: the result folder of ``register``, with landmarks and what a person did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roireg.core.errors import InputError
from roireg.core.progress import Progress, ProgressEvent
from roireg.io import PointSet, write_pairs, write_points
from roireg.jobs.job import JobResult
from roireg.jobs.register import RegisterJob
from roireg.jobs.registering import Carried, work_of
from roireg.serve.board import roi_pairs

if TYPE_CHECKING:
    from roireg.serve.session import PairSession

__all__ = ["ViewerJob", "export", "landmark_sets"]

LANDMARKS = "landmarks_{side}{kind}"
DECISIONS = "decisions.zip"


class ViewerJob(RegisterJob):
    """The job of a session: its folder also holds landmarks and decisions."""

    names: ClassVar[tuple[str, ...]] = (*RegisterJob.names, "landmarks_*", DECISIONS)


def landmark_sets(session: PairSession, *, complete: bool = False) -> dict[str, PointSet]:
    """Return the landmarks of both sides; `complete` leaves out those that lack a side."""
    board = session.board
    marks = board.complete_landmarks() if complete else board.landmarks
    sets = {}
    for side in ("fixed", "moving"):
        own = [m for m in marks if getattr(m, side) is not None]
        points = np.array([getattr(m, side) for m in own], dtype=np.float64).reshape(-1, session.images[0].ndim)
        sets[side] = PointSet(points, tuple(m.name for m in own))
    return sets


def landmark_kinds(session: PairSession) -> tuple[str, ...]:
    """Return the kinds of point files; markups of Slicer are 3D."""
    return (".csv", ".mrk.json") if session.images[0].ndim == 3 else (".csv",)


def export(session: PairSession, out: Path, progress: Progress) -> JobResult:
    """Write the session as a result folder; a full fit comes first where the last one is older than the decisions.

    Raises
    ------
    OutputError
        When the folder cannot be written, or holds files that are not of an earlier result.
    """
    job = replace(session.job, out=out)
    job.check()
    fitting = session.fitting
    fit = fitting.fit
    if fit is None or fit.kind != "full" or fit.registration is None or fit.board.pairs != session.board.pairs:
        fitting.full(progress)
        fit = fitting.fit
    if fit is None or fit.registration is None:
        raise InputError("there is no registration to export")
    result, board = fit.registration, session.board
    grids = session.grids["fixed"], session.grids["moving"]
    if board.pairs:
        result = replace(result, pairs=roi_pairs(board.pairs, grids))
    points = landmark_sets(session, complete=True)
    paired = (points["fixed"], points["moving"]) if len(points["fixed"]) else None
    work = work_of(job, result, Carried(None, None, None, None, paired))
    progress(ProgressEvent("writing", 0.0))
    wrapped = work.write
    decided = board.chosen("accepted", "rejected")
    sets = landmark_sets(session)

    def write(folder: Path) -> None:
        wrapped(folder)
        if decided:
            write_pairs(folder / DECISIONS, roi_pairs(decided, grids))
        for side, own in sets.items():
            for kind in landmark_kinds(session):
                if len(own):
                    write_points(folder / LANDMARKS.format(side=side, kind=kind), own)

    work.write = write
    work.document = {**work.document, "interaction": interaction(session)}
    return job.store(work)


def interaction(session: PairSession) -> Mapping[str, Any]:
    """Return what a person did in a session, as JSON values."""
    board = session.board
    errors = session.landmark_errors()
    return {
        "actions": session.history.actions,
        "pairs": [
            {"id": p.number, "status": p.status, "source": p.source, "edited": p.edited, "name": p.name}
            for p in board.pairs
        ],
        "landmarks": [
            {"name": m.name, "fixed": m.fixed, "moving": m.moving, "error": errors.get(m.number)}
            for m in board.landmarks
        ],
    }
