"""A prompt crosses from one image to the other: region, prototype, place, candidates, choice, and the way back.

The chain of PromptReg (Huang et al., "Register Anything: estimating corresponding prompts", 2025, section 3) for
any segmenter that answers prompts and any features, in 2D and 3D. What differs by default: the search is weighted
by where a guide expects the prompt; the readings of an ambiguous prompt and the candidates for their counterpart are
chosen together; auxiliary prompts are left out; and the way back says how far to trust the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError
from roireg.core.rois import Prompt, ROISet
from roireg.core.transforms import Affine
from roireg.match.auxiliary import auxiliary_point
from roireg.match.carry import (
    Guide,
    Side,
    anchor_of,
    box_around,
    carried_prompt,
    carried_regions,
    inner_point,
    inside,
    placed_prompt,
    scale_of,
)
from roireg.match.counterparts import answers, fits
from roireg.match.evidence import Evidence, confidence_of
from roireg.match.prototypes import prototypes
from roireg.match.similarity import cosine_similarity
from roireg.match.similarity_map import inverse_prompt, peaks, position_prior, similarity_map, soft_argmax
from roireg.match.variants import average_answers, refined_region, visible
from roireg.segment.promptable import NetworkAnswers
from roireg.segment.prompts import ClosePointsError, clipped

__all__ = ["PROMPTREG", "Transfer", "TransferOptions", "transfer_prompt"]

Array = NDArray[np.float64]

PLACES = ("argmax", "soft", "inverse")


@dataclass(frozen=True)
class TransferOptions:
    """How a prompt is carried over. Lengths are fractions of the geometric mean extent of the target image.

    Attributes
    ----------
    place : how a similarity map becomes a point: "argmax", "soft" (mean around the maximum) or "inverse" (the
        linearised inverse).
    joint : choose the reading of the prompt and its counterpart together, by how well they fit, and let views refine
        them (`variants.refined_region`); False takes the segmenter's first answer on either side and in every
        view, as published (`variants.average_answers`).
    readings : how many answers to the prompt are considered. first : how much (in the log of the fit) another
        reading than the segmenter's first must be better.
    places : how many maxima of the similarity map are tried.
    sharpness : weight of a cosine against the position, in units of the log of the prior.
    window : radius of the mean around the maximum.
    unlike : difference of standardised features at which the appearance has fallen to exp(-1/2).
    certainty : exponent of the segmenter's own scores in the fit.
    rounds : most auxiliary points; 0 leaves them out: on real pairs they changed nothing. tolerance : σ, inward : ε
        of their rule.
    threshold : probability, averaged over the views, from which a voxel belongs to the region.
    least_confidence : below it there is no answer.

    Raises
    ------
    InputError
        When a name is unknown or a number is outside its range.
    """

    place: str = "soft"
    joint: bool = True
    readings: int = 3
    first: float = 0.4
    places: int = 3
    sharpness: float = 4.0
    window: float = 0.04
    unlike: float = 0.5
    certainty: float = 0.25
    rounds: int = 0
    tolerance: float = 0.05
    inward: float = 0.01
    threshold: float = 0.5
    least_confidence: float = 0.45

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise InputError(f"place {self.place!r} is unknown; use one of {', '.join(PLACES)}")
        if self.readings < 1 or self.places < 1 or self.rounds < 0:
            raise InputError(
                f"readings and places are at least 1 and rounds at least 0, found {self.readings}, {self.places} "
                f"and {self.rounds}"
            )
        if not (0 < self.threshold <= 1 and 0 <= self.least_confidence <= 1):
            raise InputError(
                f"threshold and least_confidence are shares, found {self.threshold} and {self.least_confidence}"
            )


PROMPTREG = TransferOptions(place="inverse", joint=False, readings=1, places=1, rounds=5, tolerance=0.1, inward=0.01)
"""PromptReg as published: first answers, linearised inverse, σ = 20 and ε = 2 of 200 pixels.

