"""``evaluate``: numbers for a transform, label maps and landmarks against the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roireg.app.console import Outcome, Session, plain
from roireg.app.files import Frames, load_image, load_labels, load_transform
from roireg.app.outputs import check_file
from roireg.app.summary import escape, listed, metric_table
from roireg.core.errors import GeometryError, InputError
from roireg.core.image import Image
from roireg.core.transforms import Affine, Transform
from roireg.core.warp import warp
from roireg.evaluate import (
    LabelScores,
    MetricValue,
    deformation_summary,
    displacement_errors,
    inverse_consistency,
    landmark_errors,
    metric,
    overlap_mask,
    score_moved_labels,
    similarity,
    summarise_errors,
)
from roireg.io import atomic_path, read_points
from roireg.pipeline.checks import check_labels

__all__ = ["Evaluation", "evaluate"]

SHOWN_LABELS = 12


@dataclass(frozen=True)
class Evaluation:
    """Paths of everything that can be scored; None where it is not there."""

    transform: Path | None = None
    inverse: Path | None = None
    truth: Path | None = None
    fixed: Path | None = None
    moving: Path | None = None
    fixed_mask: Path | None = None
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_points: Path | None = None
    moving_points: Path | None = None
    frames: Frames = field(default_factory=Frames)


def evaluate(session: Session, paths: Evaluation, *, out: Path | None) -> Outcome:
    """Score what the paths allow and print a table; see the command's help."""
    _check_sides(paths)
    if out is not None:
        check_file(out)
    metrics, labels = _measure(paths)
    document: dict[str, Any] = {"metrics": {name: m.as_dict() for name, m in metrics.items()}}
    if labels is not None:
        document["labels"] = labels.as_dict()
    if out is not None:
        with atomic_path(out) as temporary:
            text = json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    session.say(metric_table(metrics))
    if labels is not None:
        _say_labels(session, labels)
    if out is not None:
        session.say(f"written: {escape(str(out))}")
    return Outcome(document)


def _check_sides(paths: Evaluation) -> None:
    for what in ("labels", "points"):
        fixed, moving = getattr(paths, f"fixed_{what}"), getattr(paths, f"moving_{what}")
        if (fixed is None) != (moving is None):
            missing = "moving" if moving is None else "fixed"
            raise InputError(f"{what} are scored against each other; give --{missing}-{what} too")
    if paths.moving is not None and paths.fixed is None:
        raise InputError("the moving image is compared with the fixed one; give --fixed too")
    if paths.truth is not None and paths.transform is None:
        raise InputError("--truth is compared with a transform; name one")
    if paths.inverse is not None and paths.transform is None:
        raise InputError("--inverse-transform is compared with a transform; name one")


def _measure(paths: Evaluation) -> tuple[dict[str, MetricValue], LabelScores | None]:
    transform = None if paths.transform is None else load_transform(paths.transform)
    fixed = None if paths.fixed is None else load_image(paths.fixed, paths.frames.fixed)
    moving = None if paths.moving is None else load_image(paths.moving, paths.frames.moving)
    fixed_labels = load_labels(paths.fixed_labels, paths.frames.fixed)
    moving_labels = load_labels(paths.moving_labels, paths.frames.moving)
    mask = load_labels(paths.fixed_mask, paths.frames.fixed)
    space = fixed or fixed_labels or mask
    unit = space.unit if space is not None else "mm"
    for image in (fixed, moving, fixed_labels, moving_labels, mask):
        if image is not None and transform is not None and image.ndim != transform.ndim:
            raise GeometryError(f"{image.name}: the image is {image.ndim}D but the transform is {transform.ndim}D")
    if fixed is not None:
        for labels, what in ((fixed_labels, "label map"), (mask, "mask")):
            if labels is not None:
                check_labels(labels, fixed, what=what)
    found: dict[str, MetricValue] = {}
    scores = None
    if fixed_labels is not None and moving_labels is not None:
        scores = _labels(found, transform, fixed_labels, moving_labels, unit)
    if paths.fixed_points is not None and paths.moving_points is not None:
        _points(found, transform, paths.fixed_points, paths.moving_points, unit)
    if fixed is not None and moving is not None:
        _images(found, transform, fixed, moving)
    if transform is not None:
        _deformation(found, transform, paths, space, moving or moving_labels, mask, unit)
    if not found:
        raise InputError(
            "there is nothing to score; give label maps, points or images of both sides, or a transform with --fixed"
        )
    return found, scores


