"""Evidence for a transform that no term of the dense fit uses: structure and contrast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roireg.core.transforms import Transform
from roireg.core.warp import resample, warp
from roireg.features.orientation import orientation_channels
from roireg.fit.search.search import GlobalSearch, channels_of

__all__ = ["ALIKE", "Evidence", "evidence_of"]

CELLS = {2: 192, 3: 64}
"""Cells along the longest axis on which images are compared."""

BINS = 32
"""Classes of moving intensities within which fixed ones are compared."""

ALIKE = 0.7
"""Share of the intensities that images of one contrast explain of each other once they are aligned."""


@dataclass(frozen=True)
class Evidence:
    """How two images agree under a transform.

    Attributes
    ----------
    structure : correlation, -1..1, of their orientation channels. Orientations have no sign and no scale of
        intensities, so the value means much the same for any two modalities.
    contrast : share of the variance of the fixed intensities that the moving ones explain by any curve (correlation
        ratio, Roche et al., MICCAI 1998), 0..1: near 1 for two images of one contrast that are aligned.
    """

    structure: float
    contrast: float


def evidence_of(search: GlobalSearch, transform: Transform) -> Evidence:
    """Compare the images where both show something; if that is nowhere, both values are 0.

    Parameters
    ----------
    search : of the pair; its masks say where the images show something.
    transform : fixed world -> moving world.
    """
    pair, cells = search.pair, CELLS[search.pair.ndim]
    spacing = float(np.ptp(search.boxes[0], axis=0).max()) / cells
    fixed = channels_of(pair.fixed, search.masks[0], search.boxes[0], spacing)
    coarse = pair.moving.grid.with_spacing(np.maximum(pair.moving.grid.spacing, spacing))
    moved = warp(resample(pair.moving, coarse), transform, fixed.grid).data.float()
    weight = (warp(search.masks[1], transform, fixed.grid, fill=0.0).data > 0.5).float()
    shared = fixed.weight * weight
    if float(shared.sum()) < 1:
        return Evidence(0.0, 0.0)
    structure = _correlation(fixed.values, orientation_channels(moved, weight), shared)
    inside = shared[0] > 0
    return Evidence(structure, _explained(resample(pair.fixed, fixed.grid).data.float()[0][inside], moved[0][inside]))


def _correlation(f: Tensor, m: Tensor, weight: Tensor) -> float:
    """Correlation of all channels together, the mean of each channel taken off."""
    axes, total = tuple(range(1, f.ndim)), weight.sum()
    f = f - (f * weight).sum(axes, keepdim=True) / total
    m = m - (m * weight).sum(axes, keepdim=True) / total
    energy = (weight * f * f).sum() * (weight * m * m).sum()
    return float((weight * f * m).sum() / energy.clamp(min=1e-12).sqrt())


def _explained(fixed: Tensor, moving: Tensor) -> float:
    """Share of the variance of (N,) values that lies between the classes of others, corrected for chance."""
    low, high = float(moving.min()), float(moving.max())
    if len(fixed) <= BINS or high <= low or float(fixed.std()) == 0:
        return 0.0
    rank = torch.argsort(torch.argsort(moving)) * BINS // len(moving)
    count = torch.bincount(rank, minlength=BINS).float().clamp(min=1)
    mean = torch.zeros(BINS).index_add_(0, rank, fixed) / count
    within = float((fixed - mean[rank]).square().sum()) / (len(fixed) - BINS)
    return max(0.0, 1 - within / float(fixed.var()))
