"""The matcher: regions and features of two images in, region pairs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
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
    probability_of,
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

__all__ = [
    "PUBLISHED",
    "MatchOptions",
    "described",
    "match",
    "match_classes",
    "match_labels",
    "region_similarity",
    "similarity_of",
]

Matrix = NDArray[np.float64]

_ASSIGNMENTS = {"greedy": assign_greedy, "many": assign_many, "optimal": assign_optimal, "mutual": assign_mutual}


class MatchOptions(BaseModel):
    """How regions are compared and paired."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    similarity: Literal["descriptor", "cosine"] = Field(
        "descriptor",
        description="descriptor: features, context, shape and position, for features without training; cosine: "
        "prototypes of an encoder, as published",
    )
    prototype: Literal["soft", "nearest"] = Field(
        "soft", description="how masks are resized to the features; nearest, as released, loses small ones"
    )
    assignment: Literal["greedy", "optimal", "mutual", "many"] = Field(
        "mutual",
        description="greedy and optimal are one-to-one, mutual keeps each other's best, many is one-to-many",
    )
    threshold: float = Field(0.1, ge=-1, le=1, description="least similarity of a pair")
    top: int | None = Field(None, ge=1, description="keep only so many pairs, the best first")
    geometric: bool = Field(True, description="pairs must agree with one affine map")
    least_agreement: float = Field(
        0.5, ge=0, le=1, description="least overlap of the regions of a pair under that map, as Gaussians"
    )
    weights: DescriptorWeights = DescriptorWeights()
    geometry: GeometryOptions = GeometryOptions()


PUBLISHED = MatchOptions(similarity="cosine", prototype="soft", assignment="greedy", threshold=0.8, geometric=False)
"""SAMReg as published (epsilon 0.8, one-to-one), except that masks are resized softly so that none vanishes."""


def region_similarity(
    fixed: ROISet,
    moving: ROISet,
    fixed_features: Image,
    moving_features: Image,
    *,
    options: MatchOptions,
    embeddings: tuple[Image, Image] | None = None,
) -> Matrix:
    """(M, F) float64 similarities of all regions, rows moving, as `options` say.

    `embeddings` are the anatomical embeddings (fixed, moving) that descriptors may count, see `describe`.
    """
    of_fixed, of_moving = embeddings or (None, None)
    return similarity_of(
        described(fixed, fixed_features, options=options, embedding=of_fixed),
        described(moving, moving_features, options=options, embedding=of_moving),
        options=options,
    )


def described(
    rois: ROISet, features: Image, *, options: MatchOptions, embedding: Image | None = None
) -> Tensor | RegionDescriptors:
    """Return what `options.similarity` compares of K regions; it serves for every set they are compared with.

    (K, C) prototypes of (C, *shape) `features` for "cosine", else their descriptors, see `describe`.
    """
    if options.similarity == "cosine":
        return prototypes(features, rois, mode=options.prototype)
    return describe(features, rois, embedding=embedding)


def similarity_of(
    fixed: Tensor | RegionDescriptors, moving: Tensor | RegionDescriptors, *, options: MatchOptions
) -> Matrix:
    """(M, F) float64 similarities of regions that `described` has described with the same options."""
    if isinstance(fixed, RegionDescriptors):
        assert isinstance(moving, RegionDescriptors)
        result = descriptor_similarity(fixed, moving, weights=options.weights)
    else:
        assert not isinstance(moving, RegionDescriptors)
        result = cosine_similarity(fixed, moving)
    return result.cpu().numpy().astype(np.float64)


def match(
    fixed: ROISet,
    moving: ROISet,
    fixed_features: Image,
    moving_features: Image,
    *,
    options: MatchOptions | None = None,
    excluded: Sequence[tuple[int, int]] = (),
    guide: Affine | None = None,
    similarity: Matrix | None = None,
    rng: np.random.Generator | None = None,
) -> ROIPairs:
    """Pair the regions of two images.

    Parameters
    ----------
    fixed, moving : candidate regions.
    fixed_features, moving_features : feature maps with the same channels, each on any grid over the world of
        its regions.
    options : see `MatchOptions`; `PUBLISHED` for the published settings.
    excluded : (moving, fixed) indices of pairs that are never proposed.
    guide : affine (fixed world -> moving world) to check pairs against, for instance a verified hypothesis;
        None: one is searched for if `options.geometric` is set.
    similarity : (M, F) from :func:`region_similarity` with the same options, if it has been computed already.
    rng : random numbers of that search; None is seed 0.

    Returns
    -------
    Proposed pairs, best first. Regions without a partner stay in the sets. With "many", merged masks are added behind
    the regions of either side.

    Raises
    ------
    GeometryError
        When regions and features differ in dimension.
    InputError
        When the features differ in channels or an excluded pair points to a region that is not there.
    """
    options = options or MatchOptions()
    if moving.grid.ndim != fixed.grid.ndim:
        raise GeometryError(f"cannot match {moving.grid.ndim}D moving regions with {fixed.grid.ndim}D fixed regions")
    ROIPairs(moving, fixed, tuple(ROIPair(m, f, 0.0, 0.0) for m, f in excluded))
    if len(moving) == 0 or len(fixed) == 0:
        return ROIPairs(moving, fixed, ())
    if similarity is None:
        similarity = region_similarity(fixed, moving, fixed_features, moving_features, options=options)
    allowed = similarity.copy()
    for m, f in excluded:
        allowed[m, f] = -np.inf
    if guide is None and options.geometric:
        rng = generator(0, stream="match") if rng is None else rng
        best = affine_hypotheses(fixed, moving, allowed, rng=rng, count=1, options=options.geometry)
        guide = best[0].affine if best else None
    ranked, agreement = allowed, None
    threshold = options.threshold
    if guide is not None:
        agreement = pair_agreement(fixed, moving, guide, options=options.geometry)
        together = (agreement >= options.least_agreement) & (allowed > options.threshold)
        ranked, threshold = np.where(together, allowed * agreement, -np.inf), -1.0
    index_pairs = _ASSIGNMENTS[options.assignment](ranked, threshold=threshold, top=options.top)
    trust = confidences(similarity, index_pairs, agreement=agreement)
    calibrated = agreement is not None and options.similarity == "descriptor"
    chances = probability_of(trust).tolist() if calibrated else [None] * len(trust)
    pairs = [
        ROIPair(m, f, float(similarity[m, f]), float(c), name=_common_name(fixed, moving, f, m), probability=chance)
        for (m, f), c, chance in zip(index_pairs, trust, chances, strict=True)
    ]
    if options.assignment == "many":
        fixed, moving, pairs = _merge(fixed, moving, pairs, fixed_features, moving_features, options)
    return ROIPairs(moving, fixed, tuple(pairs))


