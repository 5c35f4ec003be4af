"""Transforms: maps from fixed-world points to moving-world points (pull-back).

Every transform maps (N, d) world points in LPS mm, components (x, y[, z]). Displacements are mm with the
same components. `a @ b` is function composition: (a @ b)(x) = a(b(x)).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from roireg.core.errors import GeometryError
from roireg.core.filters import gradient
from roireg.core.grid import Grid
from roireg.core.warp import identity_coords, point_dtype, sample, slab_points, voxel_coords

__all__ = [
    "Affine",
    "Chain",
    "DisplacementField",
    "Transform",
    "VelocityField",
    "in_words",
    "jacobian_determinant",
]


class Transform(ABC):
    """Base: what every transform can do."""

    @property
    @abstractmethod
    def ndim(self) -> int:
        """Number of world dimensions."""

    @overload
    def map_points(self, points: Tensor) -> Tensor: ...
    @overload
    def map_points(self, points: ArrayLike) -> NDArray[np.float64]: ...
    def map_points(self, points: Tensor | ArrayLike) -> Tensor | NDArray[np.float64]:
        """Map (N, d) world points, mm, in float64; tensors in, tensors out, arrays and lists in, arrays out.

        Raises
        ------
        GeometryError
            When the points are not (N, d).
        """
        if isinstance(points, Tensor):
            self._check_shape(tuple(points.shape))
            return self._map(points.to(point_dtype(points.device)))
        try:
            array = np.asarray(points, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise GeometryError(
                f"expected numbers of shape (N, {self.ndim}), found no such array ({error})"
            ) from error
        self._check_shape(array.shape)
        return self._map(torch.from_numpy(array.copy())).numpy()

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] != self.ndim:
            raise GeometryError(f"expected points of shape (N, {self.ndim}), found {shape}")

    @abstractmethod
    def _map(self, points: Tensor) -> Tensor: ...

    @abstractmethod
    def inverse(self) -> Transform:
        """Return the map from moving-world to fixed-world points."""

    def displacement_on(self, grid: Grid, *, device: torch.device | str = "cpu") -> Tensor:
        """(d, *shape) float32 displacement in mm at the voxels of `grid`, components (x, y[, z])."""
        device = torch.device(device)
        out = torch.empty((self.ndim, *grid.shape), dtype=torch.float32, device=device)
        for rows, points in slab_points(grid, device):
            shape = (rows.stop - rows.start, *grid.shape[1:])
            out[:, rows] = (self._map(points) - points).T.reshape(self.ndim, *shape).float()
        return out

    def __matmul__(self, other: Transform) -> Chain:
        return Chain((other, self))


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """An affine map.

    Parameters
    ----------
    matrix : (d+1, d+1) float64 homogeneous matrix, moving_from_fixed, world (x, y[, z]) in mm.

    Raises
    ------
    GeometryError
        When the matrix has a wrong shape, values that are not finite, or is singular.
    """

    matrix: NDArray[np.float64]

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        d = len(np.atleast_1d(matrix)) - 1
        if matrix.shape != (d + 1, d + 1) or d not in (2, 3):
            raise GeometryError(f"an affine matrix is 3x3 or 4x4, found shape {matrix.shape}")
        if not np.isfinite(matrix).all():
            raise GeometryError("the affine matrix has values that are not finite")
        if not np.allclose(matrix[d], np.eye(d + 1)[d]):
            raise GeometryError(f"the last row of an affine matrix is 0 … 0 1, found {matrix[d]}")
        singular = np.linalg.svd(matrix[:d, :d], compute_uv=False)
        if singular[-1] <= 1e-8 * max(singular[0], 1e-300):
            raise GeometryError(
                "the affine matrix is singular: it maps the image onto a plane, line or point; check its numbers, "
                "or start without it"
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def identity(cls, ndim: int) -> Affine:
        """Return the affine that moves nothing."""
        return cls(np.eye(ndim + 1))

    @classmethod
    def translation(cls, offset: ArrayLike) -> Affine:
        """Return the affine that adds an offset in mm, (x, y[, z])."""
        offset = np.asarray(offset, dtype=float)
        matrix = np.eye(len(offset) + 1)
        matrix[:-1, -1] = offset
        return cls(matrix)

    @property
    def ndim(self) -> int:
        return int(self.matrix.shape[0]) - 1

    def _map(self, points: Tensor) -> Tensor:
        matrix = torch.as_tensor(np.array(self.matrix), dtype=points.dtype, device=points.device)
        return torch.addmm(matrix[:-1, -1], points, matrix[:-1, :-1].T)

    def inverse(self) -> Affine:
        return Affine(np.asarray(np.linalg.inv(self.matrix), dtype=np.float64))

    def __repr__(self) -> str:
        rows = "; ".join(" ".join(f"{v:.4g}" for v in row) for row in self.matrix[:-1])
        return f"Affine([{rows}])"


@dataclass(frozen=True, eq=False)
class DisplacementField(Transform):
    """x -> x + u(x), u interpolated linearly and 0 outside the grid (as ITK's displacement field transform).

    Parameters
    ----------
    grid : where u is given (fixed world).
    displacement : (d, *shape) float32 mm, components (x, y[, z]).
    """

    grid: Grid
    displacement: Tensor

    def __post_init__(self) -> None:
        expected = (self.grid.ndim, *self.grid.shape)
        if tuple(self.displacement.shape) != expected:
            raise GeometryError(
                f"a displacement field on this grid has shape {expected}, found {tuple(self.displacement.shape)}"
            )

    @property
    def ndim(self) -> int:
        return self.grid.ndim

    def _map(self, points: Tensor) -> Tensor:
        coords = voxel_coords(self.grid, points)
        size = torch.tensor(self.grid.shape[::-1], dtype=coords.dtype, device=coords.device)
        inside = ((coords >= -0.5) & (coords <= size - 0.5)).all(dim=-1, keepdim=True)
        flat = coords.float().reshape(1, *[1] * (self.ndim - 1), -1, self.ndim)
        field = self.displacement.to(points.device)
        u = sample(field[None], flat).reshape(self.ndim, -1).T
        return points + u.to(points.dtype) * inside

    def inverse(self, *, iterations: int = 60, tolerance: float = 1e-4) -> DisplacementField:
        """Return w with (y + w(y)) + u(y + w(y)) = y, by fixed-point iteration (Chen et al., Med Phys 2008).

        w lies on a grid with the axes of this one that holds it and everything it is mapped to, or the latter alone
        where the two are apart. The iteration begins with the nearest affine map, so turns and shifts of any size
        converge; it stops when the largest change is below `tolerance` voxels. Beyond this grid u goes on as that
        affine plus what its border has left of it. Where u folds no inverse exists and the result is the last
        iterate; the pipeline reports the inverse-consistency error.
        """
        grid, index = _reached_grid(self)
        device = self.displacement.device
        # In voxel coordinates (x, y[, z]) of this grid: x -> A x + b + rest(x).
        coords = identity_coords(self.grid.shape, device)
        mapped = coords + self._voxel_displacement().movedim(0, -1)
        linear, offset = _nearest_affine(coords.reshape(-1, self.ndim), mapped.reshape(-1, self.ndim))
        rest = (mapped - (coords @ linear.T + offset)).movedim(-1, 0)
        back = torch.linalg.inv(linear.double()).float()
        target = index.to(device)
        goal = (target - offset) @ back.T
        source = goal
        for _ in range(iterations):
            moved = goal - sample(rest[None], source[None])[0].movedim(0, -1) @ back.T
            change = float((moved - source).abs().amax())
            # Under-relaxed steps converge also where the slope of the rest approaches 1.
            source = 0.3 * source + 0.7 * moved
            if change < tolerance:
                break
        w = (source - target).movedim(-1, 0)
        return DisplacementField(grid, self._world_displacement(w))

    def _voxel_displacement(self) -> Tensor:
        matrix = np.linalg.inv(self.grid.affine[:-1, :-1])[::-1].copy()
        m = torch.as_tensor(matrix, dtype=torch.float32, device=self.displacement.device)
        return torch.einsum("ij,j...->i...", m, self.displacement)

    def _world_displacement(self, voxels: Tensor) -> Tensor:
        m = torch.as_tensor(self.grid.affine[:-1, :-1][:, ::-1].copy(), dtype=torch.float32, device=voxels.device)
        return torch.einsum("ij,j...->i...", m, voxels)

    def __repr__(self) -> str:
        largest = float(self.displacement.norm(dim=0).max())
        return f"DisplacementField(up to {largest:.3g} mm, {self.grid!r})"


INVERSE_GROWTH = 8
"""An inverse is sampled more coarsely where it would have so many times the voxels of its field."""


def _reached_grid(field: DisplacementField) -> tuple[Grid, Tensor]:
    """Return the grid of a field's inverse and its (*shape, d) float32 voxel coordinates in the field's grid."""
    grid = field.grid
    d = grid.ndim
    mapped = identity_coords(grid.shape, field.displacement.device) + field._voxel_displacement().movedim(0, -1)
    ends = torch.stack([mapped.reshape(-1, d).amin(0), mapped.reshape(-1, d).amax(0)]).double().cpu().numpy()[:, ::-1]
    shape = np.array(grid.shape)
    # What lies within a twentieth of a voxel of the border needs no further voxel.
    low, high = np.floor(ends[0] + 0.05), np.ceil(ends[1] - 0.05)
    if ((low <= shape - 1) & (high >= 0)).all():
        low, high = np.minimum(low, 0), np.maximum(high, shape - 1)
    size = high - low + 1
    index_from_new = np.eye(d + 1)
    index_from_new[:-1, -1] = low
    if np.prod(size) > INVERSE_GROWTH * max(grid.size, 100_000):
        coarser = (np.prod(size) / (INVERSE_GROWTH * max(grid.size, 100_000))) ** (1 / d)
        step = np.maximum(size - 1, 1) / np.maximum(np.ceil((size - 1) / coarser), 1)
        size = np.where(size > 1, np.round((size - 1) / step) + 1, 1)
        index_from_new[:-1, :-1] = np.diag(step)
    reached = Grid(tuple(int(n) for n in size), grid.affine @ index_from_new)
    scale = torch.as_tensor(np.diag(index_from_new)[:-1][::-1].copy(), dtype=torch.float32, device="cpu")
    start = torch.as_tensor(low[::-1].copy(), dtype=torch.float32, device="cpu")
    return reached, identity_coords(reached.shape, torch.device("cpu")) * scale + start


def _nearest_affine(points: Tensor, mapped: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (d, d) matrix and (d,) offset, float32, that map the points to `mapped` with the least squares.

    The identity with the mean shift where the least-squares map is (nearly) singular, as for axes of one voxel.
    """
    d = points.shape[1]
    step = max(1, len(points) // 20_000)
    x, y = points[::step].double(), mapped[::step].double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    # Axes along which the points do not spread keep their direction.
    spread = (x - x_mean).T @ (x - x_mean) + 1e-9 * torch.eye(d, dtype=x.dtype, device=x.device)
    slope = (
        torch.eye(d, dtype=x.dtype, device=x.device)
        + torch.linalg.solve(spread, (x - x_mean).T @ ((y - x) - (y_mean - x_mean))).T
    )
    if abs(float(torch.linalg.det(slope))) < 0.05:
        slope = torch.eye(d, dtype=x.dtype, device=x.device)
    return slope.float(), (y_mean - slope @ x_mean).float()


@dataclass(frozen=True, eq=False)
class VelocityField(Transform):
    """The flow of a stationary velocity field after unit time: exp(v), a diffeomorphism up to sampling.

    Parameters
    ----------
    grid : where v is given (fixed world).
    velocity : (d, *shape) float32 mm per unit time, components (x, y[, z]).
    """

    grid: Grid
    velocity: Tensor

    def __post_init__(self) -> None:
        DisplacementField(self.grid, self.velocity)

    @property
    def ndim(self) -> int:
        return self.grid.ndim

    @cached_property
    def field(self) -> DisplacementField:
        """exp(v) as a displacement field on the same grid, by scaling and squaring."""
        as_field = DisplacementField(self.grid, self.velocity)
        return DisplacementField(self.grid, as_field._world_displacement(exponential(as_field._voxel_displacement())))

    def _map(self, points: Tensor) -> Tensor:
        return self.field._map(points)

    def inverse(self) -> VelocityField:
        return VelocityField(self.grid, -self.velocity)

    def __repr__(self) -> str:
        return f"VelocityField({self.grid!r})"


def exponential(velocity: Tensor, *, steps: int | None = None) -> Tensor:
    """Scaling and squaring (Arsigny et al., MICCAI 2006): displacement of the flow of a velocity.

    Parameters
    ----------
    velocity : (d, *spatial) in voxels, components in reversed storage order (x, y[, z]).
    steps : number of squarings; None takes as many as keep the first step below half a voxel.

    Returns
    -------
    (d, *spatial) displacement in voxels, same components; differentiable.
    """
    if steps is None:
        largest = float(velocity.detach().abs().max())
        steps = max(0, int(np.ceil(np.log2(max(largest, 1e-6) / 0.5))))
    identity = identity_coords(tuple(velocity.shape[1:]), velocity.device)
    u: Tensor = velocity / 2**steps
    for _ in range(steps):
        u = u + sample(u[None], (identity + u.movedim(0, -1))[None])[0]
    return u


@dataclass(frozen=True, eq=False)
class Chain(Transform):
    """Transforms applied one after the other: `transforms[0]` first.

    Raises
    ------
    GeometryError
        When the chain is empty or mixes 2D and 3D.
    """

    transforms: tuple[Transform, ...]

    def __post_init__(self) -> None:
        flat: list[Transform] = []
        for t in self.transforms:
            flat.extend(t.transforms if isinstance(t, Chain) else (t,))
        if not flat or len({t.ndim for t in flat}) != 1:
            raise GeometryError("a chain needs at least one transform, all of the same dimension")
        object.__setattr__(self, "transforms", tuple(flat))

    @property
    def ndim(self) -> int:
        return self.transforms[0].ndim

    def _map(self, points: Tensor) -> Tensor:
        for t in self.transforms:
            points = t._map(points)
        return points

    def inverse(self) -> Chain:
        return Chain(tuple(t.inverse() for t in reversed(self.transforms)))

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.transforms))})"


