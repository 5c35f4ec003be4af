"""Numbers that say how well two images, label maps or point sets agree; pure functions of core values.

All lengths are in the world unit of the grids: millimetres, or pixels for raster images without a size.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPairs
from roireg.core.transforms import Transform
from roireg.core.warp import warp

__all__ = [
    "CATALOGUE",
    "LabelScores",
    "MetricValue",
    "centroid_errors",
    "dice",
    "landmark_errors",
    "metric",
    "score_labels",
    "score_moved_labels",
    "summarise_errors",
    "surface_distances",
]

Array = NDArray[np.float64]

CATALOGUE: dict[str, tuple[str, str, str]] = {
    "dice_mean": ("Dice, mean over labels", "", "higher"),
    "hd95_mean": ("Surface distance, 95th percentile (HD95)", "mm", "lower"),
    "assd_mean": ("Surface distance, average (ASSD)", "mm", "lower"),
    "centroid_error_mean": ("Distance of region centroids, mean", "mm", "lower"),
    "centroid_error_median": ("Distance of region centroids, median", "mm", "lower"),
    "centroid_error_max": ("Distance of region centroids, largest", "mm", "lower"),
    "landmark_error_mean": ("Landmark error, mean", "mm", "lower"),
    "landmark_error_median": ("Landmark error, median", "mm", "lower"),
    "landmark_error_max": ("Landmark error, largest", "mm", "lower"),
    "displacement_error_mean": ("Error of the displacement, mean", "mm", "lower"),
    "displacement_error_median": ("Error of the displacement, median", "mm", "lower"),
    "displacement_error_p95": ("Error of the displacement, 95th percentile", "mm", "lower"),
    "displacement_error_max": ("Error of the displacement, largest", "mm", "lower"),
    "folding_percent": ("Folded voxels (det J ≤ 0)", "%", "lower"),
    "folded_voxels": ("Folded voxels (det J ≤ 0), count", "", "lower"),
    "sdlogj": ("Spread of log det J (SDlogJ)", "", "lower"),
    "sdlogj_learn2reg": ("Spread of log (det J + 3), Learn2Reg script", "", "lower"),
    "jacobian_min": ("Smallest det J", "", ""),
    "jacobian_max": ("Largest det J", "", ""),
    "inverse_consistency_mean": ("There-and-back error, mean", "mm", "lower"),
    "inverse_consistency_p99": ("There-and-back error, 99th percentile", "mm", "lower"),
    "inverse_consistency_max": ("There-and-back error, largest", "mm", "lower"),
    "probability_right": ("Probability that the result is right", "", "higher"),
    "right_within": ("Right means a mean error below", "mm", ""),
    "pair_agreement": ("Region pairs that end up together (share)", "", "higher"),
    "ncc": ("Correlation of intensities (NCC)", "", "higher"),
    "lncc2": ("Local squared correlation (LNCC²)", "", "higher"),
    "nmi": ("Normalised mutual information", "", "higher"),
}
"""Metric name -> (label for people, unit, which direction is better: "higher", "lower" or "")."""


@dataclass(frozen=True)
class MetricValue:
    """One number of a result, ready for a table or for JSON.

    Attributes
    ----------
    value : after registration; NaN where it could not be measured.
    before : the same before registration, None where that has no meaning.
    label : what people read; empty shows the name of the metric.
    unit : "mm", "%", ... or empty for plain numbers.
    better : "higher", "lower", or empty where neither direction is better.

    Raises
    ------
    InputError
        When `better` is another word.
    """

    value: float
    before: float | None = None
    label: str = ""
    unit: str = ""
    better: str = ""

    def __post_init__(self) -> None:
        if self.better not in ("", "higher", "lower"):
            raise InputError(f"a metric is better when 'higher', 'lower' or '' (neither), found {self.better!r}")

    @property
    def improved(self) -> bool | None:
        """Whether the value is better than before; None when unknown, unchanged or without a direction."""
        if self.before is None or not self.better or not math.isfinite(self.value - self.before):
            return None
        if self.value == self.before:
            return None
        return (self.value > self.before) == (self.better == "higher")

    def as_dict(self) -> dict[str, float | str | None]:
        """Return plain values for JSON; numbers that are not finite become None."""
        return {
            "value": _finite(self.value),
            "before": None if self.before is None else _finite(self.before),
            "label": self.label,
            "unit": self.unit,
            "better": self.better,
        }


def metric(name: str, value: float, before: float | None = None, *, unit: str | None = None) -> MetricValue:
    """Return a `MetricValue` with the label, unit and direction that `CATALOGUE` gives the name, if any.

    `unit` replaces the catalogue's unit ("px" instead of "mm" for raster images).
    """
    label, known_unit, better = CATALOGUE.get(name, ("", "", ""))
    return MetricValue(float(value), before, label, known_unit if unit is None else unit, better)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# -- regions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelScores:
    """Agreement of two label maps on one grid, per label present in both.

    Attributes
    ----------
    dice : label -> 2|A ∩ B| / (|A| + |B|), 0..1; 0 for the labels in `lost`.
    hd95, assd : label -> surface distances in world units (see `surface_distances`); empty when not asked for.
    centroid : label -> distance of the two centroids in world units.
    only_fixed, only_warped : labels that the other map lacks; they enter no mean.
    lost : labels that were expected in both maps and are missing in one. They have a Dice of 0, so that losing a
        label is never a gain, and no distance: there is none to nothing.
    """

    dice: Mapping[int, float]
    hd95: Mapping[int, float]
    assd: Mapping[int, float]
    centroid: Mapping[int, float]
    only_fixed: tuple[int, ...] = field(default=())
    only_warped: tuple[int, ...] = field(default=())
    lost: tuple[int, ...] = field(default=())

    def means(self) -> dict[str, float]:
        """Return the mean over labels of every score, named as in `CATALOGUE`; {} without a common label."""
        scores = {
            "dice_mean": self.dice,
            "hd95_mean": self.hd95,
            "assd_mean": self.assd,
            "centroid_error_mean": self.centroid,
        }
        return {name: float(np.mean(list(v.values()))) for name, v in scores.items() if v}

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON, labels as text keys."""
        per_label = {
            name: {str(k): _finite(v) for k, v in getattr(self, name).items()}
            for name in ("dice", "hd95", "assd", "centroid")
        }
        lists = {name: list(getattr(self, name)) for name in ("only_fixed", "only_warped", "lost")}
        return {**per_label, **lists}


