"""What a transfer works on: prepared images, a guide between them, and prompts and regions carried by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.once import once
from roireg.core.rois import Prompt, ROISet
from roireg.core.transforms import Affine, Transform
from roireg.core.warp import sample, slab_points, voxel_coords
from roireg.match.variants import View
from roireg.segment import PromptableImage

__all__ = [
    "Guide",
    "Side",
    "anchor_of",
    "box_around",
    "carried_prompt",
    "carried_regions",
    "inside",
    "placed_prompt",
    "scale_of",
]

Array = NDArray[np.float64]

MAPPED_GRIDS = 2
"""Grids whose mapped voxels a guide keeps: regions of one image lie on one or two."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two images, ready to answer.

    Attributes
    ----------
    prepared : the image, answers prompts.
    features : (C, *shape) features, comparable with those of the other side (see `similarity_map.standardised`).
    views : random views of the image, each prepared as well.
    """

    prepared: PromptableImage
    features: Image
    views: tuple[tuple[View, PromptableImage], ...] = ()

    @property
    def image(self) -> Image:
        """The image itself."""
        return self.prepared.image


@dataclass(frozen=True, eq=False)
class Guide:
    """Where things of one image are expected in the other.

    Attributes
    ----------
    forward, backward : source -> target world points, and back.
    width : standard deviation of the expectation, mm.

    Raises
    ------
    InputError
        When the width is not positive.
    """

    forward: Transform
    backward: Transform
    width: float

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise InputError(f"the width of a guide is a positive length in mm, found {self.width}")

    @classmethod
    def identity(cls, ndim: int) -> Guide:
        """Return the guide that leaves everything where it is."""
        still = Affine.identity(ndim)
        return cls(still, still, 1.0)

    @once
    def reversed(self) -> Guide:
        """The same expectation seen from the other image."""
        return Guide(self.backward, self.forward, self.width)

    @once
    def source_coords(self) -> Callable[[Grid, Grid], Tensor]:
        """(target grid, source grid) -> (*shape, d) float32 `voxel_coords` of the target's voxels in the source.

        A few pairs of grids are kept.
        """

        @lru_cache(maxsize=MAPPED_GRIDS)
        def mapped(target: Grid, source: Grid) -> Tensor:
            slabs = slab_points(target, torch.device("cpu"))
            parts = [voxel_coords(source, self.backward.map_points(points).float()) for _, points in slabs]
            return torch.cat(parts).reshape(*target.shape, target.ndim)

        return mapped


def scale_of(grid: Grid) -> float:
    """Geometric mean extent in mm of the axes that have more than one voxel."""
    long = grid.extent[np.array(grid.shape) > 1]
    return float(np.exp(np.log(long).mean())) if len(long) else float(grid.extent.max())


def inside(prompt: Prompt, region: ROISet) -> Prompt:
    """Return the prompt with positive points outside a region moved to its nearest voxel."""
    points, outside = prompt.points.copy(), []
    for k in np.flatnonzero(prompt.labels == 1):
        index = np.round(region.grid.index_from_world(points[k])).astype(int)
        index = np.clip(index, 0, np.array(region.grid.shape) - 1)
        if not bool(region.masks[(0, *index)]):
            outside.append(k)
    if not outside:
        return prompt
    voxels = region.grid.world_from_index(torch.nonzero(region.masks[0]).double().numpy())
    for k in outside:
        points[k] = voxels[int(np.argmin(np.square(voxels - points[k]).sum(1)))]
    return Prompt(points, prompt.labels, prompt.box)


def anchor_of(prompt: Prompt) -> Array:
    """(d,) the point that stands for a prompt: its first positive point, else the middle of its box."""
    positive = prompt.points[prompt.labels == 1]
    if len(positive):
        return np.asarray(positive[0])
    assert prompt.box is not None
    return np.asarray(prompt.box.mean(axis=0))


def carried_prompt(prompt: Prompt, anchor: Array, place: Array, guide: Guide | None, grid: Grid) -> Prompt | None:
    """Return the prompt with its anchor at `place`, its other parts around it as the guide turns and stretches them.

    Points that leave the target grid are dropped, boxes hold the positive points that are left and are cut off at
    the border; None where nothing is left that says where the region is.
    """

    def move(points: Array) -> Array:
        if guide is None:
            return np.asarray(points - anchor + place)
        mapped = guide.forward.map_points(np.concatenate([anchor[None], points]))
        return np.asarray(mapped[1:] - mapped[0] + place)

    points = move(prompt.points) if len(prompt.points) else np.zeros((0, grid.ndim))
    shown = grid.contains(points) if len(points) else np.zeros(0, dtype=bool)
    box = None
    if prompt.box is not None:
        box = box_around(np.concatenate([move(prompt.box), points[shown & (prompt.labels == 1)]]), grid)
    if box is None and not (prompt.labels[shown] == 1).any():
        return None
    return Prompt(points[shown], prompt.labels[shown], box)


def box_around(points: Array, grid: Grid) -> Array | None:
    """(2, d) world corners of the bounding box of world points, cut off at the border; None where nothing is left."""
    index = grid.index_from_world(points)
    ends = np.clip(np.stack([index.min(0), index.max(0)]), -0.5, np.array(grid.shape) - 0.5)
    return grid.world_from_index(ends) if (ends[1] > ends[0]).all() else None


def placed_prompt(
    prompt: Prompt, reading: ROISet, region: ROISet, guide: Guide | None, *, overlap: float
) -> Prompt | None:
    """Put the prompt where it lies in its own region: where the guide says, corrected by how far the region is off.

    The correction counts by how sure either is: the width of the guide against the part of the region's diameter by
    which both regions differ. Without a guide the region alone decides.
    """
    anchor, centre, goal = anchor_of(prompt), reading.centroids[0], region.centroids[0]
    if guide is None:
        ratio = float(region.volumes[0] / reading.volumes[0]) ** (1 / region.grid.ndim)
        return carried_prompt(prompt, anchor, goal + ratio * (anchor - centre), guide, region.grid)
    expected, carried = guide.forward.map_points(np.stack([anchor, centre]))
    doubt = (1 - overlap) * float(region.volumes[0]) ** (1 / region.grid.ndim)
    weight = guide.width**2 / (guide.width**2 + doubt**2)
    return carried_prompt(prompt, anchor, expected + weight * (goal - carried), guide, region.grid)


def carried_regions(rois: ROISet, grid: Grid, guide: Guide) -> Tensor:
    """(K, *shape) float32 regions of the source as the guide carries them onto a target grid, 0..1."""
    coords = guide.source_coords(grid, rois.grid)
    return sample(rois.masks.float()[None], coords[None], padding="zeros")[0]
