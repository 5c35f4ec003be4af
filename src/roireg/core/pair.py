"""Two images to be registered, and where each of them counts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from roireg.core.errors import GeometryError
from roireg.core.image import Image

__all__ = ["Pair"]


@dataclass(frozen=True, eq=False)
class Pair:
    """A fixed and a moving image in one world, in this order everywhere.

    Parameters
    ----------
    fixed, moving : (channel, *spatial) images of the same dimension on any grids.
    fixed_mask, moving_mask : one channel each, on any grid, > 0 where the image is to be compared; None compares it
        everywhere.

    Raises
    ------
    GeometryError
        When the images or masks differ in dimension.
    """

    fixed: Image
    moving: Image
    fixed_mask: Image | None = None
    moving_mask: Image | None = None

    def __post_init__(self) -> None:
        for other in (self.moving, self.fixed_mask, self.moving_mask):
            if other is not None and other.ndim != self.fixed.ndim:
                raise GeometryError(
                    f"{self.fixed.name} is {self.fixed.ndim}D but {other.name} is {other.ndim}D; give images "
                    "and masks of one dimension"
                )

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.fixed.ndim

    @property
    def swapped(self) -> Pair:
        """The same two images the other way round."""
        return Pair(self.moving, self.fixed, self.moving_mask, self.fixed_mask)

    def gray(self) -> Pair:
        """Return the pair with one channel per image, see `Image.gray`; masks are kept."""
        return replace(self, fixed=self.fixed.gray(), moving=self.moving.gray())

    def to(self, device: torch.device | str) -> Pair:
        """Return the pair on another device."""
        masks = [None if mask is None else mask.to(device) for mask in (self.fixed_mask, self.moving_mask)]
        return Pair(self.fixed.to(device), self.moving.to(device), *masks)
