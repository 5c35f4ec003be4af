"""From transform files to numbers: the same code path for every method and for the state before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.bench.cases import Case, CaseFolder
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, Transform
from roireg.evaluate import (
    deformation_summary,
    displacement_errors,
    landmark_errors,
    score_moved_labels,
    summarise_errors,
)
from roireg.io import read_image, read_labels, read_points, read_transform
from roireg.pipeline.checks import check_labels

__all__ = ["SCORES", "SCORING", "Scores", "Truth", "load_transforms", "measure", "read_truth", "score"]

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
"""Names of what `score` can return, as in `evaluate.CATALOGUE`; `labels_lost` counts labels."""


@dataclass(frozen=True)
class Scores:
    """What was measured on one pair.

    Attributes
    ----------
    values : by the names of `SCORES`.
    dice : label id -> Dice, for every label present in both maps as given.
    """

    values: Mapping[str, float]
    dice: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Truth:
    """What a method never sees: labels, landmarks, true transform; and the fixed grid that all are scored on.

    Attributes
    ----------
    grid, unit : of the fixed image; lengths are in this unit, "mm" or "px".
    fixed_labels, moving_labels : label maps, or None.
    fixed_points, moving_points : (N, d) world points that correspond row by row, or None.
    transform : the true fixed-to-moving map, or None.
    """

    grid: Grid
    unit: str
    fixed_labels: Image | None = None
    moving_labels: Image | None = None
    fixed_points: NDArray[np.float64] | None = None
    moving_points: NDArray[np.float64] | None = None
    transform: Transform | None = None


def read_truth(folder: CaseFolder, case: Case) -> Truth:
    """Read everything that a case is scored with.

    Raises
    ------
    InputError
        When a file is unreadable, a label map is empty, or the label maps share no label.
    GeometryError
        When a file has unusable geometry, a label map lies on another grid than its image, or the true affine is
        singular.
    """
    fixed, moving = (read_image(folder.path / name) for name in (case.fixed, case.moving))
    labels: list[Image | None] = [None, None]
    if case.fixed_labels is not None and case.moving_labels is not None:
        maps = [read_labels(folder.path / name) for name in (case.fixed_labels, case.moving_labels)]
        for labelled, image in zip(maps, (fixed, moving), strict=True):
            check_labels(labelled, image)
        ids = [set(torch.unique(m.data).tolist()) - {0} for m in maps]
        if not ids[0] & ids[1]:
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
    """Return the values of `measure` alone."""
    return dict(measure(transform, truth).values)


def measure(transform: Transform | None, truth: Truth) -> Scores:
    """Measure a transform against the truth of a case.

    Parameters
    ----------
    transform : fixed world to moving world; None is the identity, the state before registration.

    Returns
    -------
    Those of `SCORES` that the truth allows. ``dice_mean`` is the mean over the labels present in both label maps
    as given, see `evaluate.score_moved_labels`; a label that the transform pushes out of the image counts as 0 and
    in ``labels_lost``, so that no method gains by losing one. ``hd95_mean`` is the mean over the labels that are
    left. Folding and spread of volume change are those at the voxels of the fixed image.

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
    dice: Mapping[int, float] = {}
    if truth.fixed_labels is not None and truth.moving_labels is not None:
        agreement = score_moved_labels(truth.fixed_labels, truth.moving_labels, transform)
        dice = agreement.dice
        means = agreement.means()
        found |= {name: means[name] for name in ("dice_mean", "hd95_mean") if name in means}
        found["labels_lost"] = float(len(agreement.lost))
    if truth.fixed_points is not None and truth.moving_points is not None:
        errors = landmark_errors(transform, truth.fixed_points, truth.moving_points)
        found |= summarise_errors(errors, "landmark_error")
    if truth.transform is not None:
        known = displacement_errors(mapping, truth.transform, grid)
        found["displacement_error_mean"] = known["displacement_error_mean"]
    deformation = deformation_summary(mapping, grid)
    found |= {name: deformation[name] for name in ("folding_percent", "sdlogj", "sdlogj_learn2reg")}
    return Scores(found, dict(sorted(dice.items())))
