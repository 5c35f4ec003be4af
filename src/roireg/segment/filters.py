"""Which candidate regions to keep: size limits and overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from roireg.core.errors import InputError
from roireg.core.rois import ROISet

__all__ = ["PUBLISHED_FILTER", "RegionFilter", "filter_regions"]


@dataclass(frozen=True)
class RegionFilter:
    """Size and overlap limits of candidate regions.

    Attributes
    ----------
    min_fraction, max_fraction : size as a fraction of the image's area or volume.
    max_overlap : of two regions with |A ∩ B| / min(|A|, |B|) at or above this only the larger stays; None keeps
        nested regions.
    max_count : how many regions to keep, the best scored ones.
    """

    min_fraction: float = 0.0
    max_fraction: float = 1.0
    max_overlap: float | None = None
    max_count: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_fraction < self.max_fraction <= 1:
            raise InputError(
                "region sizes are fractions of the image with 0 <= min_fraction < max_fraction <= 1, "
                f"found {self.min_fraction} and {self.max_fraction}"
            )


PUBLISHED_FILTER = RegionFilter(min_fraction=0.005, max_fraction=0.175, max_overlap=0.9)
"""SAMReg's released filter, 200 to 7000 of 200 x 200 pixels, as fractions of the area."""


def filter_regions(rois: ROISet, limits: RegionFilter) -> ROISet:
    """Return the regions that pass the limits, in their old order.

    The overlap rule is SAMReg's: of two regions that overlap too much the smaller is dropped; of two equally
    large ones the one that comes later. Regions dropped do not drop others.
    """
    if not len(rois):
        return rois
    assert rois.scores is not None
    flat = rois.masks.flatten(1)
    sizes = np.array([np.count_nonzero(mask) for mask in flat.cpu().numpy()])
    fraction = sizes / rois.grid.size
    index = np.flatnonzero((fraction >= limits.min_fraction) & (fraction <= limits.max_fraction))
    if limits.max_overlap is not None:
        kept: list[int] = []
        for k in index[np.argsort(-sizes[index], kind="stable")]:
            if kept:
                # Only voxels of the smaller region matter, the others cannot be in the intersection.
                inside = flat[torch.as_tensor(kept)][:, torch.nonzero(flat[k])[:, 0]]
                if int(inside.sum(1).max()) >= limits.max_overlap * sizes[k]:
                    continue
            kept.append(int(k))
        index = np.sort(np.array(kept, dtype=np.int64))
    if limits.max_count is not None and len(index) > limits.max_count:
        scores = rois.scores.cpu().numpy()[index]
        index = np.sort(index[np.argsort(-scores, kind="stable")[: limits.max_count]])
    return rois.subset([int(k) for k in index])