def _common_name(fixed: ROISet, moving: ROISet, f: int, m: int) -> str | None:
    return moving.names[m] if moving.names[m] == fixed.names[f] else None


def _merge(
    fixed: ROISet,
    moving: ROISet,
    pairs: list[ROIPair],
    fixed_features: Image,
    moving_features: Image,
    options: MatchOptions,
) -> tuple[ROISet, ROISet, list[ROIPair]]:
    """Join the masks that share a partner, on either side, and compare again, each union described anew.

    A union stands for its parts where it is more alike than the best of them; else the best stays alone. Either way
    no region is in two pairs, which would pull it to two places.
    """
    for shared, other in (("fixed", "moving"), ("moving", "fixed")):
        groups: dict[int, list[ROIPair]] = {}
        for pair in pairs:
            groups.setdefault(getattr(pair, shared), []).append(pair)
        several = {k: group for k, group in groups.items() if len(group) > 1}
        rois = moving if other == "moving" else fixed
        first = len(rois)
        for group in several.values():
            members = [getattr(p, other) for p in group]
            rois = _append(rois, ROISet(rois.masks[members].any(0, keepdim=True), rois.grid))
        both = (fixed, rois) if other == "moving" else (rois, moving)
        similarity = region_similarity(*both, fixed_features, moving_features, options=options)
        similarity = similarity if other == "moving" else similarity.T
        unions = {k: first + n for n, k in enumerate(several)}
        united: list[ROIPair] = []
        for k, group in groups.items():
            best = max(group, key=lambda p: p.similarity)
            alike = float(similarity[unions[k], k]) if k in unions else -np.inf
            if alike > best.similarity:
                trust = float(np.mean([p.confidence for p in group]))
                index = {"moving": best.moving, "fixed": best.fixed} | {other: unions[k]}
                best = ROIPair(index["moving"], index["fixed"], alike, trust, name=best.name)
            united.append(best)
        pairs = united
        fixed, moving = both
    return fixed, moving, sorted(pairs, key=lambda p: (-p.similarity, p.moving, p.fixed))


def _append(rois: ROISet, extra: ROISet) -> ROISet:
    assert rois.scores is not None and extra.scores is not None
    return replace(
        rois,
        masks=torch.cat([rois.masks, extra.masks]),
        names=(*rois.names, *extra.names),
        scores=torch.cat([rois.scores, extra.scores]),
    )


def match_labels(fixed: ROISet, moving: ROISet) -> ROIPairs:
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
    return ROIPairs(
        moving,
        fixed,
        tuple(ROIPair(m, f, 1.0, 1.0, source="labels", name=fixed.names[f]) for m, f in _of_one_name(fixed, moving)),
    )


def match_classes(fixed: ROISet, moving: ROISet) -> ROIPairs:
    """Pair regions that a segmenter has given the same class (Case 1), the most probable first.

    Similarity, confidence and probability of a pair are the joint probability of the class, p(C|moving) p(C|fixed)
    (SAMReg, equation 1), each the mean inside its region. Classes of one image only stay unmatched.
    """
    assert fixed.scores is not None and moving.scores is not None
    pairs = []
    for m, f in _of_one_name(fixed, moving):
        joint = float(moving.scores[m] * fixed.scores[f])
        pairs.append(ROIPair(m, f, joint, joint, source="classes", name=fixed.names[f], probability=joint))
    return ROIPairs(moving, fixed, tuple(sorted(pairs, key=lambda p: -p.confidence)))


def _of_one_name(fixed: ROISet, moving: ROISet) -> list[tuple[int, int]]:
    """Return (moving, fixed) indices of regions with equal names, order of the fixed regions."""
    where = {n: i for i, n in enumerate(moving.names) if n is not None}
    return [(where[n], i) for i, n in enumerate(fixed.names) if n in where]
