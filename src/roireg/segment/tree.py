"""Superpixels and the tree of their merges: every node of the tree is a region.

A partition of the image into watershed basins is merged pair by pair, the cheapest pair first, until one
region is left (hierarchical merging on a region adjacency graph, e.g. Salembier and Garrido, IEEE TIP 2000).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.segmentation import watershed

from roireg.core.filters import gaussian_smooth, gradient
from roireg.core.grid import Grid

__all__ = ["CRITERIA", "MergeTree", "Partition", "build_tree", "partition"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SMALLEST = 6
"""Superpixels have at least about this many voxels, however small the image."""

MergeCost = Callable[[float, float, float, float, float], float]
"""(size a, size b, colour distance, boundary length, mean gradient on the boundary) -> cost."""


def _ward_edge(a: float, b: float, distance: float, length: float, edge: float) -> float:
    """Ward's size factor per boundary length (a radius) times the squared sum of contrast and edge strength."""
    return a * b / (a + b) / length * (distance + edge) ** 2


def _edge(a: float, b: float, distance: float, length: float, edge: float) -> float:
    """Size of the smaller part per boundary length times the squared edge strength: thin parts go first."""
    return (a if a < b else b) / length * edge * edge


CRITERIA: tuple[MergeCost, ...] = (_ward_edge, _edge)


@dataclass(frozen=True, eq=False)
class Partition:
    """Superpixels and their adjacency.

    Attributes
    ----------
    labels : (*shape) superpixel of every voxel, 0..n-1.
    size : (n,) voxels. mean : (n, C) mean intensities.
    edges : (E, 2) neighbours i < j. length, strength : (E,) shared area and the sum of edge strength over it.
    """

    labels: Ints
    size: Floats
    mean: Floats
    edges: Ints
    length: Floats
    strength: Floats


