"""A network for volumes that begins with what one for pictures has learned."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

__all__ = ["inflated"]


def inflated(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a 3D network from those of a 2D network of the same widths.

    Every k x k kernel is put into the three planes across the middle of a k x k x k one, a third of it into each
    (Carreira and Zisserman, CVPR 2017, inflate along time; here no axis is special). What is no kernel stays.
    """
    return {name: _volume(value) if value.ndim == 4 else value.clone() for name, value in weights.items()}


def _volume(kernel: Tensor) -> Tensor:
    side = kernel.shape[-1]
    whole = torch.zeros(*kernel.shape[:2], side, side, side, dtype=kernel.dtype)
    for first, second in combinations(range(3), 2):
        middle = 3 - first - second
        whole.select(2 + middle, side // 2).add_(kernel / 3)
    return whole
