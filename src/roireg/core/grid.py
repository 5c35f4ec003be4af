"""The sampling grid of an image: shape and index-to-world matrix."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roireg.core.errors import GeometryError

__all__ = ["Grid"]

Array = NDArray[np.float64]

FARTHEST = 1e15
"""Numbers of an affine are smaller, in mm; their products stay finite."""


_BODY = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
"""Directions of the body in world, which is LPS."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an image lie in the world.

    Parameters
    ----------
    shape : spatial shape in storage order, (z, y, x) or (y, x).
    affine : (d+1, d+1) homogeneous matrix from an array index *in that axis order* to world
        (x, y[, z]) in LPS millimetres; index 0 is a voxel centre.

    Raises
    ------
    GeometryError
        When the shape is not 2D or 3D, an axis is empty, or the matrix is singular or not finite.
    """

    shape: tuple[int, ...]
    affine: Array

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        d = len(shape)
        if d not in (2, 3):
            raise GeometryError(f"a grid has 2 or 3 spatial axes, found shape {shape}")
        if min(shape) < 1:
            raise GeometryError(f"every axis of a grid needs at least one voxel, found shape {shape}")
        if affine.shape != (d + 1, d + 1):
            raise GeometryError(f"a {d}D grid needs a {d + 1}x{d + 1} affine, found {affine.shape}")
        if not (np.abs(affine) < FARTHEST).all():
            raise GeometryError("the affine of a grid has values that are not finite, or larger than any place")
        scale = np.linalg.norm(affine[:d, :d], axis=0)
        if scale.min() <= 0 or abs(np.linalg.det(affine[:d, :d] / scale)) < 1e-6:
            raise GeometryError("the affine of a grid is singular: axes coincide or a spacing is zero")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    # -- construction ---------------------------------------------------------------------------

    @classmethod
    def from_itk(
        cls, size: Sequence[int], spacing: Sequence[float], origin: Sequence[float], direction: ArrayLike
    ) -> Grid:
        """Build from ITK's size, spacing, origin and direction, all in (x, y[, z]) axis order."""
        d = len(size)
        affine = np.eye(d + 1)
        affine[:d, :d] = (np.asarray(direction, float).reshape(d, d) * np.asarray(spacing, float))[:, ::-1]
        affine[:d, d] = origin
        return cls(tuple(size)[::-1], affine)

    @classmethod
    def pixels(cls, shape: Sequence[int]) -> Grid:
        """Return the grid of a raster image: spacing 1, origin 0, world = pixel index."""
        d = len(shape)
        return cls.from_itk(tuple(shape)[::-1], [1.0] * d, [0.0] * d, np.eye(d))

    @classmethod
    def of_array(
        cls,
        shape: Sequence[int],
        *,
        spacing: ArrayLike = 1.0,
        origin: ArrayLike | None = None,
        direction: ArrayLike | None = None,
    ) -> Grid:
        """Return the grid of an array.

        Parameters
        ----------
        shape : spatial shape of the array, d axes.
        spacing : voxel size in mm, one number or one for every axis of the array in the order of its axes.
        origin : (x, y[, z]) world point of index 0 in LPS mm; None is 0.
        direction : (d, d) unit world vectors of the axes, column k that of axis k of the array; None runs the last
            axis along x, the one before along y and, in 3D, the first along z.

        Raises
        ------
        GeometryError
            When a parameter does not fit the number of axes, a spacing is not positive, or axes coincide.
        """
        d = len(tuple(shape))
        axes = np.eye(d)[:, ::-1] if direction is None else np.asarray(direction, dtype=np.float64)
        start = np.zeros(d) if origin is None else np.asarray(origin, dtype=np.float64)
        sizes = np.asarray(spacing, dtype=np.float64)
        sizes = np.broadcast_to(sizes, (d,)) if sizes.ndim == 0 else sizes
        for what, value, expected in (
            ("spacing", sizes, (d,)),
            ("origin", start, (d,)),
            ("direction", axes, (d, d)),
        ):
            if value.shape != expected:
                raise GeometryError(
                    f"an array with {d} spatial axes needs a {what} of shape {expected}, found {value.shape}"
                )
        if not (np.isfinite(sizes).all() and sizes.min() > 0):
            raise GeometryError(f"the spacing is a positive number of mm for every axis, found {sizes.tolist()}")
        affine = np.eye(d + 1)
        affine[:d, :d], affine[:d, d] = axes * sizes, start
        return cls(tuple(shape), affine)

    # -- geometry -------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    @property
    def spacing(self) -> Array:
        """(d,) voxel size in mm per array axis, storage order."""
        return np.asarray(np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def direction(self) -> Array:
        """(d, d) unit world vectors of the array axes, one per column, storage order."""
        return np.asarray(self.affine[:-1, :-1] / self.spacing)

    @property
    def origin(self) -> Array:
        """(d,) world position of index 0, (x, y[, z])."""
        return np.asarray(self.affine[:-1, -1])

    @property
    def center(self) -> Array:
        """(d,) world position of the middle of the grid, (x, y[, z])."""
        return self.world_from_index((np.array(self.shape) - 1) / 2)

    @property
    def extent(self) -> Array:
        """(d,) length of the grid in mm per array axis, outer voxel faces included."""
        return np.asarray(self.spacing * np.array(self.shape))

    @property
    def itk(self) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """ITK's (size, spacing, origin, flattened direction), all in (x, y[, z]) axis order."""
        direction = self.direction[:, ::-1]
        return (
            self.shape[::-1],
            tuple(float(s) for s in self.spacing[::-1]),
            tuple(float(o) for o in self.origin),
            tuple(float(v) for v in direction.ravel()),
        )

    def world_from_index(self, index: ArrayLike) -> Array:
        """Map (..., d) array indices in storage order to (..., d) world points (x, y[, z])."""
        index = np.asarray(index, dtype=np.float64)
        return np.asarray(index @ self.affine[:-1, :-1].T + self.affine[:-1, -1])

    def index_from_world(self, points: ArrayLike) -> Array:
        """Map (..., d) world points (x, y[, z]) to (..., d) array indices in storage order."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(np.asarray(points, dtype=np.float64) @ inverse[:-1, :-1].T + inverse[:-1, -1])

    def points(self) -> Array:
        """(size, d) world points of all voxel centres in storage order; meant for small grids."""
        axes = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in self.shape), indexing="ij")
        return self.world_from_index(np.stack([a.ravel() for a in axes], axis=-1))

    def corners(self) -> Array:
        """(2^d, d) world points of the outer corners (voxel faces, not centres)."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        axes = np.meshgrid(*ends, indexing="ij")
        return self.world_from_index(np.stack([a.ravel() for a in axes], axis=-1))

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Tell for (..., d) world points whether they lie inside the outer voxel faces."""
        index = self.index_from_world(points)
        inside = (index >= -0.5 - 1e-9) & (index <= np.array(self.shape) - 0.5 + 1e-9)
        return np.asarray(inside.all(axis=-1))

    # -- other grids over the same place ----------------------------------------------------------

    def oriented(self, letters: str) -> Grid:
        """Return the same voxels of a 3D grid with its axes renamed and turned to directions of the body (nearest).

        Parameters
        ----------
        letters : where each storage axis leads to, out of L, R (left, right), P, A (back, front), S, I (head, feet):
            "SPL" is z, y, x.
        """
        targets = np.array([_BODY[letter] for letter in letters], dtype=np.float64).T
        alike = targets.T @ self.direction
        order = max(itertools.permutations(range(3)), key=lambda p: sum(abs(alike[i, a]) for i, a in enumerate(p)))
        index = np.zeros((4, 4))
        index[3, 3] = 1
        for i, a in enumerate(order):
            turned = alike[i, a] < 0
            index[a, i] = -1.0 if turned else 1.0
            index[a, 3] = self.shape[a] - 1 if turned else 0
        return Grid(tuple(self.shape[a] for a in order), self.affine @ index)

    def with_spacing(self, spacing: ArrayLike) -> Grid:
        """Return a grid over the same box whose voxels have about the given spacing (mm, storage order).

        The outer faces stay exactly where they are, so the true spacing is rounded to fill the box.
        """
        steps = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (self.ndim,))
        shape = tuple(int(n) for n in np.maximum(1, np.round(self.extent / steps)))
        return self.with_shape(shape)

    def with_shape(self, shape: Sequence[int]) -> Grid:
        """Return a grid over the same box (same outer faces) with another shape."""
        factor = np.array(self.shape) / np.array(tuple(shape))
        index_from_new = np.eye(self.ndim + 1)
        index_from_new[:-1, :-1] = np.diag(factor)
        index_from_new[:-1, -1] = (factor - 1) / 2
        return Grid(tuple(shape), self.affine @ index_from_new)

    def coarsened(self, max_voxels: int) -> Grid:
        """Return a grid over the same box with at most `max_voxels` voxels, as isotropic as the data allows.

        The same spacing in mm is sought for all axes; an axis that is coarser already keeps its voxels, so nothing is
        ever upsampled. A grid that is small enough is returned unchanged.

        Raises
        ------
        GeometryError
            When `max_voxels` is below 1.
        """
        if max_voxels < 1:
            raise GeometryError(f"a grid needs at least one voxel, found max_voxels={max_voxels}")
        if self.size <= max_voxels:
            return self

        def shape(spacing: float) -> Array:
            return np.asarray(np.maximum(1, np.floor(self.extent / np.maximum(self.spacing, spacing) + 1e-6)))

        fine, coarse = float(self.spacing.min()), float(self.extent.max())
        for _ in range(60):
            middle = float(np.sqrt(fine * coarse))
            if np.prod(shape(middle)) > max_voxels:
                fine = middle
            else:
                coarse = middle
        return self.with_shape([int(n) for n in shape(coarse)])

    def padded(self, before: Sequence[int], after: Sequence[int]) -> Grid:
        """Return the grid grown by whole voxels per axis (negative values crop)."""
        shift = np.eye(self.ndim + 1)
        shift[:-1, -1] = -np.asarray(before, dtype=np.float64)
        shape = tuple(n + int(b) + int(a) for n, b, a in zip(self.shape, before, after, strict=True))
        return Grid(shape, self.affine @ shift)

    def overlap(self, other: Grid) -> float:
        """Fraction of the smaller grid's box that the world bounding boxes of both share, 0..1."""
        a, b = self.corners(), other.corners()
        shared = np.minimum(a.max(0), b.max(0)) - np.maximum(a.min(0), b.min(0))
        smaller = min(np.prod(np.ptp(a, axis=0)), np.prod(np.ptp(b, axis=0)))
        return float(np.prod(np.maximum(shared, 0)) / smaller)

    # -- comparison and text ----------------------------------------------------------------------

    def is_close(self, other: Grid, *, tolerance: float = 1e-3) -> bool:
        """Tell whether both grids have equal shapes and corner positions equal to `tolerance` voxels."""
        if self.shape != other.shape:
            return False
        return bool(np.abs(self.corners() - other.corners()).max() <= tolerance * self.spacing.min())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape[::-1]))
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing[::-1])
        return f"Grid({shape} voxels of {spacing} mm, x first)"