def partition(data: NDArray[np.float32], grid: Grid, *, sigma: float, count: int) -> Partition:
    """Divide an image into about `count` superpixels: watershed of the gradient from one seed per cell.

    Cells of equal size in mm tile the grid; each is seeded at its lowest gradient (the seeding of waterpixels,
    Machairas et al., IEEE TIP 2015), which gives an even density of regions whatever the noise.

    Parameters
    ----------
    data : (C, *shape) intensities in [0, 1].
    sigma : Gaussian smoothing in units of the smallest voxel side.
    """
    spacing = grid.spacing / grid.spacing.min()
    smooth = gaussian_smooth(torch.from_numpy(data), sigma / spacing)
    slope = gradient(smooth, spacing).pow(2).sum(dim=(0, 1)).sqrt().numpy()
    # Rounding makes ties of values that differ by the noise of arithmetic only, for instance after inversion.
    slope = np.round(slope.astype(np.float64) * 2**16) / 2**16
    cells = grid.coarsened(max(1, min(count, grid.size // SMALLEST))).shape
    cell = np.zeros(grid.shape, dtype=np.int64)
    for axis, (n, c) in enumerate(zip(grid.shape, cells, strict=True)):
        position = (np.arange(n) * c) // n
        cell = cell * c + position.reshape([-1 if a == axis else 1 for a in range(grid.ndim)])
    order = np.lexsort((slope.ravel(), cell.ravel()))
    first = order[np.r_[True, np.diff(cell.ravel()[order]) > 0]]
    seeds = np.zeros(grid.size, dtype=np.int32)
    seeds[first] = np.arange(1, len(first) + 1)
    labels = watershed(slope, seeds.reshape(grid.shape)).astype(np.int64) - 1
    n = len(first)
    size = np.bincount(labels.ravel(), minlength=n).astype(np.float64)
    channels = [np.bincount(labels.ravel(), weights=c.ravel(), minlength=n) / size for c in smooth.numpy()]
    return Partition(labels, size, np.stack(channels, axis=1), *_adjacency(labels, slope, smooth.numpy(), grid))


def _adjacency(labels: Ints, slope: Floats, smooth: NDArray[np.float32], grid: Grid) -> tuple[Ints, Floats, Floats]:
    """Neighbours, their shared area (1 = the mean face of a voxel) and the sum of edge strength over it.

    The strength of a face is the gradient magnitude beside it or the step across it, whichever is more: across
    thick slices a central difference misses structures of one slice.
    """
    n = int(labels.max()) + 1
    area = (1 / grid.spacing) * np.prod(grid.spacing) ** (1 / grid.ndim)
    keys, values, areas = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0)]
    for axis in range(labels.ndim):
        lab, mag = np.moveaxis(labels, axis, 0), np.moveaxis(slope, axis, 0)
        i, j = lab[:-1].ravel(), lab[1:].ravel()
        border = i != j
        i, j = i[border], j[border]
        step = np.sqrt((np.diff(np.moveaxis(smooth, axis + 1, 1), axis=1) ** 2).sum(axis=0)).ravel()[border]
        beside = np.maximum(mag[:-1].ravel(), mag[1:].ravel())[border]
        keys.append(np.minimum(i, j) * n + np.maximum(i, j))
        values.append(np.maximum(beside, np.round(step.astype(np.float64) * 2**16) / 2**16) * area[axis])
        areas.append(np.full(len(i), area[axis]))
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    length = np.bincount(inverse, weights=np.concatenate(areas), minlength=len(unique)).astype(np.float64)
    strength = np.bincount(inverse, weights=np.concatenate(values), minlength=len(unique)).astype(np.float64)
    return np.stack([unique // n, unique % n], axis=1), length, strength


@dataclass(frozen=True, eq=False)
class MergeTree:
    """The merges of a partition: n leaves (superpixels) and n - 1 unions, the last one the whole image.

    Attributes
    ----------
    parent : (K,) parent node, the root's is -1.
    altitude : (K,) cost at which a node was formed, never below its children's; 0 for leaves.
    start, stop : (K,) the leaves of a node are `order[start:stop]`.
    rank : (n,) place of every leaf in `order`.
    size : (K,) voxels. mean : (K, C) mean intensities.
    low, high : (K, d) first and last voxel index of a node per axis.
    """

    parent: Ints
    altitude: Floats
    start: Ints
    stop: Ints
    rank: Ints
    size: Floats
    mean: Floats
    low: Ints
    high: Ints

    @cached_property
    def order(self) -> Ints:
        """(n,) leaves such that every node is a contiguous run."""
        return np.argsort(self.rank)

    def sums(self, leaf_values: Floats) -> Floats:
        """(K,) sums of (n,) leaf values over the leaves of every node."""
        total = np.concatenate([[0.0], np.cumsum(leaf_values[self.order])])
        return np.asarray(total[self.stop] - total[self.start])


def build_tree(parts: Partition, cost: MergeCost) -> MergeTree:
    """Merge the two neighbours of least cost until one region is left. Equal costs: lower node numbers first."""
    n = len(parts.size)
    children, altitude, size, mean = _merge(parts, cost)
    total = 2 * n - 1
    parent = np.full(total, -1, dtype=np.int64)
    count = np.ones(total, dtype=np.int64)
    low, high = _boxes(parts.labels, n, total)
    for k, (i, j) in enumerate(children, start=n):
        parent[i] = parent[j] = k
        count[k] = count[i] + count[j]
        altitude[k] = max(altitude[k], altitude[i], altitude[j])
        np.minimum(low[i], low[j], out=low[k])
        np.maximum(high[i], high[j], out=high[k])
    start = np.zeros(total, dtype=np.int64)
    for k in range(total - 1, n - 1, -1):
        i, j = children[k - n]
        start[i] = start[k]
        start[j] = start[k] + count[i]
    return MergeTree(
        parent, np.array(altitude), start, start + count, start[:n].copy(), np.array(size), np.array(mean), low, high
    )


def _merge(
    parts: Partition, cost: MergeCost
) -> tuple[list[tuple[int, int]], list[float], list[float], list[tuple[float, ...]]]:
    """Children, altitude, size and mean of every node.

    What an edge costs is settled when the younger of its two nodes is made. That node keeps its edges sorted and only
    the cheapest of them waits in the heap: most edges die with their node and are never looked at.
    """
    size: list[float] = parts.size.tolist()
    mean: list[tuple[float, ...]] = [tuple(m) for m in parts.mean.tolist()]
    n = len(size)
    near: list[dict[int, tuple[float, float]]] = [{} for _ in range(n)]
    owned: list[list[tuple[float, int]]] = [[] for _ in range(n)]
    for (i, j), length, strength in zip(
        parts.edges.tolist(), parts.length.tolist(), parts.strength.tolist(), strict=True
    ):
        near[i][j] = near[j][i] = (length, strength)
        owned[j].append((cost(size[i], size[j], math.dist(mean[i], mean[j]), length, strength / length), i))
    heap = []
    for j, edges in enumerate(owned):
        if edges:
            waiting = iter(sorted(edges))
            heap.append((*next(waiting), j, waiting))
    heapq.heapify(heap)
    alive = [True] * n
    children: list[tuple[int, int]] = []
    altitude = [0.0] * n
    while heap:
        value, i, j, waiting = heapq.heappop(heap)
        if not alive[j]:
            continue
        if not alive[i]:
            for value, i in waiting:
                if alive[i]:
                    heapq.heappush(heap, (value, i, j, waiting))
                    break
            continue
        alive[i] = alive[j] = False
        k = len(size)
        a, b = size[i], size[j]
        whole, centre = a + b, tuple([(a * p + b * q) / (a + b) for p, q in zip(mean[i], mean[j], strict=True)])
        size.append(whole)
        mean.append(centre)
        more, fewer = (near[i], near[j]) if len(near[i]) >= len(near[j]) else (near[j], near[i])
        for q, (length, strength) in fewer.items():
            if q in more:
                more[q] = (more[q][0] + length, more[q][1] + strength)
            else:
                more[q] = (length, strength)
        more.pop(i, None)
        more.pop(j, None)
        near[i], near[j] = {}, {}
        near.append(more)
        edges = []
        for q, shared in more.items():
            other = near[q]
            other.pop(i, None)
            other.pop(j, None)
            other[k] = shared
            length, strength = shared
            edges.append((cost(size[q], whole, math.dist(mean[q], centre), length, strength / length), q))
        if edges:
            edges.sort()
            waiting = iter(edges)
            heapq.heappush(heap, (*next(waiting), k, waiting))
        alive.append(True)
        altitude.append(value)
        children.append((i, j))
    return children, altitude, size, mean


def _boxes(labels: Ints, n: int, total: int) -> tuple[Ints, Ints]:
    low = np.zeros((total, labels.ndim), dtype=np.int64)
    high = np.zeros((total, labels.ndim), dtype=np.int64)
    for axis, length in enumerate(labels.shape):
        # Which superpixels occur at which index of the axis: their first and last one are the box.
        present = np.zeros((n, length), dtype=bool)
        position = np.arange(length).reshape([-1 if a == axis else 1 for a in range(labels.ndim)])
        present[labels.ravel(), np.broadcast_to(position, labels.shape).ravel()] = True
        low[:n, axis] = present.argmax(axis=1)
        high[:n, axis] = length - 1 - present[:, ::-1].argmax(axis=1)
    return low, high
