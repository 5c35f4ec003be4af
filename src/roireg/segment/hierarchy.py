"""Class-agnostic regions from merge trees: candidates with a stability score, and answers to prompts.

Two partitions (fine and smoothed) times two merge criteria give four trees. One tree nests strictly, so a
structure that one criterion cuts wrongly is lost in it; four disagree where the image is ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.background import background
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.masks import suppress
from roireg.core.once import once
from roireg.core.rois import Prompt, ROISet
from roireg.segment.base import Segmenter
from roireg.segment.filters import DEFAULT_LIMITS, RegionFilter, filter_regions
from roireg.segment.kept import Kept
from roireg.segment.prompts import answer
from roireg.segment.tree import CRITERIA, Floats, Ints, MergeTree, Partition, build_tree, partition
from roireg.segment.working import normalised_on, working_grid

__all__ = ["KEPT", "Hierarchy", "HierarchyImage", "HierarchySegmenter"]

SCALES = ((0.7, 3000), (1.5, 1500))
"""(Gaussian sigma in voxels, most superpixels) of the partitions."""

SUPERPIXEL_VOXELS = 80
"""Fewest voxels per superpixel of a partition: small volumes need no thousands of them, and merging is slow."""

POOL = 600
"""How many of the most stable nodes compete for a place among the candidates."""

SIZE_CLASSES = 6
"""Candidates are drawn in turn from this many classes of size, log-spaced."""

SURROUNDING = 0.06
"""Share of the range of intensities by which an object differs from what surrounds it."""

HALF_STABLE = 0.1
"""Persistence (square root of contrast times contrast) at which the stability is one half."""


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """All regions of one image: the nodes of several merge trees over one working grid.

    Attributes
    ----------
    grid : working grid. atoms : (*shape) number of the piece every voxel is in, a piece being what no tree cuts.
    weight : (A,) voxels per piece. trees : merge trees. ranks : per tree (A,) rank of the leaf of every piece.
    stability : per tree (K,) stability of every node in [0, 1).
    body : voxels that differ from what surrounds the object, such as air; all where nothing does.
    """

    grid: Grid
    atoms: Ints
    weight: Floats
    trees: tuple[MergeTree, ...]
    ranks: tuple[Ints, ...]
    stability: tuple[Floats, ...]
    body: float

    @classmethod
    def of(cls, data: NDArray[np.float32], grid: Grid) -> Hierarchy:
        """Build from (C, *shape) intensities in [0, 1] on their working grid."""
        most = max(64, grid.size // SUPERPIXEL_VOXELS) if grid.ndim == 3 else grid.size
        parts = [partition(data, grid, sigma=sigma, count=min(count, most)) for sigma, count in SCALES]
        key = parts[0].labels
        for p in parts[1:]:
            key = key * len(p.size) + p.labels
        _, first, atoms, counts = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        trees, ranks, stability = [], [], []
        for p in parts:
            leaf = p.labels.ravel()[first]
            for criterion in CRITERIA:
                tree = build_tree(p, criterion)
                trees.append(tree)
                ranks.append(tree.rank[leaf])
                stability.append(_stability(tree, p))
        pieces = atoms.reshape(grid.shape)
        return cls(
            grid, pieces, counts.astype(np.float64), tuple(trees), tuple(ranks), tuple(stability), _shown(data, grid)
        )

    @cached_property
    def chains(self) -> tuple[NDArray[np.bool_], ...]:
        """Per tree (K,) nodes that are no less stable than a parent or child of nearly (80 %) their size."""
        chains = []
        for tree, score in zip(self.trees, self.stability, strict=True):
            keep = tree.parent >= 0
            child = np.flatnonzero(keep)
            up = tree.parent[child]
            near = (tree.size[child] > 0.8 * tree.size[up]) & (tree.parent[up] >= 0)
            keep[child[near & (score[up] >= score[child])]] = False
            keep[up[near & (score[up] < score[child])]] = False
            chains.append(keep)
        return tuple(chains)

    def members(self, tree: int, nodes: Ints) -> NDArray[np.bool_]:
        """(N, A) pieces of every node."""
        rank, t = self.ranks[tree][None], self.trees[tree]
        return np.asarray((rank >= t.start[nodes][:, None]) & (rank < t.stop[nodes][:, None]))

    def overlaps(self, members: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """(N, N) intersections over unions of (N, A) regions and their (N,) sizes in voxels."""
        m = members.astype(np.float32)
        shared = ((m * self.weight.astype(np.float32)) @ m.T).astype(np.float64)
        size = np.diag(shared)
        return shared / (size[:, None] + size[None] - shared), size.copy()

    def rois(self, members: NDArray[np.bool_], scores: Floats) -> ROISet:
        """Return (N, A) regions as masks on the working grid."""
        if not len(members):
            return ROISet.empty(self.grid)
        masks = np.empty((len(members), *self.grid.shape), dtype=np.bool_)
        for region, mask in zip(members, masks, strict=True):
            region.take(self.atoms, out=mask, mode="clip")  # the default mode copies once more
        return ROISet(torch.from_numpy(masks), self.grid, scores=torch.from_numpy(scores.astype(np.float32)))

    def candidates(self, limits: RegionFilter, *, similar: float = 0.65) -> ROISet:
        """Return the most stable regions, spread over sizes, none with intersection over union > `similar`.

        Most stable first; nested regions of clearly different size are kept unless `limits.max_overlap` says
        otherwise.
        """
        total = self.weight.sum()
        which, node, score, size = [], [], [], []
        for t, tree in enumerate(self.trees):
            fraction = tree.size / total
            ok = self.chains[t] & (fraction >= limits.min_fraction) & (fraction <= limits.max_fraction)
            k = np.flatnonzero(ok & (self.stability[t] > 0))
            which.append(np.full(len(k), t))
            node.append(k)
            score.append(self.stability[t][k])
            size.append(fraction[k])
        tree_of, nodes = np.concatenate(which), np.concatenate(node)
        scores, fractions = np.concatenate(score), np.concatenate(size)
        first = _in_turn(scores, fractions, limits)[:POOL]
        if not len(first):
            return ROISet.empty(self.grid)
        members = np.concatenate([self.members(int(tree_of[i]), nodes[i : i + 1]) for i in first])
        union, _ = self.overlaps(members)
        rows = np.array(suppress(torch.from_numpy(union), torch.from_numpy(scores[first]), similar))
        picked = first[rows]
        turn = _in_turn(scores[picked], fractions[picked], limits)[: limits.max_count]
        turn = turn[np.argsort(-scores[picked][turn], kind="stable")]
        return filter_regions(self.rois(members[rows[turn]], scores[picked[turn]]), limits)


def _stability(tree: MergeTree, parts: Partition) -> Floats:
    """Stability of every node: how far the merge cost rises before it is absorbed, and how unlike its parent it is.

    Persistence is the difference of the square roots of the two merge costs (contrast times the square root of
    a radius); the radius counts relative to the image, so that the working grid does not matter. Background is
    what covers the faces of the image: a mean share of the faces of one half takes all stability away.
    """
    up = np.where(tree.parent < 0, np.arange(len(tree.parent)), tree.parent)
    side = parts.labels.size ** (1.0 / parts.labels.ndim)
    rise = (np.sqrt(tree.altitude[up]) - np.sqrt(tree.altitude)) / np.sqrt(side)
    contrast = np.sqrt(((tree.mean - tree.mean[up]) ** 2).sum(axis=1))
    strength = np.sqrt(np.maximum(rise, 0) * contrast)
    shares = []
    for axis, length in enumerate(parts.labels.shape):
        if length == 1:
            continue
        for end in (0, -1):
            face = np.take(parts.labels, end, axis=axis).ravel()
            shares.append(tree.sums(np.bincount(face, minlength=len(parts.size)) / face.size))
    inside = np.clip(1 - 2 * np.mean(shares, axis=0), 0, 1) if shares else 1.0
    return np.asarray(strength / (strength + HALF_STABLE) * inside)


def _in_turn(scores: Floats, fractions: Floats, limits: RegionFilter) -> Ints:
    """Order regions: the best of every class of size, then the second best of every class, and so on."""
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    low = np.log(max(limits.min_fraction, 1e-5))
    place = (np.log(fractions) - low) / (np.log(limits.max_fraction) - low)
    group = np.clip((place * SIZE_CLASSES).astype(np.int64), 0, SIZE_CLASSES - 1)
    order = np.lexsort((-scores, group))
    starts = np.searchsorted(group[order], np.arange(SIZE_CLASSES))
    place_in_group = np.empty(len(scores), dtype=np.int64)
    place_in_group[order] = np.arange(len(scores)) - starts[group[order]]
    return np.lexsort((-scores, place_in_group))


def _shown(data: NDArray[np.float32], grid: Grid) -> float:
    """Count the voxels of (C, *shape) intensities in [0, 1] that differ from the background."""
    nothing = np.array(background(Image(torch.from_numpy(data), grid))).reshape(-1, *[1] * grid.ndim)
    differs = (np.abs(data - nothing) > SURROUNDING).any(axis=0)
    return float(differs.sum() or differs.size)


@dataclass(frozen=True, eq=False)
class HierarchyImage:
    """An image with its hierarchy.

    Attributes
    ----------
    hierarchy : all its regions. settings : which of them are candidates and answers.
    """

    image: Image
    hierarchy: Hierarchy
    settings: HierarchySegmenter

    def regions(self) -> ROISet:
        """Return the candidate regions, most stable first; none for a constant image."""
        return self._regions

    @once
    def _regions(self) -> ROISet:
        return self.hierarchy.candidates(self.settings.limits, similar=self.settings.similar)

    def answer(self, prompt: Prompt) -> ROISet:
        """Return the regions that fit a prompt, see `roireg.segment.prompts.answer`."""
        return answer(self.hierarchy, prompt, count=self.settings.alternatives, name=self.image.name)


@dataclass(frozen=True)
class HierarchySegmenter(Segmenter):
    """The embedded segmenter: multi-scale regions of any image, without weights.

    Works in 2D and 3D, for gray and colour images, deterministic, and independent of a linear change or an
    inversion of the intensities.

    Parameters
    ----------
    limits : size, overlap and number of the candidates.
    similar : two candidates never have an intersection over union above this.
    max_voxels : size of the working grid; None takes the default of the dimension.
    alternatives : how many regions a prompt returns at most.

    Raises
    ------
    InputError
        When a parameter is out of range.
    """

    limits: RegionFilter = DEFAULT_LIMITS
    similar: float = 0.65
    max_voxels: int | None = None
    alternatives: int = 6

    def __post_init__(self) -> None:
        if self.alternatives < 1:
            raise InputError(f"a prompt returns at least 1 alternative, found alternatives={self.alternatives}")
        if not 0 < self.similar <= 1:
            raise InputError(f"similar is an intersection over union in (0, 1], found {self.similar}")

    def prepare(self, image: Image) -> HierarchyImage:
        """Build the hierarchy of an image.

        Raises
        ------
        InputError
            When the image has values that are not finite.
        """

        def make() -> HierarchyImage:
            grid = working_grid(image.grid, max_voxels=self.max_voxels)
            return HierarchyImage(image, Hierarchy.of(normalised_on(image, grid), grid), self)

        return KEPT.of(image, self, make)


KEPT: Kept[HierarchyImage] = Kept()
"""Of this process: none, unless the program says that images come again; see `Kept.count`."""
