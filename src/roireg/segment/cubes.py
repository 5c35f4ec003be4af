"""A volume as a 3D network sees it: axes of the patient, its own spacing, and the cubes it is cut into."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import warp

__all__ = ["Offset", "Volume", "patient_grid"]

Floats = NDArray[np.float64]
Offset = tuple[int, ...]
"""First index of a cube in the volume; negative where the cube reaches beyond it."""

FAR = -32.0
"""Logit outside of a cube."""

FOREGROUND = 0.05
"""Foreground is this far from the lowest intensity to the 99.5th percentile."""


def patient_grid(grid: Grid) -> Grid:
    """Return the same voxels of a 3D grid with its axes renamed and turned to head, front and right (nearest)."""
    return grid.oriented("SAR")


@dataclass(frozen=True, eq=False)
class Volume:
    """A raster on its grid, and the cubes of it that are encoded.

    Attributes
    ----------
    grid : working grid. raster : (1, *shape) for `PromptableModel.encode`.
    side : of a cube in voxels; None takes the whole volume for the only cube.
    """

    grid: Grid
    raster: Tensor
    side: int | None

    @property
    def size(self) -> NDArray[np.int64]:
        """(3,) voxels of a cube."""
        return np.array(self.grid.shape if self.side is None else (self.side,) * 3, dtype=np.int64)

    def cube_at(self, centre: Floats) -> Offset:
        """Return the cube around an index: inside the volume along long axes, else around its middle.

        Offsets are rounded to quarters of a cube, so that prompts near each other share an embedding.
        """
        shape, size = np.array(self.grid.shape), self.size
        step = np.maximum(1, size // 4)
        corner = np.round((centre - (size - 1) / 2) / step) * step
        inside = np.clip(corner, 0, np.maximum(0, shape - size))
        return tuple(int(v) for v in np.where(shape > size, inside, -((size - shape) // 2)))

    def cubes_around(self, points: Floats) -> list[Offset]:
        """Return cubes that together hold (N, 3) indices: one around their centre, others where it is too small."""
        offsets: list[Offset] = []
        left, centre = points, (points.min(0) + points.max(0)) / 2
        while len(left):
            offset = self.cube_at(centre)
            held = self.holds(offset, left)
            if held.any():
                offsets.append(offset)
                left = left[~held]
            if len(left):
                centre = left[0]
        return offsets

    def holds(self, offset: Offset, points: Floats) -> NDArray[np.bool_]:
        """Tell which of (N, 3) indices are in a cube."""
        local = points - np.array(offset)
        return np.asarray(((local >= -0.5) & (local <= self.size - 0.5)).all(axis=1))

    def tiles(self, points: Floats) -> Iterator[tuple[Offset, Floats]]:
        """Cover the volume with evenly spread cubes; yield each with those of (N, 3) indices nearest its middle."""
        places = []
        for n, s in zip(self.grid.shape, self.size.tolist(), strict=True):
            few = [-((s - n) // 2)]
            places.append(np.round(np.linspace(0, n - s, -(-n // s))).astype(int) if n > s else np.array(few))
        middles = [p + (s - 1) / 2 for p, s in zip(places, self.size, strict=True)]
        nearest = np.stack([np.abs(points[:, a, None] - m[None]).argmin(1) for a, m in enumerate(middles)], axis=1)
        for which in itertools.product(*(range(len(p)) for p in places)):
            members = points[(nearest == np.array(which)).all(1)]
            if len(members):
                yield tuple(int(p[k]) for p, k in zip(places, which, strict=True)), members

    def crop(self, offset: Offset) -> Tensor:
        """(1, *cube) raster of a cube; 0, as networks were trained, where it reaches beyond the volume."""
        ends = [o + s for o, s in zip(offset, self.size.tolist(), strict=True)]
        outside = [(max(0, -o), max(0, e - n)) for o, e, n in zip(offset, ends, self.grid.shape, strict=True)]
        inside = (slice(max(0, o), e) for o, e in zip(offset, ends, strict=True))
        return F.pad(self.raster[(slice(None), *inside)], [v for pair in reversed(outside) for v in pair])

    def bring_to(self, grid: Grid, offset: Offset, logits: Tensor) -> Tensor:
        """Bring (K, *cube) logits onto a grid: (K, *grid), `FAR` outside the cube. Computes only that part."""
        after = [o + s - n for o, s, n in zip(offset, self.size.tolist(), self.grid.shape, strict=True)]
        cube = self.grid.padded([-o for o in offset], after)
        logits = logits.float().cpu()
        if cube == grid:
            return logits
        out = torch.full((len(logits), *grid.shape), FAR)
        corners = grid.index_from_world(cube.corners())
        low = np.clip(np.floor(corners.min(0)), 0, np.array(grid.shape)).astype(int)
        high = np.clip(np.ceil(corners.max(0)) + 1, 0, np.array(grid.shape)).astype(int)
        if (high > low).all():
            part = grid.padded(-low, high - np.array(grid.shape))
            place = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
            out[place] = warp(Image(logits, cube), None, part, fill=FAR).data
        return out

    def foreground_points(self, count: int) -> Floats:
        """(N, 3) indices of about `count` evenly spread points, those in the background left out if others remain."""
        points = self.grid.index_from_world(self.grid.coarsened(count).points())
        index = np.clip(np.round(points).astype(int), 0, np.array(self.grid.shape) - 1)
        values = self.raster[0].cpu().numpy()
        low, high = float(values.min()), float(np.percentile(values, 99.5))
        bright = values[tuple(index.T)] > low + FOREGROUND * (high - low)
        return np.asarray(points[bright] if bright.any() else points)