def dice(a: Tensor, b: Tensor) -> float:
    """Return the Dice overlap 2|A ∩ B| / (|A| + |B|) of two bool masks of equal shape, 0..1.

    Raises
    ------
    GeometryError
        When the shapes differ.
    InputError
        When both masks are empty: the overlap of nothing is not a number.
    """
    if a.shape != b.shape:
        raise GeometryError(f"Dice needs masks of equal shape, found {tuple(a.shape)} and {tuple(b.shape)}")
    total = int(a.bool().sum()) + int(b.bool().sum())
    if total == 0:
        raise InputError("Dice of two empty masks is undefined; leave this label out")
    return 2 * int((a.bool() & b.bool()).sum()) / total


def surface_distances(a: Tensor, b: Tensor, grid: Grid) -> dict[str, float]:
    """Distances between the surfaces of two bool masks (*shape), in world units (mm).

    The surface of a mask is the set of its voxels with at least one face neighbour outside the mask; beyond
    the border of the image counts as outside, axes of one voxel do not count. For every surface voxel centre
    of one mask the distance to the nearest surface voxel centre of the other is taken in the world, so that
    anisotropic, oblique and sheared grids are exact.

    Returns
    -------
    ``hd95`` the larger of both directed 95th percentiles (linear interpolation), ``hausdorff`` the larger of
    both directed maxima, ``assd`` the sum of all distances over the number of surface voxels of both masks.

    Raises
    ------
    GeometryError
        When a mask does not have the shape of the grid.
    InputError
        When a mask is empty.
    """
    masks = [np.asarray(m.cpu(), dtype=bool) for m in (a, b)]
    if any(m.shape != grid.shape for m in masks):
        raise GeometryError(f"masks of shape {masks[0].shape} and {masks[1].shape} do not fit a grid of {grid.shape}")
    if not all(m.any() for m in masks):
        raise InputError("surface distances need two masks that are not empty")
    return _surface_distances(*(_surfaces(m.astype(np.int32), 1, grid)[0] for m in masks))


def _surface_distances(a: Array, b: Array) -> dict[str, float]:
    from_a = np.asarray(cKDTree(b, balanced_tree=False).query(a)[0])
    from_b = np.asarray(cKDTree(a, balanced_tree=False).query(b)[0])
    return {
        "hd95": max(_percentile(from_a, 0.95), _percentile(from_b, 0.95)),
        "hausdorff": float(max(from_a.max(), from_b.max())),
        "assd": float((from_a.sum() + from_b.sum()) / (len(from_a) + len(from_b))),
    }


def _percentile(values: Array, share: float) -> float:
    """As `numpy.percentile`, which takes as long as everything else about a small region."""
    ordered = np.sort(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    return float(ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]))


