"""Every translation at once: masked, overlap-normalised correlation of two channel images by FFT, over many turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.spatial.transform import Rotation
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.warp import identity_coords, sample
from roireg.features.orientation import steered

__all__ = ["Channels", "Peak", "rotations", "strongest_peaks"]

Array = NDArray[np.float64]

PEAKS = 4
"""Peaks kept for every rotation."""


@dataclass(frozen=True, eq=False)
class Channels:
    """Orientation channels of an image on an isotropic grid along the world axes, and where they count."""

    values: Tensor  # (C, *shape)
    weight: Tensor  # (1, *shape)
    grid: Grid

    @property
    def cells(self) -> float:
        """Cells that count."""
        return float(self.weight.sum())


@dataclass(frozen=True, eq=False)
class Peak:
    """A map (d + 1, d + 1) that the correlation prefers to its neighbours."""

    matrix: Array
    score: float


def rotations(d: int, *, step: float, largest: float, full: bool) -> Array:
    """(N, d, d) rotations to try, the identity first.

    In 2D all angles in equal steps. In 3D a lattice of rotation vectors within `largest`, and the other of the 24
    rotations of the cube, by which headers go wrong; with `full` a lattice of small rotations about each of the 24.
    `step` and `largest` are degrees.
    """
    if d == 2:
        angles = np.radians(np.arange(round(360 / step)) * 360 / round(360 / step))
        return np.stack([np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles])
    reach = int(np.ceil((largest + step) / step))
    lattice = np.array(list(product(range(-reach, reach + 1), repeat=3)), dtype=float) * step
    length = np.linalg.norm(lattice, axis=1)
    lattice = lattice[np.argsort(length, kind="stable")]
    near = Rotation.from_rotvec(np.radians(lattice))
    cube = Rotation.create_group("O")
    cube = cube[np.argsort(cube.magnitude(), kind="stable")]
    if not full:
        within = near[np.sort(length) <= largest + 0.01]
        beyond = cube[cube.magnitude() > np.radians(largest + 0.01)]
        return np.concatenate([within.as_matrix(), beyond.as_matrix()])
    # Each small rotation stays with the nearest rotation of the cube.
    small = near[np.sort(length) <= 63]
    own = np.array([(cube.inv() * r).magnitude().min() >= r.magnitude() - 1e-6 for r in small])
    small = small[own]
    return np.concatenate([(c * small).as_matrix() for c in cube])


def strongest_peaks(
    fixed: Channels,
    moving: Channels,
    turns: Array,
    *,
    scale: float,
    reference: float,
    min_overlap: float,
    mirrored: bool = False,
) -> list[Peak]:
    """Return the best translations of every rotation.

    For a rotation R and the scale s the map is y = c + s R (x - b): the moving channels are turned about the middle c
    of their grid and steered, and correlated with the fixed ones at every shift (Padfield, IEEE TIP 2012, with the
    means of the channels taken off beforehand). The score is the correlation times the square root of the shared
    cells over `reference`: how far it stands above chance.

    Parameters
    ----------
    fixed, moving : channels with the same C; a cell of the moving grid is `scale` times one of the fixed grid.
    turns : (N, d, d) rotations, fixed world -> moving world.
    min_overlap : least shared cells, part of the smaller side.
    mirrored : turn the mirror image of the moving side instead (2D); the matrices of the peaks then mean nothing.
    """
    d, h = fixed.grid.ndim, float(fixed.grid.spacing[0])
    size = np.array(fixed.grid.shape)
    length = int(np.ceil(np.linalg.norm(moving.grid.shape))) + 1
    # In 3D shifts beyond half of the fixed image would cost most of the time and wrap around instead.
    reach = (size + length) / 2 if d == 2 else size / 2
    n = [next_fast_len(int(np.ceil((s + length) / 2 + r)), real=True) for s, r in zip(size, reach, strict=True)]
    dims = tuple(range(-d, 0))
    image = torch.cat([fixed.values, fixed.weight, fixed.values.square().sum(0, keepdim=True)])
    f = torch.fft.rfftn(image, s=n, dim=dims).conj()
    pack = torch.cat([moving.values, moving.weight, moving.values.square().sum(0, keepdim=True)])
    if mirrored:
        # Mirrored in x, angles change sign.
        pack = pack.flip(-1) * torch.tensor([1.0, -1, 1, -1, 1, 1]).reshape(-1, 1, 1)
    if float(image[-1].sum()) * float(pack[-1].sum()) <= 0:
        return []
    middle = (np.array(moving.grid.shape[::-1]) - 1) / 2
    canvas = identity_coords((length,) * d, torch.device("cpu")) - (length - 1) / 2
    least = min_overlap * min(fixed.cells, moving.cells)
    # From which index on, along every axis, a shift is negative.
    wrapped = np.floor((length - size) / 2 + reach).astype(int) + 1
    allowed = _allowed_shifts(n, size, length, reach, wrapped)
    floor = 0.02 * float(image[-1].sum() / max(fixed.cells, 1)) * least
    floor_moving = 0.02 * float(pack[-1].sum() / max(moving.cells, 1)) * least
    peaks: list[Peak] = []
    for turn in turns:
        coords = canvas @ torch.as_tensor(turn.T, dtype=torch.float32) + torch.as_tensor(middle, dtype=torch.float32)
        turned = sample(pack[None], coords[None], padding="zeros")[0]
        turned[:-2] = steered(turned[:-2], turn.T)
        m = torch.fft.rfftn(turned, s=n, dim=dims)
        spectra = torch.stack([(f[:-2] * m[:-2]).sum(0), f[-2] * m[-2], f[-1] * m[-2], f[-2] * m[-1]])
        numerator, shared, of_fixed, of_moving = torch.fft.irfftn(spectra, s=n, dim=dims)
        correlation = numerator * torch.rsqrt(of_fixed.clamp(min=floor) * of_moving.clamp(min=floor_moving))
        score = correlation * (shared.clamp(min=0) / reference).sqrt()
        score[(shared < least) | ~allowed] = -1
        for index, value in _maxima(score, radius=3):
            shift = np.where(np.array(index) >= wrapped, np.array(index) - n, index)
            offset = scale * turn @ (h * (shift[::-1] - (length - 1) / 2) - fixed.grid.origin)
            matrix = np.eye(d + 1)
            matrix[:d, :d] = scale * turn
            matrix[:d, d] = moving.grid.center + offset
            peaks.append(Peak(matrix, value))
    return peaks


def _allowed_shifts(
    n: Sequence[int], size: NDArray[np.int64], length: int, reach: Array, wrapped: NDArray[np.int64]
) -> Tensor:
    """Shifts within reach of centres on centres, as a boolean array of the shape of the transform."""
    allowed = torch.ones(tuple(n), dtype=torch.bool)
    for axis, (k, s, r, first) in enumerate(zip(n, size, reach, wrapped, strict=True)):
        index = np.arange(k)
        shift = np.where(index >= first, index - k, index)
        near = torch.as_tensor(np.abs(shift - (length - s) / 2) <= r)
        allowed &= near.reshape([-1 if a == axis else 1 for a in range(len(n))])
    return allowed


def _maxima(score: Tensor, *, radius: int) -> list[tuple[tuple[int, ...], float]]:
    """The highest cells, each further than a radius (around the corner, too) from those before."""
    out = []
    for _ in range(PEAKS):
        value, where = score.reshape(-1).max(0)
        if float(value) <= 0:
            break
        index = tuple(int(i) for i in np.unravel_index(int(where), tuple(score.shape)))
        out.append((index, float(value)))
        near = np.ix_(*[np.arange(i - radius, i + radius + 1) % k for i, k in zip(index, score.shape, strict=True)])
        score[tuple(torch.as_tensor(a) for a in near)] = -1
    return out
