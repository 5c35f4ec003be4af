"""What a prompt must be to be answered, and the regions of a hierarchy that fit points and boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.masks import suppress
from roireg.core.rois import Prompt, ROISet
from roireg.segment.tree import Floats, Ints

if TYPE_CHECKING:
    from roireg.segment.hierarchy import Hierarchy

__all__ = ["ClosePointsError", "answer", "box_indices", "check_points", "clipped", "inner_point", "prompt_from_mask"]

SMALLEST = 1e-4
"""Smaller regions (fraction of the image) answer a prompt only where nothing larger does."""

PER_TREE = 10
"""How many nodes of one tree are compared with those of the others."""

SAME = 0.6
"""Two answers never have an intersection over union above this."""

STABLE_ENOUGH = 0.8
"""The first answer is the smallest one with at least this share of the best one's stability."""

WORTH_SHOWING = 0.05
"""Alternatives have at least this share of the best one's stability."""

CLEAR_ENOUGH = 0.2
"""A part comes before most of the object with at least this share of its stability."""

LARGEST_FIRST = 0.2
"""Largest fraction of the image, and of the object in it, that a first answer covers where there is a choice."""


class ClosePointsError(InputError):
    """A negative point lies where a segmenter cannot tell it from a positive one."""


def check_points(prompt: Prompt, grid: Grid, name: str) -> None:
    """Raise where the points of a prompt (world, one at least) do not fit the grid of the image called `name`.

    Raises
    ------
    GeometryError
        When points and grid differ in dimension.
    InputError
        When a coordinate is no finite number or a point lies outside the grid.
    """
    if prompt.points.shape[1] != grid.ndim:
        raise GeometryError(
            f"{name}: a prompt of {prompt.points.shape[1]}D points does not fit a {grid.ndim}D image; "
            f"give {grid.ndim} coordinates per point"
        )
    for point in prompt.points[~grid.contains(prompt.points)]:
        numbers = tuple(round(float(v), 2) for v in point)
        if not np.isfinite(point).all():
            raise InputError(f"{name}: a coordinate of the prompt point {numbers} is no finite number; give numbers")
        raise InputError(
            f"{name}: the prompt point {numbers} is outside the image; "
            "give world coordinates (LPS mm, pixels for raster images) inside it"
        )


def box_indices(box: Floats, grid: Grid, name: str) -> tuple[Floats, Floats]:
    """Return the lowest and the highest continuous index of a box, cut off at the border of the image.

    Parameters
    ----------
    box : (2, d) world corners. name : what messages call the image.

    Raises
    ------
    GeometryError
        When box and grid differ in dimension.
    InputError
        When a coordinate is no finite number or the whole box is outside the image.
    """
    if box.shape[1] != grid.ndim:
        raise GeometryError(f"{name}: a {box.shape[1]}D prompt box does not fit a {grid.ndim}D image")
    if not np.isfinite(box).all():
        raise InputError(f"{name}: a coordinate of the prompt box is no finite number; give numbers")
    corners = grid.index_from_world(box)
    low, high = corners.min(axis=0), corners.max(axis=0)
    edge = np.array(grid.shape) - 0.5
    if (high < -0.5).any() or (low > edge).any():
        raise InputError(f"{name}: the prompt box is outside the image; give its corners in world coordinates")
    return np.maximum(low, -0.5), np.minimum(high, edge)


def clipped(prompt: Prompt, grid: Grid, name: str) -> Prompt:
    """Return the prompt with its box cut off at the border of the image; see `box_indices` for the errors."""
    if prompt.box is None:
        return prompt
    ends = np.stack(box_indices(prompt.box, grid, name))
    if np.allclose(ends, np.sort(grid.index_from_world(prompt.box), axis=0), rtol=0, atol=1e-6):
        return prompt
    return replace(prompt, box=grid.world_from_index(ends))


def inner_point(mask: ArrayLike, grid: Grid) -> Floats:
    """(d,) world point of the voxel deepest inside a (*shape) bool mask that is not empty."""
    part, low, _ = _in_its_box(np.asarray(mask))
    # A frame of background: the border of the image is a border of the region.
    depth = ndimage.distance_transform_edt(np.pad(part, 1), sampling=grid.spacing)
    deepest = np.array(np.unravel_index(int(depth.argmax()), depth.shape)) - 1 + low
    return grid.world_from_index(deepest)


def prompt_from_mask(mask: NDArray[np.bool_], grid: Grid) -> Prompt:
    """Return the prompt that asks for a (*shape) region again: its bounding box and its innermost voxel."""
    _, low, high = _in_its_box(mask)
    box = grid.world_from_index(np.stack([low - 0.5, high + 0.5]))
    return Prompt(inner_point(mask, grid)[None], np.ones(1, dtype=np.int64), box=box)


def _in_its_box(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Ints, Ints]:
    """Return the part of a mask in its bounding box, and the first and last index of that."""
    box = ndimage.find_objects(mask.astype(np.int8))[0]
    return mask[box], np.array([part.start for part in box]), np.array([part.stop - 1 for part in box])