def jacobian_determinant(transform: Transform | Sequence[Transform], grid: Grid) -> Tensor:
    """Determinant of the Jacobian of a transform at the voxels of a grid, (*shape) float32.

    Central differences of the world displacement in mm; 1 means no change of volume, values <= 0 fold.
    Axes of one voxel count as undeformed.
    """
    if not isinstance(transform, Transform):
        transform = Chain(tuple(transform))
    u = transform.displacement_on(grid)
    d = grid.ndim
    by_axis = gradient(u, grid.spacing)  # (component, axis, *shape), per mm along each storage axis
    world = torch.as_tensor(np.linalg.inv(grid.direction), dtype=torch.float32, device=u.device)
    jacobian = torch.einsum("ca...,aw->cw...", by_axis, world)
    for i in range(d):
        jacobian[i, i] += 1
    j = jacobian
    if d == 2:
        return j[0, 0] * j[1, 1] - j[0, 1] * j[1, 0]
    return (
        j[0, 0] * (j[1, 1] * j[2, 2] - j[1, 2] * j[2, 1])
        - j[0, 1] * (j[1, 0] * j[2, 2] - j[1, 2] * j[2, 0])
        + j[0, 2] * (j[1, 0] * j[2, 1] - j[1, 1] * j[2, 0])
    )


def in_words(transform: Transform) -> str:
    """Return of what kind a transform is: ``displacement field, then rigid``; without parts that move nothing."""
    parts = transform.transforms if isinstance(transform, Chain) else (transform,)
    kinds = [_kind(part) for part in parts]
    return ", then ".join(kind for kind in kinds if kind != "identity") or "identity"


def _kind(transform: Transform) -> str:
    if isinstance(transform, Affine):
        linear = transform.matrix[:-1, :-1]
        if np.array_equal(transform.matrix, np.eye(len(transform.matrix))):
            return "identity"
        if np.allclose(linear, np.eye(len(linear)), atol=1e-9):
            return "translation"
        scale = np.abs(np.linalg.det(linear)) ** (1 / len(linear))
        turned = np.allclose(linear.T @ linear, scale**2 * np.eye(len(linear)), atol=1e-6 * scale**2)
        if not turned or np.linalg.det(linear) < 0:
            return "affine"
        return "rigid" if np.isclose(scale, 1, atol=1e-6) else "similarity"
    if isinstance(transform, DisplacementField) and not bool(transform.displacement.any()):
        return "identity"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(transform).__name__).lower()
