"""How far to trust a registration, measured without labels or landmarks and put into words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import halved_grid, resample, warp
from roireg.evaluate import (
    centroid_errors,
    deformation_summary,
    inverse_consistency,
    metric,
    overlap_mask,
    similarity,
)
from roireg.fit import Trace
from roireg.fit.level import level_spacings
from roireg.fit.region_affine import overlaps_of
from roireg.fit.search import ALIKE, GlobalSearch
from roireg.pipeline.registration import Registration
from roireg.pipeline.trust import calibration

__all__ = ["judge"]

LESS = 0.01
"""A fall of similarity that interpolation can bring."""

JUDGED_VOXELS = 1_000_000
"""Folding and similarity are measured on at most so many voxels over the fixed image."""


def judge(
    result: Registration, trace: Trace, *, search: GlobalSearch | None = None, fixed_mask: Image | None = None
) -> Registration:
    """Return the result with metrics, verdict and reasons.

    failed: heavy folding; the images agree less than before; or it is improbable that the result is right. uncertain:
    some folding, a deformation stronger than the differences between bodies, an inverse that does not invert, regions
    that do not end up together, a low probability, or another start that explains the images as well.

    Parameters
    ----------
    search : between the two images; None judges without a probability.
    """
    rules = result.config.verdict
    grid = _judged_grid(result.fixed.grid)
    metrics = {}
    folding = deformation_summary(result.transform, grid)
    for name in ("folding_percent", "sdlogj", "jacobian_min", "jacobian_max"):
        metrics[name] = metric(name, folding[name])
    consistency = inverse_consistency(result.transform, result.inverse, result.fixed.grid, result.moving.grid)
    for name in ("inverse_consistency_mean", "inverse_consistency_p99"):
        metrics[name] = metric(name, consistency[name], unit=result.fixed.unit)
    before, after = _similarity(result, grid, fixed_mask)
    for name, value in (after or {}).items():
        metrics[name] = metric(name, value, before[name] if before else None)
    agreement = _agreement(result)
    if agreement is not None:
        metrics["pair_agreement"] = metric("pair_agreement", agreement)

    failed, doubts = [], []
    fold = folding["folding_percent"]
    if fold > rules.folding_failed:
        failed.append(f"the deformation folds at {fold:.2g} % of the voxels")
    elif fold > rules.folding_uncertain:
        doubts.append(f"the deformation folds at {fold:.2g} % of the voxels")
    # The perspective of a photograph stretches by itself.
    tilted = 0.0 if trace.perspective is None else deformation_summary(trace.perspective, grid)["sdlogj"]
    if folding["sdlogj"] > rules.stretch_uncertain + tilted:
        doubts.append(f"the deformation stretches and squeezes much (SDlogJ {folding['sdlogj']:.2f})")
    if after is None:
        failed.append("after registration the images share no part of space")
    elif before is not None and all(after[name] < before[name] - LESS for name in after):
        failed.append("the images agree less than before by every measure of similarity")
    # Of thick slices, the thickness: between slices the field is interpolated, and so is its inverse.
    # Of large pictures, what registration looks at.
    voxel = float(halved_grid(result.fixed.grid).spacing.max())
    p99 = consistency["inverse_consistency_p99"]
    if after is not None and not p99 <= rules.inverse_uncertain * voxel:
        doubts.append(f"the inverse misses by {p99:.2g} {result.fixed.unit} at the worst 1 % of points")
    sure = unlike = False
    if search is not None and after is not None:
        trust = calibration().trust(search, result.transform, result.affine)
        metrics["probability_right"] = metric("probability_right", trust.probability)
        metrics["right_within"] = metric("right_within", trust.within, unit=result.fixed.unit)
        result = replace(result, provenance={**result.provenance, "evidence": trust.evidence})
        sure, unlike = trust.probability >= rules.probability_sure, trust.evidence["contrast"] < ALIKE
        said = f"that the mean error is below {trust.within:.2g} {result.fixed.unit} has a probability of only"
        # Equal labels and pairs that a person has accepted are evidence that images alone do not have.
        confirmed = any(p.status == "accepted" or p.source == "labels" for p in result.pairs.active.pairs)
        if trust.probability < rules.probability_failed and not confirmed:
            failed.append(f"{said} {trust.probability:.0%}")
        elif trust.probability < rules.probability_uncertain:
            doubts.append(f"{said} {trust.probability:.0%}")
        if not confirmed and search.turned(result.affine) > rules.turned_uncertain:
            doubts.append("turned by a quarter or half turn the images agree about as well; check the orientation")
    # Frames and apertures that lay on each other before count in this, but not in the probability.
    if not failed and before is not None and after is not None and after["lncc2"] < before["lncc2"] and not sure:
        doubts.append("the images agree locally less than before")
    if agreement is not None and agreement < rules.least_agreement:
        doubts.append(f"only {agreement:.0%} of the region pairs end up together")
    doubts += _apart(result, rules.least_overlap)
    rivals = [loss for _, loss in trace.rivals if loss <= (1 + rules.rival_margin) * trace.loss]
    # What a short deformation brings together of unlike images says little beside the search.
    if rivals and not (sure and unlike):
        doubts.append("a start elsewhere explains the images about as well; check the global position")
    if trace.notes and sure:
        result = replace(result, provenance={**result.provenance, "notes": list(trace.notes)})
    else:
        doubts += trace.notes
    verdict = "failed" if failed else "uncertain" if doubts else "ok"
    return replace(result, metrics=metrics, verdict=verdict, reasons=tuple(failed + doubts))


def _judged_grid(grid: Grid) -> Grid:
    return grid.with_spacing(level_spacings(grid, levels=1, max_voxels=JUDGED_VOXELS, min_length=1)[0])


def _similarity(
    result: Registration, grid: Grid, fixed_mask: Image | None
) -> tuple[dict[str, float] | None, dict[str, float] | None]:
    """Similarity before and after, where both images have data; None where they share no part of space."""
    fixed = resample(result.fixed, grid).gray()
    moving = resample(result.moving, _judged_grid(result.moving.grid)).gray()
    judged = None if fixed_mask is None else warp(fixed_mask, None, grid, mode="nearest").data[0] != 0
    values: list[dict[str, float] | None] = []
    for transform in (None, result.transform):
        mask = overlap_mask(transform, grid, moving.grid)
        mask = mask if judged is None else mask & judged
        values.append(similarity(fixed, warp(moving, transform, grid), mask) if bool(mask.any()) else None)
    return values[0], values[1]


def _apart(result: Registration, least: float) -> list[str]:
    """Return a doubt where pairs that a person has accepted overlap by less than a Dice under the result."""
    kept = tuple(p for p in result.pairs.pairs if p.status == "accepted" and p.source != "labels")
    if not kept:
        return []
    count = int((overlaps_of(replace(result.pairs, pairs=kept), result.transform) < least).sum())
    said = f"{count} of {len(kept)} accepted pairs overlap by less than {least:.0%} under the result"
    return [said] if count else []


def _agreement(result: Registration) -> float | None:
    """Share of the pairs, weighted by confidence, whose centroids end up within half a region radius."""
    active = result.pairs.active
    if not len(active):
        return None
    d = result.fixed.ndim
    size = active.fixed_masks().volumes ** (1 / d)
    together = centroid_errors(result.transform, active) <= 0.5 * size
    return float(np.average(together, weights=np.clip(active.confidence, 1e-3, None)))
