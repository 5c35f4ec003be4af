"""Stable sampling via cycle consistency: points of two feature maps that are each other's best match (SAME++, SSCC).

Tian et al., arXiv 2311.14986, Alg. 1 (METHODS section 4.1): a point is matched, its match is matched back, and what
comes back is the next point, a few times over. Wrong matches wander until they meet a pair that holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.image import Image

__all__ = ["PointPairs", "stable_points"]

Array = NDArray[np.float64]

CHUNK = 16_000_000
"""Scores that are in memory at once."""


@dataclass(frozen=True, eq=False)
class PointPairs:
    """Corresponding points.

    Attributes
    ----------
    fixed, moving : (N, d) world points (x, y[, z]), mm.
    similarity : (N,) scores of the matches, at most 1.
    """

    fixed: Array
    moving: Array
    similarity: Array

    def __len__(self) -> int:
        return len(self.fixed)


def stable_points(
    fixed: Image,
    moving: Image,
    *,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    stride: int = 2,
    rounds: int = 5,
    threshold: float = 0.7,
    chunk: int = CHUNK,
) -> PointPairs:
    """Return cells of two feature maps that are each other's best match, with positions to a part of a cell.

    Parameters
    ----------
    fixed, moving : (C, *shape) features on grids of their own; the score of two cells is the dot product.
    fixed_mask, moving_mask : (*shape) bool, cells that may match; None: all.
    stride : cells between the points of the moving side that it begins with.
    rounds : of matching there and back.
    threshold : least score of a pair.
    chunk : scores that are in memory at once.
    """
    sides = [_Side.of(image, mask) for image, mask in ((fixed, fixed_mask), (moving, moving_mask))]
    f, m = sides
    if not len(f.cells) or not len(m.cells):
        none = np.zeros((0, fixed.ndim))
        return PointPairs(none, none, np.zeros(0))
    query = m.every(stride)
    stable = query[:0]
    for _ in range(rounds):
        there = f.nearest(m.vectors[query], chunk)
        back = m.nearest(f.vectors[there], chunk)
        stable = torch.unique(torch.cat([stable, query[back == query]]))
        # What holds once holds for ever; only the others go on.
        query = torch.unique(back[back != query])
        if not len(query):
            break
    there = f.nearest(m.vectors[stable], chunk)
    score = (m.vectors[stable] * f.vectors[there]).sum(1)
    kept = score > threshold
    stable, there, score = stable[kept], there[kept], score[kept]
    places = (f.refined(there, m.vectors[stable]), m.refined(stable, f.vectors[there]))
    return PointPairs(
        fixed.grid.world_from_index(places[0]), moving.grid.world_from_index(places[1]), score.double().numpy()
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """Cells of one feature map that may match.

    Attributes
    ----------
    vectors : (N, C). cells : (N, d) their indices. number : (*shape) which of them a cell is, -1 none.
    """

    grid: Grid
    vectors: Tensor
    cells: Tensor
    number: Tensor

    @classmethod
    def of(cls, image: Image, mask: Tensor | None) -> _Side:
        mask = torch.ones(image.grid.shape, dtype=torch.bool) if mask is None else mask
        mask = mask & torch.isfinite(image.data).all(0)
        number = torch.full(image.grid.shape, -1, dtype=torch.long)
        number[mask] = torch.arange(int(mask.sum()))
        return cls(image.grid, image.data[:, mask].T.contiguous(), torch.nonzero(mask), number)

    def every(self, stride: int) -> Tensor:
        """Return the numbers of the cells on a lattice of so many cells, in the middle of the map."""
        first = torch.tensor([((n - 1) % stride) // 2 for n in self.grid.shape])
        return torch.nonzero(((self.cells - first) % stride == 0).all(1))[:, 0]

    def nearest(self, vectors: Tensor, chunk: int) -> Tensor:
        """Return for (Q, C) vectors the number of the cell of the highest score; of equal ones the first."""
        step = max(1, chunk // len(self.vectors))
        parts = [(vectors[i : i + step] @ self.vectors.T).argmax(1) for i in range(0, len(vectors), step)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)

    def refined(self, at: Tensor, vectors: Tensor) -> Array:
        """Return (Q, d) indices moved to the top of the parabola through the scores of both neighbours, per axis."""
        cells = self.cells[at]
        top = (self.vectors[at] * vectors).sum(1)
        place = cells.double()
        for axis, n in enumerate(self.grid.shape):
            sides = []
            for step in (-1, 1):
                near = cells.clone()
                near[:, axis] = (near[:, axis] + step).clamp(0, n - 1)
                number = self.number[tuple(near.T)]
                there = (number >= 0) & (number != at)
                score = (self.vectors[number.clamp(min=0)] * vectors).sum(1)
                sides.append(torch.where(there, score, torch.nan))
            bend = sides[0] - 2 * top + sides[1]
            shift = 0.5 * (sides[0] - sides[1]) / bend
            shift = torch.where(bend < 0, shift, torch.zeros_like(shift)).nan_to_num(0.0).clamp(-0.5, 0.5)
            place[:, axis] += shift
        return np.asarray(place.numpy())
