"""What a session looks like from outside: plain JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np

from roireg.core.rois import Prompt, ROISet
from roireg.evaluate.palette import distinct_colours
from roireg.serve.board import outline_on
from roireg.serve.pictures import plane_document
from roireg.serve.session import PairSession, Proposal, other_side

__all__ = ["outlines_document", "proposal_document", "session_document"]

COLOURS = distinct_colours(21)


def colour_of(number: int) -> str:
    """Return the colour of a pair, the same in every window."""
    return COLOURS[(number - 1) % len(COLOURS)]


def session_document(session: PairSession) -> dict[str, Any]:
    """Return everything a page shows, the pictures aside."""
    with session.lock:
        board, history = session.board, session.history
        preparing = session.preparing
        document: dict[str, Any] = {
            "name": session.name,
            "version": session.version,
            "marks": session.marks,
            "closed": session.closed,
            "note": session.note,
            "dimension": session.images[0].ndim,
            "unit": session.unit,
            "sides": {side: _side(session, side) for side in ("fixed", "moving")},
            "ready": session.prompts is not None,
            "linked": session.fitting.fit is not None,
            "preparing": None if preparing is None else preparing.document(),
            "pairs": [
                {
                    "id": p.number,
                    "status": p.status,
                    "source": p.source,
                    "name": p.name,
                    "confidence": round(float(p.confidence), 3),
                    "similarity": round(float(p.similarity), 3),
                    "edited": p.edited,
                    "colour": colour_of(p.number),
                    "fixed": _region(p.fixed),
                    "moving": _region(p.moving),
                }
                for p in board.pairs
            ],
            "proposal": None if session.proposal is None else proposal_document(session.proposal),
            "undo": history.undoable,
            "redo": history.redoable,
            "fitting": session.fitting.document(),
            "out": session.job.out.name,
        }
        errors = session.landmark_errors()
        document["landmarks"] = [
            {
                "id": m.number,
                "name": m.name,
                "fixed": m.fixed,
                "moving": m.moving,
                "error": None if m.number not in errors else round(errors[m.number], 3),
            }
            for m in board.landmarks
        ]
    return document


def _side(session: PairSession, side: str) -> dict[str, Any]:
    shown = session.shown[side]
    image = shown.image
    return {
        "title": image.name.rsplit("/", 1)[-1],
        "channels": image.channels,
        "unit": image.unit,
        "window": list(shown.window),
        "range": list(shown.range),
        "levels": len(shown.levels),
        "planes": [plane_document(plane) for plane in shown.planes],
    }


def _region(region: ROISet) -> dict[str, Any]:
    return {"centroid": np.round(region.centroids[0], 3).tolist(), "size": float(region.volumes[0])}


def proposal_document(proposal: Proposal) -> dict[str, Any]:
    """Return a proposal: what was asked, what it means, its counterpart or why there is none."""
    t = proposal.transfer
    return {
        "side": proposal.side,
        "prompt": _prompt(proposal.prompt),
        "found": None if t.prompt is None else _prompt(t.prompt),
        "scale": proposal.chosen,
        "scales": len(proposal.readings),
        "confidence": round(float(t.confidence), 3),
        "reason": t.reason,
        "notes": list(t.notes),
        "own": _region(t.source) if len(t.source) else None,
        "other": _region(t.target) if t.target is not None else None,
    }


def _prompt(prompt: Prompt) -> dict[str, Any]:
    box = None if prompt.box is None else prompt.box.tolist()
    return {"points": prompt.points.tolist(), "labels": prompt.labels.tolist(), "box": box}


def outlines_document(session: PairSession, side: str, name: str, index: int) -> dict[str, Any]:
    """Return the outlines of all regions on a slice of a side, in pixels (column, row) of the plane."""
    other_side(side)
    plane = session.shown[side].plane(name, index)
    with session.lock:
        board, proposal, version = session.board, session.proposal, session.version
    pairs = []
    for pair in board.pairs:
        region = pair.region(side)
        kept = session.outlines.setdefault(region, {})
        if (name, index) not in kept:
            if len(kept) > 64:
                kept.clear()
            kept[name, index] = outline_on(region, plane)
        if kept[name, index]:
            pairs.append({"id": pair.number, "lines": kept[name, index]})
    shown = None
    if proposal is not None:
        t = proposal.transfer
        region_of = t.source if side == proposal.side else t.target
        shown = outline_on(region_of, plane) if region_of is not None and len(region_of) else []
    return {"version": version, "pairs": pairs, "proposal": shown}
