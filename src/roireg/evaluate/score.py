"""The one place where the scores of a registration are put together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.transforms import Affine, Transform
from roireg.core.warp import warp
from roireg.evaluate.deformation import deformation_summary, displacement_errors, inverse_consistency, overlap_mask
from roireg.evaluate.metrics import (
    LabelScores,
    MetricValue,
    landmark_errors,
    metric,
    score_moved_labels,
    summarise_errors,
)
from roireg.evaluate.similarity import similarity

__all__ = ["Scores", "Truth", "score", "worsened"]


@dataclass(frozen=True, eq=False)
class Truth:
    """What a registration is held against; whatever is None is not measured.

    Parameters
    ----------
    grid : voxels of the fixed image, at which the deformation and the error of the displacement are measured.
    unit : "mm" or "px", of all lengths.
    labels : label maps (fixed, moving) on any grids, 0 is background; equal ids are equal structures.
    points : landmarks (fixed, moving), each (N, d) world points (x, y[, z]), lists too; equal rows correspond.
    transform : the true map, fixed to moving; needs the grid.
    images : compared by intensity where they and their masks overlap.
    mask : (*grid.shape) bool, the voxels of the grid that count, usually the body.

    Raises
    ------
    InputError
        When there is a true transform or a mask, but no grid.
    GeometryError
        When the parts differ in dimension.
    """

    grid: Grid | None = None
    unit: str = "mm"
    labels: tuple[Image, Image] | None = None
    points: tuple[ArrayLike, ArrayLike] | None = None
    transform: Transform | None = None
    images: Pair | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.grid is None and (self.transform is not None or self.mask is not None):
            raise InputError("a true transform and a mask are used at the voxels of a grid; give the fixed grid")
        dimensions = self._dimensions()
        if len(set(dimensions.values())) > 1:
            described = ", ".join(f"{what} {ndim}D" for what, ndim in dimensions.items())
            raise GeometryError(f"all parts of a truth must have the same dimension, found {described}")

    def _dimensions(self) -> dict[str, int]:
        parts = {"grid": self.grid, "true transform": self.transform, "images": self.images}
        dimensions = {what: part.ndim for what, part in parts.items() if part is not None}
        for labels in self.labels or ():
            dimensions[labels.name] = labels.ndim
        for side, points in zip(("fixed", "moving"), self.points or (), strict=False):
            dimensions[f"{side} points"] = np.shape(points)[-1]
        return dimensions

    @property
    def ndim(self) -> int | None:
        """Number of spatial axes, None when there is nothing to measure."""
        return next(iter(self._dimensions().values()), None)

    @cached_property
    def baseline(self) -> Scores:
        """The scores before registration; measured once."""
        return score(None, self)


@dataclass(frozen=True)
class Scores:
    """What was measured.

    Attributes
    ----------
    metrics : values by their name in `CATALOGUE`, each with that before registration where that has a meaning.
    labels : agreement label by label, None without label maps.
    landmarks : (N,) distance of every landmark, None without landmarks.
    """

    metrics: dict[str, MetricValue]
    labels: LabelScores | None = None
    landmarks: NDArray[np.float64] | None = None


def score(transform: Transform | None, truth: Truth, *, inverse: Transform | None = None) -> Scores:
    """Measure a transform against the truth.

    Parameters
    ----------
    transform : fixed world to moving world; None is the identity, the state before registration.
    inverse : moving world to fixed world; how well it undoes the transform is measured too.

    Returns
    -------
    Every metric that the truth allows: overlap and surface distances of the labels (`score_moved_labels`), landmark
    errors, similarity of the images, errors of the displacement, folding and volume change, inverse consistency. Of
    the identity only the first four. Images that do not overlap have no similarity, label maps without a common label
    no overlap.

    Raises
    ------
    GeometryError
        When the transform has another dimension than the truth.
    InputError
        When the landmarks of both sides differ in number, or the mask is empty.
    """
    if transform is not None and truth.ndim not in (None, transform.ndim):
        raise GeometryError(
            f"the transform is {transform.ndim}D but the images are {truth.ndim}D; expected {truth.ndim}D"
        )
    values: dict[str, float] = {}
    labels = None if truth.labels is None else score_moved_labels(*truth.labels, transform)
    if labels is not None:
        values |= labels.means()
    landmarks = None if truth.points is None else landmark_errors(transform, *truth.points)
    if landmarks is not None:
        values |= summarise_errors(landmarks, "landmark_error")
    if truth.images is not None:
        values |= _similarity(transform, truth.images)
    if truth.grid is not None and truth.transform is not None:
        moved = Affine.identity(truth.grid.ndim) if transform is None else transform
        values |= displacement_errors(moved, truth.transform, truth.grid, truth.mask)
    if truth.grid is not None and transform is not None:
        values |= deformation_summary(transform, truth.grid, truth.mask)
        if inverse is not None:
            errors = inverse_consistency(transform, inverse, truth.grid, _moving_grid(truth, truth.grid))
            values |= {name: value for name, value in errors.items() if name != "inverse_consistency_points"}
    before = {} if transform is None else truth.baseline.metrics
    metrics = {name: _metric(name, value, before.get(name), truth.unit) for name, value in values.items()}
    return Scores(metrics, labels, landmarks)


def worsened(after: Scores, before: Scores) -> tuple[str, ...]:
    """Return a sentence on the labels, and one on the landmarks, that agree less after registration than before.

    A label is worse when its Dice falls by more than 0.01, a landmark when it is farther off by a tenth of the mean
    distance before.
    """
    sentences = []
    if after.labels is not None and before.labels is not None:
        change = {k: (before.labels.dice[k], v) for k, v in after.labels.dice.items() if k in before.labels.dice}
        worse = {k: v for k, v in change.items() if v[1] < v[0] - 0.01}
        if worse:
            worst = min(worse, key=lambda k: worse[k][1] - worse[k][0])
            first, last = worse[worst]
            what = (
                f"{len(worse)} of {len(change)} labels overlap less" if len(change) > 1 else "The label overlaps less"
            )
            sentences.append(f"{what} than before: label {worst}, Dice {first:.2f} → {last:.2f}")
    if after.landmarks is not None and before.landmarks is not None:
        farther = after.landmarks - before.landmarks
        count = int((farther > 0.1 * before.landmarks.mean()).sum())
        if count:
            worst = int(np.argmax(farther))
            unit = after.metrics["landmark_error_mean"].unit
            sentences.append(
                f"{count} of {len(farther)} landmarks lie farther apart than before: number {worst + 1}, "
                f"{before.landmarks[worst]:.3g} → {after.landmarks[worst]:.3g} {unit}"
            )
    return tuple(sentences)


def _metric(name: str, value: float, before: MetricValue | None, unit: str) -> MetricValue:
    length = metric(name, value).unit == "mm"
    return metric(name, value, None if before is None else before.value, unit=unit if length else None)


def _similarity(transform: Transform | None, images: Pair) -> dict[str, float]:
    fixed, moving = images.fixed, images.moving
    overlap = overlap_mask(transform, fixed.grid, moving.grid)
    for mask, through in ((images.fixed_mask, None), (images.moving_mask, transform)):
        if mask is not None:
            overlap &= warp(mask, through, fixed.grid, mode="nearest").data[0] > 0
    if not bool(overlap.any()):
        return {}
    return similarity(fixed, warp(moving.gray(), transform, fixed.grid), overlap)


def _moving_grid(truth: Truth, fixed: Grid) -> Grid:
    if truth.images is not None:
        return truth.images.moving.grid
    return fixed if truth.labels is None else truth.labels[1].grid
