"""Which global map to start from: proposals of regions, judged by the images, decided by a short deformation.

Between people an affine alone seldom makes images similar, so its similarity says little about which start is right.
A deformation of a few hundred control points takes a second and does: from the right start it has little left to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import ROISet
from roireg.core.transforms import Affine, VelocityField
from roireg.fit.dense_affine import AffineOptions, Candidate, choose_affine, refine_affine
from roireg.fit.level import FeatureFunction, Level, VelocityOptions, build_levels
from roireg.fit.velocity import fit_levels

__all__ = ["Start", "find_start", "single_pair_maps"]


@dataclass(frozen=True)
class Start:
    """The chosen global map.

    Attributes
    ----------
    affine : fixed world -> moving world.
    source : where it came from.
    loss : what the trial deformation from it reached.
    rivals : other starts, somewhere at least an eighth of the diagonal away, with their losses, best first.
    flow : what the deformation begins with, before the affine; None is no motion.
    reach : how far off this start is at most, in mm; None: anything.
    """

    affine: Affine
    source: str
    loss: float
    rivals: tuple[tuple[Affine, float], ...]
    flow: VelocityField | None = None
    reach: float | None = None


def single_pair_maps(
    moving: ROISet, fixed: ROISet, similarity: NDArray[np.float64], *, count: int
) -> list[Candidate]:
    """Maps that one region pair alone proposes, for the `count` most similar pairs.

    Every pair proposes the translation between its centroids. In 2D an elongated pair also proposes the two
    similarity maps that align its principal axes and its area; in 3D two axes that stay unordered would be too many.

    `similarity` is (moving, fixed).
    """
    d = fixed.grid.ndim
    found = []
    order = np.argsort(-similarity, axis=None, kind="stable")[:count]
    for m, f in zip(*np.unravel_index(order, similarity.shape), strict=True):
        target, source = moving.centroids[m], fixed.centroids[f]
        found.append(Candidate(Affine.translation(target - source), "one region pair"))
        if d == 2:
            found.extend(_turned(target, source, moving.covariances[m], fixed.covariances[f]))
    return found


def _turned(
    target: NDArray[np.float64], source: NDArray[np.float64], moving: NDArray[np.float64], fixed: NDArray[np.float64]
) -> list[Candidate]:
    (moving_values, moving_axes), (fixed_values, fixed_axes) = np.linalg.eigh(moving), np.linalg.eigh(fixed)
    # A round region has no direction to align.
    if min(moving_values[1] / moving_values[0], fixed_values[1] / fixed_values[0]) < 1.5:
        return []
    scale = float(np.linalg.det(moving) / np.linalg.det(fixed)) ** 0.25
    turn = moving_axes @ fixed_axes.T
    if np.linalg.det(turn) < 0:
        turn = moving_axes @ np.diag([1.0, -1.0]) @ fixed_axes.T
    maps = []
    for sign in (1.0, -1.0):
        matrix = np.eye(3)
        matrix[:2, :2] = sign * scale * turn
        matrix[:2, 2] = target - matrix[:2, :2] @ source
        maps.append(Candidate(Affine(matrix), "one region pair"))
    return maps


def find_start(
    fixed: Image,
    moving: Image,
    given: Sequence[Candidate],
    proposals: Sequence[Candidate],
    *,
    options: AffineOptions,
    velocity: VelocityOptions,
    probes: int,
    probe_voxels: int,
    margin: float,
    features: FeatureFunction | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    progress: Progress = silent,
) -> Start:
    """Choose the global map.

    Parameters
    ----------
    fixed, moving : one-channel images.
    given : starts that are tried as they are, the preferred first; at least one.
    proposals : maps from regions; judged, the best refined, the best of those tried.
    velocity : settings of the fit that the trials follow.
    probes : how many refined proposals are tried on one coarse level; the better half of those and every given
        start then go on to a second level.
    probe_voxels : voxels of that second level.
    margin : how much lower (relative) the loss of a trial must be for a proposal to win over the best given start.
    """
    masks: dict[str, Any] = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    refined = choose_affine(fixed, moving, [*given, *proposals], options=options, **masks)[:probes]
    # Which start is right shows in features and, in 3D, on wide windows: narrow ones find a match anywhere.
    trial = velocity.model_copy(update={"window": 2, "feature_weight": 2 * velocity.feature_weight})
    few = max(1000, probe_voxels // 2**fixed.ndim)
    rough = trial.model_copy(update={"levels": 1, "iterations": (20,), "max_voxels": few})
    fine = trial.model_copy(update={"levels": 2, "iterations": (30, 20), "max_voxels": probe_voxels})
    once = list(build_levels(fixed, moving, options=rough, features=features, **masks))
    twice = list(build_levels(fixed, moving, options=fine, features=features, **masks))
    radius = float(np.linalg.norm(fixed.grid.extent)) / 2

    def try_from(c: Candidate, levels: Sequence[Level]) -> Candidate:
        return replace(c, score=fit_levels(levels, initial=c.affine).loss)

    moved = sorted((try_from(c, once) for c in refined), key=lambda c: c.score)[: max(1, probes // 2)]
    progress(ProgressEvent("finding the start", 0.5))
    kept = [try_from(c, twice) for c in given]
    moved = [try_from(c, twice) for c in moved]
    tried = [*kept, *moved]
    best = min(kept, key=lambda c: c.score)
    if moved:
        proposal = min(moved, key=lambda c: c.score)
        if proposal.score < (1 - margin) * best.score:
            finer = refine_affine(fixed, moving, proposal.affine, options=options, **masks)
            finer = try_from(replace(finer, source=proposal.source), twice)
            best = finer if finer.score <= proposal.score else proposal
    progress(ProgressEvent("finding the start", 1.0, best.source))
    corners = fixed.grid.corners()
    away = [
        (c.affine, c.score)
        for c in sorted(tried, key=lambda c: c.score)
        if np.abs(c.affine.map_points(corners) - best.affine.map_points(corners)).max() > radius / 4
    ]
    return Start(best.affine, best.source, best.score, tuple(away))
