"""Read what can be scored, and hold a transform against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError
from roireg.core.files import write_json
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.progress import Progress, ProgressEvent
from roireg.core.transforms import Transform
from roireg.evaluate import Scores, Truth, score
from roireg.io import pair_points, read_image, read_points
from roireg.jobs.evaluate import EvaluateJob
from roireg.jobs.job import Work, plain
from roireg.jobs.reading import load_labels, load_transform
from roireg.pipeline.checks import labels_on
from roireg.pipeline.missing import without_missing

__all__ = ["compute"]


def compute(job: EvaluateJob, progress: Progress) -> Work:
    """Score what the files allow; see `roireg.jobs.job.Job.run`."""
    progress(ProgressEvent("reading the files", 0.0))
    scores = _measure(job)
    document: dict[str, Any] = {"metrics": {name: m.as_dict() for name, m in scores.metrics.items()}}
    if scores.labels is not None:
        document["labels"] = scores.labels.as_dict()

    def write(path: Path) -> None:
        if job.out is not None:
            write_json(path, plain(document))

    return Work(document, write, scores)


def _measure(job: EvaluateJob) -> Scores:
    transform = None if job.transform is None else load_transform(job.transform, fixed=job.fixed, moving=job.moving)
    fixed, fixed_known = _image(job.fixed, job.pictures[0])
    moving, moving_known = _image(job.moving, job.pictures[1])
    fixed_labels = load_labels(job.fixed_labels, job.frames[0])
    moving_labels = load_labels(job.moving_labels, job.frames[1])
    mask = load_labels(job.fixed_mask, job.frames[0])
    for image in (fixed, moving, fixed_labels, moving_labels, mask):
        if image is not None and transform is not None and image.ndim != transform.ndim:
            raise GeometryError(f"{image.name}: the image is {image.ndim}D but the transform is {transform.ndim}D")
    if fixed is not None:
        fixed_labels = None if fixed_labels is None else labels_on(fixed_labels, fixed)
        mask = None if mask is None else labels_on(mask, fixed, what="mask")
    space = fixed or fixed_labels or mask
    if space is None and job.truth is not None:
        raise InputError("--truth is compared at the voxels of the fixed image; give --fixed")
    truth = Truth(
        None if space is None or transform is None else space.grid,
        "mm" if space is None else space.unit,
        labels=None if fixed_labels is None or moving_labels is None else (fixed_labels, moving_labels),
        points=_points(job),
        transform=None if job.truth is None else load_transform(job.truth, fixed=job.fixed, moving=job.moving),
        images=None if fixed is None or moving is None else Pair(fixed, moving, fixed_known, moving_known),
        mask=None if mask is None or transform is None else (mask.data != 0).any(dim=0),
    )
    scores = score(transform, truth, inverse=None if space is None else _inverse(job, transform))
    if scores.labels is not None and not scores.labels.dice:
        raise InputError(
            f"{job.fixed_labels} and {job.moving_labels}: no label occurs in both, so nothing can be compared; "
            "equal ids must mean equal structures"
        )
    if truth.images is not None and "ncc" not in scores.metrics:
        raise GeometryError(
            f"{job.fixed} and {job.moving}: the images share no part of space, so they cannot be compared; give "
            "the transform that brings them together"
        )
    if not scores.metrics:
        raise InputError(
            "there is nothing to score; give label maps, points or images of both sides, or a transform with --fixed"
        )
    return scores


def _image(path: Path | None, picture: Mapping[str, Any]) -> tuple[Image | None, Image | None]:
    """Return an image and the mask of its voxels that are not NaN, None where there is none."""
    return (None, None) if path is None else without_missing(read_image(path, **picture, finite=False))


def _points(job: EvaluateJob) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    if job.fixed_points is None or job.moving_points is None:
        return None
    fixed, moving = pair_points(
        read_points(job.fixed_points),
        read_points(job.moving_points),
        fixed_name=str(job.fixed_points),
        moving_name=str(job.moving_points),
    )
    return fixed.points, moving.points


def _inverse(job: EvaluateJob, transform: Transform | None) -> Transform | None:
    """Return the inverse that was named or lies in the result folder, or else invert the transform."""
    if transform is None or job.transform is None:
        return None
    beside = job.transform / "inverse.h5"
    stored = job.inverse or (beside if beside.is_file() else None)
    return transform.inverse() if stored is None else load_transform(stored, fixed=job.fixed, moving=job.moving)
