"""What a report shows of a pair: which regions are drawn, and through which point and slices the planes pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.background import background
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPairs, ROISet
from roireg.core.warp import resample, warp
from roireg.evaluate.planes import cut_profiles
from roireg.evaluate.plots import intensity_window

__all__ = ["Body", "pairs_in_bodies", "shown_pairs", "shown_slices"]

Array = NDArray[np.float64]

LOOKED_AT = 200_000
"""Voxels on which bodies and regions are weighed."""

DIFFERENT = 0.06
"""Share of the shown range of intensities by which tissue differs from what is around the body."""

IN_BODY = 0.7
OVERLAP = 0.25
"""Shares of a region: at least so much lies in the body, at most so much in regions drawn before."""

PLAIN_SIZE = (0.002, 0.25)
"""Shares of the body between which a region is easy to see; smaller ones are dots, larger ones surround others."""


class Body:
    """Where an image shows something, and how much detail there is.

    Attributes
    ----------
    mask : 1 where the image differs from its background, on a coarse grid over the same box; all 1 without any.
    """

    def __init__(self, image: Image) -> None:
        coarse = resample(image, image.grid.coarsened(LOOKED_AT))
        low, high = intensity_window(image)
        nothing = torch.tensor(background(image)).reshape(-1, *[1] * image.ndim)
        inside = ((coarse.data.float().cpu() - nothing).abs() > DIFFERENT * (high - low)).any(dim=0)
        if not inside.any():
            inside = torch.ones_like(inside)
        self._image = image
        self.mask = coarse.with_data(inside[None].float())
        values = coarse.data.float().cpu().mean(dim=0).numpy()
        axes = [a for a, n in enumerate(values.shape) if n > 1]
        steps = [np.abs(np.gradient(values, axis=a)) for a in axes]
        self._detail = np.sum(steps, axis=0) * inside.numpy() if steps else inside.numpy().astype(float)

    @property
    def size(self) -> float:
        """Area or volume in world units."""
        return float(self.mask.data.sum()) * float(np.prod(self.mask.grid.spacing))

    def detail(self, axis: int) -> Array:
        """Return how much there is to see on every slice across a storage axis of the image, (n,) 0..1.

        The middle of the body counts a little more than its ends.
        """
        amount = self._detail.sum(axis=tuple(a for a in range(self._detail.ndim) if a != axis))
        first, last = self.span(axis)
        index = np.arange(self._image.grid.shape[axis])
        amount = np.interp(index, _centres(self.mask.grid, self._image.grid, axis), amount)
        middle = 1 - 0.5 * np.clip(np.abs(2 * (index - first) / max(last - first, 1) - 1), 0, 1) ** 2
        return np.asarray(np.sqrt(amount / max(amount.max(), 1e-12)) * middle)

    def span(self, axis: int) -> tuple[int, int]:
        """Return the first and the last slice across a storage axis of the image on which there is a body."""
        inside = self.mask.data[0].numpy()
        area = inside.sum(axis=tuple(a for a in range(inside.ndim) if a != axis))
        ends = np.flatnonzero(area > 0.03 * area.max())[[0, -1]]
        places = _centres(self.mask.grid, self._image.grid, axis)[ends]
        return int(np.ceil(places[0])), int(np.floor(places[1]))


def _centres(coarse: Grid, grid: Grid, axis: int) -> Array:
    """Return where the slices of a coarse grid over the same box lie, in slices of the grid."""
    factor = grid.shape[axis] / coarse.shape[axis]
    return np.asarray((np.arange(coarse.shape[axis]) + 0.5) * factor - 0.5, dtype=np.float64)


def shown_pairs(pairs: ROIPairs, fixed: Body, moving: Body, *, most: int) -> list[int]:
    """Return which pairs are drawn, ascending: confident ones that lie in the body and do not hide each other.

    Accepted pairs come first and are drawn wherever they lie. When no pair lies in the body, the most confident are
    drawn all the same.
    """
    active = [i for i, pair in enumerate(pairs.pairs) if pair.status != "rejected"]
    active.sort(key=lambda i: (pairs.pairs[i].status != "accepted", -pairs.pairs[i].confidence))
    if not active:
        return []
    sides = [_thinned(pairs.fixed, fixed), _thinned(pairs.moving, moving)]
    taken = np.zeros(sides[0][0].shape[1:], dtype=bool)
    chosen: list[int] = []

    volumes: list[float] = pairs.fixed.volumes.tolist()

    def plain(i: int) -> bool:
        share = volumes[pairs.pairs[i].fixed] / fixed.size
        return PLAIN_SIZE[0] <= share <= PLAIN_SIZE[1]

    for i in sorted(active, key=lambda i: (pairs.pairs[i].status != "accepted", not plain(i))):
        pair = pairs.pairs[i]
        masks = [side[0][k] for side, k in zip(sides, (pair.fixed, pair.moving), strict=True)]
        shares = [_share(mask, side[1]) for mask, side in zip(masks, sides, strict=True)]
        free = min(shares) >= IN_BODY and _share(masks[0], taken) <= OVERLAP
        if free or pair.status == "accepted":
            chosen.append(i)
            taken |= masks[0]
        if len(chosen) == most:
            break
    return sorted(chosen or active[:most])


def pairs_in_bodies(pairs: ROIPairs, fixed: Body, moving: Body) -> list[int]:
    """Return which pairs lie in the body on both sides, ascending: not air, nor what surrounds a specimen."""
    sides = [_thinned(pairs.fixed, fixed), _thinned(pairs.moving, moving)]
    shares = [[_share(mask, inside) for mask in masks] for masks, inside in sides]
    return [i for i, p in enumerate(pairs.pairs) if min(shares[0][p.fixed], shares[1][p.moving]) >= IN_BODY]


def _thinned(rois: ROISet, body: Body) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return masks (K, *) on every nth voxel, and there the body."""
    step = max(1, int(np.ceil((rois.grid.size / LOOKED_AT) ** (1 / rois.grid.ndim))))
    part = (slice(None, None, step),) * rois.grid.ndim
    masks = rois.masks[(slice(None), *part)].cpu().numpy()
    every = np.eye(rois.grid.ndim + 1)
    every[:-1, :-1] *= step
    grid = Grid(masks.shape[1:], rois.grid.affine @ every)
    return masks, warp(body.mask, None, grid, mode="nearest", fill=0).data[0].numpy() > 0.5


