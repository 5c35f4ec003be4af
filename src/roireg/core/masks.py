"""Comparing sets of masks: shared voxels, overlap, boxes, and suppression of those that are alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["bounding_boxes", "box_nms", "dilated", "intersections", "iou", "mask_nms", "suppress"]

SLAB = 1 << 18
"""Voxels that are compared at once: bounds the memory, and counts below 2^24 are exact in float32."""


def intersections(a: Tensor, b: Tensor) -> Tensor:
    """(A, B) float64 number of voxels shared by (A, *shape) and (B, *shape) bool masks, on the CPU."""
    shared = torch.zeros(len(a), len(b), dtype=torch.float64, device="cpu")
    for one, two in zip(torch.split(a.flatten(1), SLAB, 1), torch.split(b.flatten(1), SLAB, 1), strict=True):
        shared += (one.float() @ two.float().T).cpu().double()
    return shared


def iou(a: Tensor, b: Tensor) -> Tensor:
    """(A, B) float64 intersections over unions of (A, *shape) and (B, *shape) bool masks, 0 for two empty ones."""
    shared = intersections(a, b)
    sizes = [masks.flatten(1).sum(1).cpu().double() for masks in (a, b)]
    return shared / (sizes[0][:, None] + sizes[1][None] - shared).clamp(min=1)


def dilated(masks: Tensor, radius: Sequence[int]) -> Tensor:
    """(K, *shape) bool masks with everything that a box of `radius` voxels per axis around their voxels reaches."""
    for axis, r in enumerate(radius, start=1):
        n = masks.shape[axis]
        reached, reach = masks, 0
        while reach < min(r, n - 1):
            # So far that what was cut at a border still touches itself.
            step = min(reach + 1, min(r, n - 1) - reach)
            wider = reached.clone()
            wider.narrow(axis, step, n - step).logical_or_(reached.narrow(axis, 0, n - step))
            wider.narrow(axis, 0, n - step).logical_or_(reached.narrow(axis, step, n - step))
            reached, reach = wider, reach + step
        masks = reached
    return masks


def suppress(overlap: Tensor, scores: Tensor, limit: float) -> list[int]:
    """Non-maximum suppression: indices that no better one overlaps by more than `limit`, best score first.

    Those that are suppressed do not suppress others. Of equal scores the earlier one is the better, so the result
    does not depend on the machine.

    Parameters
    ----------
    overlap : (K, K). scores : (K,).
    """
    indices: list[int] = []
    alike = torch.zeros(len(scores), dtype=torch.bool, device="cpu")
    for k in torch.argsort(scores, descending=True, stable=True).tolist():
        if not alike[k]:
            indices.append(k)
            alike |= overlap[k] > limit
    return indices


def mask_nms(masks: Tensor, scores: Tensor, limit: float) -> list[int]:
    """`suppress` for (K, *shape) bool masks by their intersection over union."""
    return suppress(iou(masks, masks), scores.cpu(), limit)


def box_nms(boxes: Tensor, scores: Tensor, limit: float) -> list[int]:
    """`suppress` for (K, 2, d) boxes by their intersection over union.

    Sides are measured from the first to the last index, as Segment Anything does. Boxes may be thousands: only rows
    of those that stay are computed.
    """
    low, high = boxes[:, 0].double(), boxes[:, 1].double()
    # A sliver instead of nothing: boxes of one voxel's width can still be compared.
    high = high + 1e-3
    size = (high - low).prod(1)
    rest = torch.argsort(scores, descending=True, stable=True)
    indices: list[int] = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        indices.append(int(best))
        shared = (torch.minimum(high[rest], high[best]) - torch.maximum(low[rest], low[best])).clamp(min=0).prod(1)
        rest = rest[shared <= limit * (size[rest] + size[best] - shared)]
    return indices


def bounding_boxes(masks: Tensor) -> Tensor:
    """(K, 2, d) first and last index of (K, *shape) bool masks that are not empty."""
    d = masks.ndim - 1
    lows, highs = [], []
    for axis in range(d):
        others = tuple(a + 1 for a in range(d) if a != axis)
        line = masks.view(torch.uint8).amax(dim=others)
        lows.append(line.argmax(1))
        highs.append(line.shape[1] - 1 - line.flip(1).argmax(1))
    return torch.stack([torch.stack(lows, 1), torch.stack(highs, 1)], 1)
