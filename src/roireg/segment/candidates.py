"""Masks of everything mode as packed bits of their boxes: measured, compared, cleaned, unpacked.

A thousand points give thousands of masks; packed and cut to their boxes they need megabytes, not gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from roireg.core.masks import bounding_boxes, box_nms

__all__ = ["Candidate", "cleaned", "near_inner_edge", "pack", "stability", "suppressed"]

EDGE = 20.0
"""A box this many voxels from an inner edge of a crop was probably cut by it."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask as packed bits of its box.

    Attributes
    ----------
    bits : the box, row by row. low, high : first and last index inside, in the whole raster.
    quality : predicted intersection over union. stability : see `stability`.
    crop_size : voxels of the crop that it was found in.
    """

    bits: NDArray[np.uint8]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    quality: float
    stability: float
    crop_size: int

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where the box is in the raster."""
        return tuple(slice(int(a), int(b) + 1) for a, b in zip(self.low, self.high, strict=True))

    def inside(self) -> NDArray[np.bool_]:
        """(*box) mask within the box."""
        shape = tuple(self.high - self.low + 1)
        return np.unpackbits(self.bits, count=int(np.prod(shape))).astype(bool).reshape(shape)


def stability(logits: Tensor, offset: float) -> Tensor:
    """(K,) overlap of (K, *shape) logits cut at +offset and at -offset: 1 where the border is sharp, 0 if empty."""
    flat = logits.flatten(1)
    ones = torch.empty_like(flat)
    # Sums of float ones are exact up to 2^24 voxels and several times faster than sums of bools.
    core = torch.gt(flat, offset, out=ones).sum(1)
    hull = torch.gt(flat, -offset, out=ones).sum(1)
    return core / hull.clamp(min=1)


def pack(
    logits: Tensor,
    quality: Tensor,
    *,
    offset: float,
    min_stability: float,
    crop: NDArray[np.int64],
    shape: Sequence[int],
) -> list[Candidate]:
    """Cut logits to masks and pack those that are stable and whole.

    Parameters
    ----------
    logits : (K, *size of the crop) at full resolution. quality : (K,) predicted intersection over union.
    offset : see `stability`. min_stability : what a mask must exceed; 0 keeps all but empty ones.
    crop : (2, d) first index and end of the crop in the image. shape : of the image.
    """
    steady = stability(logits, offset)
    # What is stable at all is not empty.
    keep = steady > min_stability if min_stability > 0 else (logits > 0).flatten(1).any(1)
    if not bool(keep.any()):
        return []
    masks, quality, steady = logits[keep] > 0, quality[keep], steady[keep]
    boxes = bounding_boxes(masks).cpu().numpy()
    cut = near_inner_edge(boxes + crop[0], crop, shape)
    size = int(np.prod(crop[1] - crop[0]))
    candidates = []
    for mask, box, q, s, drop in zip(masks.cpu().numpy(), boxes, quality.tolist(), steady.tolist(), cut, strict=True):
        if not drop:
            inside = mask[tuple(slice(int(a), int(b) + 1) for a, b in box.T)]
            low, high = box + crop[0]
            candidates.append(Candidate(np.packbits(inside), low, high, q, s, size))
    return candidates


def near_inner_edge(boxes: NDArray[np.int64], crop: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.bool_]:
    """(K,) which (K, 2, d) boxes touch an edge of the crop that is none of the image."""
    image = np.stack([np.zeros(len(shape), dtype=np.int64), np.array(shape)])
    near = (np.abs(boxes - crop) <= EDGE) & ~(np.abs(boxes - image) <= EDGE)
    return np.asarray(near.any(axis=(1, 2)))


def suppressed(candidates: list[Candidate], scores: Sequence[float], limit: float) -> list[Candidate]:
    """Return the candidates that `box_nms` leaves, best score first."""
    if not candidates:
        return []
    boxes = torch.as_tensor(np.array([(c.low, c.high) for c in candidates]))
    return [candidates[k] for k in box_nms(boxes, torch.tensor(scores, dtype=torch.float64), limit)]


def cleaned(candidates: list[Candidate], *, min_area: int, limit: float) -> list[Candidate]:
    """Remove islands and fill holes below `min_area`; changed masks yield to similar ones that are unchanged.

    `limit` is that of `box_nms`.
    """
    clean, intact = [], []
    for c in candidates:
        # A frame of background, so that what lies outside the box counts as one large hole.
        mask = np.pad(c.inside(), 1)
        whole = _without_specks(~_without_specks(~mask, min_area, frame=True), min_area)
        whole = whole[(slice(1, -1),) * mask.ndim]
        (box,) = bounding_boxes(torch.from_numpy(whole[None])).numpy()
        inside = whole[tuple(slice(int(a), int(b) + 1) for a, b in box.T)]
        intact.append(1.0 if np.array_equal(whole, c.inside()) else 0.0)
        clean.append(
            Candidate(np.packbits(inside), c.low + box[0], c.low + box[1], c.quality, c.stability, c.crop_size)
        )
    return suppressed(clean, intact, limit)


def _without_specks(mask: NDArray[np.bool_], limit: int, *, frame: bool = False) -> NDArray[np.bool_]:
    """Drop components below `limit` voxels, diagonal neighbours joined; the largest and a frame's always stay."""
    labels, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= limit
    keep[0] = False
    if count:
        keep[labels[(0,) * mask.ndim] if frame else 1 + int(sizes[1:].argmax())] = True
    return np.asarray(keep[labels])
