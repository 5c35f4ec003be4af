"""Grids, scenes, overlaps and strategies that several test folders share; import as `from support import ...`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from hypothesis import strategies as st

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.core.transforms import Transform


@contextmanager
def threads_kept() -> Iterator[None]:
    """Take back what `--threads` of a command sets for the whole process, so that later tests run as before."""
    before, environment = torch.get_num_threads(), os.environ.copy()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        os.environ.clear()
        os.environ.update(environment)


class Homography(Transform):
    """The perspective map of a flat scene, a (3, 3) matrix."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix

    @property
    def ndim(self) -> int:
        return 2

    def _map(self, points: torch.Tensor) -> torch.Tensor:
        matrix = torch.as_tensor(self.matrix, dtype=points.dtype)
        mapped = points @ matrix[:, :2].T + matrix[:, 2]
        return mapped[:, :2] / mapped[:, 2:]

    def inverse(self) -> Homography:
        return Homography(np.linalg.inv(self.matrix))


def axis_orders(ndim: int) -> list[np.ndarray]:
    """Every signed permutation matrix: 8 in 2D, the 48 axis orders of ITK files in 3D."""
    found = []
    for order in itertools.permutations(range(ndim)):
        for signs in itertools.product((1, -1), repeat=ndim):
            found.append(np.eye(ndim)[list(order)] * np.array(signs))
    return found


def rotation(ndim: int, seed: int) -> np.ndarray:
    """A random rotation matrix."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(ndim, ndim)))
    q = q * np.sign(np.diag(r))
    if np.linalg.det(q) < 0:
        q[:, 0] *= -1
    return q


def make_grid(shape, spacing=None, direction=None, origin=None) -> Grid:
    """A grid from values in storage order; direction has one array axis per column."""
    d = len(shape)
    affine = np.eye(d + 1)
    axes = np.eye(d)[:, ::-1] if direction is None else np.asarray(direction)
    affine[:d, :d] = axes * (np.ones(d) if spacing is None else np.asarray(spacing, float))
    affine[:d, d] = np.zeros(d) if origin is None else origin
    return Grid(tuple(shape), affine)


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


def dice(a, b) -> float:
    """2 |A ∩ B| / (|A| + |B|) of two bool arrays or tensors."""
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def disc(grid: Grid, center, radius: float) -> torch.Tensor:
    """(1, *shape) bool: a ball in world, mm."""
    inside = np.linalg.norm(grid.points() - np.asarray(center, float), axis=1) <= radius
    return torch.as_tensor(inside.reshape(1, *grid.shape))


def ellipsoids(grid: Grid, centers, roots) -> ROISet:
    """Regions {x : |root^-1 (x - c)| <= 1}."""
    points = grid.points()
    masks = [
        np.linalg.norm((points - c) @ np.linalg.inv(r).T, axis=1) <= 1 for c, r in zip(centers, roots, strict=True)
    ]
    return ROISet(torch.as_tensor(np.array(masks).reshape(-1, *grid.shape)), grid)


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


def blobs(grid: Grid, *, shift: tuple[float, ...] | None = None, name: str = "image") -> tuple[Image, Image]:
    """Three bright ellipsoids on a dark ground with a little texture, and their label map.

    Positions are fractions of the box of the grid; `shift` (voxels, storage order) moves the content.
    """
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1).astype(float)
    if shift is not None:
        index = index - np.asarray(shift)
    size = np.array(grid.shape)
    at = index / size
    values = 20 + 4 * np.sin(at @ np.full(grid.ndim, 19.0))
    labels = np.zeros(grid.shape, dtype=np.int32)
    places = ((0.35, 0.3, 0.32), (0.62, 0.66, 0.6), (0.27, 0.74, 0.75))
    for label, (place, radius, level) in enumerate(zip(places, (0.16, 0.18, 0.1), (120, 200, 90), strict=True), 1):
        inside = np.linalg.norm(at - np.array(place[-grid.ndim :]), axis=-1) < radius
        values[inside] = level
        labels[inside] = label
    image = Image(torch.from_numpy(values.astype(np.float32))[None], grid, name=name)
    return image, Image(torch.from_numpy(labels)[None], grid, name=f"{name} labels")


@st.composite
def grids(draw, *, ndim: int | None = None, min_side: int = 1, max_side: int = 9) -> Grid:
    """Grids of any direction, spacings from 0.2 to 10 mm, 1-voxel axes included unless `min_side` forbids."""
    d = draw(st.sampled_from((2, 3))) if ndim is None else ndim
    shape = tuple(draw(st.integers(min_side, max_side)) for _ in range(d))
    spacing = [draw(st.floats(0.2, 10)) for _ in range(d)]
    origin = [draw(st.floats(-500, 500)) for _ in range(d)]
    if draw(st.booleans()):
        direction = rotation(d, draw(st.integers(0, 999)))
    else:
        direction = draw(st.sampled_from(axis_orders(d)))
    return make_grid(shape, spacing, direction, origin)
