"""Rigid, similarity or affine map from region pairs: centroids and second moments, robustly."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPairs, ROISet
from roireg.core.transforms import Affine, Chain, Transform
from roireg.core.warp import warp
from roireg.fit.stage import Problem, Stage

__all__ = ["MODELS", "RegionAffine", "affine_from_points", "affine_from_regions", "affine_part", "plausible"]

Array = NDArray[np.float64]

OVERLAPPING = 0.3
"""Mean Dice of the regions of the pairs from which the start is close enough for a dense fit."""

MODELS = ("translation", "rigid", "similarity", "affine")


class RegionAffine(Stage):
    """Global map of the region pairs: robust, from centroids and second moments (METHODS section 3a).

    A start that the user has asked for is kept, and so is any start if there is no pair.
    """

    title: ClassVar[str] = "fitting the affine map"
    uses_pairs: ClassVar[bool] = True

    stage: Literal["affine"] = "affine"
    model: Literal["translation", "rigid", "similarity", "affine"] = Field("affine", description="freedom of the map")
    moments: float = Field(
        0.5, ge=0, allow_inf_nan=False, description="weight of size and shape of a region beside its centroid"
    )
    max_scale: float = Field(
        2.0,
        gt=1,
        description="largest stretch along any direction (and its inverse); beyond it a stiffer map is taken",
    )

    least_span: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the image, along every axis, that the regions must span; the map of fewer would be "
        "extrapolated, so regions that overlap from the start leave it as it is, and others are shifted alone",
    )

    def __call__(self, problem: Problem, start: Transform) -> Transform:
        pairs = problem.active_pairs
        if pairs is None or not problem.searchable:
            return start
        problem.trace.source = "region pairs"
        if span_of(pairs) < self.least_span:
            if overlaps_of(pairs, start).mean() >= OVERLAPPING:
                problem.trace.source = "where the images lie"
                return start
            return affine_from_regions(pairs, model="translation", moments=0.0)
        return affine_from_regions(pairs, model=self.model, moments=self.moments, max_scale=self.max_scale)


def affine_from_points(fixed: Array, moving: Array, *, weights: Array | None = None, model: str = "affine") -> Affine:
    """Weighted least-squares map from fixed to moving points.

    Rigid and similarity are the closed form of Umeyama (IEEE TPAMI 1991); the affine is ridge-regularised towards
    the similarity with a strength far below any real evidence, so that points in a line or plane still give a map.

    Parameters
    ----------
    fixed, moving : (N, d) world points, mm.
    weights : (N,) non-negative, default 1.
    model : "translation", "rigid", "similarity" or "affine".

    Raises
    ------
    InputError
        When there is no point with positive weight or the model is unknown.
    """
    if model not in MODELS:
        raise InputError(f"affine model {model!r} is unknown; use one of {', '.join(MODELS)}")
    w = np.ones(len(fixed)) if weights is None else np.asarray(weights, dtype=float)
    if len(fixed) == 0 or w.sum() <= 0:
        raise InputError("no point (or region pair) with positive weight to fit an affine map to")
    w = w / w.sum()
    d = fixed.shape[1]
    fixed_mean, moving_mean = w @ fixed, w @ moving
    f, m = fixed - fixed_mean, moving - moving_mean
    linear = np.eye(d)
    if model != "translation":
        u, s, vt = np.linalg.svd((m * w[:, None]).T @ f)
        sign = np.ones(d)
        sign[-1] = np.sign(np.linalg.det(u @ vt)) or 1.0
        linear = u @ np.diag(sign) @ vt
        spread = float((w[:, None] * f**2).sum())
        if model != "rigid" and spread > 0:
            linear = linear * max(float((s * sign).sum()) / spread, 1e-3)
        if model == "affine":
            ridge = 1e-6 * max(spread, 1e-12) * np.eye(d)
            gram = (f * w[:, None]).T @ f
            linear = np.linalg.solve(gram + ridge, (f * w[:, None]).T @ m + ridge @ linear.T).T
    matrix = np.eye(d + 1)
    matrix[:d, :d] = linear
    matrix[:d, d] = moving_mean - linear @ fixed_mean
    return Affine(matrix)


def affine_from_regions(
    pairs: ROIPairs,
    *,
    model: str = "affine",
    start: Affine | None = None,
    moments: float = 0.5,
    max_scale: float = 2.0,
    iterations: int = 20,
) -> Affine:
    """Robust affine from the active pairs by iteratively reweighted least squares (METHODS section 3a).

    Every region stands for its centroid and 2d points one standard deviation along the axes of its second moments.
    A moving counterpart of those points needs an orientation, which moments alone leave open; it is taken from the
    optimal transport map between the mapped fixed Gaussian and the moving one, which turns as little as possible.
    Weights are confidence times a Geman-McClure factor of the centroid residual.

    Parameters
    ----------
    pairs : at least one active pair.
    model : see :func:`affine_from_points`; falls back to what the number of pairs can carry: one pair fixes a
        translation (a similarity when moments count), fewer than d + 1 a similarity.
    start : where to start, default a translation between the weighted centroids.
    max_scale : where the map would mirror, or stretch any direction by more than this or its inverse, the pairs
        contradict each other: the next stiffer model is fitted instead, down to a translation.
    moments : weight of a region's moment points relative to its centroid.

    Raises
    ------
    InputError
        When there is no active pair.
    """
    active = pairs.active
    if not len(active):
        raise InputError("there is no region pair to fit an affine map to")
    fixed, moving = active.fixed_masks(), active.moving_masks()
    d = fixed.grid.ndim
    if len(active) <= d and model == "affine":
        model = "similarity"
    if len(active) == 1 and (moments == 0 or model == "rigid"):
        model = "translation"
    confidence = np.clip(active.confidence, 1e-3, None)
    softer = MODELS[: MODELS.index(model) + 1] if model in MODELS else (model,)
    for stiffer in reversed(softer):
        affine = _reweighted(fixed, moving, confidence, stiffer, start, moments, iterations)
        if plausible(affine, max_scale=max_scale):
            break
    return affine


def span_of(pairs: ROIPairs) -> float:
    """Share of the fixed image that the active regions span together, along the axis on which it is smallest."""
    inside = pairs.active.fixed_masks().masks.any(0)
    shares = []
    for axis, n in enumerate(inside.shape):
        line = torch.nonzero(inside.movedim(axis, 0).flatten(1).any(1))
        if n > 1:
            shares.append((int(line.max()) - int(line.min()) + 1) / n)
    return min(shares, default=1.0)


def overlaps_of(pairs: ROIPairs, transform: Transform) -> Array:
    """(K,) Dice of the fixed regions with their partners under a transform, pair order."""
    fixed, moving = pairs.fixed_masks(), pairs.moving_masks()
    moved = warp(Image(moving.masks.float(), moving.grid), transform, fixed.grid, fill=0.0).data.flatten(1)
    masks = fixed.masks.float().flatten(1)
    dice = 2 * (moved * masks).sum(1) / (moved.sum(1) + masks.sum(1)).clamp(min=1)
    return np.asarray(dice.cpu().numpy(), dtype=np.float64)


def plausible(affine: Affine, *, max_scale: float) -> bool:
    """Tell whether the map keeps orientation and stretches nothing by more than `max_scale` or its inverse."""
    linear = affine.matrix[:-1, :-1]
    stretch = np.linalg.svd(linear, compute_uv=False)
    return bool(np.linalg.det(linear) > 0 and stretch[0] <= max_scale and stretch[-1] >= 1 / max_scale)


def affine_part(transform: Transform, grid: Grid) -> Affine:
    """Return the affine map that a transform ends with, after any deformation; else the nearest one over a grid."""
    parts = transform.transforms if isinstance(transform, Chain) else (transform,)
    affine = [t for t in parts if isinstance(t, Affine)]
    if affine and all(a is b for a, b in zip(affine, parts[-len(affine) :], strict=True)):
        whole = affine[0]
        for t in affine[1:]:
            whole = Affine(t.matrix @ whole.matrix)
        return whole
    points = grid.with_shape([min(n, 12) for n in grid.shape]).points()
    homogeneous = np.c_[points, np.ones(len(points))]
    matrix = np.eye(transform.ndim + 1)
    matrix[:-1] = np.linalg.lstsq(homogeneous, transform.map_points(points), rcond=None)[0].T
    return Affine(matrix)


def _reweighted(
    fixed: ROISet,
    moving: ROISet,
    confidence: Array,
    model: str,
    start: Affine | None,
    moments: float,
    iterations: int,
) -> Affine:
    d = fixed.grid.ndim
    fc, mc, fs, ms = fixed.centroids, moving.centroids, fixed.covariances, moving.covariances
    affine = start or affine_from_points(fc, mc, weights=confidence, model="translation")
    axes = np.linalg.cholesky(fs)
    fixed_points = np.concatenate([fc[:, None], fc[:, None] + axes.mT, fc[:, None] - axes.mT], axis=1)
    share = np.array([1.0] + [moments / (2 * d)] * (2 * d))
    for _ in range(iterations):
        a = affine.matrix[:d, :d]
        mapped = affine.map_points(fixed_points.reshape(-1, d)).reshape(fixed_points.shape)
        turned = np.stack([_transport(a @ s @ a.T, t) for s, t in zip(fs, ms, strict=True)])
        targets = mc[:, None] + np.einsum("kij,knj->kni", turned, mapped - mapped[:, :1])
        residual = np.linalg.norm(mapped[:, 0] - mc, axis=1)
        # The scale never falls below a tenth of a region's own size: centroids are no better than that.
        floor = 0.1 * np.sqrt(np.trace(ms, axis1=1, axis2=2) / d)
        scale = np.maximum(1.5 * np.median(residual), floor)
        weight = confidence / (1 + (residual / scale) ** 2) ** 2
        updated = affine_from_points(
            fixed_points.reshape(-1, d),
            targets.reshape(-1, d),
            weights=(weight[:, None] * share).reshape(-1),
            model=model,
        )
        change = np.abs(updated.map_points(fc) - affine.map_points(fc)).max()
        affine = updated
        if change < 1e-4 * float(fixed.grid.spacing.min()):
            break
    return affine


def _transport(source: Array, target: Array) -> Array:
    """Linear optimal transport map between centred Gaussians: symmetric B with B source B = target."""
    root = _sqrt(source)
    inverse = np.linalg.inv(root)
    return inverse @ _sqrt(root @ target @ root) @ inverse


def _sqrt(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.clip(values, 1e-12, None))) @ vectors.T
