"""From transform files to numbers: the same code path for every method and for the state before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.bench.cases import Case, CaseFolder
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, Transform
from roireg.core.warp import warp
from roireg.evaluate import (
    deformation_summary,
    displacement_errors,
    landmark_errors,
    score_labels,
    summarise_errors,
)
from roireg.io import read_image, read_labels, read_points, read_transform

__all__ = ["SCORES", "SCORING", "Truth", "load_transforms", "read_truth", "score"]

SCORING = 2
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
)
"""Names of what `score` can return, as in `evaluate.CATALOGUE`; `labels_lost` counts labels."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a method never sees: labels, landmarks, true transform; and the fixed grid that all are scored on.

    Attributes
    ----------
    grid, unit : of the fixed image; lengths are in this unit, "mm" or "px".
    fixed_labels, moving_labels : label maps, or None.
    labels : ids that occur in both label maps as given; Dice is averaged over exactly these.
    fixed_points, moving_points : (N, d) world points that correspond row by row, or None.
    transform : the true fixed-to-moving map, or None.
    """

    grid: Grid
    unit: str
    fixed_labels: Image | None = None
    moving_labels: Image | None = None
    labels: tuple[int, ...] = ()
    fixed_points: NDArray[np.float64] | None = None
    moving_points: NDArray[np.float64] | None = None
    transform: Transform | None = None


def read_truth(folder: CaseFolder, case: Case) -> Truth:
    """Read everything that a case is scored with.

    Raises
    ------
    InputError
        When a file is unreadable, or the label maps share no label.
    GeometryError
        When a file has unusable geometry or the true affine is singular.
    """
    fixed = read_image(folder.path / case.fixed)
    labels: list[Image | None] = [None, None]
    shared: set[int] = set()
    if case.fixed_labels is not None and case.moving_labels is not None:
        maps = [read_labels(folder.path / name) for name in (case.fixed_labels, case.moving_labels)]
        ids = [set(torch.unique(m.data).tolist()) - {0} for m in maps]
        shared = ids[0] & ids[1]
        if not shared:
            raise InputError(
                f"{maps[0].name} and {maps[1].name} share no label id; equal ids must mean equal structures"
            )
        labels = list(maps)
    points: list[NDArray[np.float64] | None] = [None, None]
    if case.fixed_points is not None and case.moving_points is not None:
        points = [read_points(folder.path / name).points for name in (case.fixed_points, case.moving_points)]
    return Truth(
        fixed.grid,
        fixed.unit,
        fixed_labels=labels[0],
        moving_labels=labels[1],
        labels=tuple(sorted(shared)),
        fixed_points=points[0],
        moving_points=points[1],
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


def score(transform: Transform | None, truth: Truth) -> dict[str, float]:
    """Measure a transform against the truth of a case.

    Parameters
    ----------
    transform : fixed world to moving world; None is the identity, the state before registration.

    Returns
    -------
    Those of `SCORES` that the truth allows. ``dice_mean`` is the mean over the labels present in both label maps
    as given, the moving one resampled by nearest neighbour onto the fixed grid, 0 outside; a label that the
    transform pushes out of the image counts as 0 and in ``labels_lost``, so that no method gains by losing one.
    ``hd95_mean`` is the mean over the labels that are left.

    Raises
    ------
    GeometryError
        When the transform has another dimension than the images.
    """
    grid = truth.grid
    mapping = Affine.identity(grid.ndim) if transform is None else transform
    if mapping.ndim != grid.ndim:
        raise GeometryError(
            f"the transform is {mapping.ndim}D but the images are {grid.ndim}D; expected {grid.ndim}D"
        )
    found: dict[str, float] = {}
    if truth.fixed_labels is not None and truth.moving_labels is not None:
        target = truth.fixed_labels
        moved = warp(truth.moving_labels, transform, target.grid, mode="nearest", fill=0)
        agreement = score_labels(target.data[0], moved.data[0], target.grid)
        kept = [label for label in truth.labels if label in agreement.dice]
        found["dice_mean"] = float(np.mean([agreement.dice.get(label, 0.0) for label in truth.labels]))
        if kept:
            found["hd95_mean"] = float(np.mean([agreement.hd95[label] for label in kept]))
        found["labels_lost"] = float(len(truth.labels) - len(kept))
    if truth.fixed_points is not None and truth.moving_points is not None:
        errors = landmark_errors(transform, truth.fixed_points, truth.moving_points)
        found |= summarise_errors(errors, "landmark_error")
    if truth.transform is not None:
        known = displacement_errors(mapping, truth.transform, grid)
        found["displacement_error_mean"] = known["displacement_error_mean"]
    deformation = deformation_summary(mapping, grid)
    return found | {name: deformation[name] for name in ("folding_percent", "sdlogj")}
