"""Whether a deformation was needed: an affine map that explains every part of an image as well takes its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from roireg.core.filters import box_mean, gaussian_smooth
from roireg.core.transforms import Affine, Transform
from roireg.core.warp import SLAB_VOXELS, warp
from roireg.fit.level import normalise
from roireg.fit.objectives import FLOOR
from roireg.fit.region_affine import affine_part
from roireg.fit.search import Evidence, evidence_of, refine
from roireg.fit.stage import Problem

__all__ = ["plain_affine"]

STRUCTURE = 0.96
"""Least agreement of structure of images that may differ by an affine map alone; subjects reach 0.9, copies 0.98."""
RADIUS = {2: 8, 3: 3}
"""Voxels around a place whose intensities are compared."""
REACH = 7
"""Voxels beyond which a Gaussian of one voxel has no weight."""
SHARE, MORE = 0.03, 1.1
"""Largest share of places where the affine map may leave more than so many times the residual of the deformation."""


def plain_affine(problem: Problem, transform: Transform, evidence: Evidence) -> Affine | None:
    """Return a refined affine map that explains every part of the fixed image as well as a deformation, if one does.

    A field that is fitted to images with no deformation between them follows noise and interpolation by parts of a
    voxel, and anything where they show nothing. Where the images do differ by a deformation, however small and
    local, the affine map leaves more unexplained there.

    Parameters
    ----------
    transform : of the fit, fixed world -> moving world.
    evidence : of `transform`.
    """
    pair = problem.pair
    if evidence.structure < STRUCTURE:
        return None
    affine = refine(pair, affine_part(transform, pair.fixed.grid), "affine", search=problem.search).affine
    if evidence_of(problem.search, affine).structure < STRUCTURE:
        return None
    grid, mask = pair.fixed.grid, problem.search.masks
    shown = warp(mask[0], None, grid, mode="nearest").data > 0.5
    for t in (affine, transform):
        shown = shown & (warp(mask[1], t, grid, fill=0.0).data > 0.5)
    fixed = normalise(pair.fixed.data.float())
    moved = [normalise(warp(pair.moving, t, grid).data.float()) for t in (affine, transform)]
    worse = textured = 0
    for inner, outer in _slabs(fixed):
        still = _smooth(fixed[:, outer], fixed.shape)
        left = [_residual(still, _smooth(m[:, outer], fixed.shape), fixed.shape) for m in moved]
        seen = box_mean(shown[:, outer].float(), _radius(fixed.shape)) > 0.999
        seen &= _residual(still, torch.zeros_like(still), fixed.shape) > 10 * FLOOR
        textured += int(seen[:, inner].sum())
        worse += int((seen & (left[0] > MORE * left[1] + FLOOR))[:, inner].sum())
    return affine if worse <= SHARE * textured else None


def _slabs(data: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield slices along the first axis, of a part with what the filters reach around it: the part in it, and all."""
    count, reach = data.shape[1], REACH + _radius(data.shape)[0]
    rows = max(reach, SLAB_VOXELS // max(1, data[0, 0].numel()))
    for start in range(0, count, rows):
        first, stop = max(start - reach, 0), min(start + rows, count)
        yield slice(start - first, stop - first), slice(first, min(stop + reach, count))


def _smooth(part: Tensor, shape: Sequence[int]) -> Tensor:
    """Intensities of a part of a (1, *spatial) image without what linear interpolation adds and takes."""
    return gaussian_smooth(part, [1.0 if n > 4 else 0.0 for n in shape[1:]])


def _residual(fixed: Tensor, moved: Tensor, shape: Sequence[int]) -> Tensor:
    """(1, *spatial) variance of the fixed intensities around a place that a line through the moved ones leaves."""
    values = (fixed, moved, fixed * fixed, moved * moved, fixed * moved)
    f, m, ff, mm, fm = (box_mean(x, _radius(shape)) for x in values)
    covariance = fm - f * m
    return (ff - f * f - covariance.square() / (mm - m * m).clamp(min=1e-8)).clamp(min=0)


def _radius(shape: Sequence[int]) -> list[int]:
    return [RADIUS[len(shape) - 1] if n > 1 else 0 for n in shape[1:]]
