"""The affine stage of SAME++: points that are each other's best match in feature space, and the map they agree on."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import ProgressEvent
from roireg.core.seeds import generator
from roireg.core.transforms import Affine, Chain, Transform
from roireg.core.warp import resample, warp
from roireg.fit.compared import feature_maps
from roireg.fit.region_affine import affine_from_points, affine_part, plausible
from roireg.fit.search import evidence_of
from roireg.fit.stage import Problem, Stage
from roireg.match.stable_points import PointPairs, stable_points

__all__ = ["StablePoints", "affine_of_points", "turned_grid"]

Array = NDArray[np.float64]

DRAWS = 500
"""Samples of a RANSAC fit."""


class StablePoints(Stage):
    """Points that are each other's best match, wherever they lie, and their affine map (METHODS section 4.1).

    The map replaces an affine start and follows any other; a start that the user has asked for is kept. Where edges
    support the map no less than the start, the points are known to the stages after it; else they are forgotten and
    the start stays.
    """

    title: ClassVar[str] = "matching points"

    stage: Literal["stable_points"] = "stable_points"
    features: tuple[str, ...] = Field(
        ("mind", "intensity"),
        min_length=1,
        description="dense features that points are matched by; model: those of the network",
    )
    max_voxels: int = Field(40_000, ge=100, description="largest number of cells of the matched feature maps")
    stride: int = Field(3, ge=1, description="spacing, in cells, of the points that matching begins with")
    rounds: int = Field(5, ge=1, description="how often a point is matched there and back")
    threshold: float = Field(0.7, ge=-1, le=1, description="least similarity of two matched points")
    model: Literal["translation", "rigid", "similarity", "affine"] = Field("affine", description="freedom of the map")
    fit: Literal["least_squares", "irls", "ransac"] = Field(
        "irls", description="all points alike, outliers weighted down, or the map that most points agree on"
    )
    max_scale: float = Field(
        2.0, gt=1, description="largest stretch along any direction (and its inverse) of a map that is taken"
    )
    checked: bool = Field(True, description="take the map only if edges agree no worse than under the start")

    def __call__(self, problem: Problem, start: Transform) -> Transform:
        points = self.points(problem, start)
        problem.progress(ProgressEvent(self.title, 1.0, f"{len(points)} points"))
        problem.trace.points = None
        if len(points) < 2 * (problem.pair.ndim + 1):
            return start
        parts = start.transforms if isinstance(start, Chain) else (start,)
        whole = all(isinstance(t, Affine) for t in parts)
        affine = affine_of_points(
            points.fixed if whole else start.map_points(points.fixed),
            points.moving,
            model=self.model,
            fit=self.fit,
            scale=float(problem.pair.fixed.grid.coarsened(self.max_voxels).spacing.min()),
            rng=generator(problem.seed, stream="stable points"),
        )
        better: Transform = affine if whole else Chain((start, affine))
        if not plausible(affine, max_scale=self.max_scale):
            return start
        if self.checked:
            before, after = (evidence_of(problem.search, t).structure for t in (start, better))
            if after < before:
                return start
        problem.trace.points = points
        if not problem.searchable:
            return start
        if whole:
            problem.trace.source = "matched points"
        return better

    def points(self, problem: Problem, start: Transform) -> PointPairs:
        """Return the points; features of the moving image are taken along axes turned as the start turns."""
        fixed = problem.pair.fixed.grid.coarsened(self.max_voxels)
        u, _, vt = np.linalg.svd(affine_part(start, problem.pair.fixed.grid).matrix[:-1, :-1] @ fixed.direction)
        moving = turned_grid(problem.pair.moving.grid, u @ vt, fixed.spacing)
        sides = []
        for side, grid in enumerate((fixed, moving)):
            image = problem.pair.moving if side else problem.pair.fixed
            coarse = image.grid.with_spacing(np.maximum(image.grid.spacing, float(grid.spacing.min())))
            seen = warp(resample(image, coarse), None, grid)
            maps = Image(feature_maps(problem, self.features, seen, grid, side=side, unit=True), grid)
            inside = torch.ones(1, *image.grid.shape)
            shown = warp(Image(inside, image.grid), None, grid, mode="nearest", fill=0.0).data
            mask = warp(problem.search.masks[side], None, grid, fill=0.0).data
            sides.append((maps, ((mask > 0.5) & (shown > 0.5))[0].cpu()))
        (f, f_mask), (m, m_mask) = sides
        return stable_points(
            f.with_data(f.data.cpu()),
            m.with_data(m.data.cpu()),
            fixed_mask=f_mask,
            moving_mask=m_mask,
            stride=self.stride,
            rounds=self.rounds,
            threshold=self.threshold,
        )


def turned_grid(grid: Grid, direction: Array, spacing: Array) -> Grid:
    """Return a grid along other axes that covers the box of a grid.

    Parameters
    ----------
    direction : (d, d) unit world vectors of the axes, one per column, storage order.
    spacing : (d,) mm along them.
    """
    along = (grid.corners() - grid.center) @ direction
    shape = np.maximum(1, np.ceil(np.ptp(along, axis=0) / spacing - 1e-6)).astype(int)
    middle = grid.center + direction @ ((along.max(0) + along.min(0)) / 2)
    affine = np.eye(grid.ndim + 1)
    affine[:-1, :-1] = direction * spacing
    affine[:-1, -1] = middle - affine[:-1, :-1] @ ((shape - 1) / 2)
    return Grid(tuple(int(n) for n in shape), affine)


def affine_of_points(
    source: Array, target: Array, *, model: str, fit: str, scale: float, rng: np.random.Generator, rounds: int = 20
) -> Affine:
    """Return the map from (N, d) points to others, mm.

    Parameters
    ----------
    model : see `affine_from_points`.
    fit : "least_squares"; "irls", in which a point counts by a Geman-McClure factor of its residual (Black and
        Rangarajan, IJCV 1996); or "ransac", least squares over the largest set of points that one map of d + 1 of
        them brings within two `scale` of their partners.
    scale : size of a cell, below which residuals mean nothing.
    rng : of the samples of "ransac".
    """
    affine = affine_from_points(source, target, model=model)
    if fit == "ransac":
        d, best, most = source.shape[1], np.ones(len(source), dtype=bool), 0
        for _ in range(DRAWS):
            drawn = rng.choice(len(source), size=min(d + 1, len(source)), replace=False)
            trial = affine_from_points(source[drawn], target[drawn], model=model)
            near = np.linalg.norm(trial.map_points(source) - target, axis=1) < 2 * scale
            if near.sum() > most:
                best, most = near, int(near.sum())
        return affine_from_points(source[best], target[best], model=model)
    for _ in range(rounds if fit == "irls" else 0):
        residual = np.linalg.norm(affine.map_points(source) - target, axis=1)
        width = max(1.5 * float(np.median(residual)), scale)
        weight = 1 / (1 + (residual / width) ** 2) ** 2
        affine = affine_from_points(source, target, weights=weight, model=model)
    return affine