def _add(found: dict[str, MetricValue], after: dict[str, float], before: dict[str, float] | None, unit: str) -> None:
    for name, value in after.items():
        usual = metric(name, value)
        known = None if before is None else before.get(name)
        found[name] = metric(name, value, known, unit=unit if usual.unit == "mm" else None)


def _labels(
    found: dict[str, MetricValue], transform: Transform | None, fixed: Image, moving: Image, unit: str
) -> LabelScores:
    _same_dimension(fixed, moving)
    before = score_moved_labels(fixed, moving, None)
    after = before if transform is None else score_moved_labels(fixed, moving, transform)
    if not after.dice:
        raise InputError(
            f"{fixed.name} and {moving.name}: no label occurs in both, so nothing can be compared; equal ids must "
            "mean equal structures"
        )
    _add(found, after.means(), None if transform is None else before.means(), unit)
    return after


def _points(
    found: dict[str, MetricValue], transform: Transform | None, fixed_path: Path, moving_path: Path, unit: str
) -> None:
    fixed, moving = read_points(fixed_path), read_points(moving_path)
    ndim = fixed.ndim if transform is None else transform.ndim
    for path, points in ((fixed_path, fixed), (moving_path, moving)):
        if points.ndim != ndim:
            raise InputError(f"{path}: the points are {points.ndim}D, expected {ndim} coordinates per point")
    if len(fixed) != len(moving):
        raise InputError(
            f"{moving_path}: found {len(moving)} points but {len(fixed)} in {fixed_path}; row i of one file must "
            "correspond to row i of the other"
        )
    before = summarise_errors(landmark_errors(None, fixed.points, moving.points), "landmark_error")
    after = summarise_errors(landmark_errors(transform, fixed.points, moving.points), "landmark_error")
    _add(found, after, None if transform is None else before, unit)


def _images(found: dict[str, MetricValue], transform: Transform | None, fixed: Image, moving: Image) -> None:
    _same_dimension(fixed, moving)
    results: list[dict[str, float] | None] = []
    for mapping in (None, transform) if transform is not None else (None,):
        mask = overlap_mask(mapping, fixed.grid, moving.grid)
        if not bool(mask.any()):
            results.append(None)
            continue
        results.append(similarity(fixed, warp(moving.gray(), mapping, fixed.grid), mask))
    if results[-1] is None:
        raise GeometryError(
            f"{fixed.name} and {moving.name}: the images share no part of space, so they cannot be compared; give "
            "the transform that brings them together"
        )
    _add(found, results[-1], results[0] if len(results) == 2 else None, "")


def _deformation(
    found: dict[str, MetricValue],
    transform: Transform,
    paths: Evaluation,
    space: Image | None,
    moving: Image | None,
    mask: Image | None,
    unit: str,
) -> None:
    if space is None:
        if paths.truth is not None:
            raise InputError("--truth is compared at the voxels of the fixed image; give --fixed")
        return
    inside = None if mask is None else (mask.data != 0).any(dim=0)
    if paths.truth is not None:
        truth = load_transform(paths.truth)
        if truth.ndim != transform.ndim:
            raise GeometryError(f"{paths.truth}: the true transform is {truth.ndim}D, expected {transform.ndim}D")
        before = displacement_errors(Affine.identity(space.ndim), truth, space.grid, inside)
        _add(found, displacement_errors(transform, truth, space.grid, inside), before, unit)
    _add(found, deformation_summary(transform, space.grid, inside), None, unit)
    assert paths.transform is not None
    beside = paths.transform / "inverse.h5"
    stored = paths.inverse or (beside if beside.is_file() else None)
    inverse = transform.inverse() if stored is None else load_transform(stored)
    other = space.grid if moving is None else moving.grid
    errors = inverse_consistency(transform, inverse, space.grid, other)
    _add(found, {name: v for name, v in errors.items() if name != "inverse_consistency_points"}, None, unit)


def _same_dimension(fixed: Image, moving: Image) -> None:
    if fixed.ndim != moving.ndim:
        raise GeometryError(
            f"{fixed.name} is {fixed.ndim}D but {moving.name} is {moving.ndim}D; both must have the same dimension"
        )


def _say_labels(session: Session, labels: LabelScores) -> None:
    values = [f"{label}: {value:.3f}" for label, value in labels.dice.items()]
    session.say(f"Dice per label  {listed(values, most=SHOWN_LABELS)}")
    for side, missing in (("fixed", labels.only_fixed), ("moving", labels.only_warped)):
        if missing:
            session.note("note", f"labels only in the {side} map, not scored: {listed(missing)}", "blue")
    if labels.lost:
        session.note("note", f"labels pushed out of the fixed image, Dice 0: {listed(labels.lost)}", "blue")
