"""Which global map to start from: proposals of regions, judged by the images, decided by a short deformation.

Between people an affine alone seldom makes images similar, so its similarity says little about which start is right.
A deformation of a few hundred control points takes a second and does: from the right start it has little left to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from roireg.core.errors import InputError
from roireg.core.progress import ProgressEvent
from roireg.core.rois import ROISet
from roireg.core.seeds import generator
from roireg.core.transforms import Affine, Chain, Transform
from roireg.features import make_extractor
from roireg.fit.dense_affine import AffineOptions, choose_affine, refine_affine
from roireg.fit.level import Level, VelocityOptions, build_levels
from roireg.fit.perspective import perspective_flow
from roireg.fit.region_affine import RegionAffine, affine_from_regions
from roireg.fit.search import ALIKE, GlobalSearch, SearchOptions, evidence_of, refine
from roireg.fit.stage import Candidate, Problem, Stage
from roireg.fit.velocity import fit_levels
from roireg.match.keypoints import SIFT_POINTS, Detector, KeypointMap, keypoint_maps, network_points
from roireg.models.base import KeyPointModel
from roireg.models.registry import load

__all__ = ["Search", "find_start", "single_pair_maps"]

TITLE = "finding the start"

AMBIGUOUS, CERTAIN = 0.85, 0.6
"""Score of the best position elsewhere, relative to the best one, above which neither is trusted, unless structure
correlates by so much under the best."""

REFINED_GAIN = 0.15
"""Least gain in structure for which a given position is left."""


class Search(Stage):
    """Global map: proposals of regions and key points, judged by the images (see the module's text).

    With region pairs from the user, their affine map is the start.
    """

    title: ClassVar[str] = TITLE

    stage: Literal["search"] = "search"
    regions: bool | None = Field(
        None,
        description="whether region pairs propose maps; null: yes, but not pairs found in volumes without a network "
        "beside an exhaustive search, which they do not improve on",
    )
    single_pairs: int = Field(200, ge=0, description="most similar region pairs that each propose a map")
    key_points: bool = Field(True, description="2D: matched key points propose maps too")
    key_point_model: str | None = Field(
        None, description="2D: network whose key points propose maps beside those of SIFT, such as alike-t"
    )
    exhaustive: SearchOptions | None = Field(
        SearchOptions(), description="search of all positions by the orientation of edges; null leaves it out"
    )
    clear_gain: float = Field(
        1.2, ge=1, description="how many times better a position found there must agree than the one the images have"
    )
    affine: AffineOptions = AffineOptions()
    trials: int = Field(4, ge=1, description="proposals from which a coarse deformation is tried")
    trial: VelocityOptions = Field(
        VelocityOptions(levels=2, iterations=(30, 20), max_voxels=16_000, correlation_radius=2, feature_weight=0.5),
        description="that coarse deformation; which start is right shows in features and on wide windows, since "
        "narrow ones find a match anywhere",
    )
    least_gain: float = Field(
        0.045,
        ge=0,
        description="share by which the trial of a proposal must end lower than that of the starting position to "
        "replace it",
    )

    def __call__(self, problem: Problem, start: Transform) -> Transform:
        if not problem.searchable:
            return start
        if problem.pairs is not None and problem.trusted is None:
            return RegionAffine(model=self.affine.model)(problem, start)
        landmarks = self._key_points(problem)
        from_landmarks = [Candidate(k.affine, "key points") for k in landmarks]
        if any(k.decisive for k in landmarks):
            starts, proposals = from_landmarks, []
        else:
            clear = None if problem.candidates is None else self._clear_position(problem)
            starts = list(problem.starts) if clear is None else [clear]
            proposals = [*self._of_regions(problem), *from_landmarks]
        if problem.trusted is not None:
            source = "label centroids" if problem.candidates is None else "accepted pairs"
            proposals.append(Candidate(affine_from_regions(problem.trusted, model=self.affine.model), source))
        affine = find_start(problem, starts, proposals, options=self)
        search = problem.trace.search
        if search is not None and problem.trace.source not in {c.source for c in starts}:
            # Never from a position that structure supports to one that it supports less.
            best = max(starts, key=lambda c: search.score_of(c.affine).score)
            if search.score_of(affine).score < search.score_of(best.affine).score:
                problem.trace.source, problem.trace.trial, affine = best.source, None, best.affine
        for k in landmarks:
            if k.perspective is not None and k.decisive and problem.trace.source == "key points":
                flow = perspective_flow(k.perspective, affine, problem.pair.fixed.grid)
                problem.trace.perspective, problem.trace.uncertainty = flow, 2 * k.spread
                return Chain((flow, affine))
        lies = problem.trace.source in {c.source for c in problem.starts}
        return self._refined_where_unlike(problem, affine) if lies else affine

    def _refined_where_unlike(self, problem: Problem, affine: Affine) -> Affine:
        """Refine a given position on edges where even a deformation leaves intensities that explain little.

        Between images of one contrast the deformation sees what an affine map leaves by itself.
        """
        search, trial = problem.search, problem.trace.trial
        if evidence_of(search, affine if trial is None else trial).contrast >= ALIKE:
            return affine
        refined = refine(problem.pair, affine, "rigid", search=search).affine
        gain = evidence_of(search, refined).structure - evidence_of(search, affine).structure
        better = search.score_of(refined).score > search.score_of(affine).score
        return refined if better and gain > REFINED_GAIN else affine

    def _clear_position(self, problem: Problem) -> Candidate | None:
        """Return what the exhaustive search found, refined, where that is clearly better than the starts."""
        if self.exhaustive is None:
            return None
        search = problem.trace.search = GlobalSearch(problem.pair, self.exhaustive)
        if not search.candidates:
            return None
        best = search.candidates[0]
        before = max(search.score_of(c.affine).score for c in problem.starts)
        doubtful = best.rival > AMBIGUOUS and best.correlation < CERTAIN
        if best.score <= self.clear_gain * max(before, 0.0) or doubtful:
            return None
        refined = refine(problem.pair, best.affine, self.affine.model, search=search)
        return Candidate(refined.affine, "global search")

    def _of_regions(self, problem: Problem) -> list[Candidate]:
        candidates = problem.candidates
        if candidates is None or self.regions is False:
            return []
        rng = generator(problem.seed, stream="match")
        maps = [Candidate(h.affine, "regions") for h in candidates.hypotheses(rng)]
        return maps + single_pair_maps(
            candidates.fixed, candidates.moving, candidates.similarity, count=self.single_pairs
        )

    def _key_points(self, problem: Problem) -> list[KeypointMap]:
        if not self.key_points or problem.candidates is None:
            return []
        pair = problem.pair
        maps: list[KeypointMap] = []
        for detector in self._detectors(pair.fixed.ndim):
            maps += keypoint_maps(
                pair.fixed,
                pair.moving,
                rng=generator(problem.seed, stream="key points"),
                fixed_mask=pair.fixed_mask,
                moving_mask=pair.moving_mask,
                detector=detector,
            )
        return maps

    def _detectors(self, ndim: int) -> list[Detector]:
        """Return what finds key points.

        Raises
        ------
        InputError
            When the network that is named does not exist, is not on this disk, or finds none.
        """
        if self.key_point_model is None or ndim != 2:
            return [SIFT_POINTS]
        model = load(self.key_point_model, "features")
        if not isinstance(model, KeyPointModel):
            raise InputError(f"{model.card.name} finds no key points; use alike-t or alike-n (`roireg models list`)")
        return [SIFT_POINTS, network_points(model)]


def single_pair_maps(
    fixed: ROISet, moving: ROISet, similarity: NDArray[np.float64], *, count: int
) -> list[Candidate]:
    """Maps that one region pair alone proposes, for the `count` most similar pairs.

    Every pair proposes the translation between its centroids. In 2D an elongated pair also proposes the two
    similarity maps that align its principal axes and its area; in 3D two axes that stay unordered would be too many.

    `similarity` is (moving, fixed).
    """
    d = fixed.grid.ndim
    maps = []
    order = np.argsort(-similarity, axis=None, kind="stable")[:count]
    for m, f in zip(*np.unravel_index(order, similarity.shape), strict=True):
        target, source = moving.centroids[m], fixed.centroids[f]
        maps.append(Candidate(Affine.translation(target - source), "one region pair"))
        if d == 2:
            maps.extend(_turned(source, target, fixed.covariances[f], moving.covariances[m]))
    return maps


def _turned(
    source: NDArray[np.float64], target: NDArray[np.float64], fixed: NDArray[np.float64], moving: NDArray[np.float64]
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
    problem: Problem, starts: Sequence[Candidate], proposals: Sequence[Candidate], *, options: Search
) -> Affine:
    """Choose the global map; the trace learns its source, the loss of its trial, and rivals.

    Rivals are other starts somewhere at least an eighth of the diagonal of the fixed image away.

    Parameters
    ----------
    problem : images and masks.
    starts : tried as they are, the preferred first; at least one.
    proposals : maps from regions; judged, the best refined, the best of those tried: `options.trials` on one coarse
        level, the better half of them and every start on a second one.
    """
    pair, trial, progress = problem.pair, options.trial, problem.progress
    refined = choose_affine(pair, [*starts, *proposals], options=options.affine)[: options.trials]
    few = max(1000, trial.max_voxels // 2**pair.ndim)
    rough = trial.model_copy(update={"levels": 1, "iterations": (20,), "max_voxels": few})
    features = None if trial.features is None else make_extractor(trial.features)
    once = list(build_levels(pair, options=rough, features=features))
    twice = list(build_levels(pair, options=trial, features=features))
    radius = float(np.linalg.norm(pair.fixed.grid.extent)) / 2

    def try_from(c: Candidate, levels: Sequence[Level]) -> Candidate:
        fit = fit_levels(levels, affine=c.affine)
        return replace(c, score=fit.loss, trial=fit.transform)

    moved = sorted((try_from(c, once) for c in refined), key=lambda c: c.score)[: max(1, options.trials // 2)]
    progress(ProgressEvent(TITLE, 0.5))
    unmoved = [try_from(c, twice) for c in starts]
    moved = [try_from(c, twice) for c in moved]
    tried = [*unmoved, *moved]
    best = min(unmoved, key=lambda c: c.score)
    if moved:
        proposal = min(moved, key=lambda c: c.score)
        if proposal.score < (1 - options.least_gain) * best.score:
            finer = refine_affine(pair, proposal.affine, options=options.affine)
            finer = try_from(replace(finer, source=proposal.source), twice)
            best = finer if finer.score <= proposal.score else proposal
    progress(ProgressEvent(TITLE, 1.0, best.source))
    corners = pair.fixed.grid.corners()
    trace = problem.trace
    trace.source, trace.loss, trace.trial = best.source, best.score, best.trial
    trace.rivals = tuple(
        (c.affine, c.score)
        for c in sorted(tried, key=lambda c: c.score)
        if np.abs(c.affine.map_points(corners) - best.affine.map_points(corners)).max() > radius / 4
    )
    return best.affine
