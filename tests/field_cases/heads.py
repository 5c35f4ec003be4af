"""A head as a function of the world: an ellipsoid with bumps inside, the same from no two sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, Transform
from roireg.io import PointSet
from roireg.io import write_points as write
from support import centred

GRID = centred((22, 25, 24), (7.0, 7.0, 7.0))
HALF = np.array([58.0, 74.0, 64.0])
"""Half axes of the head, x, y and z in mm."""


SETTINGS = """
segment: {max_count: 8}
stages: [{stage: search, trials: 1, trial: {levels: 1, iterations: [5], max_voxels: 4000}}]
"""
"""The search of the default preset, with few regions and short trials."""


def head(truth: Transform | None = None, *, grid: Grid = GRID) -> Image:
    """The head on a grid; with `truth` (fixed -> moving) the moving one."""
    points = grid.points() if truth is None else truth.inverse().map_points(grid.points())
    depth = np.linalg.norm(points / HALF, axis=1)
    rng = np.random.default_rng(3)
    values = 200 / (1 + np.exp((depth - 1) * 12))
    for _ in range(60):
        centre = rng.uniform(-0.65, 0.65, 3) * HALF
        values += rng.uniform(-150, 200) * np.exp(-0.5 * (((points - centre) / rng.uniform(6, 14)) ** 2).sum(1))
    noise = np.random.default_rng(len(points)).normal(scale=4, size=len(points))
    values = values + noise
    return Image(torch.from_numpy(values.astype(np.float32)).reshape(1, *grid.shape), grid)


def landmarks() -> np.ndarray:
    """(27, 3) points inside the head, mm."""
    return np.stack(np.meshgrid(*(np.array([-0.5, 0.05, 0.5]) * h for h in HALF), indexing="ij"), -1).reshape(-1, 3)


def turned(axis: str, degrees: float) -> Affine:
    """A turn about an axis of the world."""
    a, b = [k for k in range(3) if k != "xyz".index(axis)]
    matrix = np.eye(4)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[[a, a, b, b], [a, b, a, b]] = [c, -s, s, c]
    return Affine(matrix)


def write_points(path: Path, points: np.ndarray) -> None:
    """Write points without names."""
    write(path, PointSet(points))
