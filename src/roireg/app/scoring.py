"""``evaluate``: numbers for a transform, label maps and landmarks against the truth."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roireg.app.console import Outcome, Session, plain
from roireg.app.summary import escape, listed, metric_table
from roireg.core.errors import GeometryError, InputError
from roireg.core.pair import Pair
from roireg.core.transforms import Transform
from roireg.evaluate import LabelScores, Scores, Truth, score
from roireg.io import atomic_path, pair_points, read_image, read_points
from roireg.jobs import EvaluateJob
from roireg.jobs.reading import load_labels, load_transform
from roireg.pipeline.checks import labels_on

__all__ = ["evaluate"]

SHOWN_LABELS = 12


def evaluate(session: Session, paths: EvaluateJob) -> Outcome:
    """Score what the paths allow and print a table; see the command's help."""
    out = paths.out
    scores = _measure(paths)
    document: dict[str, Any] = {"metrics": {name: m.as_dict() for name, m in scores.metrics.items()}}
    if scores.labels is not None:
        document["labels"] = scores.labels.as_dict()
    if out is not None:
        with atomic_path(out) as temporary:
            text = json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    session.say(metric_table(scores.metrics))
    if scores.labels is not None:
        _say_labels(session, scores.labels)
    if out is not None:
        session.say(f"written: {escape(str(out))}")
    return Outcome(document, printed=out is None)


def _measure(paths: EvaluateJob) -> Scores:
    transform = (
        None if paths.transform is None else load_transform(paths.transform, fixed=paths.fixed, moving=paths.moving)
    )
    fixed = None if paths.fixed is None else read_image(paths.fixed, **paths.pictures[0])
    moving = None if paths.moving is None else read_image(paths.moving, **paths.pictures[1])
    fixed_labels = load_labels(paths.fixed_labels, paths.frames[0])
    moving_labels = load_labels(paths.moving_labels, paths.frames[1])
    mask = load_labels(paths.fixed_mask, paths.frames[0])
    for image in (fixed, moving, fixed_labels, moving_labels, mask):
        if image is not None and transform is not None and image.ndim != transform.ndim:
            raise GeometryError(f"{image.name}: the image is {image.ndim}D but the transform is {transform.ndim}D")
    if fixed is not None:
        fixed_labels = None if fixed_labels is None else labels_on(fixed_labels, fixed)
        mask = None if mask is None else labels_on(mask, fixed, what="mask")
    space = fixed or fixed_labels or mask
    if space is None and paths.truth is not None:
        raise InputError("--truth is compared at the voxels of the fixed image; give --fixed")
    truth = Truth(
        None if space is None or transform is None else space.grid,
        "mm" if space is None else space.unit,
        labels=None if fixed_labels is None or moving_labels is None else (fixed_labels, moving_labels),
        points=_points(paths),
        transform=None
        if paths.truth is None
        else load_transform(paths.truth, fixed=paths.fixed, moving=paths.moving),
        images=None if fixed is None or moving is None else Pair(fixed, moving),
        mask=None if mask is None or transform is None else (mask.data != 0).any(dim=0),
    )
    scores = score(transform, truth, inverse=None if space is None else _inverse(paths, transform))
    if scores.labels is not None and not scores.labels.dice:
        raise InputError(
            f"{paths.fixed_labels} and {paths.moving_labels}: no label occurs in both, so nothing can be compared; "
            "equal ids must mean equal structures"
        )
    if truth.images is not None and "ncc" not in scores.metrics:
        raise GeometryError(
            f"{paths.fixed} and {paths.moving}: the images share no part of space, so they cannot be compared; give "
            "the transform that brings them together"
        )
    if not scores.metrics:
        raise InputError(
            "there is nothing to score; give label maps, points or images of both sides, or a transform with --fixed"
        )
    return scores


def _points(paths: EvaluateJob) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    if paths.fixed_points is None or paths.moving_points is None:
        return None
    fixed, moving = pair_points(
        read_points(paths.fixed_points),
        read_points(paths.moving_points),
        fixed_name=str(paths.fixed_points),
        moving_name=str(paths.moving_points),
    )
    return fixed.points, moving.points


def _inverse(paths: EvaluateJob, transform: Transform | None) -> Transform | None:
    """Return the inverse that was named or lies in the result folder, or else invert the transform."""
    if transform is None or paths.transform is None:
        return None
    beside = paths.transform / "inverse.h5"
    stored = paths.inverse or (beside if beside.is_file() else None)
    return transform.inverse() if stored is None else load_transform(stored, fixed=paths.fixed, moving=paths.moving)


def _say_labels(session: Session, labels: LabelScores) -> None:
    values = [f"{label}: {value:.3f}" for label, value in labels.dice.items()]
    session.say(f"Dice per label  {listed(values, most=SHOWN_LABELS)}")
    for side, missing in (("fixed", labels.only_fixed), ("moving", labels.only_warped)):
        if missing:
            session.note("note", f"labels only in the {side} map, not scored: {listed(missing)}", "blue")
    if labels.lost:
        session.note("note", f"labels pushed out of the fixed image, Dice 0: {listed(labels.lost)}", "blue")
