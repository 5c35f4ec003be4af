"""Truncated signed distances of regions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from roireg.core.rois import ROISet

__all__ = ["signed_distances"]


def signed_distances(rois: ROISet, *, truncation: float) -> Tensor:
    """(K, *shape) signed distance to the boundary of every region in units of `truncation` mm, clamped to -1..1.

    Negative inside. The boundary lies half a voxel outside the outermost voxel centres. Only a box around each
    region, `truncation` wide, is worked through.
    """
    spacing = rois.grid.spacing
    margin = np.ceil(truncation / spacing).astype(int) + 1
    masks = rois.masks.cpu()
    out = torch.ones(masks.shape, dtype=torch.float32)
    half = 0.5 * float(spacing.min())

    def measure(k: int) -> None:
        mask = masks[k]
        index = torch.nonzero(mask).numpy()
        low = np.maximum(index.min(0) - margin, 0)
        high = np.minimum(index.max(0) + margin + 1, mask.shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        inside = mask[box].numpy()
        outer = distance_transform_edt(~inside, sampling=spacing)
        # A region that fills its box has no outside voxel to measure from: it is deep inside everywhere.
        inner = (
            distance_transform_edt(inside, sampling=spacing) if not inside.all() else np.full(inside.shape, np.inf)
        )
        signed = np.where(inside, half - inner, outer - half) / truncation
        out[k][box] = torch.from_numpy(np.clip(signed, -1, 1).astype(np.float32))

    # The transform of scipy lets other threads run.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(measure, range(len(masks))))
    return out.to(rois.masks.device)
