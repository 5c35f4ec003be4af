from __future__ import annotations

import pytest
import torch

from roireg.core.errors import GeometryError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.pair import Pair


def image(*shape: int, channels: int = 1, name: str = "image") -> Image:
    return Image(torch.rand(channels, *shape), Grid.pixels(shape), name=name)


def test_swapping_twice_gives_the_same_pair():
    pair = Pair(image(4, 5), image(6, 7), image(4, 5), None)
    assert pair.swapped.fixed is pair.moving
    assert pair.swapped.moving_mask is pair.fixed_mask
    again = pair.swapped.swapped
    assert (again.fixed, again.moving, again.fixed_mask, again.moving_mask) == (
        pair.fixed,
        pair.moving,
        pair.fixed_mask,
        None,
    )


def test_gray_keeps_masks():
    pair = Pair(image(4, 5, channels=3), image(6, 7), image(4, 5), None).gray()
    assert pair.fixed.channels == 1
    assert pair.fixed_mask is not None


def test_dimensions_must_agree():
    with pytest.raises(GeometryError, match=r"flat is 2D but volume is 3D"):
        Pair(image(4, 5, name="flat"), image(3, 4, 5, name="volume"))
