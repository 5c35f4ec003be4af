"""Maps from matched key points of 2D images, where texture says more than regions do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.feature import SIFT, match_descriptors

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine
from roireg.core.warp import resample
from roireg.match.moments import fit_affine, fit_projective, fit_similarity, map_projective

__all__ = ["KeypointMap", "keypoint_maps"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

PIXELS = 150_000
"""Most pixels of the images in which key points are looked for."""

SMALLEST = 8
"""Pixels along every side below which SIFT has no octave to look in."""

RATIO = 0.9
"""A key point is matched if its second nearest is farther than the nearest by this factor (Lowe's test, loose)."""

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
) -> list[KeypointMap]:
    """Find the similarity, the affine map and, where there is one, the perspective on which most key points agree.

    SIFT (Lowe, IJCV 2004) in the gray images, mutual nearest neighbours with the ratio test, and RANSAC (Fischler and
    Bolles, CACM 1981) over similarities from two pairs each. Any rotation and scale; the same contrast.

    Parameters
    ----------
    fixed, moving : one-channel 2D images.
    rng : random numbers for the samples.
    fixed_mask, moving_mask : one-channel images; only key points where they are > 0 count.
    samples : how many pairs of pairs are tried.

    Returns
    -------
    The similarity, the affine map, and the perspective of a flat scene where an affine map is not enough; none where
    fewer than six pairs agree, or in 3D.
    """
    if fixed.ndim != 2 or moving.ndim != 2:
        return []
    target, target_text = _keypoints(moving, moving_mask)
    source, source_text = _keypoints(fixed, fixed_mask)
    if min(len(target), len(source)) < LEAST:
        return []
    near = match_descriptors(source_text, target_text, cross_check=True, max_ratio=RATIO)
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


def _keypoints(image: Image, mask: Image | None) -> tuple[Array, NDArray[np.uint8]]:
    """(N, 2) world positions and (N, 128) descriptors."""
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
    index = np.asarray(detector.keypoints, dtype=np.float64)
    inside = np.ones(len(index), dtype=bool)
    if mask is not None:
        shown = resample(mask, grid).data[0].cpu().numpy() > 0.5
        inside = shown[tuple(np.round(index).astype(int).T)]
    return grid.world_from_index(index[inside]), np.asarray(detector.descriptors)[inside]
