"""Images and regions written down as functions of the world, so that the true map between them is exact."""

from __future__ import annotations

import numpy as np
import torch

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.progress import silent
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine, Transform
from roireg.fit import Problem, Trace
from support import ellipsoids


def affine(linear, shift) -> Affine:
    d = len(shift)
    matrix = np.eye(d + 1)
    matrix[:d, :d] = linear
    matrix[:d, d] = shift
    return Affine(matrix)


def region_pairs(fixed: Grid, moving: Grid, truth: Affine, centers, roots, *, partner=None) -> ROIPairs:
    """The same ellipsoids in both images; pair k joins fixed region k and moving region `partner[k]`."""
    linear = truth.matrix[:-1, :-1]
    f = ellipsoids(fixed, centers, roots)
    m = ellipsoids(moving, truth.map_points(np.asarray(centers, float)), linear @ np.asarray(roots))
    partner = range(len(centers)) if partner is None else partner
    return ROIPairs(m, f, tuple(ROIPair(int(p), k, 1.0, 1.0) for k, p in enumerate(partner)))


def single(fixed_mask: torch.Tensor, fixed: Grid, moving_mask: torch.Tensor, moving: Grid) -> ROIPairs:
    return ROIPairs(ROISet(moving_mask, moving), ROISet(fixed_mask, fixed), (ROIPair(0, 0, 1.0, 1.0),))


def problem(
    fixed: Image, moving: Image, *, pairs: ROIPairs | None = None, uncertainty=None, progress=silent, **masks
) -> Problem:
    """Two images to register; masks by the names of `Pair`."""
    trace = Trace(uncertainty=uncertainty)
    return Problem(Pair(fixed, moving, **masks), pairs=pairs, trace=trace, progress=progress)


def error_mm(found: Transform, truth: Transform, points: np.ndarray) -> float:
    """Mean distance of the mapped points."""
    return float(np.linalg.norm(found.map_points(points) - truth.map_points(points), axis=1).mean())
