"""The value of "nothing" in an image, given to voxels that come from outside it."""

from __future__ import annotations

import torch
from torch import Tensor

from roireg.core.image import Image, extremes

__all__ = ["background"]

ALIKE = 0.05
"""Share of the range of intensities within which values of the border are alike."""

MOST = 0.6
"""Share of the border that must be alike to be called background."""

AIR = -900.0
"""Values below this are Hounsfield units, of which air has the lowest."""


def background(image: Image) -> tuple[float, ...]:
    """Return the value of "nothing" in every channel of an image.

    Where most of the outer edge is alike, that is what lies around the object: the lowest value where the edge is
    dark (air of a CT, −1024; black of an MR image), else the median of the edge (white of a slide, 0 of a signed
    map). Without such an edge it is the lowest value of an image in Hounsfield units, and otherwise 0 where 0 lies
    within the range or the image is a photograph, else the lowest value.
    """
    ranges = [extremes(channel) for channel in image.data]
    edges = [_edge(channel) for channel in image.data]
    levels = [_common(edge, *limits) for edge, limits in zip(edges, ranges, strict=True)]
    if all(value is not None for value in levels):
        return tuple(value for value in levels if value is not None)
    return tuple(_without_edge(low, high, image.unit) for low, high in ranges)


def _common(edge: Tensor, low: float, high: float) -> float | None:
    """Return the value that most of the edge has, None where there is none."""
    middle = float(edge.median())
    alike = ALIKE * (high - low)
    if float(((edge - middle).abs() <= alike).float().mean()) < MOST:
        return None
    return low if middle - low <= alike else middle


def _without_edge(low: float, high: float, unit: str) -> float:
    if low <= AIR:
        return low
    return 0.0 if unit == "px" or low <= 0 <= high else low


def _edge(channel: Tensor) -> Tensor:
    """Return the values on the lines where all axes but one end: the frame of a picture, the edges of a volume.

    The faces of a volume are no background: the first and last slices of a scan cut through the body.
    """
    ends = [sorted({0, n - 1}) for n in channel.shape]
    lines = []
    for axis in range(channel.ndim):
        others = [torch.tensor(ends[a], device=channel.device) for a in range(channel.ndim) if a != axis]
        picked = channel.movedim(axis, -1)
        for other in others:
            picked = picked.movedim(0, -2).index_select(-2, other.to(channel.device))
        lines.append(picked.reshape(-1))
    return torch.cat(lines).float()
