"""Matching the regions of two volumes slice by slice within a range (Huang et al., SAMReg, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.match.matcher import MatchOptions, described, match, similarity_of
from roireg.match.prototypes import resize_masks
from roireg.match.similarity import RegionDescriptors
from roireg.models.rasters import slice_axis, slice_grid, slice_image

__all__ = ["SLICES", "match_slices"]

SLICES = "matching slices"
"""The stage of its progress events."""


@dataclass(frozen=True, eq=False)
class _Slice:
    """The regions of a slice and what they are compared by; None where there are no regions."""

    rois: ROISet
    features: Image | None = None
    description: Tensor | RegionDescriptors | None = None


def match_slices(
    fixed: Image,
    moving: Image,
    segment: Callable[[Image], ROISet],
    encode: Callable[[Image], Image],
    *,
    axis: int | None = None,
    reach: int = 11,
    reach_mm: float | None = None,
    options: MatchOptions | None = None,
    keep_unmatched: bool = True,
    memory: int = 2**30,
    rng: np.random.Generator | None = None,
    progress: Progress = silent,
) -> ROIPairs:
    """For every moving slice, match its regions with the regions of all fixed slices within reach together.

    Parameters
    ----------
    fixed, moving : volumes.
    segment : 2D image -> regions on any 2D grid over it; called once per slice.
    encode : 2D image -> feature map; called once per slice that has regions.
    axis : storage axis of the fixed volume along which slices are cut, 0 (z), 1 or 2; None takes the coarsest, see
        `roireg.models.rasters.slice_axis`. The moving volume is cut along the axis that is nearest to it in world.
    reach : a moving slice s meets the fixed slices s - reach .. s + reach by index.
    reach_mm : if given, the distance in mm between slice centres, measured along the fixed axis in world,
        instead of `reach`.
    options : see `MatchOptions`; every slice pair is matched on its own.
    keep_unmatched : keep regions without a partner; False saves their memory.
    memory : largest size in bytes of the masks of either side; more of them are kept at a coarser resolution within
        the slices.
    rng : random numbers of the geometric search, where the options ask for it.
    progress : told after every moving slice, and when regions had to be made coarser.

    Returns
    -------
    Pairs of 3D regions, each one slice thick, on the grids of the volumes or coarser ones; most similar first.
    One-to-one assignments give a moving region one partner in all fixed slices together, and a fixed region at most
    one in each moving slice; "many" gives partners in every slice.

    Raises
    ------
    GeometryError
        When an image is not 3D or the axis does not exist.
    InputError
        When the masks exceed `memory` even at an eighth of the resolution, or the reach is negative.
    """
    if moving.ndim != 3 or fixed.ndim != 3:
        raise GeometryError(f"slice matching needs two 3D images, found {moving.ndim}D and {fixed.ndim}D")
    axis = slice_axis(fixed.grid, axis)
    moving_axis = int(np.argmax(np.abs(fixed.grid.direction[:, axis] @ moving.grid.direction)))
    if reach < 0 or (reach_mm is not None and reach_mm < 0):
        raise InputError("the reach of slice matching is a number of slices or mm of at least 0")
    options = options or MatchOptions(geometric=False)
    near = _near(fixed.grid, moving.grid, (axis, moving_axis), reach, reach_mm)
    moving_slices, fixed_slices = (
        [_prepare(slice_image(image, a, s), segment, encode, options) for s in range(image.grid.shape[a])]
        for image, a in ((moving, moving_axis), (fixed, axis))
    )

    matches: list[tuple[tuple[int, ROISet, int], tuple[int, ROISet, int], ROIPair]] = []
    for s, here in enumerate(moving_slices):
        there = [(int(t), fixed_slices[t]) for t in np.flatnonzero(near[s]) if fixed_slices[t].features is not None]
        if here.features is not None:
            # One-to-one means one partner in the whole range, not one in each of its slices.
            groups = [[part] for part in there] if options.assignment == "many" else [there] if there else []
            for group in groups:
                matches += _match_range(s, here, group, options, rng)
        progress(ProgressEvent(SLICES, (s + 1) / len(moving_slices)))

    placed_moving, moving_rois = _place(
        [f[0] for f in matches], moving_slices if keep_unmatched else [], moving.grid, moving_axis, memory
    )
    placed_fixed, fixed_rois = _place(
        [f[1] for f in matches], fixed_slices if keep_unmatched else [], fixed.grid, axis, memory
    )
    coarser = max(
        (rois.grid.spacing / image.grid.spacing).max() for rois, image in ((moving_rois, moving), (fixed_rois, fixed))
    )
    if coarser > 1.5:
        detail = f"to save memory, regions are kept {coarser:.0f} times as coarse within the slices"
        progress(ProgressEvent(SLICES, 1.0, detail, notice=True))
    result = [
        ROIPair(m, f, p.similarity, p.confidence, source="slices", name=p.name)
        for m, f, (_, _, p) in zip(placed_moving, placed_fixed, matches, strict=True)
    ]
    result.sort(key=lambda p: (-p.similarity, p.moving, p.fixed))
    return ROIPairs(moving_rois, fixed_rois, tuple(result))


def _near(fixed: Grid, moving: Grid, axes: tuple[int, int], reach: int, reach_mm: float | None) -> NDArray[np.bool_]:
    """(S_moving, S_fixed) which slices meet; `axes` are those of the fixed and of the moving volume."""
    s, t = np.arange(moving.shape[axes[1]]), np.arange(fixed.shape[axes[0]])
    normal = fixed.direction[:, axes[0]]
    if reach_mm is None:
        # Slices of a volume that is stored the other way round are counted from its other end.
        order = s if normal @ moving.direction[:, axes[1]] >= 0 else s[::-1]
        return np.asarray(np.abs(order[:, None] - t[None]) <= reach)

    def heights(grid: Grid, axis: int) -> NDArray[np.float64]:
        index = np.tile((np.array(grid.shape) - 1) / 2, (grid.shape[axis], 1))
        index[:, axis] = np.arange(grid.shape[axis])
        return np.asarray(grid.world_from_index(index) @ normal)

    distance = np.abs(heights(moving, axes[1])[:, None] - heights(fixed, axes[0])[None])
    return np.asarray(distance <= reach_mm + 1e-9)


def _match_range(
    s: int,
    here: _Slice,
    group: list[tuple[int, _Slice]],
    options: MatchOptions,
    rng: np.random.Generator | None,
) -> list[tuple[tuple[int, ROISet, int], tuple[int, ROISet, int], ROIPair]]:
    """Match the regions of moving slice s with those of several fixed slices as if these were one image."""
    assert here.features is not None
    assert here.description is not None
    blocks = []
    for _, part in group:
        assert part.description is not None
        blocks.append(similarity_of(part.description, here.description, options=options))
    joined = group[0][1].rois
    if len(group) > 1:
        sets = [part.rois for _, part in group]
        scores = torch.cat([r.scores for r in sets if r.scores is not None])
        names = tuple(name for r in sets for name in r.names)
        joined = ROISet(torch.cat([r.masks for r in sets]), joined.grid, names, scores)
    place = [(t, part.rois, k) for t, part in group for k in range(len(part.rois))]
    features = group[0][1].features
    assert features is not None
    pairs = match(
        joined,
        here.rois,
        features,
        here.features,
        options=options,
        similarity=np.concatenate(blocks, axis=1),
        rng=rng,
    )
    # Masks merged by "many" lie behind those of the slices.
    extra = [(group[0][0], pairs.fixed, k) for k in range(len(place), len(pairs.fixed))]
    where = [*place, *extra]
    return [((s, pairs.moving, p.moving), where[p.fixed], p) for p in pairs.pairs]


def _prepare(
    image: Image, segment: Callable[[Image], ROISet], encode: Callable[[Image], Image], options: MatchOptions
) -> _Slice:
    rois = segment(image)
    if not len(rois):
        return _Slice(rois)
    features = encode(image)
    return _Slice(rois, features, described(rois, features, options=options))


def _place(
    used: list[tuple[int, ROISet, int]], slices: list[_Slice], grid: Grid, axis: int, memory: int
) -> tuple[list[int], ROISet]:
    """Put 2D masks into their slices of a volume.

    Returns for every entry (slice, regions, index) of `used` the index of its 3D region, and all 3D regions:
    those used first, then the others of `slices`, without repetition.
    """
    entries = [*used, *((s, part.rois, k) for s, part in enumerate(slices) for k in range(len(part.rois)))]
    plane = slice_grid(grid, axis)
    grid = _affordable(grid, axis, len({(s, id(rois), k) for s, rois, k in entries}), memory)
    plane = plane.with_shape([n for a, n in enumerate(grid.shape) if a != axis])
    masks: list[tuple[int, torch.Tensor, str | None, float]] = []
    index_of: dict[tuple[int, bytes], int] = {}
    where = []
    for s, rois, k in entries:
        # Regions are told apart by their mask: merged regions of different matches may coincide.
        mask = rois.masks[k] if rois.grid.is_close(plane) else _on_plane(rois, k, plane)
        key = (s, np.packbits(mask.cpu().numpy()).tobytes())
        if key not in index_of:
            assert rois.scores is not None
            index_of[key] = len(masks)
            masks.append((s, mask, rois.names[k], float(rois.scores[k])))
        where.append(index_of[key])
    if not masks:
        return [], ROISet.empty(grid)
    volume = torch.zeros((len(masks), *grid.shape), dtype=torch.bool)
    for row, (s, mask, _, _) in zip(volume, masks, strict=True):
        row.select(axis, s).copy_(mask)
    scores = torch.tensor([score for *_, score in masks])
    return where[: len(used)], ROISet(volume, grid, tuple(name for _, _, name, _ in masks), scores)


def _affordable(grid: Grid, axis: int, count: int, memory: int) -> Grid:
    """Return the grid, or the finest one that is coarser within the slices and holds `count` masks in `memory`."""
    for factor in (1, 2, 3, 4, 6, 8):
        coarse = grid.with_shape([n if a == axis else max(1, n // factor) for a, n in enumerate(grid.shape)])
        if count * coarse.size <= memory:
            return grid if factor == 1 else coarse
    raise InputError(
        f"{count} slice regions on {grid.size} voxels need {count * grid.size / 2**30:.1f} GiB, more than the limit "
        f"of {memory / 2**30:.1f} GiB even at an eighth of the resolution; use fewer regions or drop unmatched ones"
    )


def _on_plane(rois: ROISet, k: int, plane: Grid) -> torch.Tensor:
    """(y, x) mask of region k at the resolution of the slice; at least the voxel at its centroid."""
    mask = resize_masks(rois.subset([k]), plane, mode="nearest")[0] > 0.5
    if not bool(mask.any()):
        index = np.clip(np.round(plane.index_from_world(rois.centroids[k])), 0, np.array(plane.shape) - 1).astype(int)
        mask[tuple(index)] = True
    return mask
