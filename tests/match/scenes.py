"""Made-up regions with a known affine between them."""

import numpy as np

from roireg.core.grid import Grid
from roireg.core.transforms import Affine
from support import ellipsoids

FLAT = Grid.from_itk((64, 48), (1.0, 1.5), (30.0, -12.0), np.eye(2))


def random_ellipsoids(grid, count, *, seed=0, radius=0.08):
    """Ellipsoids at random places in world, as centres (K, d) mm and shape matrices (K, d, d) mm."""
    rng = np.random.default_rng(seed)
    d, size = grid.ndim, float(np.prod(grid.extent) ** (1 / grid.ndim))
    index = (0.2 + 0.6 * rng.random((count, d))) * (np.array(grid.shape) - 1)
    centers = grid.world_from_index(index)
    roots = np.linalg.qr(rng.normal(size=(count, d, d)))[0] * (
        size * radius * rng.uniform(0.6, 1.8, size=(count, 1, d))
    )
    return centers, roots


def pair_of_sets(fixed_grid, moving_grid, affine, *, count=8, seed=0):
    """The same ellipsoids in both images, the moving ones mapped by `affine` (fixed -> moving)."""
    centers, roots = random_ellipsoids(fixed_grid, count, seed=seed)
    fixed = ellipsoids(fixed_grid, centers, roots)
    linear = affine.matrix[:-1, :-1]
    moving = ellipsoids(moving_grid, affine.map_points(centers), linear @ roots)
    return fixed, moving


def about(grid, linear, shift):
    """Affine with a linear part about the centre of a grid."""
    linear, c = np.asarray(linear, float), grid.center
    matrix = np.eye(len(c) + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = c - linear @ c + shift
    return Affine(matrix)


def oblique_grid(shape=(24, 40, 36), spacing=(2.5, 1.0, 1.2)):
    """An anisotropic grid (z, y, x) turned about two axes."""
    a, b = np.radians(20), np.radians(-35)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    rz = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return Grid.from_itk(shape[::-1], spacing[::-1], [10.0, -20.0, 5.0], rz @ rx)
