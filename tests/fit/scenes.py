"""Images and regions written down as functions of the world, so that the true map between them is exact."""

from __future__ import annotations

import numpy as np
import torch

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.progress import silent
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine, Transform
from roireg.fit import Problem, Trace


def painted(grid: Grid, *, seed: int = 0, count: int = 40, truth: Transform | None = None, name="image") -> Image:
    """Gaussian blobs of many sizes about the centre of the world box of `grid`.

    With `truth` (fixed -> moving) the image is the moving one: its value at y is the scene's at truth^-1(y).
    """
    rng = np.random.default_rng(seed)
    d = grid.ndim
    # The scene depends on its seed and on the size of the box alone, so that other grids see the same scene.
    size = 100.0
    centers = rng.uniform(-0.5, 0.5, size=(count, d)) * size
    widths = rng.uniform(0.04, 0.12, size=count) * size
    heights = rng.uniform(0.3, 1.0, size=count)
    points = grid.points() if truth is None else truth.inverse().map_points(grid.points())
    squared = ((points[:, None] - centers) ** 2).sum(-1)
    values = (heights * np.exp(-0.5 * squared / widths**2)).sum(1)
    return Image(torch.as_tensor(values, dtype=torch.float32).reshape(1, *grid.shape), grid, name)


def centred(shape, spacing=None, direction=None) -> Grid:
    """A grid whose centre is the origin of the world; values in storage order, one array axis per column."""
    d = len(shape)
    steps = np.ones(d) if spacing is None else np.asarray(spacing, float)
    linear = (np.eye(d)[:, ::-1] if direction is None else np.asarray(direction)) * steps
    affine = np.eye(d + 1)
    affine[:d, :d] = linear
    affine[:d, d] = -linear @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


def turned(degrees: float, d: int = 2) -> np.ndarray:
    """Rotation in the plane of the first two world axes."""
    matrix = np.eye(d)
    a = np.radians(degrees)
    matrix[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    return matrix


def affine(linear, shift) -> Affine:
    d = len(shift)
    matrix = np.eye(d + 1)
    matrix[:d, :d] = linear
    matrix[:d, d] = shift
    return Affine(matrix)


def ellipsoids(grid: Grid, centers, roots) -> ROISet:
    """Regions {x : |root^-1 (x - c)| <= 1}."""
    points = grid.points()
    masks = [
        np.linalg.norm((points - c) @ np.linalg.inv(r).T, axis=1) <= 1 for c, r in zip(centers, roots, strict=True)
    ]
    return ROISet(torch.as_tensor(np.array(masks).reshape(-1, *grid.shape)), grid)


def region_pairs(fixed: Grid, moving: Grid, truth: Affine, centers, roots, *, partner=None) -> ROIPairs:
    """The same ellipsoids in both images; pair k joins fixed region k and moving region `partner[k]`."""
    linear = truth.matrix[:-1, :-1]
    f = ellipsoids(fixed, centers, roots)
    m = ellipsoids(moving, truth.map_points(np.asarray(centers, float)), linear @ np.asarray(roots))
    partner = range(len(centers)) if partner is None else partner
    return ROIPairs(m, f, tuple(ROIPair(int(p), k, 1.0, 1.0) for k, p in enumerate(partner)))


def disc(grid: Grid, center, radius: float) -> torch.Tensor:
    """(1, *shape) bool: a ball in world, mm."""
    inside = np.linalg.norm(grid.points() - np.asarray(center, float), axis=1) <= radius
    return torch.as_tensor(inside.reshape(1, *grid.shape))


def single(fixed_mask: torch.Tensor, fixed: Grid, moving_mask: torch.Tensor, moving: Grid) -> ROIPairs:
    return ROIPairs(ROISet(moving_mask, moving), ROISet(fixed_mask, fixed), (ROIPair(0, 0, 1.0, 1.0),))


def problem(
    fixed: Image, moving: Image, *, pairs: ROIPairs | None = None, uncertainty=None, progress=silent, **masks
) -> Problem:
    """Two images to register; masks by the names of `Pair`."""
    trace = Trace(uncertainty=uncertainty)
    return Problem(Pair(fixed, moving, **masks), pairs=pairs, trace=trace, progress=progress)


def error_mm(found: Transform, truth: Transform, points: np.ndarray) -> float:
    """Mean distance of the mapped points."""
    return float(np.linalg.norm(found.map_points(points) - truth.map_points(points), axis=1).mean())
