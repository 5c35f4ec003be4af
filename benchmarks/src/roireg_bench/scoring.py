"""What `evaluate.score` measures a run against, and which of its numbers are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from roireg.core.errors import InputError
from roireg.core.transforms import Affine, Chain, Transform
from roireg.evaluate import Scores, Truth
from roireg.io import read_image, read_labels, read_points, read_transform
from roireg.pipeline.checks import check_points, labels_on
from roireg_bench.cases import Case, CaseFolder

__all__ = ["SCORES", "SCORING", "load_transforms", "numbers", "read_truth"]

SCORING = 3
"""Raise when a definition below changes: scores of an older one are then measured again."""

SCORES = (
    "dice_mean",
    "hd95_mean",
    "labels_lost",
    "landmark_error_mean",
    "landmark_error_median",
    "landmark_error_max",
    "displacement_error_mean",
    "folding_percent",
    "sdlogj",
    "sdlogj_learn2reg",
)
"""Columns of the results: names of `evaluate.CATALOGUE`, and `labels_lost`, how many labels the transform loses."""


def read_truth(folder: CaseFolder, case: Case) -> Truth:
    """Read everything that a case is scored with.

    Raises
    ------
    InputError
        When a file is unreadable, a label map is empty, the label maps share no label, or landmarks differ in number.
    GeometryError
        When a file has unusable geometry, a label map lies on another grid than its image, or the true affine is
        singular.
    """
    fixed, moving = (read_image(folder.path / name) for name in (case.fixed, case.moving))
    labels = None
    if case.fixed_labels is not None and case.moving_labels is not None:
        labels = (
            labels_on(read_labels(folder.path / case.fixed_labels), fixed),
            labels_on(read_labels(folder.path / case.moving_labels), moving),
        )
        ids = [set(torch.unique(m.data).tolist()) - {0} for m in labels]
        if not ids[0] & ids[1]:
            raise InputError(
                f"{labels[0].name} and {labels[1].name} share no label id; equal ids must mean equal structures"
            )
    points = None
    if case.fixed_points is not None and case.moving_points is not None:
        points = (
            read_points(folder.path / case.fixed_points).points,
            read_points(folder.path / case.moving_points).points,
        )
        check_points(points[0], fixed, name=case.fixed_points, partner=points[1])
        check_points(points[1], moving, name=case.moving_points, partner=points[0])
    return Truth(
        fixed.grid,
        fixed.unit,
        labels=labels,
        points=points,
        transform=None if case.true_affine is None else Affine(np.array(case.true_affine)),
    )


def load_transforms(files: Sequence[Path]) -> Transform:
    """Read transform files and join them: the first file is applied first to fixed points.

    Raises
    ------
    InputError
        When there is none, or a file is missing or no transform.
    GeometryError
        When a transform is singular, not finite, or they differ in dimension.
    """
    if not files:
        raise InputError("a method returned no transform file; expected at least one")
    return Chain(tuple(read_transform(file) for file in files))


def numbers(scores: Scores) -> dict[str, float]:
    """Return those of `SCORES` that were measured."""
    values = {name: value.value for name, value in scores.metrics.items() if name in SCORES}
    return values if scores.labels is None else {**values, "labels_lost": float(len(scores.labels.lost))}
