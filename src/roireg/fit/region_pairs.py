"""Region pairs as the dense fit sees them: signed distances of both sides, and how much every pair counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.rois import ROIPairs
from roireg.fit.signed_distance import signed_distances

if TYPE_CHECKING:
    from roireg.fit.level import VelocityOptions

__all__ = ["RegionPairs"]


@dataclass(frozen=True, eq=False)
class RegionPairs:
    """Corresponding regions, those that count first.

    Attributes
    ----------
    fixed, moving : (K, *shape) signed distances on the grids of the regions, divided by the distance at which they
        are cut off, negative inside.
    fixed_grid, moving_grid : of the regions.
    confidence : (K,) 0..1.
    accepted : how many of the first pairs a person has accepted.
    """

    fixed: Tensor
    moving: Tensor
    fixed_grid: Grid
    moving_grid: Grid
    confidence: Tensor
    accepted: int

    @classmethod
    def of(cls, pairs: ROIPairs | None, options: VelocityOptions) -> RegionPairs | None:
        """Return the pairs that take part in a fit, accepted ones first; None where none does."""
        if pairs is None:
            return None
        weights = {"accepted": options.accepted_weight, "proposed": options.region_weight, "rejected": 0.0}
        if weights["accepted"] is None:
            weights["accepted"] = 2 * options.region_weight
        rank = sorted(
            (p for p in pairs.pairs if weights[p.status]), key=lambda p: (p.status != "accepted", -p.confidence)
        )
        accepted = sum(p.status == "accepted" for p in rank)
        kept = replace(pairs, pairs=tuple(rank[: max(options.max_regions, accepted)]))
        if not len(kept):
            return None
        cut = options.region_truncation * float(pairs.fixed.grid.extent.max())
        return cls(
            signed_distances(kept.fixed_masks(), truncation=cut),
            signed_distances(kept.moving_masks(), truncation=cut),
            pairs.fixed.grid,
            pairs.moving.grid,
            torch.as_tensor(kept.confidence, dtype=torch.float32, device=pairs.fixed.masks.device),
            accepted,
        )

    def first(self, count: int) -> RegionPairs:
        """Return the first so many pairs, and all that a person has accepted."""
        count = max(count, self.accepted)
        return replace(self, fixed=self.fixed[:count], moving=self.moving[:count], confidence=self.confidence[:count])

    def weights(self, options: VelocityOptions) -> Tensor:
        """(K,) weights in the loss: accepted pairs share theirs equally, the others by confidence."""
        own = 2 * options.region_weight if options.accepted_weight is None else options.accepted_weight
        proposed = self.confidence[self.accepted :]
        return torch.cat(
            [
                torch.full_like(self.confidence[: self.accepted], own / max(self.accepted, 1)),
                options.region_weight * proposed / proposed.sum().clamp(min=1e-6),
            ]
        )
