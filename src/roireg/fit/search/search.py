"""Exhaustive search for the global map between two images of any modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import permutations, product

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.transforms import Affine
from roireg.core.warp import resample, warp
from roireg.features.field_of_view import field_of_view
from roireg.features.orientation import orientation_channels
from roireg.fit.search.climb import FixedSide, MovingSide, agreement, climb
from roireg.fit.search.exhaustive import Channels, Peak, rotations, strongest_peaks
from roireg.fit.search.maps import Model, mapped, rotation_of, scale_of
from roireg.fit.search.options import SearchOptions

__all__ = ["GlobalSearch", "SearchCandidate", "channels_of", "global_search"]

Array = NDArray[np.float64]

STEPS_PER_OCTAVE = 3
"""Scales tried per doubling."""
COARSE_POINTS, FINE_POINTS = 4_000, 20_000
"""Cells compared when peaks are refined and when candidates are judged."""
TURN_STEPS, FULL_STEP = {2: 10.0, 3: 15.0}, 22.5
"""Degrees between rotations, and those of the search of all rotations in 3D."""
TURNED = 4
"""Of the quarter and half turns, how many are refined before they are compared with a map."""
AHEAD = 0.6
"""A best candidate whose rival scores less than this part of it is the answer."""


@dataclass(frozen=True)
class SearchCandidate:
    """A global map that the images support.

    Attributes
    ----------
    affine : similarity map, fixed world -> moving world, mm. score : correlation of the channels times the root of
        the shared part. correlation : -1..1. overlap : shared part of the smaller field of view, 0..1.
    rival : score of the best candidate elsewhere over this one's; above 1 another one is better.
    """

    affine: Affine
    score: float
    correlation: float
    overlap: float
    rival: float = float("nan")


class GlobalSearch:
    """The search between two images: its candidates, and how any other map compares with them.

    Channels are computed once for every ratio of scales and resolution, when first needed.
    """

    def __init__(self, pair: Pair, options: SearchOptions) -> None:
        self.pair, self.options = pair.gray().to("cpu"), options
        self.masks = tuple(
            _where(image, mask, options.auto_mask)
            for image, mask in (
                (self.pair.fixed, self.pair.fixed_mask),
                (self.pair.moving, self.pair.moving_mask),
            )
        )
        self.boxes = tuple(_box(mask) for mask in self.masks)
        d = pair.ndim
        self.centre = self.boxes[0].mean(0)
        self.radius = 0.5 * float(np.linalg.norm(np.ptp(self.boxes[0], axis=0)) / np.sqrt(d))
        self.cells = options.cells or (128 if d == 2 else 24)
        px = "px" in (pair.fixed.unit, pair.moving.unit)
        largest = options.max_scale or (2.0 if px and d == 2 else 1.0)
        octaves = int(np.floor(STEPS_PER_OCTAVE * np.log2(largest) + 1e-9))
        self.scales = [2 ** (k / STEPS_PER_OCTAVE) for k in range(-octaves, octaves + 1)]
        self.scales.sort(key=lambda s: abs(np.log(s)))
        self._channels, self._sides = cache(self._compute_channels), cache(self._compute_sides)

    # -- the images on grids of cells -----------------------------------------------------------------

    def _compute_channels(self, side: int, scale: float, cells: int) -> Channels:
        """Channels of the fixed (0) or moving (1) side; a moving cell is `scale` fixed ones."""
        extent = [np.ptp(box, axis=0).max() for box in self.boxes]
        cell = max(extent[0], extent[1] / scale) / cells
        spacing = cell * (scale if side else 1.0)
        image = (self.pair.fixed, self.pair.moving)[side]
        return channels_of(image, self.masks[side], self.boxes[side], spacing)

    def _compute_sides(self, scale: float, cells: int, points: int) -> tuple[FixedSide, MovingSide]:
        f, m = self._channels(0, scale, cells), self._channels(1, scale, cells)
        return (
            FixedSide.of(f.values, f.weight, f.grid, points),
            MovingSide.of(m.values, m.weight, m.grid, turns=True),
        )

    def _reference(self, cells: int) -> float:
        """Cells of the smaller field of view at equal scales."""
        return max(1.0, min(self._channels(side, 1.0, cells).cells for side in (0, 1)))

    # -- judging ---------------------------------------------------------------------------------------

    def score_of(self, affine: Affine) -> SearchCandidate:
        """Judge any map on the scale of the candidates; its `rival` is the best candidate that lies elsewhere."""
        judged = self._judged(affine.matrix)
        return replace(judged, rival=self._rival(judged, self.candidates))

    def _judged(self, matrix: Array) -> SearchCandidate:
        scale = self._nearest_scale(matrix)
        fixed, moving = self._sides(scale, 2 * self.cells, FINE_POINTS)
        alike = agreement(fixed, moving, matrix)
        reference = self._reference(2 * self.cells)
        smaller = min(self._channels(side, scale, 2 * self.cells).cells for side in (0, 1))
        score = alike.correlation * (alike.shared / reference) ** 0.5
        return SearchCandidate(Affine(matrix), score, alike.correlation, min(1.0, alike.shared / max(smaller, 1)))

    def _nearest_scale(self, matrix: Array) -> float:
        log = np.log(scale_of(matrix[:-1, :-1]))
        return min(self.scales, key=lambda s: abs(np.log(s) - log))

    def _rival(self, candidate: SearchCandidate, others: Sequence[SearchCandidate]) -> float:
        far = [o.score for o in others if self._apart(o.affine.matrix, candidate.affine.matrix)]
        return max(far, default=0.0) / max(candidate.score, 1e-6)

    def _apart(self, a: Array, b: Array) -> bool:
        """Tell whether two maps differ by more than `distinct` over the fixed image."""
        axes = np.meshgrid(*self.boxes[0].T, indexing="ij")
        corners = np.stack([x.ravel() for x in axes], axis=-1)
        limit = self.options.distinct * float(np.linalg.norm(np.ptp(self.boxes[0], axis=0)))
        scale = max(1.0, scale_of(a[:-1, :-1]))
        return bool(np.linalg.norm(mapped(a, corners) - mapped(b, corners), axis=1).mean() > limit * scale)

    # -- searching -------------------------------------------------------------------------------------

    def _peaks(self, *, between: bool = False) -> list[Peak]:
        """The distinct peaks of the exhaustive search, best first.

        With `between` (2D) at the rotations halfway, on a finer grid.
        """
        cells = 3 * self.cells // 2 if between else self.cells
        peaks = [p for scale in self.scales for p in self._peaks_at(scale, cells, between=between)]
        return self._distinct(sorted(peaks, key=lambda p: -p.score), self.options.polish)

    def _peaks_at(self, scale: float, cells: int, *, between: bool = False, mirrored: bool = False) -> list[Peak]:
        o, d = self.options, self.pair.ndim
        step = o.turn_step or (TURN_STEPS[d] if d == 2 or not o.full else FULL_STEP)
        turns = rotations(d, step=step, largest=o.largest_turn, full=o.full)
        if between:
            half = np.radians(step / 2)
            turns = turns @ np.array([[np.cos(half), -np.sin(half)], [np.sin(half), np.cos(half)]])
        return strongest_peaks(
            self._channels(0, scale, cells),
            self._channels(1, scale, cells),
            turns,
            scale=scale,
            reference=self._reference(cells),
            min_overlap=o.min_overlap,
            mirrored=mirrored,
        )

    def _distinct(self, peaks: Sequence[Peak], most: int) -> list[Peak]:
        distinct: list[Peak] = []
        for peak in peaks:
            if all(self._apart(peak.matrix, k.matrix) for k in distinct):
                distinct.append(peak)
            if len(distinct) == most:
                break
        return distinct

    @cached_property
    def candidates(self) -> tuple[SearchCandidate, ...]:
        """The best maps, refined and judged at double resolution, best first; empty when nothing overlaps.

        In 2D, where a fine texture can hide between two rotations or cells, rotations halfway between are tried on a
        finer grid, too, unless one candidate is far ahead.
        """
        best = self._refined(self._peaks())
        if self.pair.ndim == 2 and (not best or self._rival(best[0], best) > AHEAD):
            best = self._sorted([*best, *self._refined(self._peaks(between=True))])
        best = best[: self.options.keep]
        return tuple(replace(c, rival=self._rival(c, best)) for c in best)

    def _refined(self, peaks: Sequence[Peak]) -> list[SearchCandidate]:
        """Climb from every peak at the resolution of the search, and from the best again at twice that."""
        model: Model = "similarity" if len(self.scales) > 1 else "rigid"
        climbed = []
        for peak in peaks:
            matrix = self._climbed(peak.matrix, model, self.cells, COARSE_POINTS, steps=10)
            climbed.append(Peak(matrix, self._judged(matrix).score))
        best = self._distinct(sorted(climbed, key=lambda p: -p.score), 2 * self.options.keep)
        return self._sorted(
            [self._judged(self._climbed(p.matrix, model, 2 * self.cells, FINE_POINTS, steps=6)) for p in best]
        )

    def _climbed(self, matrix: Array, model: Model, cells: int, points: int, *, steps: int) -> Array:
        sides = self._sides(self._nearest_scale(matrix), cells, points)
        return climb(*sides, matrix, model, steps=steps, centre=self.centre, radius=self.radius, tolerance=0.02)

    def _sorted(self, candidates: Sequence[SearchCandidate]) -> list[SearchCandidate]:
        """Best first, each further than `distinct` from those before."""
        distinct: list[SearchCandidate] = []
        for c in sorted(candidates, key=lambda c: -c.score):
            if all(self._apart(c.affine.matrix, k.affine.matrix) for k in distinct):
                distinct.append(c)
        return distinct

    def turned(self, affine: Affine) -> float:
        """Best score of positions turned by quarter and half turns against a map, over that of the map; 0 in 2D.

        The turns are about the axes of the fixed image and the middle of what it shows, as wrong headers make them
        and as the search of small rotations does not try. Near 1 nothing in the images tells them apart.
        """
        if self.pair.ndim == 2:
            return 0.0
        axes = rotation_of(self.pair.fixed.grid.affine[:-1, :-1])
        places = [affine.matrix @ _about(self.centre, axes @ turn @ axes.T) for turn in _turns()]
        sides = self._sides(self._nearest_scale(affine.matrix), self.cells, COARSE_POINTS)
        places.sort(key=lambda m: -agreement(*sides, m).correlation)
        climbed = [self._climbed(m, "rigid", self.cells, COARSE_POINTS, steps=10) for m in places[:TURNED]]
        others = [self._judged(m) for m in climbed]
        return self._rival(self._judged(affine.matrix), others)

    @cached_property
    def mirror(self) -> float:
        """Best coarse score of the mirrored moving image over that of the image as it is; 0 in 3D.

        Well above 1 the moving image is a mirror image, which no candidate undoes.
        """
        if self.pair.ndim == 3:
            return 0.0
        straight = max((p.score for p in self._peaks_at(1.0, self.cells)), default=0.0)
        return max((p.score for p in self._peaks_at(1.0, self.cells, mirrored=True)), default=0.0) / max(
            straight, 1e-6
        )


def global_search(pair: Pair, options: SearchOptions | None = None) -> tuple[SearchCandidate, ...]:
    """Return the global maps that two images of any position and modality support, best first.

    Orientation channels of both images are correlated for every translation, rotation and ratio of scales that the
    options allow, where both fields of view overlap; the best peaks are refined to parts of a cell and judged at
    double resolution. Deterministic. Use :class:`GlobalSearch` to compare other maps with the candidates.

    Parameters
    ----------
    pair : images with any channels, and masks.
    """
    return GlobalSearch(pair, options or SearchOptions()).candidates


def _where(image: Image, mask: Image | None, auto: bool) -> Image:
    """Return where an image counts: its field of view and the user's mask, as float32 weights."""
    shown = field_of_view(image) if auto else Image(torch.ones(1, *image.grid.shape), image.grid)
    weight = shown.with_data(shown.data.float())
    if mask is not None:
        user = mask.with_data((mask.data > 0).float())
        weight = weight.with_data(weight.data * warp(user, None, weight.grid, mode="nearest", fill=0.0).data)
    return weight


