"""A pair of images whose true transform is known, on grids that differ in everything."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine
from roireg.io import write_image
from roireg_bench.methods import Inputs, Output
from support import make_grid

CENTER = {2: np.array([30.0, -50.0]), 3: np.array([30.0, -50.0, 80.0])}
OFFSET = {2: np.array([6.0, -5.0]), 3: np.array([6.0, -5.0, -4.0])}
"""Such that every misreading of a result lies far from the truth, see `misreadings`."""

ANGLE = 4.0  # degrees about the (last) axis


@dataclass(frozen=True)
class Scene:
    fixed: Image
    moving: Image
    truth: Affine

    @property
    def points(self) -> np.ndarray:
        """World points well inside the fixed image."""
        grid = self.fixed.grid
        steps = [np.linspace(0.3, 0.7, 4) * (n - 1) for n in grid.shape]
        index = np.stack([a.ravel() for a in np.meshgrid(*steps, indexing="ij")], axis=-1)
        return grid.world_from_index(index)


def misreadings(displacement: np.ndarray) -> dict[str, np.ndarray]:
    """What (N, d) displacements would be with one convention mistaken: direction, axis order, sign of an axis."""
    wrong = {"inverse": -displacement, "reversed axes": displacement[:, ::-1]}
    for axis in range(displacement.shape[1]):
        wrong[f"flipped {'xyz'[axis]}"] = displacement * np.where(np.arange(displacement.shape[1]) == axis, -1, 1)
    wrong["RAS"] = displacement * np.array([-1, -1, 1])[: displacement.shape[1]]
    return wrong


def turned(ndim: int, degrees: float, axis: int = 2) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    if ndim == 2:
        return np.array([[c, -s], [s, c]])
    a, b = [i for i in range(3) if i != axis]
    matrix = np.eye(3)
    matrix[np.ix_([a, b], [a, b])] = [[c, -s], [s, c]]
    return matrix


def centered(shape: tuple[int, ...], spacing: list[float], axes: np.ndarray, center: np.ndarray) -> Grid:
    placed = make_grid(shape, spacing, axes, np.zeros(len(shape)))
    return make_grid(shape, spacing, axes, center - placed.center)


@cache
def scene(ndim: int) -> Scene:
    """A body with many blobs; the moving one is turned and shifted, both grids are oblique and flipped somewhere."""
    center, offset = CENTER[ndim], OFFSET[ndim]
    linear = turned(ndim, ANGLE)
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = center + offset - linear @ center
    truth = Affine(matrix)
    flip = np.diag([1.0, -1.0, 1.0][:ndim])[:, ::-1]
    if ndim == 2:
        grids = [
            centered((110, 120), [1.0, 0.9], turned(2, 20) @ flip, center),
            centered((120, 100), [0.9, 1.1], turned(2, -10) @ -flip, center + 2),
        ]
    else:
        grids = [
            centered((30, 36, 38), [3.6, 2.8, 2.5], turned(3, 15, 0) @ flip, center),
            centered((38, 32, 36), [2.5, 3.2, 2.9], turned(3, -10, 1) @ flip[::-1], center + 3),
        ]
    fixed, moving = grids
    inverse = truth.inverse()
    return Scene(
        _image(fixed, fixed.points(), "fixed"), _image(moving, inverse.map_points(moving.points()), "moving"), truth
    )


def _image(grid: Grid, points: np.ndarray, name: str) -> Image:
    d = grid.ndim
    rng = np.random.default_rng(7)
    local = points - CENTER[d]
    radii = np.array([45.0, 38.0, 40.0])[:d]
    body = 1 / (1 + np.exp((np.linalg.norm(local / radii, axis=1) - 0.95) * 25))
    values = 90 * body
    for _ in range(60 if d == 2 else 40):
        where = rng.uniform(-0.7, 0.7, d) * radii
        width, height = rng.uniform(2.5, 7) * (1 if d == 2 else 1.3), rng.uniform(-60, 90)
        values = values + height * body * np.exp(-(((local - where) / width) ** 2).sum(axis=1) / 2)
    data = torch.from_numpy(values.reshape(1, *grid.shape).astype(np.float32))
    return Image(data, grid, name=name)


def write_scene(folder: Path, ndim: int, modality: str = "mono") -> Inputs:
    folder.mkdir(parents=True, exist_ok=True)
    pair = scene(ndim)
    for side in ("fixed", "moving"):
        write_image(folder / f"{side}.nii.gz", getattr(pair, side))
    return Inputs(folder / "fixed.nii.gz", folder / "moving.nii.gz", modality)


@dataclass(frozen=True)
class Several:
    """Runs methods one after the other in one process, each on a pair of its own."""

    methods: tuple
    pairs: tuple[Inputs, ...]
    name: str = "several"
    version: str = "1"

    @property
    def settings(self):
        return {}

    def run(self, inputs: Inputs, folder: Path) -> Output:
        outputs = []
        for number, (method, pair) in enumerate(zip(self.methods, self.pairs, strict=True)):
            place = folder / str(number)
            place.mkdir()
            outputs.append(method.run(pair, place))
        return Output(
            tuple(file for output in outputs for file in output.files),
            sum(output.seconds for output in outputs),
            sum(output.cpu_seconds for output in outputs),
        )