def _share(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return how much of a mask lies in the other; regions too small to be seen between the voxels lie nowhere."""
    return int((mask & other).sum()) / max(1, int(mask.sum()))


def shown_slices(
    image: Image,
    body: Body,
    *,
    regions: tuple[ROISet, Sequence[int], Sequence[float]] | None = None,
    labels: Image | None = None,
) -> list[int]:
    """Return for every storage axis of an image the slice that shows most: regions, labels, and detail of the body.

    Parameters
    ----------
    regions : a set, which of it are drawn, and their weights.
    labels : label map with axes along those of the image.
    """
    chosen = []
    profiles = [] if regions is None else cut_profiles(*regions)
    counted = None if labels is None else np.asarray(labels.data[0].cpu()) != 0
    for axis in range(image.ndim):
        worth = 0.5 * body.detail(axis)
        if regions is not None:
            worth = worth + _along(image.grid, axis, regions[0].grid, profiles)
        if counted is not None and labels is not None:
            areas = [counted.sum(axis=tuple(a for a in range(counted.ndim) if a != k)) for k in range(counted.ndim)]
            worth = worth + _along(image.grid, axis, labels.grid, [np.sqrt(a) for a in areas])
        chosen.append(int(np.argmax(worth)))
    return chosen


def _along(grid: Grid, axis: int, other: Grid, profiles: Sequence[Array]) -> Array:
    """Return the profile of another grid along the axis nearest to one of this grid, on its slices, largest 1."""
    nearest = int(np.argmax(np.abs(grid.direction[:, axis] @ other.direction)))
    index = np.repeat((np.array(grid.shape)[None] - 1) / 2, grid.shape[axis], axis=0)
    index[:, axis] = np.arange(grid.shape[axis])
    place = other.index_from_world(grid.world_from_index(index))[:, nearest]
    profile = profiles[nearest]
    values = np.interp(place, np.arange(len(profile)), profile, left=0, right=0)
    return np.asarray(values / max(values.max(), 1e-12))
