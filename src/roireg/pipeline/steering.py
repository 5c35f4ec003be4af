"""Join what a person knows with what the matcher finds: regions on one grid, pairs, weights in the fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.masks import iou
from roireg.core.rois import ROIPair, ROIPairs, ROISet

__all__ = ["accepted", "blocked", "combined", "overlaps", "stacked"]

ALIKE = 0.5
"""Regions with an intersection over union above this are the same thing, to a person."""


def accepted(pairs: ROIPairs) -> ROIPairs:
    """Return the pairs as accepted ones; those that are rejected stay so."""
    return replace(
        pairs,
        pairs=tuple(p if p.status == "rejected" else replace(p, status="accepted") for p in pairs.pairs),
    )


def stacked(parts: Sequence[ROISet], image: Image) -> ROISet:
    """Return the regions of several sets as one; on the grid of the image where they lie on several grids."""
    if not parts:
        return ROISet.empty(image.grid)
    grid = parts[0].grid if all(p.grid == parts[0].grid for p in parts) else image.grid
    return _joined([p.on(grid) for p in parts], grid)


def _joined(parts: Sequence[ROISet], grid: Grid) -> ROISet:
    scores = torch.cat([p.scores for p in parts if p.scores is not None])
    names = tuple(name for p in parts for name in p.names)
    return ROISet(torch.cat([p.masks for p in parts]), grid, names, scores)


def overlaps(a: ROISet, b: ROISet) -> NDArray[np.float64]:
    """(A, B) intersections over unions; b is brought onto the grid of a."""
    return np.asarray(iou(a.masks, b.on(a.grid).masks).numpy())


def blocked(fixed: ROISet, moving: ROISet, decisions: ROIPairs) -> NDArray[np.bool_]:
    """(M, F) pairs of candidates that the decisions of a person rule out.

    A candidate that resembles a region of an accepted pair has its partner already. Two candidates that resemble the
    two regions of a rejected pair are that pair.
    """
    # (M, K) and (F, K): which candidates are like the regions of which decided pair.
    like_m = overlaps(moving, decisions.moving_masks()) > ALIKE
    like_f = overlaps(fixed, decisions.fixed_masks()) > ALIKE
    sure = np.array([p.status == "accepted" for p in decisions.pairs], dtype=bool)
    taken = np.add.outer(like_m[:, sure].sum(1), like_f[:, sure].sum(1)) > 0
    refused = (like_m[:, ~sure].astype(int) @ like_f[:, ~sure].T.astype(int)) > 0
    return np.asarray(taken | refused)


def combined(decisions: ROIPairs, proposals: ROIPairs) -> ROIPairs:
    """Return what a person has decided and the proposals that do not contradict it: accepted, proposed, rejected.

    The regions lie on the grids of `proposals`, whose own regions come first and keep their numbers.
    """
    out = blocked(proposals.fixed, proposals.moving, decisions)
    consistent = [p for p in proposals.pairs if not out[p.moving, p.fixed]]
    first_m, first_f = len(proposals.moving), len(proposals.fixed)
    own: list[ROIPair] = [replace(p, moving=p.moving + first_m, fixed=p.fixed + first_f) for p in decisions.pairs]
    rank = {"accepted": 0, "proposed": 1, "rejected": 2}
    ordered = sorted([*own, *consistent], key=lambda p: rank[p.status])
    sides = [
        _joined([theirs, ours.on(theirs.grid)], theirs.grid)
        for theirs, ours in ((proposals.moving, decisions.moving), (proposals.fixed, decisions.fixed))
    ]
    return ROIPairs(sides[0], sides[1], tuple(ordered))
