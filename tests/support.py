"""Grids and strategies that several test folders share; import as `from support import ...`."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import strategies as st

from roireg.core.grid import Grid
from roireg.core.transforms import Transform


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
