"""Region pairs as the dense fit sees them: distances and codes of both sides, and how much every pair counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.rois import ROIPair, ROIPairs
from roireg.fit.region_codes import RegionCodes
from roireg.fit.signed_distance import signed_distances

if TYPE_CHECKING:
    from roireg.fit.level import VelocityOptions

__all__ = ["FOUND", "RegionPairs"]

CLASSED = ("labels", "classes")
"""Sources of pairs whose regions share a class, by which they correspond."""

FOUND = ("regions", "prompt", "slices")
"""Sources of pairs whose regions were found in the images, borders and all; whoever accepts one says what belongs
together, not where exactly it ends."""

TOLERANCE = 0.25
"""Part of the distance at which distances are cut off by which borders of such a pair may stay apart."""

DISTANCE_VOXELS = 300_000
"""Voxels of the grid that distances are measured on; they are looked at on coarse lattices only."""


@dataclass(frozen=True, eq=False)
class RegionPairs:
    """Corresponding regions, those that count first.

    Attributes
    ----------
    fixed, moving : (K, *shape) signed distances, divided by the distance at which they are cut off, negative inside.
    fixed_grid, moving_grid : of these distances.
    weights : (K,) weight of every pair in the loss.
    tolerance : (K,) part of the distances by which every pair may stay apart; see `TOLERANCE`.
    certain : how many of the first pairs are those of label maps, of classes, or accepted by a person.
    codes : of the certain pairs whose borders are known, or of all where no term looks at the images; None if there
        are none.
    """

    fixed: Tensor
    moving: Tensor
    fixed_grid: Grid
    moving_grid: Grid
    weights: Tensor
    tolerance: Tensor
    certain: int
    codes: RegionCodes | None

    @classmethod
    def of(cls, pairs: ROIPairs | None, options: VelocityOptions) -> RegionPairs | None:
        """Return the pairs that take part in a fit, certain ones first; None if there are none."""
        if pairs is None:
            return None
        labels = [p for p in pairs.active.pairs if p.source == "labels"]
        classes = [p for p in pairs.active.pairs if p.source == "classes"]
        accepted = [p for p in pairs.pairs if p.status == "accepted" and p.source not in CLASSED]
        drawn, found = ([p for p in accepted if (p.source in FOUND) is known] for known in (False, True))
        each = options.own_weight / max(len(accepted), 1)
        certain: list[ROIPair] = []
        weights: list[float] = []
        for weight, members in ((options.label_weight / max(len(labels), 1), labels), (each, drawn)):
            if weight > 0:
                certain += members
                weights += [weight] * len(members)
        if options.class_weight > 0 and classes:
            # Where a segmenter is unsure of a class in either image, it counts less.
            sure = sum(p.confidence for p in classes)
            certain += classes
            weights += [options.class_weight * p.confidence / max(sure, 1e-6) for p in classes]
        bordered = len(certain)
        if each > 0:
            certain += found
            weights += [each] * len(found)
        others = [p for p in pairs.pairs if p.status == "proposed" and p.source not in CLASSED]
        others = sorted(others, key=lambda p: -p.confidence)[: max(0, options.max_regions - len(certain))]
        total = max(sum(p.confidence for p in others), 1e-6)
        if options.proposed_weight > 0:
            weights += [options.proposed_weight * p.confidence / total for p in others]
        kept = replace(pairs, pairs=(*certain, *others) if options.proposed_weight > 0 else tuple(certain))
        if not len(kept):
            return None
        cut = options.region_truncation * float(pairs.fixed.grid.extent.max())
        coarse = [r.on(r.grid.coarsened(DISTANCE_VOXELS)) for r in (kept.fixed_masks(), kept.moving_masks())]
        device = pairs.fixed.masks.device
        tensor = torch.as_tensor(weights, dtype=torch.float32, device=device)
        coded = len(kept) if options.blind else bordered
        tolerance = torch.zeros_like(tensor)
        if not options.blind:
            tolerance[bordered : len(certain)] = TOLERANCE
        return cls(
            signed_distances(coarse[0], truncation=cut),
            signed_distances(coarse[1], truncation=cut),
            coarse[0].grid,
            coarse[1].grid,
            tensor,
            tolerance,
            len(certain),
            RegionCodes.of(replace(kept, pairs=kept.pairs[:coded]), tensor[:coded]) if coded else None,
        )

    def first(self, count: int) -> RegionPairs | None:
        """Return the first pairs, up to a number, with the weight of all; None if that leaves none."""
        if count < 1:
            return None
        weights = self.weights[:count].clone()
        proposed = self.weights[self.certain :].sum()
        if count > self.certain:
            weights[self.certain :] *= proposed / weights[self.certain :].sum().clamp(min=1e-6)
        parts = {name: getattr(self, name)[:count] for name in ("fixed", "moving", "tolerance")}
        return replace(self, weights=weights, **parts)
