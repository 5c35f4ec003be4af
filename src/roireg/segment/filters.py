"""Which candidate regions to keep: size limits and overlap."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from roireg.core.errors import InputError
from roireg.core.rois import ROISet

__all__ = ["DEFAULT_LIMITS", "RegionFilter", "filter_regions"]


class RegionFilter(BaseModel):
    """Size and overlap limits of candidate regions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_fraction: float = Field(5e-4, description="smallest region, fraction of the image")
    max_fraction: float = Field(0.5, description="largest region, fraction of the image")
    max_overlap: float | None = Field(
        None,
        gt=0,
        le=1,
        description="overlap, fraction of the smaller region, from which that is dropped; None keeps nested ones",
    )
    max_count: int = Field(128, ge=1, description="largest number of regions per image; the best scored stay")

    @model_validator(mode="after")
    def _sizes_are_fractions(self) -> RegionFilter:
        if not 0 <= self.min_fraction < self.max_fraction <= 1:
            raise InputError(
                "region sizes are fractions of the image with 0 <= min_fraction < max_fraction <= 1, "
                f"found {self.min_fraction} and {self.max_fraction}"
            )
        return self


DEFAULT_LIMITS = RegionFilter()
"""What candidates are limited to unless a caller says otherwise."""


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
        larger: list[int] = []
        for k in index[np.argsort(-sizes[index], kind="stable")]:
            if larger:
                # Only voxels of the smaller region matter, the others cannot be in the intersection.
                inside = flat[torch.as_tensor(larger)][:, torch.nonzero(flat[k])[:, 0]]
                if int(inside.sum(1).max()) >= limits.max_overlap * sizes[k]:
                    continue
            larger.append(int(k))
        index = np.sort(np.array(larger, dtype=np.int64))
    if len(index) > limits.max_count:
        scores = rois.scores.cpu().numpy()[index]
        index = np.sort(index[np.argsort(-scores, kind="stable")[: limits.max_count]])
    return rois.subset([int(k) for k in index])
