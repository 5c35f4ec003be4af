"""Maps from matched key points of 2D images, where texture says more than regions do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.feature import SIFT, match_descriptors

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine
from roireg.core.warp import resample
from roireg.match.moments import fit_affine, fit_projective, fit_similarity, map_projective
from roireg.models.base import KeyPointModel
from roireg.models.rasters import raster_of

__all__ = ["SIFT_POINTS", "Detector", "KeypointMap", "keypoint_maps", "network_points", "sift_points"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Found = tuple[Array, NDArray[np.float32] | NDArray[np.uint8]]
"""(N, 2) world positions of key points, and (N, C) descriptors of them."""

PIXELS = 150_000
"""Most pixels of the images in which key points are looked for."""

SMALLEST = 8
"""Pixels along every side below which SIFT has no octave to look in."""

TOLERANCE = 0.02
"""How far a pair may be off, as a fraction of the diagonal of the moving image."""

LEAST = 6
"""Fewest pairs that must agree on a map."""

DECISIVE = (15, 0.5)
"""So many pairs, and such a share of all, never agree by chance: one random pair in 400 is within the tolerance."""


PERSPECTIVE = 30
"""Fewest pairs that must agree on a perspective, which an affine map leaves with twice the squared error."""

DEPTH = 4.0
"""Most by which the denominator of a perspective may differ between two corners of the fixed image."""


class Detector(NamedTuple):
    """What finds key points in 2D images.

    Attributes
    ----------
    find : image -> key points.
    ratio : distance of the nearest descriptor over that of the second nearest, above which a key point has no partner
        (Lowe's test, loose).
    """

    find: Callable[[Image], Found]
    ratio: float


@dataclass(frozen=True, eq=False)
class KeypointMap:
    """A map from fixed to moving world on which `agreeing` of `matched` pairs of key points agree.

    `decisive` maps leave no doubt about the large motion. One that moves next to nothing never is: marks of the
    scanner or the frame of the picture lie in the same place in both images, whatever the anatomy does.

    `perspective` is the (3, 3) homography where the map is one, and `affine` then the nearest affine; None otherwise.
    `spread` is the root mean square distance in mm of the pairs that agree.
    """

    affine: Affine
    agreeing: int
    matched: int
    decisive: bool
    spread: float
    perspective: Array | None = None


def keypoint_maps(
    fixed: Image,
    moving: Image,
    *,
    rng: np.random.Generator,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    samples: int = 2000,
    detector: Detector | None = None,
) -> list[KeypointMap]:
    """Find the similarity, the affine map and, where there is one, the perspective on which most key points agree.

    Mutual nearest neighbours with the ratio test, and RANSAC (Fischler and Bolles, CACM 1981) over similarities from
    two pairs each.

    Parameters
    ----------
    fixed, moving : 2D images.
    rng : random numbers for the samples.
    fixed_mask, moving_mask : one-channel images; only key points where they are > 0 count.
    samples : how many pairs of pairs are tried.
    detector : finds key points; None is SIFT, for any rotation and scale and the same contrast.

    Returns
    -------
    The similarity, the affine map, and the perspective of a flat scene where an affine map is not enough; none where
    fewer than six pairs agree, or in 3D.
    """
    if fixed.ndim != 2 or moving.ndim != 2:
        return []
    detector = SIFT_POINTS if detector is None else detector
    target, target_text = _within(moving_mask, *detector.find(moving))
    source, source_text = _within(fixed_mask, *detector.find(fixed))
    if min(len(target), len(source)) < LEAST:
        return []
    near = match_descriptors(source_text, target_text, cross_check=True, max_ratio=detector.ratio)
    if len(near) < LEAST:
        return []
    source, target = source[near[:, 0]], target[near[:, 1]]
    tolerance = TOLERANCE * float(np.linalg.norm(moving.grid.extent))
    picked = np.array([rng.choice(len(near), 2, replace=False) for _ in range(samples)])
    matrices = fit_similarity(source[picked], target[picked], np.ones((samples, 2)))
    near_enough = _errors(matrices, source, target) < tolerance
    agrees = near_enough[near_enough.sum(1).argmax()]
    maps: list[KeypointMap] = []
    for affine in (False, True):
        for _ in range(3):
            if agrees.sum() < LEAST:
                return maps
            s, t, weight = source[agrees], target[agrees], np.ones(agrees.sum())
            matrix = fit_affine(s, t, weight) if affine else fit_similarity(s[None], t[None], weight[None])[0]
            agrees = _errors(matrix[None], source, target)[0] < tolerance
        if abs(np.linalg.det(matrix[:2, :2])) > 1e-6:
            maps.append(_judged(matrix, source, target, agrees, tolerance))
    homography, agrees = _perspective(source, target, agrees, tolerance, fixed.grid)
    if homography is not None:
        nearest = fit_affine(source[agrees], target[agrees], np.ones(agrees.sum()))
        maps.append(_judged(nearest, source, target, agrees, tolerance, homography))
    return maps


def _judged(
    matrix: Array, source: Array, target: Array, agrees: Flags, tolerance: float, perspective: Array | None = None
) -> KeypointMap:
    count, s, t = int(agrees.sum()), source[agrees], target[agrees]
    still = float(np.linalg.norm(s - t, axis=1).mean()) < 2 * tolerance
    decisive = count >= max(DECISIVE[0], DECISIVE[1] * len(source)) and not still
    off = map_projective(matrix if perspective is None else perspective, s) - t
    spread = float(np.sqrt(np.square(off).sum(1).mean()))
    return KeypointMap(Affine(matrix), count, len(source), bool(decisive), spread, perspective)


def _perspective(
    source: Array, target: Array, agrees: Flags, tolerance: float, grid: Grid
) -> tuple[Array | None, Flags]:
    """Homography that grows out of the pairs that agree on an affine map, and the pairs that agree on it."""
    matrix = np.eye(3)
    for fraction in (1.0, 1.0, 0.5, 0.25, 0.25):
        if agrees.sum() < PERSPECTIVE:
            return None, agrees
        matrix = fit_projective(source[agrees], target[agrees])
        depth = np.c_[grid.corners(), np.ones(4)] @ matrix[2]
        if not 0 < depth.max() < DEPTH * depth.min():
            return None, agrees
        agrees = np.linalg.norm(map_projective(matrix, source) - target, axis=1) < fraction * tolerance
    if agrees.sum() < PERSPECTIVE:
        return None, agrees
    s, t = source[agrees], target[agrees]
    flat = _errors(fit_affine(s, t, np.ones(len(s)))[None], s, t)[0]
    tilted = np.linalg.norm(map_projective(matrix, s) - t, axis=1)
    return (matrix if np.square(flat).mean() > 2 * np.square(tilted).mean() else None), agrees


def _errors(matrices: Array, source: Array, target: Array) -> Array:
    """(H, N) distances in mm of the mapped source points from their targets."""
    mapped = source @ matrices[:, :2, :2].transpose(0, 2, 1) + matrices[:, None, :2, 2]
    return np.asarray(np.linalg.norm(mapped - target, axis=-1))


def _within(mask: Image | None, places: Array, text: Any) -> Found:
    """Return the key points in voxels of a mask that are > 0."""
    if mask is None or not len(places):
        return places, text
    index = np.round(mask.grid.index_from_world(places)).astype(int)
    there = ((index >= 0) & (index < mask.grid.shape)).all(1)
    index = np.clip(index, 0, np.array(mask.grid.shape) - 1)
    inside = there & (mask.data[0].cpu().numpy()[tuple(index.T)] > 0)
    return places[inside], text[inside]


def sift_points(image: Image) -> Found:
    """Return the key points of SIFT (Lowe, IJCV 2004) in the gray image, with 128 numbers each."""
    image = image.gray()
    side = max(float(np.sqrt(np.prod(image.grid.extent) / PIXELS)), float(image.grid.spacing.min()))
    grid = image.grid.with_spacing(side)
    if min(grid.shape) < SMALLEST:
        return np.zeros((0, 2)), np.zeros((0, 128), dtype=np.uint8)
    pixels = resample(image, grid).data[0].cpu().numpy().astype(np.float64)
    low, high = np.percentile(pixels, [1, 99])
    detector = SIFT(upsampling=2 if 4 * grid.size <= PIXELS else 1)
    try:
        detector.detect_and_extract(np.clip((pixels - low) / max(high - low, 1e-12), 0, 1))
    except RuntimeError:  # no key points at all, for instance in a blank image
        return np.zeros((0, 2)), np.zeros((0, 128), dtype=np.uint8)
    return grid.world_from_index(np.asarray(detector.keypoints, dtype=np.float64)), np.asarray(detector.descriptors)


def network_points(model: KeyPointModel, *, count: int = 2000) -> Detector:
    """Return a detector: the key points of a network, `count` of them at most."""

    def find(image: Image) -> Found:
        raster, grid = raster_of(image)
        found = model.key_points(raster.to(torch.float32), count=count)
        return grid.world_from_index(found.places.double().cpu().numpy()), found.descriptors.cpu().numpy()

    return Detector(find, 0.97)


SIFT_POINTS = Detector(sift_points, 0.9)
