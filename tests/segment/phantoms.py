"""Images drawn for the tests of this folder, and the overlap they are scored by."""

from __future__ import annotations

import numpy as np
import torch

from roireg.core.grid import Grid
from roireg.core.image import Image
from support import dice, make_grid


def ellipsoid(grid: Grid, center, radii) -> np.ndarray:
    """(*shape) bool: inside an ellipsoid given in world mm, components (x, y[, z])."""
    offset = (grid.points() - np.asarray(center, float)) / np.asarray(radii, float)
    return ((offset**2).sum(-1) <= 1).reshape(grid.shape)


def image_of(values: np.ndarray, grid: Grid, *, noise: float = 0.0, seed: int = 0) -> Image:
    """(*shape) or (C, *shape) values as an image, with Gaussian noise."""
    values = values if values.ndim == grid.ndim + 1 else values[None]
    values = values + noise * np.random.default_rng(seed).normal(size=values.shape)
    return Image(torch.from_numpy(values.astype(np.float32)), grid)


def three_discs(*, noise: float = 0.03) -> tuple[Image, list[np.ndarray]]:
    """A body with a bright disc and a dark disc with a bright core: masks body, bright, dark, core."""
    grid = make_grid((96, 110), (0.7, 0.7))
    body = ellipsoid(grid, (38, 33), (30, 26))
    bright = ellipsoid(grid, (25, 33), (7, 7))
    dark = ellipsoid(grid, (50, 33), (10, 12))
    core = ellipsoid(grid, (50, 33), (4, 5))
    values = 0.55 * body
    values[bright] = 0.9
    values[dark] = 0.1
    values[core] = 0.25
    return image_of(values, grid, noise=noise), [body, bright, dark, core]


def best_dice(masks: torch.Tensor, truth: np.ndarray) -> float:
    """Highest overlap of any of the masks with the truth, both on one grid."""
    return max(dice(m.numpy(), truth) for m in masks)
