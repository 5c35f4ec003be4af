"""Numbers that say how well two images, label maps or point sets agree; pure functions of core values.

All lengths are in the world unit of the grids: millimetres, or pixels for raster images without a size.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
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
    corner = np.zeros(grid.ndim)
    return _surface_distances(*(_surface_points(m, grid, corner) for m in masks))


def _surface_points(mask: NDArray[np.bool_], grid: Grid, corner: Array) -> Array:
    """(N, d) world points of the surface voxels of a mask cut out of the grid at index `corner`."""
    inside = mask.copy()
    axes = [a for a in range(grid.ndim) if grid.shape[a] > 1]
    for axis in axes:
        line = np.moveaxis(mask, axis, 0)
        interior = np.moveaxis(inside, axis, 0)
        interior[1:] &= line[:-1]
        interior[:-1] &= line[1:]
        interior[0] = False
        interior[-1] = False
    surface = mask & ~inside if axes else mask
    return grid.world_from_index(np.argwhere(surface) + corner)


def _surface_distances(a: Array, b: Array) -> dict[str, float]:
    from_a = np.asarray(cKDTree(b, balanced_tree=False).query(a)[0])
    from_b = np.asarray(cKDTree(a, balanced_tree=False).query(b)[0])
    return {
        "hd95": float(max(np.percentile(from_a, 95), np.percentile(from_b, 95))),
        "hausdorff": float(max(from_a.max(), from_b.max())),
        "assd": float((from_a.sum() + from_b.sum()) / (len(from_a) + len(from_b))),
    }


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
    shared = set(torch.unique(fixed.data).tolist()) & set(torch.unique(moving.data).tolist()) - {0}
    moved = warp(moving, transform, fixed.grid, mode="nearest", fill=0)
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
    present = [set(np.unique(m).tolist()) - {0} for m in maps]
    both = sorted(int(label) for label in present[0] & present[1])
    # Ids can be sparse and large; dense ids 1..K keep the bounding-box search short.
    dense = [np.where(np.isin(m, both), np.searchsorted(both, m) + 1, 0) if both else np.zeros_like(m) for m in maps]
    boxes = [ndimage.find_objects(m, max_label=len(both)) for m in dense]
    scores: dict[str, dict[int, float]] = {"dice": {}, "hd95": {}, "assd": {}, "centroid": {}}
    for i, label in enumerate(both):
        regions = [dense[side][boxes[side][i]] == i + 1 for side in (0, 1)]
        corners = [np.array([s.start for s in boxes[side][i]], dtype=np.float64) for side in (0, 1)]
        shared = np.count_nonzero((dense[0][boxes[0][i]] == i + 1) & (dense[1][boxes[0][i]] == i + 1))
        scores["dice"][label] = 2 * shared / sum(np.count_nonzero(r) for r in regions)
        middles = [grid.world_from_index(np.argwhere(r).mean(0) + c) for r, c in zip(regions, corners, strict=True)]
        scores["centroid"][label] = float(np.linalg.norm(middles[0] - middles[1]))
        if surfaces:
            points = [_surface_points(r, grid, c) for r, c in zip(regions, corners, strict=True)]
            measured = _surface_distances(*points)
            scores["hd95"][label] = measured["hd95"]
            scores["assd"][label] = measured["assd"]
    lost = sorted(int(label) for label in set(expected) - set(both))
    scores["dice"] |= dict.fromkeys(lost, 0.0)
    return LabelScores(
        **scores,
        only_fixed=tuple(sorted(int(v) for v in present[0] - present[1] - set(lost))),
        only_warped=tuple(sorted(int(v) for v in present[1] - present[0] - set(lost))),
        lost=tuple(lost),
    )


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
