"""The matcher: regions and features of two images in, region pairs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.seeds import generator
from roireg.core.transforms import Affine
from roireg.match.assign import (
    assign_greedy,
    assign_many,
    assign_mutual,
    assign_optimal,
    confidences,
)
from roireg.match.geometry import GeometryOptions, affine_hypotheses, pair_agreement
from roireg.match.prototypes import prototypes
from roireg.match.similarity import (
    DescriptorWeights,
    RegionDescriptors,
    cosine_similarity,
    describe,
    descriptor_similarity,
)

__all__ = ["PUBLISHED", "MatchOptions", "described", "match", "match_labels", "region_similarity", "similarity_of"]

Matrix = NDArray[np.float64]

_ASSIGNMENTS = {"greedy": assign_greedy, "many": assign_many, "optimal": assign_optimal, "mutual": assign_mutual}


@dataclass(frozen=True)
class MatchOptions:
    """How regions are compared and paired.

    Attributes
    ----------
    similarity : "descriptor" (features, context, shape and position; for features without training) or
        "cosine" (prototypes of an encoder, as published).
    prototype : "soft" or "nearest" mask resizing of the cosine.
    assignment : "greedy" or "optimal" (one-to-one), "mutual" (each other's best) or "many" (one-to-many;
        masks that share a target are merged and compared again).
    threshold : least similarity of a pair.
    top : keep only the first so many proposed pairs; None keeps all.
    geometric : find the affine that most regions agree on and pair by similarity times agreement.
    least_agreement : with `geometric`, pairs whose regions agree less under the affine are dropped.
    weights : parts of the descriptor.
    geometry : limits and effort of the search for the affine.

    Raises
    ------
    InputError
        When a name is unknown or `top` is below 1.
    """

    similarity: str = "descriptor"
    prototype: str = "soft"
    assignment: str = "greedy"
    threshold: float = 0.1
    top: int | None = None
    geometric: bool = True
    least_agreement: float = 0.5
    weights: DescriptorWeights = field(default_factory=DescriptorWeights)
    geometry: GeometryOptions = field(default_factory=GeometryOptions)

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.similarity, ("descriptor", "cosine"), "similarity"),
            (self.prototype, ("soft", "nearest"), "prototype"),
            (self.assignment, tuple(_ASSIGNMENTS), "assignment"),
        ):
            if value not in known:
                raise InputError(f"{what} {value!r} is unknown; use one of {', '.join(known)}")
        if self.top is not None and self.top < 1:
            raise InputError(f"top is the number of pairs to keep, at least 1, found {self.top}")


PUBLISHED = MatchOptions(similarity="cosine", prototype="soft", assignment="greedy", threshold=0.8, geometric=False)
"""SAMReg as published (epsilon 0.8, one-to-one), except that masks are resized softly so that none vanishes."""


def region_similarity(
    moving: ROISet, fixed: ROISet, moving_features: Image, fixed_features: Image, *, options: MatchOptions
) -> Matrix:
    """(M, F) float64 similarities of all regions, rows moving, as `options` say."""
    moving_known = described(moving, moving_features, options=options)
    return similarity_of(moving_known, described(fixed, fixed_features, options=options), options=options)


def described(rois: ROISet, features: Image, *, options: MatchOptions) -> Tensor | RegionDescriptors:
    """What `options.similarity` compares of K regions, needed once however many others they meet.

    (K, C) prototypes of (C, *shape) `features` for "cosine", else their descriptors, see `describe`.
    """
    if options.similarity == "cosine":
        return prototypes(features, rois, mode=options.prototype)
    return describe(features, rois)


def similarity_of(
    moving: Tensor | RegionDescriptors, fixed: Tensor | RegionDescriptors, *, options: MatchOptions
) -> Matrix:
    """(M, F) float64 similarities of regions that `described` has described with the same options."""
    if isinstance(moving, RegionDescriptors):
        assert isinstance(fixed, RegionDescriptors)
        result = descriptor_similarity(moving, fixed, weights=options.weights)
    else:
        assert not isinstance(fixed, RegionDescriptors)
        result = cosine_similarity(moving, fixed)
    return result.cpu().numpy().astype(np.float64)


def match(
    moving: ROISet,
    fixed: ROISet,
    moving_features: Image,
    fixed_features: Image,
    *,
    options: MatchOptions | None = None,
    known: Sequence[ROIPair] = (),
    guide: Affine | None = None,
    similarity: Matrix | None = None,
    rng: np.random.Generator | None = None,
) -> ROIPairs:
    """Pair the regions of two images.

    Parameters
    ----------
    moving, fixed : candidate regions.
    moving_features, fixed_features : feature maps with the same channels, each on any grid over the world of
        its regions.
    options : see `MatchOptions`; `PUBLISHED` for the published settings.
    known : earlier pairs; accepted ones are kept as they are and take their regions, rejected ones are kept
        and never proposed again, proposed ones are forgotten.
    guide : affine (fixed world -> moving world) to check pairs against, for instance a verified hypothesis;
        None searches one where `options.geometric` asks for it.
    similarity : (M, F) from :func:`region_similarity` with the same options, where it is at hand already.
    rng : random numbers of that search; None is seed 0.

    Returns
    -------
    Accepted pairs, then proposals, best first, then rejected pairs. Regions without a partner stay in the sets.
    With "many", merged masks are added behind the regions of either side.

    Raises
    ------
    GeometryError
        When regions and features differ in dimension.
    InputError
        When the features differ in channels or a known pair points to a region that is not there.
    """
    options = options or MatchOptions()
    if moving.grid.ndim != fixed.grid.ndim:
        raise GeometryError(f"cannot match {moving.grid.ndim}D moving regions with {fixed.grid.ndim}D fixed regions")
    accepted = [p for p in known if p.status == "accepted"]
    rejected = [p for p in known if p.status == "rejected"]
    ROIPairs(moving, fixed, (*accepted, *rejected))
    if len(moving) == 0 or len(fixed) == 0:
        return ROIPairs(moving, fixed, ())
    if similarity is None:
        similarity = region_similarity(moving, fixed, moving_features, fixed_features, options=options)
    allowed = similarity.copy()
    for p in rejected:
        allowed[p.moving, p.fixed] = -np.inf
    if options.assignment != "many":
        for p in accepted:
            allowed[p.moving] = -np.inf
            allowed[:, p.fixed] = -np.inf
    else:
        for p in accepted:
            allowed[p.moving, p.fixed] = -np.inf

    agreement = _agreement(moving, fixed, allowed, accepted, options, guide, rng)
    ranked = allowed
    if agreement is not None:
        inside = (agreement >= options.least_agreement) & (allowed > options.threshold)
        ranked = np.where(inside, allowed * agreement, -np.inf)
    threshold = options.threshold if agreement is None else -1.0
    chosen = _ASSIGNMENTS[options.assignment](ranked, threshold=threshold, top=options.top)
    trust = confidences(similarity, chosen, agreement=agreement)
    proposed = [
        ROIPair(m, f, float(similarity[m, f]), float(c), name=_common_name(moving, fixed, m, f))
        for (m, f), c in zip(chosen, trust, strict=True)
    ]
    if options.assignment == "many":
        moving, fixed, proposed = _merge(moving, fixed, proposed, moving_features, fixed_features, options)
    return ROIPairs(moving, fixed, (*accepted, *proposed, *rejected))


def _agreement(
    moving: ROISet,
    fixed: ROISet,
    similarity: Matrix,
    accepted: Sequence[ROIPair],
    options: MatchOptions,
    guide: Affine | None,
    rng: np.random.Generator | None,
) -> Matrix | None:
    """(M, F) geometric agreement under the guide or the best hypothesis; None where not asked for or not found."""
    if guide is None:
        if not options.geometric:
            return None
        votes = similarity.copy()
        for p in accepted:
            votes[p.moving, p.fixed] = 1.0
        rng = generator(0, stream="match") if rng is None else rng
        found = affine_hypotheses(moving, fixed, votes, rng=rng, count=1, options=options.geometry)
        if not found:
            return None
        guide = found[0].affine
    return pair_agreement(moving, fixed, guide, options=options.geometry)


def _common_name(moving: ROISet, fixed: ROISet, m: int, f: int) -> str | None:
    return moving.names[m] if moving.names[m] == fixed.names[f] else None


def _merge(
    moving: ROISet,
    fixed: ROISet,
    pairs: list[ROIPair],
    moving_features: Image,
    fixed_features: Image,
    options: MatchOptions,
) -> tuple[ROISet, ROISet, list[ROIPair]]:
    """Join moving masks that share a fixed region, compare again, keep the union where it still passes.

    A union that no longer passes is worse than its best part, which then stays alone.
    """
    result: list[ROIPair] = []
    for f in dict.fromkeys(p.fixed for p in pairs):
        group = [p for p in pairs if p.fixed == f]
        if len(group) == 1:
            result.append(group[0])
            continue
        members = [p.moving for p in group]
        union = ROISet(moving.masks[members].any(0, keepdim=True), moving.grid)
        own = region_similarity(union, fixed.subset([f]), moving_features, fixed_features, options=options)[0, 0]
        if own <= options.threshold:
            result.append(group[0])
            continue
        moving = _append(moving, union)
        result.append(ROIPair(len(moving) - 1, f, float(own), float(np.mean([p.confidence for p in group]))))
    return moving, fixed, sorted(result, key=lambda p: (-p.similarity, p.moving, p.fixed))


def _append(rois: ROISet, extra: ROISet) -> ROISet:
    assert rois.scores is not None and extra.scores is not None
    return replace(
        rois,
        masks=torch.cat([rois.masks, extra.masks]),
        names=(*rois.names, *extra.names),
        scores=torch.cat([rois.scores, extra.scores]),
    )


def match_labels(moving: ROISet, fixed: ROISet) -> ROIPairs:
    """Pair regions of equal class name (Case 1); similarity and confidence 1, order of the fixed regions.

    Classes of one image only stay unmatched in the result.

    Raises
    ------
    InputError
        When a class occurs twice in one image, so that equal names do not tell which regions belong together.
    """
    for side, rois in (("moving", moving), ("fixed", fixed)):
        named = [n for n in rois.names if n is not None]
        repeated = sorted({n for n in named if named.count(n) > 1})
        if repeated:
            raise InputError(
                f"the {side} image has several regions of class {', '.join(repeated)}; "
                "give every region a class of its own or match by features"
            )
    where = {n: i for i, n in enumerate(moving.names) if n is not None}
    pairs = [ROIPair(where[n], i, 1.0, 1.0, source="labels", name=n) for i, n in enumerate(fixed.names) if n in where]
    return ROIPairs(moving, fixed, tuple(pairs))