def score_moved_labels(
    fixed: Image, moving: Image, transform: Transform | None, *, surfaces: bool = True
) -> LabelScores:
    """Bring a label map onto the fixed one and compare: the one definition of label overlap in this package.

    Compared are the labels that occur in both maps as given. The moving map is resampled by nearest neighbour, 0
    outside. A label that the transform pushes out of the fixed image is `lost`: its Dice is 0.

    Parameters
    ----------
    fixed, moving : label maps, each on a grid of its own; 0 is background.
    transform : fixed to moving world; None is the identity.
    surfaces : also measure HD95 and ASSD (the slower part).

    Returns
    -------
    Scores without any label when the maps share none.

    Raises
    ------
    GeometryError
        When the maps differ in dimension.
    """
    if fixed.ndim != moving.ndim:
        raise GeometryError(f"{fixed.name} is {fixed.ndim}D but {moving.name} is {moving.ndim}D; both must be equal")
    shared = set(label_ids(fixed.data.cpu().numpy())) & set(label_ids(moving.data.cpu().numpy()))
    as_it_lies = transform is None and fixed.grid == moving.grid
    moved = moving if as_it_lies else warp(moving, transform, fixed.grid, mode="nearest", fill=0)
    return score_labels(fixed.data[0], moved.data[0], fixed.grid, expected=shared, surfaces=surfaces)


def score_labels(
    fixed: Tensor, warped: Tensor, grid: Grid, *, expected: Collection[int] = (), surfaces: bool = True
) -> LabelScores:
    """Compare a fixed label map with a warped one on the same grid; 0 is background.

    Parameters
    ----------
    fixed, warped : (*shape) integer tensors.
    grid : where both lie.
    expected : labels that both maps should have; one that a map lacks is `lost` and has a Dice of 0.
    surfaces : also measure HD95 and ASSD (the slower part).

    Raises
    ------
    GeometryError
        When a label map does not have the shape of the grid.
    """
    maps = [np.asarray(m.cpu()) for m in (fixed, warped)]
    if any(m.shape != grid.shape for m in maps):
        raise GeometryError(
            f"label maps of shape {maps[0].shape} and {maps[1].shape} do not fit a grid of shape {grid.shape}"
        )
    present = [set(label_ids(m)) for m in maps]
    both = sorted(present[0] & present[1])
    dense = [_numbered(m, both) for m in maps]
    sizes, middles, shared = _tally(dense, len(both), grid)
    scores: dict[str, dict[int, float]] = {
        "dice": dict(zip(both, (2 * shared / (sizes[0] + sizes[1])).tolist(), strict=True)),
        "centroid": dict(zip(both, np.linalg.norm(middles[0] - middles[1], axis=1).tolist(), strict=True)),
        "hd95": {},
        "assd": {},
    }
    if surfaces:
        for label, *points in zip(both, *(_surfaces(m, len(both), grid) for m in dense), strict=True):
            measured = _surface_distances(*points)
            scores["hd95"][label] = measured["hd95"]
            scores["assd"][label] = measured["assd"]
    lost = sorted(set(expected) - set(both))
    scores["dice"] |= dict.fromkeys(lost, 0.0)
    return LabelScores(
        **scores,
        only_fixed=tuple(sorted(present[0] - present[1] - set(lost))),
        only_warped=tuple(sorted(present[1] - present[0] - set(lost))),
        lost=tuple(lost),
    )


def label_ids(labels: NDArray[np.integer[Any]]) -> list[int]:
    """Return the labels other than 0 that occur, ascending, without sorting the voxels where ids are small."""
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > _SMALL_IDS:
        return [int(v) for v in np.unique(labels) if v != 0]
    there = np.zeros(high + 1, dtype=bool)
    for rows in _slabs(labels.shape):
        there[labels[rows]] = True
    return [int(v) for v in np.flatnonzero(there) if v != 0]