def answer(hierarchy: Hierarchy, prompt: Prompt, *, count: int, name: str) -> ROISet:
    """Return the regions of a hierarchy that fit a prompt, best first, then alternatives.

    Points: regions that contain every positive point and no negative one. The first answer is the smallest that
    is nearly as stable as the most stable one, the others follow by falling stability, those that cover much of the
    image last. Where no single region
    does, the best region of every positive point without negative ones is taken and all are united.
    Box: the regions whose bounding box agrees best (intersection over union) with the box and that honour the
    points, if any; a box alone never fails inside the image.

    Parameters
    ----------
    count : how many regions at most.
    name : what messages call the image.

    Raises
    ------
    GeometryError
        When prompt and image differ in dimension.
    InputError
        When a point or the whole box is outside the image.
    ClosePointsError
        When a negative point is in the same smallest piece of the image as a positive one.
    """
    inside, outside = _pieces(hierarchy, prompt, name)
    box = None if prompt.box is None else _wide_enough(*box_indices(prompt.box, hierarchy.grid, name), hierarchy.grid)
    members, fit = _fitting(hierarchy, inside, outside, box)
    if not len(members):
        # Every region around all positive points holds a negative one: answer point by point.
        parts = [_fitting(hierarchy, inside[i : i + 1], outside, None) for i in range(len(inside))]
        best = [_ranked(hierarchy, m, f, by_size=True)[0] for m, f in parts]
        united = np.any([m[k] for k, (m, _) in zip(best, parts, strict=True)], axis=0)
        score = min(f[k] for k, (_, f) in zip(best, parts, strict=True))
        return hierarchy.rois(united[None], np.array([score]))
    order = _ranked(hierarchy, members, fit, by_size=box is None)[:count]
    # What comes later has no higher score, or whoever weighs answers by it would take most of the image after all.
    return hierarchy.rois(members[order], np.minimum.accumulate(fit[order]))


def _pieces(hierarchy: Hierarchy, prompt: Prompt, name: str) -> tuple[Ints, Ints]:
    """Return the pieces that the positive and the negative points are in."""
    grid = hierarchy.grid
    if not len(prompt.points):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    check_points(prompt, grid, name)
    index = np.round(grid.index_from_world(prompt.points)).astype(np.int64)
    index = np.clip(index, 0, np.array(grid.shape) - 1)
    piece = hierarchy.atoms[tuple(index.T)]
    inside, outside = piece[prompt.labels == 1], piece[prompt.labels == 0]
    if np.isin(outside, inside).any():
        raise ClosePointsError(
            f"{name}: a negative prompt point lies in the same smallest piece of the image as a positive one; "
            "move them further apart"
        )
    return np.unique(inside), np.unique(outside)


def _wide_enough(low: Floats, high: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """Return the ends of a box, continuous indices inside the image, at least about one voxel apart."""
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 0.5)
    return np.maximum(middle - half, -0.5), np.minimum(middle + half, np.array(grid.shape) - 0.5)


def _fitting(
    hierarchy: Hierarchy, inside: Ints, outside: Ints, box: tuple[Floats, Floats] | None
) -> tuple[NDArray[np.bool_], Floats]:
    """Return the (N, A) regions of all trees that honour the points, and how well they fit."""
    members, fits = [], []
    for t, tree in enumerate(hierarchy.trees):
        allowed = tree.parent >= 0
        rank = hierarchy.ranks[t]
        if len(inside):
            allowed &= (tree.start <= rank[inside].min()) & (tree.stop > rank[inside].max())
        for piece in outside:
            allowed &= (tree.start > rank[piece]) | (tree.stop <= rank[piece])
        nodes = np.flatnonzero(allowed)
        fit = hierarchy.stability[t]
        if box is not None:
            fit = _agreement(tree.low, tree.high, box) * (1 + fit) / 2
        large = nodes[tree.size[nodes] >= SMALLEST * hierarchy.weight.sum()]
        nodes = large if len(large) else nodes
        steady = nodes[hierarchy.chains[t][nodes]]
        if box is None and len(steady):
            nodes = steady
        best = nodes[np.argsort(-fit[nodes], kind="stable")[:PER_TREE]]
        members.append(hierarchy.members(t, best))
        fits.append(fit[best])
    return np.concatenate(members), np.concatenate(fits)


def _agreement(low: Ints, high: Ints, box: tuple[Floats, Floats]) -> Floats:
    """(K,) intersection over union of the bounding boxes of nodes with a box, continuous indices."""
    first, last = low - 0.5, high + 0.5
    shared = np.prod(np.maximum(np.minimum(last, box[1]) - np.maximum(first, box[0]), 0), axis=1)
    return np.asarray(shared / (np.prod(last - first, axis=1) + np.prod(box[1] - box[0]) - shared))


def _ranked(hierarchy: Hierarchy, members: NDArray[np.bool_], fit: Floats, *, by_size: bool) -> list[int]:
    """Order regions by fit without near-duplicates; `by_size`: the smallest of the nearly best comes first."""
    union, size = hierarchy.overlaps(members)
    order = suppress(torch.from_numpy(union), torch.from_numpy(fit), SAME)
    order = [k for k in order if fit[k] >= WORTH_SHOWING * fit[order[0]]]
    if by_size:
        # A click rarely means most of what there is: large regions come last, first only where nothing else is there.
        modest = [k for k in order if size[k] <= LARGEST_FIRST * hierarchy.weight.sum()] or order
        clear = [k for k in modest if fit[k] >= CLEAR_ENOUGH * fit[modest[0]]]
        modest = [k for k in clear if size[k] <= LARGEST_FIRST * hierarchy.body] or modest
        order = [*modest, *(k for k in order if k not in modest)]
        good = [k for k in modest if fit[k] >= STABLE_ENOUGH * fit[modest[0]]]
        first = min(good, key=lambda k: size[k])
        order.remove(first)
        order.insert(0, first)
    return order
