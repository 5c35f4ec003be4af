"""A global map refined to a small part of a voxel, on several resolutions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.filters import gaussian_smooth
from roireg.core.grid import Grid
from roireg.core.pair import Pair
from roireg.core.transforms import Affine
from roireg.core.warp import resample
from roireg.fit.level import normalise
from roireg.fit.search.climb import FixedSide, MovingSide, climb, contrast_agreement
from roireg.fit.search.maps import Model, affine_of, mapped, project, scale_of
from roireg.fit.search.options import SearchOptions
from roireg.fit.search.search import GlobalSearch, channels_of

__all__ = ["Refined", "refine"]

Array = NDArray[np.float64]

LEVELS = {2: (128, 256, 512), 3: (32, 64, 96)}
"""Cells along the longest axis of the levels at which channels are compared."""
POINTS = {2: 40_000, 3: 40_000}
"""Most cells compared on one level of the channels."""
INTENSITY_POINTS = 150_000
"""Most voxels whose intensities are compared."""
CONTRAST = 0.5
"""Share of the fixed intensities that the moving ones must explain to be trusted more than channels."""


@dataclass(frozen=True, eq=False)
class Refined:
    """A refined map.

    Attributes
    ----------
    matrix : (d + 1, d + 1) homogeneous, fixed world -> moving world; its last row is 0 .. 0 1 but for a homography.
    affine : the map itself, or the affine that fits a homography best over the fixed image.
    metric : what the last level compared: "channels", "correlation", or "correlation ratio".
    explained : share of the fixed intensities that the moving ones explain, 0..1: how far the contrasts agree.
    """

    matrix: Array
    affine: Affine
    metric: str
    explained: float


def refine(pair: Pair, start: Affine, model: Model = "rigid", *, search: GlobalSearch | None = None) -> Refined:
    """Return the map of a model near `start` under which two images agree best.

    The map climbs on orientation channels from coarse to fine, then on the intensities at full resolution if these
    explain each other (linearly: correlation; by any curve: correlation ratio), as long as that stays within a cell
    of what the channels found. Every candidate of a search and every given start is worth refining.

    Parameters
    ----------
    start : fixed world -> moving world, mm; projected onto the model first.
    model : "translation", "rigid" (orthonormal to rounding), "similarity", "affine", or "homography" (2D).
    search : a search of the same pair, whose masks are used again.

    Raises
    ------
    InputError
        When a homography is wanted of volumes.
    """
    if model == "homography" and pair.ndim != 2:
        raise InputError("a homography joins two flat images, found volumes; ask for an affine map instead")
    search = search or GlobalSearch(pair, SearchOptions())
    d = pair.ndim
    matrix = project(np.array(start.matrix), model, search.centre)
    finest = float("inf")
    for cells in LEVELS[d]:
        cell = float(np.ptp(search.boxes[0], axis=0).max()) / cells
        scale = scale_of(matrix[:-1, :-1])
        f = channels_of(search.pair.fixed, search.masks[0], search.boxes[0], cell)
        m = channels_of(search.pair.moving, search.masks[1], search.boxes[1], cell * scale)
        sides = (
            FixedSide.of(f.values, f.weight, f.grid, POINTS[d]),
            MovingSide.of(m.values, m.weight, m.grid, turns=True),
        )
        # A perspective needs an affine first.
        first: list[Model] = ["affine"] if model == "homography" and cells == LEVELS[d][0] else []
        for freedom in (*first, model):
            matrix = climb(
                *sides, matrix, freedom, steps=15, tolerance=5e-3, centre=search.centre, radius=search.radius
            )
        finest = cell
        if cell <= float(search.pair.fixed.grid.spacing.min()):
            break
    metric = "channels"
    sides = _intensities(search, matrix)
    line, curve = contrast_agreement(*sides, matrix)
    explained = max(line, curve)
    if explained >= CONTRAST:
        straight = line >= 0.9 * curve
        trial = climb(
            *sides, matrix, model, steps=20, contrast=not straight, centre=search.centre, radius=search.radius
        )
        probes = sides[0].points[:: max(1, len(sides[0].points) // 500)]
        apart = np.linalg.norm(mapped(trial, probes) - mapped(matrix, probes), axis=1).max(initial=0)
        if apart < 2 * finest * max(1.0, scale_of(matrix[:-1, :-1])):
            matrix, metric = trial, "correlation" if straight else "correlation ratio"
    matrix = _exact(matrix, model, search.centre)
    return Refined(matrix, affine_of(matrix, pair.fixed.grid), metric, explained)


def _exact(matrix: Array, model: Model, centre: Array) -> Array:
    """Remove what rounding added to the model."""
    return matrix if model in ("affine", "homography") else project(matrix, model, centre)


def _intensities(search: GlobalSearch, matrix: Array) -> tuple[FixedSide, MovingSide]:
    """Smoothed intensities of both images at full resolution, or at that of the coarser one under a scale."""
    scale = scale_of(matrix[:-1, :-1])
    fixed, moving = search.pair.fixed, search.pair.moving
    finest = max(float(fixed.grid.spacing.min()), float(moving.grid.spacing.min()) / scale)
    out = []
    for image, mask, h in ((fixed, search.masks[0], finest), (moving, search.masks[1], finest * scale)):
        grid = image.grid
        if h > 1.2 * float(grid.spacing.min()):
            grid = grid.with_spacing(np.maximum(grid.spacing, h))
        data = normalise(resample(image, grid).data)
        smooth = gaussian_smooth(data, np.minimum(h / grid.spacing, 1.0))
        out.append((smooth, (resample(mask, grid).data > 0.5).float() * _off_border(grid), grid))
    f, m = out
    return FixedSide.of(*f, INTENSITY_POINTS), MovingSide.of(*m, turns=False)


def _off_border(grid: Grid) -> Tensor:
    """(1, *shape) 0 in the outer voxels, where the low-pass sees one side only; short axes lose one or none."""
    weight = torch.ones(1, *grid.shape)
    drop = [0 if n < 6 else 1 if n < 24 else 2 for n in grid.shape]
    for axis, k in enumerate(drop):
        if k:
            weight.index_fill_(axis + 1, torch.tensor([*range(k), *range(-k, 0)]) % grid.shape[axis], 0)
    return weight
