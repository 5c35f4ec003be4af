"""A perspective map as a flow, so that the dense fit can start from it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import logm

from roireg.core.errors import GeometryError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, VelocityField

__all__ = ["perspective_flow"]

CELLS = 64
"""Cells of the field along the longest axis of the image."""


def perspective_flow(homography: NDArray[np.float64], affine: Affine, grid: Grid) -> VelocityField:
    """Return the flow after which an affine map is a homography: ``affine(exp(v)(x))``.

    The homographies of the form exp(t L) are the flow of a velocity that does not change in time. With
    L = log(affine^-1 homography) and x in homogeneous coordinates it is (L x) minus x times the last row of L x.

    Parameters
    ----------
    homography : (3, 3), fixed world -> moving world. affine : the same, the map that follows the flow.
    grid : of the fixed image; the field reaches an eighth of it beyond every side.

    Raises
    ------
    GeometryError
        When the two are too far from each other to be joined by such a flow.
    """
    between = np.linalg.inv(affine.matrix) @ homography
    between = between / np.cbrt(np.linalg.det(between))
    generator = logm(between)
    if np.abs(np.imag(generator)).max() > 1e-6:
        raise GeometryError("the perspective and the affine map differ by a mirror or half a turn")
    generator = np.real(generator)
    coarse = grid.with_spacing(np.maximum(grid.spacing, float(grid.extent.max()) / CELLS))
    margin = [-(-n // 8) for n in coarse.shape]
    coarse = coarse.padded(margin, margin)
    points = coarse.points()
    moved = np.c_[points, np.ones(len(points))] @ generator.T
    velocity = moved[:, :-1] - points * moved[:, -1:]
    return VelocityField(coarse, torch.as_tensor(velocity.T.reshape(2, *coarse.shape), dtype=torch.float32))