_SMALL_IDS = 1 << 24
_SLAB = 1 << 22
"""Voxels that are looked at together: what is counted takes ten times the memory of a label map."""


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    rows = max(1, _SLAB // max(1, math.prod(shape[1:])))
    return (slice(start, start + rows) for start in range(0, shape[0], rows))


def _numbered(labels: NDArray[np.integer[Any]], ids: Sequence[int]) -> NDArray[np.int32]:
    """Return the labels of a map as 1..K in the order of ascending `ids`, all others as 0."""
    if not ids:
        return np.zeros(labels.shape, np.int32)
    if ids[0] > 0 and ids[-1] <= _SMALL_IDS:
        table = np.zeros(ids[-1] + 2, np.int32)
        table[list(ids)] = np.arange(1, len(ids) + 1)
        numbered = np.empty(labels.shape, np.int32)
        for rows in _slabs(labels.shape):
            np.take(table, labels[rows], mode="clip", out=numbered[rows])
        numbered[labels < 0] = 0
        return numbered
    places = np.minimum(np.searchsorted(ids, labels), len(ids) - 1)
    return np.where(np.asarray(ids)[places] == labels, places + 1, 0).astype(np.int32)


def _tally(maps: Sequence[NDArray[np.int32]], count: int, grid: Grid) -> tuple[list[Array], list[Array], Array]:
    """Return (K,) voxels and (K, d) world centroids of the regions 1..K of two maps, and the (K,) they share."""
    sizes, sums, shared = np.zeros((2, count + 1)), np.zeros((2, count + 1, grid.ndim)), np.zeros(count + 1)
    for rows in _slabs(grid.shape):
        first, second = (m[rows] for m in maps)
        shared += np.bincount(first[first == second], minlength=count + 1)
        for side, part in enumerate((first, second)):
            where = np.flatnonzero(part)
            of = part.reshape(-1)[where]
            sizes[side] += np.bincount(of, minlength=count + 1)
            for axis, index in enumerate(np.unravel_index(where, part.shape)):
                sums[side, :, axis] += np.bincount(of, weights=index + rows.start * (axis == 0), minlength=count + 1)
    middles = [grid.world_from_index(sums[side, 1:] / sizes[side, 1:, None]) for side in (0, 1)]
    return [sizes[0, 1:], sizes[1, 1:]], middles, shared[1:]


def _surfaces(labels: NDArray[np.int32], count: int, grid: Grid) -> list[Array]:
    """Return the (N, d) world points of the surface voxels of every region 1..K, see `surface_distances`."""
    axes = [a for a in range(labels.ndim) if labels.shape[a] > 1]
    surface = np.zeros(labels.shape, dtype=bool) if axes else np.ones(labels.shape, dtype=bool)
    for axis in axes:
        line, border = np.moveaxis(labels, axis, 0), np.moveaxis(surface, axis, 0)
        edge = line[1:] != line[:-1]
        border[1:] |= edge
        border[:-1] |= edge
        border[0] = border[-1] = True
    where = np.flatnonzero(surface & (labels > 0))
    of = labels.reshape(-1)[where]
    order = np.argsort(of, kind="stable")
    points = grid.world_from_index(np.stack(np.unravel_index(where[order], labels.shape), axis=-1))
    return np.split(points, np.cumsum(np.bincount(of, minlength=count + 1)[1:]))[:count]


# -- points ----------------------------------------------------------------------------------------


def landmark_errors(transform: Transform | None, fixed_points: ArrayLike, moving_points: ArrayLike) -> Array:
    """Return the (N,) distances |T(fixed point) − moving point| in moving-world units (mm).

    Parameters
    ----------
    transform : fixed to moving; None is the identity (the state before registration).
    fixed_points, moving_points : (N, d) world points (x, y[, z]), row i of one corresponds to row i of the other.

    Raises
    ------
    InputError
        When the point lists are empty, differ in length or are not (N, d).
    """
    fixed, moving = (np.asarray(p, dtype=np.float64) for p in (fixed_points, moving_points))
    if fixed.ndim != 2 or fixed.shape != moving.shape or len(fixed) == 0:
        raise InputError(
            "landmarks need two lists of as many points (N, d), at least one, "
            f"found shapes {fixed.shape} and {moving.shape}"
        )
    mapped = fixed if transform is None else transform.map_points(fixed)
    return np.asarray(np.linalg.norm(mapped - moving, axis=1))


def centroid_errors(transform: Transform | None, pairs: ROIPairs) -> Array:
    """Return the (K,) distances of the mapped fixed centroid to the moving centroid, active pairs, in mm.

    `transform` maps fixed to moving, None is the identity. Rejected pairs are left out; K may be 0.
    """
    active = pairs.active.pairs
    if not active:
        return np.zeros(0)
    fixed = pairs.fixed.centroids[[p.fixed for p in active]]
    moving = pairs.moving.centroids[[p.moving for p in active]]
    return landmark_errors(transform, fixed, moving)


def summarise_errors(errors: ArrayLike, name: str) -> dict[str, float]:
    """Return ``{name}_mean``, ``{name}_median`` and ``{name}_max`` of a list of errors; {} when it is empty."""
    values = np.asarray(errors, dtype=np.float64).reshape(-1)
    if not len(values):
        return {}
    parts = {"mean": values.mean(), "median": np.median(values), "max": values.max()}
    return {f"{name}_{part}": float(v) for part, v in parts.items()}
