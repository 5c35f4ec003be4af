"""Candidates for the counterpart of a region, and how well each of them fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.rois import Prompt, ROISet
from roireg.match.carry import Guide, Side, carried_regions
from roireg.match.similarity import appearance as appearance_of
from roireg.match.transfer_options import TransferOptions
from roireg.segment.promptable import NetworkAnswers
from roireg.segment.prompts import ClosePointsError

__all__ = ["Candidates", "answers", "fits"]

Array = NDArray[np.float64]

DESCRIBED = 12
"""How many candidates are compared by their features, the best placed ones first."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Regions that may be the counterpart.

    Attributes
    ----------
    regions : distinct regions, with probabilities where the segmenter gives them.
    cause : per region, the number of the prompt that it answers.
    prompts : the prompts as they were answered, see `answers`.
    """

    regions: ROISet
    cause: list[int]
    prompts: list[Prompt]


def answers(prompts: Sequence[Prompt], target: Side, *, best_only: bool) -> Candidates:
    """Find distinct regions that answer any of the prompts.

    Negative points that came too close to positive ones on the way are left out, the nearest first.

    Parameters
    ----------
    best_only : take the segmenter's first answer to each prompt alone.
    """
    parts, cause, answered = [], [], []
    for k, prompt in enumerate(prompts):
        regions, prompt = _answer(target, prompt)
        regions = regions.subset(range(min(len(regions), 1 if best_only else len(regions))))
        parts.append(regions)
        answered.append(prompt)
        cause += [k] * len(regions)
    if not cause:
        return Candidates(ROISet.empty(target.image.grid), [], answered)
    masks = torch.cat([p.masks for p in parts])
    scores = torch.cat([p.scores for p in parts if p.scores is not None])
    keep: dict[bytes, int] = {}
    for k, mask in enumerate(masks):
        keep.setdefault(mask.cpu().numpy().tobytes(), k)
    indices = list(keep.values())
    soft = [p.soft for p in parts if isinstance(p, NetworkAnswers) and p.soft is not None]
    probability = torch.cat(soft)[indices] if sum(map(len, soft)) == len(masks) else None
    regions = NetworkAnswers(masks[indices], parts[0].grid, scores=scores[indices], soft=probability)
    return Candidates(regions, [cause[k] for k in indices], answered)


def _answer(side: Side, prompt: Prompt) -> tuple[ROISet, Prompt]:
    """Return the answer, and the prompt without the negative points that had to be left out for it."""
    while True:
        try:
            return side.prepared.answer(prompt), prompt
        except ClosePointsError:
            negative, positive = np.flatnonzero(prompt.labels == 0), prompt.points[prompt.labels == 1]
            if not (len(negative) and len(positive)):
                raise
            apart = np.linalg.norm(prompt.points[negative][:, None] - positive[None], axis=-1).min(1)
            rest = np.arange(len(prompt.points)) != negative[int(np.argmin(apart))]
            prompt = Prompt(prompt.points[rest], prompt.labels[rest], prompt.box)


def fits(
    readings: ROISet,
    regions: ROISet,
    source: Side,
    target: Side,
    guide: Guide | None,
    o: TransferOptions,
) -> tuple[Array, Array, Array]:
    """(R, C) logarithm of the fit, appearance and overlap of all readings with all candidates.

    The fit is the product of appearance, overlap and the segmenter's own scores of both regions to the power of
    `certainty`; readings other than the first one lose `reading_penalty` of its logarithm. Only the candidates that
    overlap best are compared by their features, the others have the appearance 0.

    Parameters
    ----------
    readings, regions : R regions of the source and C candidates of the target.
    """
    overlap = _overlaps(readings, regions, guide)
    best = np.argsort(-overlap.max(0), kind="stable")[:DESCRIBED]
    appearance = np.zeros_like(overlap)
    appearance[:, best] = _appearance(source, readings, target, regions.subset([int(k) for k in best]), o.unlike)
    assert readings.scores is not None and regions.scores is not None
    own, other = (np.log(s.double().clamp(min=1e-3).cpu().numpy()) for s in (readings.scores, regions.scores))
    fit = np.log(np.maximum(appearance, 1e-9)) + np.log(np.maximum(overlap, 0.02))
    fit += o.certainty * (own[:, None] + other[None])
    fit[1:] -= o.reading_penalty
    return fit, appearance, overlap


def _overlaps(readings: ROISet, regions: ROISet, guide: Guide | None) -> Array:
    """(R, C) Dice with the readings as the guide carries them; without a guide, agreement in size."""
    if guide is None:
        change = np.log(regions.volumes[None] / readings.volumes[:, None]) / regions.grid.ndim
        return np.asarray(np.exp(-0.5 * (change / 0.35) ** 2))
    carried = carried_regions(readings, regions.grid, guide).flatten(1)
    size = torch.as_tensor(regions.sizes, dtype=torch.float32, device=carried.device)
    # Only voxels that a reading covers can be shared.
    touched = torch.nonzero(carried.amax(0) > 0)[:, 0]
    shared = carried[:, touched] @ regions.masks.flatten(1)[:, touched].float().T
    return np.asarray((2 * shared / (carried.sum(1)[:, None] + size[None]).clamp(min=1e-6)).double().cpu().numpy())


def _appearance(source: Side, readings: ROISet, target: Side, regions: ROISet, unlike: float) -> Array:
    """(R, C) exp(-d²/2): features inside, their spread, and what is around, in units of `unlike`."""
    own, other = appearance_of(source.features, readings), appearance_of(target.features, regions)
    distance = torch.zeros(len(readings), len(regions))
    for a, b, weight in zip(own, other, (1.0, 0.25, 0.5), strict=True):  # inside, spread, context
        distance += weight * (a[:, None] - b[None]).square().mean(-1)
    return np.asarray(torch.exp(-distance / (2 * unlike**2)).double().numpy())
