"""Global maps as homogeneous matrices: models of motion, their generators, and projections onto them.

All matrices are (d + 1, d + 1) float64, fixed world -> moving world, mm.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from roireg.core.grid import Grid
from roireg.core.transforms import Affine

__all__ = ["Model", "affine_of", "generators", "mapped", "moved", "project", "rotation_of", "scale_of"]

Array = NDArray[np.float64]
Model = Literal["translation", "rigid", "similarity", "affine", "homography"]


def rotation_of(linear: Array) -> Array:
    """(d, d) nearest rotation (or mirrored rotation) to a linear map, by its polar decomposition."""
    u, _, v = np.linalg.svd(linear)
    return np.asarray(u @ v)


def scale_of(linear: Array) -> float:
    """Geometric mean of the stretches."""
    return float(abs(np.linalg.det(linear)) ** (1 / len(linear)))


def mapped(matrix: Array, points: Array) -> Array:
    """(N, d) images of world points, the perspective division included."""
    moved_points = points @ matrix[:-1, :-1].T + matrix[:-1, -1]
    return np.asarray(moved_points / (points @ matrix[-1, :-1] + matrix[-1, -1])[:, None])


def generators(d: int, model: Model) -> Array:
    """(K, d + 1, d + 1) generators of a model in coordinates about the middle, of size about 1."""
    out = []

    def unit(*entries: tuple[int, int, float]) -> None:
        generator = np.zeros((d + 1, d + 1))
        for i, j, value in entries:
            generator[i, j] = value
        out.append(generator)

    pairs = [(i, j) for i in range(d) for j in range(i + 1, d)]
    for i in range(d):
        unit((i, d, 1.0))
    if model != "translation":
        for i, j in pairs:
            unit((i, j, -1.0), (j, i, 1.0))
    if model not in ("translation", "rigid"):
        unit(*[(i, i, 1.0) for i in range(d)])
    if model in ("affine", "homography"):
        for i in range(d - 1):
            unit((i, i, 1.0), (i + 1, i + 1, -1.0))
        for i, j in pairs:
            unit((i, j, 1.0), (j, i, 1.0))
    if model == "homography":
        for i in range(d):
            unit((d, i, 1.0))
    return np.array(out)


def moved(matrix: Array, step: Array, basis: Array, centre: Array, radius: float) -> Array:
    """Return the map after a step along the generators, applied to fixed points before the map."""
    d = len(centre)
    frame = np.eye(d + 1)
    frame[:d, :d] *= radius
    frame[:d, d] = centre
    after = matrix @ frame @ expm(np.einsum("k,kij->ij", step, basis)) @ np.linalg.inv(frame)
    return np.asarray(after / after[d, d])


def project(matrix: Array, model: Model, centre: Array) -> Array:
    """Return the nearest map of a model that sends the middle of the fixed image to the same place."""
    d = len(centre)
    if model == "homography":
        return matrix
    out = np.eye(d + 1)
    linear = _linear_at(matrix, centre)
    if model == "rigid":
        linear = rotation_of(linear)
    elif model == "similarity":
        linear = scale_of(linear) * rotation_of(linear)
    elif model == "translation":
        linear = np.eye(d)
    out[:d, :d] = linear
    out[:d, d] = mapped(matrix, centre[None])[0] - linear @ centre
    return out


def _linear_at(matrix: Array, centre: Array) -> Array:
    """(d, d) derivative of a homography at a point."""
    w = float(matrix[-1, :-1] @ centre + matrix[-1, -1])
    return np.asarray((matrix[:-1, :-1] - np.outer(mapped(matrix, centre[None])[0], matrix[-1, :-1])) / w)


def affine_of(matrix: Array, grid: Grid) -> Affine:
    """Return the affine that fits a homography best over the corners and the middle of a grid."""
    if np.allclose(matrix[-1, :-1], 0):
        return Affine(matrix)
    points = np.concatenate([grid.corners(), grid.center[None]])
    rows = np.linalg.lstsq(np.c_[points, np.ones(len(points))], mapped(matrix, points), rcond=None)[0]
    out = np.eye(len(matrix))
    out[:-1] = rows.T
    return Affine(out)