def _box(mask: Image) -> Array:
    """(2, d) lowest and highest world point of what a mask keeps; the whole image when it keeps nothing."""
    index = torch.nonzero(mask.data[0] > 0.5).numpy()
    if len(index) == 0:
        corners = mask.grid.corners()
        return np.stack([corners.min(0), corners.max(0)])
    low, high = index.min(0) - 0.5, index.max(0) + 0.5
    axes = np.meshgrid(*np.stack([low, high]).T, indexing="ij")
    points = mask.grid.world_from_index(np.stack([a.ravel() for a in axes], axis=-1))
    return np.stack([points.min(0), points.max(0)])


@cache
def _turns() -> tuple[Array, ...]:
    """The 23 rotations that bring the axes of a volume onto each other, but for none."""
    signed = (np.diag(s)[:, p] for s in product((1.0, -1.0), repeat=3) for p in permutations(range(3)))
    return tuple(m for m in signed if np.linalg.det(m) > 0 and not np.array_equal(m, np.eye(3)))


def _about(centre: Array, rotation: Array) -> Array:
    matrix = np.eye(len(centre) + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = rotation, centre - rotation @ centre
    return matrix


def channels_of(image: Image, mask: Image, box: Array, spacing: float) -> Channels:
    """Orientation channels on a grid of cubes along the world axes, over a world box."""
    count = np.maximum(1, np.ceil((box[1] - box[0]) / spacing - 1e-6)).astype(int)
    d = len(count)
    affine = np.eye(d + 1)
    affine[:d, :d] = spacing * np.eye(d)[:, ::-1]
    affine[:d, d] = (box[0] + box[1]) / 2 - spacing * (count - 1) / 2
    grid = Grid(tuple(int(n) for n in count[::-1]), affine)
    data = resample(image, grid).data.float()
    inside = warp(Image(torch.ones(1, *image.grid.shape), image.grid), None, grid, mode="nearest", fill=0.0).data
    weight = resample(mask, grid).data * inside
    weight = (weight > 0.5).float()
    return Channels(orientation_channels(data, weight), weight, grid)
