"""Regions of neighbouring slices joined to regions of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.masks import iou

__all__ = ["Chain", "between", "link_slices"]

GAP_PENALTY = 0.9
"""Factor on the overlap across a missing slice: a direct neighbour wins over one further away."""


@dataclass
class Chain:
    """Regions of consecutive slices that are one structure.

    Attributes
    ----------
    members : (slice, index of the region in its slice), ascending; a slice may be missing.
    links : overlap of every member with the one before it.
    """

    members: list[tuple[int, int]]
    links: list[float] = field(default_factory=list)

    @property
    def span(self) -> int:
        """Number of slices from the first member to the last."""
        return self.members[-1][0] - self.members[0][0] + 1


def link_slices(slices: Sequence[Tensor], *, min_overlap: float = 0.5, gap: int = 1) -> list[Chain]:
    """Join the regions of slices to chains by one-to-one assignment of the largest total overlap.

    Parameters
    ----------
    slices : per slice (K, y, x) bool masks, K may be 0.
    min_overlap : intersection over union from which two regions of neighbouring slices are one structure.
    gap : how many slices a structure may be missing in between.

    Returns
    -------
    All chains, those of one member included, by first slice and index. Every region is in exactly one.

    Raises
    ------
    InputError
        When a parameter is out of range.
    """
    if not 0 < min_overlap <= 1 or gap < 0:
        raise InputError(
            f"linking needs an overlap in (0, 1] and a gap of at least 0 slices, found {min_overlap} and {gap}"
        )
    chains: list[Chain] = []
    for s, masks in enumerate(slices):
        open_chains = [c for c in chains if c.members[-1][0] >= s - 1 - gap]
        taken = _assigned(open_chains, slices, s, min_overlap)
        for k in range(len(masks)):
            if k in taken:
                chain, overlap = taken[k]
                chain.members.append((s, k))
                chain.links.append(overlap)
            else:
                chains.append(Chain([(s, k)]))
    return chains


def _assigned(
    chains: list[Chain], slices: Sequence[Tensor], s: int, min_overlap: float
) -> dict[int, tuple[Chain, float]]:
    """Return which chain a region of slice s continues, and the overlap; regions that continue none are absent."""
    if not chains or not len(slices[s]):
        return {}
    ends = torch.stack([slices[t][k] for t, k in (c.members[-1] for c in chains)])
    overlap = iou(ends, slices[s]).numpy()
    away = np.array([s - 1 - c.members[-1][0] for c in chains])
    gain = np.where(overlap >= min_overlap, overlap * GAP_PENALTY ** away[:, None], 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return {int(k): (chains[i], float(overlap[i, k])) for i, k in zip(rows, columns, strict=True) if gain[i, k] > 0}


def between(a: NDArray[np.bool_], b: NDArray[np.bool_], fraction: float) -> NDArray[np.bool_]:
    """(y, x) region between two others: the mean of their signed distances is positive.

    `fraction` says how far from a (0) to b (1). Shape-based interpolation, Raya and Udupa, IEEE TMI 1990.
    """
    near, far = (ndimage.distance_transform_edt(m) - ndimage.distance_transform_edt(~m) for m in (a, b))
    return np.asarray((1 - fraction) * near + fraction * far > 0)