The way back is not part of it; it is checked all the same, and what it does not confirm has no answer.
"""


@dataclass(frozen=True, eq=False)
class Transfer:
    """A prompt and what it became.

    Attributes
    ----------
    source : the one region that the prompt means in its own image.
    target : the one corresponding region, None where there is no answer.
    prompt : the corresponding prompt, None where not even a place was found.
    similarity : cosine of both prototypes.
    confidence : share of such answers that can be expected to be right, 0..1.
    reason : why there is no answer, in words; empty where there is one.
    evidence : what the confidence is made of, None where nothing was found.
    notes : what else to know about the answer: a sentence each.
    """

    source: ROISet
    target: ROISet | None
    prompt: Prompt | None
    similarity: float
    confidence: float
    reason: str
    evidence: Evidence | None
    notes: tuple[str, ...] = ()


def transfer_prompt(
    asked: Prompt | ROISet,
    source: Side,
    target: Side,
    *,
    guide: Guide | None = None,
    options: TransferOptions | None = None,
) -> Transfer:
    """Carry a prompt, or a region that is known already, from the source to the target image.

    Parameters
    ----------
    asked : prompt in the source world, its box is cut off at the border of the image; or one region of the image.
    source, target : the encoded images.
    guide : where things of the source are expected in the target; None searches all of it.
    options : see `TransferOptions`; `PROMPTREG` for the published procedure.

    Returns
    -------
    The region, its counterpart and the confidence; without a counterpart the reason why.

    Raises
    ------
    InputError
        When the prompt does not fit the image, or no single region is given.
    GeometryError
        When prompt and images differ in dimension.
    """
    o = options or TransferOptions()
    if source.image.ndim != target.image.ndim:
        raise GeometryError(f"cannot carry a prompt from {source.image.ndim}D to {target.image.ndim}D")
    if isinstance(asked, ROISet):
        if len(asked) != 1:
            raise InputError(f"one region is carried at a time, found {len(asked)}")
        prompt, readings = Prompt.at(inner_point(asked)), asked
    else:
        prompt = clipped(asked, source.image.grid, source.image.name)
        readings = source.segmenter.segment(source.image, prompt)
    notes: tuple[str, ...] = (readings.note,) if isinstance(readings, NetworkAnswers) and readings.note else ()
    if not len(readings):
        return _nothing(readings, "the segmenter finds no region at the prompt", notes)
    readings = readings.subset(range(min(len(readings), o.readings if o.joint else 1)))
    views = _views(prompt, source) if isinstance(asked, Prompt) else []
    if views:
        readings = _averaged(readings, views, o)
        if not len(readings):
            return _nothing(readings, "the answers to the prompt in different views agree on no region", notes)
    other_name = Path(target.image.name).name
    if guide is not None:
        expected = guide.forward.map_points(anchor_of(prompt)[None])[0]
        if not target.image.grid.contains(expected):
            why = f"the prompt lies at {_text(expected)} in {other_name}, which is outside that image"
            return _nothing(readings, why, notes)
    found = _counterpart(prompt, readings, views, source, target, guide, o)
    if found is None:
        return _nothing(readings, f"nothing in {other_name} answers the prompt at the corresponding place", notes)
    if found.left_out:
        points = "1 negative point" if found.left_out == 1 else f"{found.left_out} negative points"
        notes += (f"left out in {other_name}: {points} too close to a positive one",)
    if not len(found.region):
        why = f"the counterparts found in different views agree on no region of {other_name}"
        return Transfer(found.reading, None, found.prompt, 0.0, 0.0, why, None, notes)
    own, other = found.reading, found.region
    evidence = _returned(found, source, target, guide, o)
    confidence = confidence_of(evidence)
    pair = (prototypes(source.features, own), prototypes(target.features, other))
    similarity = float(cosine_similarity(*pair)[0, 0])
    if confidence < o.least_confidence:
        why = (
            f"no region of {other_name} resembles the one at the prompt well enough "
            f"(confidence {confidence:.2f}, at least {o.least_confidence:.2f} is needed)"
        )
        return Transfer(own, None, found.prompt, similarity, confidence, why, evidence, notes)
    return Transfer(own, other, found.prompt, similarity, confidence, "", evidence, notes)


def _nothing(regions: ROISet, why: str, notes: tuple[str, ...]) -> Transfer:
    """Return that there is not even a place; the first region, if any, is what the prompt means."""
    return Transfer(regions.subset(range(min(len(regions), 1))), None, None, 0.0, 0.0, why, None, notes)


# -- the search -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Found:
    """A reading, its counterpart, the prompt that gave it, and how well they fit (logarithm).

    `left_out` negative points of the prompt were too close to positive ones.
    """

    reading: ROISet
    region: ROISet
    prompt: Prompt
    fit: float
    appearance: float
    overlap: float
    left_out: int = 0


def _counterpart(
    prompt: Prompt,
    readings: ROISet,
    views: Sequence[ROISet],
    source: Side,
    target: Side,
    guide: Guide | None,
    o: TransferOptions,
) -> _Found | None:
    """Search, mend with auxiliary points, average over the views."""
    found = _search(prompt, readings, source, target, guide, o)
    if found is None:
        return None
    found = _mended(found, source, target, guide, o)
    return _averaged_target(found, prompt, views, source, target, guide, o) if views else found


def _search(
    prompt: Prompt, readings: ROISet, source: Side, target: Side, guide: Guide | None, o: TransferOptions
) -> _Found | None:
    """Find the best fitting pair of a reading and a region that carried prompts give."""
    asked = _carried_prompts(prompt, readings, source, target, guide, o)
    own = len(asked)
    if own == 0:
        return None
    if guide is not None and o.joint:
        asked += _boxes(readings, source, target, guide)
    candidates = answers(asked, target, first=not o.joint)
    regions = candidates.regions
    if not len(regions):
        return None
    fit, appearance, overlap = fits(
        readings, regions, source, target, guide, unlike=o.unlike, certainty=o.certainty, first=o.first
    )
    a, b = (int(k) for k in np.unravel_index(int(np.argmax(fit)), fit.shape))
    # The boxes of carried readings come last; they are no prompt of the user, whose own is the one before them.
    number = min(candidates.cause[b], own - 1)
    given = candidates.asked[number]
    left_out = len(asked[number].points) - len(given.points)
    if o.joint and not left_out:
        fitted = placed_prompt(prompt, readings.subset([a]), regions.subset([b]), guide, overlap=float(overlap[a, b]))
        given = fitted or given
    given = inside(given, regions.subset([b]))
    return _Found(
        readings.subset([a]),
        regions.subset([b]),
        given,
        float(fit[a, b]),
        float(appearance[a, b]),
        float(overlap[a, b]),
        left_out,
    )


def _carried_prompts(
    prompt: Prompt, readings: ROISet, source: Side, target: Side, guide: Guide | None, o: TransferOptions
) -> list[Prompt]:
    """Prompts at the best places of the similarity maps of all readings, and where the guide says."""
    grid, size = target.features.grid, scale_of(target.image.grid)
    anchor = anchor_of(prompt)
    found: list[Prompt | None] = []
    prior = None
    if guide is not None:
        expected = guide.forward.map_points(anchor[None])[0]
        prior = position_prior(grid, expected, guide.width)
    for prototype in prototypes(source.features, readings):
        score = o.sharpness * similarity_map(target.features, prototype)
        if prior is not None:
            score = score + prior
        for top, _ in peaks(score, grid, count=o.places if o.joint else 1, apart=1.5 * o.window * size):
            place = top
            if o.place == "soft":
                place = soft_argmax(score, grid, top, radius=o.window * size)
            elif o.place == "inverse":
                place = inverse_prompt(
                    target.features, prototype, top, lambda p: _prototype_at(target, p), step=o.window * size
                )
            found.append(carried_prompt(prompt, anchor, place, guide, target.image.grid))
    if guide is not None and o.joint:
        found.append(carried_prompt(prompt, anchor, expected, guide, target.image.grid))
    return [p for p in found if p is not None]


def _prototype_at(side: Side, point: Array) -> torch.Tensor | None:
    if not side.image.grid.contains(point):
        return None
    regions = side.segmenter.segment(side.image, Prompt.at(point))
    return prototypes(side.features, regions.subset([0]))[0] if len(regions) else None


def _boxes(readings: ROISet, source: Side, target: Side, guide: Guide) -> list[Prompt]:
    """Bounding boxes of the readings as the guide carries them."""
    made = []
    grid = target.image.grid
    for mask in readings.masks:
        index = torch.nonzero(mask).double().numpy()
        # Extremes of the region suffice for its box, and a few thousand points for its extremes.
        step = max(1, len(index) // 2000)
        points = guide.forward.map_points(readings.grid.world_from_index(index[::step]))
        place = grid.index_from_world(points)
        low = np.maximum(place.min(0), -0.5)
        high = np.minimum(place.max(0), np.array(grid.shape) - 0.5)
        if (high > low).all():
            none = np.zeros((0, grid.ndim)), np.zeros(0, dtype=np.int64)
            made.append(Prompt(*none, np.stack([grid.world_from_index(low), grid.world_from_index(high)])))
    return made


# -- auxiliary prompts, views, the way back -----------------------------------------------------------


def _mended(found: _Found, source: Side, target: Side, guide: Guide | None, o: TransferOptions) -> _Found:
    """Add auxiliary points while they make the counterpart fit better."""
    size = scale_of(target.image.grid)
    for _ in range(o.rounds):
        grid = found.region.grid
        lay = guide
        if guide is None or not o.joint:
            offset = found.region.centroids[0] - found.reading.centroids[0]
            lay = Guide(Affine.translation(offset), Affine.translation(-offset), 1.0)
        assert lay is not None
        wanted = carried_regions(found.reading, grid, lay)[0] > 0.5
        if not wanted.any():
            return found
        extra = auxiliary_point(
            wanted, found.region.masks[0], grid, tolerance=o.tolerance * size, inward=o.inward * size
        )
        if extra is None:
            return found
        point, label = extra
        same = len(found.prompt.points) and np.linalg.norm(found.prompt.points - point, axis=1).min() < 1e-6
        if same or not target.image.grid.contains(point):
            return found
        points = np.concatenate([found.prompt.points.reshape(-1, grid.ndim), point[None]])
        box = found.prompt.box
        if box is not None and label == 1:
            box = box_around(np.concatenate([box, point[None]]), target.image.grid)
        asked = Prompt(points, np.append(found.prompt.labels, label), box)
        candidates = answers([asked], target, first=not o.joint)
        regions = candidates.regions
        if not len(regions) or len(candidates.asked[0].points) < len(points):
            return found
        fit, appearance, overlap = fits(
            found.reading, regions, source, target, guide, unlike=o.unlike, certainty=o.certainty, first=o.first
        )
        b = int(np.argmax(fit[0]))
        assert regions.scores is not None and found.region.scores is not None
        worse = fit[0, b] <= found.fit if o.joint else regions.scores[b] < found.region.scores[0]
        if worse:
            return found
        found = replace(
            found,
            region=regions.subset([b]),
            prompt=asked,
            fit=float(fit[0, b]),
            appearance=float(appearance[0, b]),
            overlap=float(overlap[0, b]),
        )
    return found


def _views(prompt: Prompt, side: Side) -> list[ROISet]:
    """Answers to the prompt in every view that shows it with all its points apart."""
    found = []
    for view, image, segmenter in side.views:
        if visible(prompt, view, side.image.grid):
            with suppress(ClosePointsError):
                found.append(segmenter.segment(image, prompt))
    return found


def _averaged(regions: ROISet, views: Sequence[ROISet], o: TransferOptions) -> ROISet:
    """Average every region over the views; as published, none is left where nothing is probable enough."""
    if not o.joint:
        mask = average_answers(views, regions.grid)[None] >= o.threshold
        return ROISet(mask, regions.grid, scores=regions.scores) if mask.any() else ROISet.empty(regions.grid)
    masks = torch.stack([refined_region(regions.subset([k]), views) for k in range(len(regions))]) >= o.threshold
    gone = ~masks.flatten(1).any(1)
    masks[gone] = regions.masks[gone]
    return ROISet(masks, regions.grid, regions.names, regions.scores)


def _averaged_target(
    found: _Found,
    prompt: Prompt,
    views: Sequence[ROISet],
    source: Side,
    target: Side,
    guide: Guide | None,
    o: TransferOptions,
) -> _Found:
    """Carry the region of every view over on its own, and average the counterparts; the region may become empty."""
    alone = replace(o, readings=1, places=1)
    carried = [_search(prompt, r.subset([0]), source, target, guide, alone) if len(r) else None for r in views]
    none = ROISet.empty(found.region.grid)
    region = _averaged(found.region, [none if c is None else c.region for c in carried], o)
    if not len(region):
        return replace(found, region=region)
    _, appearance, overlap = fits(
        found.reading, region, source, target, guide, unlike=o.unlike, certainty=o.certainty, first=o.first
    )
    return replace(
        found,
        region=region,
        prompt=inside(found.prompt, region),
        appearance=float(appearance[0, 0]),
        overlap=float(overlap[0, 0]),
    )


def _returned(found: _Found, source: Side, target: Side, guide: Guide | None, o: TransferOptions) -> Evidence:
    """Carry the counterpart back and compare with where it came from."""
    assert found.reading.scores is not None and found.region.scores is not None
    evidence = Evidence(
        found.appearance,
        found.overlap,
        float(found.reading.scores[0]) * float(found.region.scores[0]),
        guide is not None,
    )
    positive = found.prompt.points[found.prompt.labels == 1]
    start = Prompt.at(positive[0]) if len(positive) else Prompt.at(inner_point(found.region))
    back = _search(
        start, found.region, target, source, None if guide is None else guide.reversed, replace(o, readings=1)
    )
    if back is None:
        return evidence
    own = found.reading
    same = Guide.identity(own.grid.ndim)
    mask = own.masks[0] if own.grid == back.region.grid else carried_regions(own, back.region.grid, same)[0] > 0.5
    other = back.region.masks[0]
    overlap = 2 * float((mask & other).sum()) / max(1.0, float(mask.sum() + other.sum()))
    landed = anchor_of(back.prompt)
    points = own.grid.world_from_index(torch.nonzero(own.masks[0]).double().numpy())
    inside = np.abs(own.grid.index_from_world(points) - own.grid.index_from_world(landed)).max(1).min() <= 0.5 + 1e-6
    distance = 0.0 if inside else float(np.linalg.norm(points - landed, axis=1).min())
    return Evidence(**{**asdict(evidence), "returned_overlap": overlap, "returned_distance": distance})


def _text(point: Array) -> str:
    return "(" + ", ".join(f"{v:.1f}" for v in point) + ")"
