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
    inside,
    placed_prompt,
    scale_of,
)
from roireg.match.counterparts import answers, fits
from roireg.match.evidence import Evidence, confidence_of
from roireg.match.prototypes import prototypes
from roireg.match.similarity import cosine_similarity
from roireg.match.similarity_map import (
    inverse_prompt,
    peaks,
    position_prior,
    similarity_map,
    similarity_maps,
    soft_argmax,
)
from roireg.match.transfer_options import DEFAULT_TRANSFER, TransferOptions
from roireg.match.variants import average_answers, refined_region, visible
from roireg.segment.promptable import NetworkAnswers
from roireg.segment.prompts import ClosePointsError, clipped, inner_point

__all__ = ["Transfer", "transfer_prompt"]

Array = NDArray[np.float64]


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
    region_or_prompt: Prompt | ROISet,
    source: Side,
    target: Side,
    *,
    guide: Guide | None = None,
    options: TransferOptions = DEFAULT_TRANSFER,
) -> Transfer:
    """Carry a prompt, or a region that is known already, from the source to the target image.

    Parameters
    ----------
    region_or_prompt : one region of the source, or a prompt in its world, whose box is cut off at the border.
    source, target : the prepared images.
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
    o = options
    if source.image.ndim != target.image.ndim:
        raise GeometryError(f"cannot carry a prompt from {source.image.ndim}D to {target.image.ndim}D")
    views = []
    if isinstance(region_or_prompt, ROISet):
        readings = region_or_prompt
        if len(readings) != 1:
            raise InputError(f"one region is carried at a time, found {len(readings)}")
        prompt = Prompt.at(inner_point(readings.masks[0].cpu(), readings.grid))
    else:
        prompt = clipped(region_or_prompt, source.image.grid, source.image.name)
        readings = source.prepared.answer(prompt)
        views = _views(prompt, source)
    notes: tuple[str, ...] = (readings.note,) if isinstance(readings, NetworkAnswers) and readings.note else ()
    if not len(readings):
        return _nothing(readings, "the segmenter finds no region at the prompt", notes)
    readings = readings.subset(range(min(len(readings), o.readings if o.joint else 1)))
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
    pair = _counterpart(prompt, readings, views, source, target, guide, o)
    if pair is None:
        return _nothing(readings, f"nothing in {other_name} answers the prompt at the corresponding place", notes)
    if pair.left_out:
        points = "1 negative point" if pair.left_out == 1 else f"{pair.left_out} negative points"
        notes += (f"left out in {other_name}: {points} too close to a positive one",)
    if not len(pair.region):
        why = f"the counterparts found in different views agree on no region of {other_name}"
        return Transfer(pair.reading, None, pair.prompt, 0.0, 0.0, why, None, notes)
    own, other = pair.reading, pair.region
    evidence = _returned(pair, source, target, guide, o)
    confidence = confidence_of(evidence)
    similarity = float(cosine_similarity(prototypes(source.features, own), prototypes(target.features, other))[0, 0])
    if confidence < o.least_confidence:
        why = (
            f"no region of {other_name} resembles the one at the prompt well enough "
            f"(confidence {confidence:.2f}, at least {o.least_confidence:.2f} is needed)"
        )
        return Transfer(own, None, pair.prompt, similarity, confidence, why, evidence, notes)
    return Transfer(own, other, pair.prompt, similarity, confidence, "", evidence, notes)


def _nothing(regions: ROISet, why: str, notes: tuple[str, ...]) -> Transfer:
    """Return the answer that there is not even a place; the first region, if any, is what the prompt means."""
    return Transfer(regions.subset(range(min(len(regions), 1))), None, None, 0.0, 0.0, why, None, notes)


# -- the search -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Pair:
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
) -> _Pair | None:
    """Search, mend with auxiliary points, average over the views."""
    pair = _search(prompt, readings, source, target, guide, o)
    if pair is None:
        return None
    pair = _mended(pair, source, target, guide, o)
    return _averaged_target(pair, prompt, views, source, target, guide, o) if views else pair


def _search(
    prompt: Prompt, readings: ROISet, source: Side, target: Side, guide: Guide | None, o: TransferOptions
) -> _Pair | None:
    """Find the best fitting pair of a reading and a region that carried prompts give."""
    prompts = _carried_prompts(prompt, readings, source, target, guide, o)
    own = len(prompts)
    if own == 0:
        return None
    if guide is not None and o.joint:
        prompts += _boxes(readings, source, target, guide)
    candidates = answers(prompts, target, best_only=not o.joint)
    regions = candidates.regions
    if not len(regions):
        return None
    fit, appearance, overlap = fits(readings, regions, source, target, guide, o)
    a, b = (int(k) for k in np.unravel_index(int(np.argmax(fit)), fit.shape))
    # The boxes of carried readings come last; they are no prompt of the user, whose own is the one before them.
    number = min(candidates.cause[b], own - 1)
    placed = candidates.prompts[number]
    left_out = len(prompts[number].points) - len(placed.points)
    if o.joint and not left_out:
        fitted = placed_prompt(prompt, readings.subset([a]), regions.subset([b]), guide, overlap=float(overlap[a, b]))
        placed = fitted or placed
    placed = inside(placed, regions.subset([b]))
    return _Pair(
        readings.subset([a]),
        regions.subset([b]),
        placed,
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
    prompts: list[Prompt | None] = []
    prior = None
    if guide is not None:
        expected = guide.forward.map_points(anchor[None])[0]
        prior = position_prior(grid, expected, guide.width)
    looked_for = prototypes(source.features, readings)
    for prototype, cosine in zip(looked_for, similarity_maps(target.features, looked_for), strict=True):
        score = o.sharpness * cosine
        if prior is not None:
            score = score + prior
        for top, _ in peaks(score, grid, count=o.places if o.joint else 1, apart=1.5 * o.peak_radius * size):
            place = top
            if o.place == "soft":
                place = soft_argmax(score, grid, top, radius=o.peak_radius * size)
            elif o.place == "inverse":
                place = inverse_prompt(
                    target.features, prototype, top, lambda p: _prototype_at(target, p), step=o.peak_radius * size
                )
            carried = carried_prompt(prompt, anchor, place, guide, target.image.grid)
            if o.pointwise and carried is not None and len(prompt.points) > 1:
                carried = _pointwise(prompt, carried, source, target, o)
            prompts.append(carried)
    if guide is not None and o.joint:
        prompts.append(carried_prompt(prompt, anchor, expected, guide, target.image.grid))
    return [p for p in prompts if p is not None]


def _pointwise(prompt: Prompt, carried: Prompt, source: Side, target: Side, o: TransferOptions) -> Prompt:
    """Return a prompt of as many points as were given, each put where its own region is found.

    A point at which the source has no region takes part in nothing; the box is that of the prompt carried as a whole.
    """
    grid, step = target.features.grid, o.peak_radius * scale_of(target.image.grid)
    points, labels = [], []
    for point, label in zip(prompt.points, prompt.labels, strict=True):
        prototype = _prototype_at(source, point)
        if prototype is None:
            continue
        score = o.sharpness * similarity_map(target.features, prototype)
        ((place, _),) = peaks(score, grid, count=1, apart=step)
        if o.place == "inverse":
            place = inverse_prompt(target.features, prototype, place, lambda p: _prototype_at(target, p), step=step)
        points.append(place)
        labels.append(label)
    if 1 not in labels and carried.box is None:
        return carried
    return Prompt(np.array(points).reshape(-1, target.image.ndim), np.array(labels, dtype=np.int64), carried.box)


def _prototype_at(side: Side, point: Array) -> torch.Tensor | None:
    if not side.image.grid.contains(point):
        return None
    regions = side.prepared.answer(Prompt.at(point))
    return prototypes(side.features, regions.subset([0]))[0] if len(regions) else None


def _boxes(readings: ROISet, source: Side, target: Side, guide: Guide) -> list[Prompt]:
    """Bounding boxes of the readings as the guide carries them."""
    boxes = []
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
            boxes.append(Prompt(*none, np.stack([grid.world_from_index(low), grid.world_from_index(high)])))
    return boxes


# -- auxiliary prompts, views, the way back -----------------------------------------------------------


def _mended(pair: _Pair, source: Side, target: Side, guide: Guide | None, o: TransferOptions) -> _Pair:
    """Add auxiliary points while they make the counterpart fit better."""
    size = scale_of(target.image.grid)
    for _ in range(o.rounds):
        grid = pair.region.grid
        lay = guide
        if guide is None or not o.joint:
            offset = pair.region.centroids[0] - pair.reading.centroids[0]
            lay = Guide(Affine.translation(offset), Affine.translation(-offset), 1.0)
        assert lay is not None
        goal = carried_regions(pair.reading, grid, lay)[0] > 0.5
        if not goal.any():
            return pair
        extra = auxiliary_point(
            goal, pair.region.masks[0], grid, tolerance=o.tolerance * size, inward=o.inward * size
        )
        if extra is None:
            return pair
        point, label = extra
        same = len(pair.prompt.points) and np.linalg.norm(pair.prompt.points - point, axis=1).min() < 1e-6
        if same or not target.image.grid.contains(point):
            return pair
        points = np.concatenate([pair.prompt.points.reshape(-1, grid.ndim), point[None]])
        box = pair.prompt.box
        if box is not None and label == 1:
            box = box_around(np.concatenate([box, point[None]]), target.image.grid)
        longer = Prompt(points, np.append(pair.prompt.labels, label), box)
        candidates = answers([longer], target, best_only=not o.joint)
        regions = candidates.regions
        if not len(regions) or len(candidates.prompts[0].points) < len(points):
            return pair
        fit, appearance, overlap = fits(pair.reading, regions, source, target, guide, o)
        b = int(np.argmax(fit[0]))
        assert regions.scores is not None and pair.region.scores is not None
        worse = fit[0, b] <= pair.fit if o.joint else regions.scores[b] < pair.region.scores[0]
        if worse:
            return pair
        pair = replace(
            pair,
            region=regions.subset([b]),
            prompt=longer,
            fit=float(fit[0, b]),
            appearance=float(appearance[0, b]),
            overlap=float(overlap[0, b]),
        )
    return pair


def _views(prompt: Prompt, side: Side) -> list[ROISet]:
    """Answers to the prompt in every view that shows it with all its points apart."""
    answers_of_views = []
    for view, prepared in side.views:
        if visible(prompt, view, side.image.grid):
            with suppress(ClosePointsError):
                answers_of_views.append(prepared.answer(prompt))
    return answers_of_views


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
    pair: _Pair,
    prompt: Prompt,
    views: Sequence[ROISet],
    source: Side,
    target: Side,
    guide: Guide | None,
    o: TransferOptions,
) -> _Pair:
    """Carry the region of every view over on its own, and average the counterparts; the region may become empty."""
    alone = o.model_copy(update={"readings": 1, "places": 1})
    carried = [_search(prompt, r.subset([0]), source, target, guide, alone) if len(r) else None for r in views]
    none = ROISet.empty(pair.region.grid)
    region = _averaged(pair.region, [none if c is None else c.region for c in carried], o)
    if not len(region):
        return replace(pair, region=region)
    _, appearance, overlap = fits(pair.reading, region, source, target, guide, o)
    return replace(
        pair,
        region=region,
        prompt=inside(pair.prompt, region),
        appearance=float(appearance[0, 0]),
        overlap=float(overlap[0, 0]),
    )


def _returned(pair: _Pair, source: Side, target: Side, guide: Guide | None, o: TransferOptions) -> Evidence:
    """Carry the counterpart back and compare with where it came from."""
    assert pair.reading.scores is not None and pair.region.scores is not None
    evidence = Evidence(
        pair.appearance,
        pair.overlap,
        float(pair.reading.scores[0]) * float(pair.region.scores[0]),
        guide is not None,
    )
    positive = pair.prompt.points[pair.prompt.labels == 1]
    start = (
        Prompt.at(positive[0])
        if len(positive)
        else Prompt.at(inner_point(pair.region.masks[0].cpu(), pair.region.grid))
    )
    back = _search(
        start,
        pair.region,
        target,
        source,
        None if guide is None else guide.reversed,
        o.model_copy(update={"readings": 1}),
    )
    if back is None:
        return evidence
    own = pair.reading
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
