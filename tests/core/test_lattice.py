"""Storage order: the same voxels flipped, permuted and cropped come back; other places do not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.lattice import stored_on
from support import grids, make_grid, rotation


def numbered(grid: Grid) -> Image:
    return Image(torch.arange(1, grid.size + 1, dtype=torch.int32).reshape(1, *grid.shape), grid)


def restored(image: Image, order: tuple[int, ...], flips: tuple[bool, ...]) -> Image:
    """The image in another storage order, by the naive way: flip each axis, then permute."""
    data, affine = image.data, image.grid.affine.copy()
    for axis, flip in enumerate(flips):
        if flip:
            data = data.flip(axis + 1)
            affine[:-1, -1] += affine[:-1, axis] * (image.grid.shape[axis] - 1)
            affine[:-1, axis] *= -1
    shape = tuple(image.grid.shape[a] for a in order)
    return Image(data.permute(0, *(a + 1 for a in order)), Grid(shape, affine[:, [*order, image.ndim]]))


@pytest.mark.parametrize("direction", [np.eye(3), rotation(3, 2)])
def test_all_48_storage_orders_come_back(direction):
    image = numbered(make_grid((4, 3, 5), (2, 1, 3), direction, (10, -20, 5)))
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            back = stored_on(restored(image, order, flips), image.grid)
            assert back.grid == image.grid
            assert torch.equal(back.data, image.data)


@given(grids(min_side=2), st.data())
def test_crops_are_filled_with_zeros(grid, data):
    image = numbered(grid)
    begin = [data.draw(st.integers(0, n - 1)) for n in grid.shape]
    end = [data.draw(st.integers(b + 1, n)) for b, n in zip(begin, grid.shape, strict=True)]
    part = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))
    cropped = Image(image.data[(0, *part)][None], grid.padded([-b for b in begin], np.subtract(end, grid.shape)))
    back = stored_on(restored(cropped, tuple(range(grid.ndim))[::-1], (True,) * grid.ndim), grid)
    expected = torch.zeros_like(image.data)
    expected[(0, *part)] = image.data[(0, *part)]
    assert back.grid == grid
    assert torch.equal(back.data, expected)


def test_what_lies_beside_the_grid_must_be_empty():
    grid = make_grid((4, 4, 4))
    larger = Image(torch.zeros((1, 6, 6, 6), dtype=torch.int32), grid.padded([1] * 3, [1] * 3))
    larger.data[0, 1, 1, 1] = 7
    assert stored_on(larger, grid).data[0, 0, 0, 0] == 7
    larger.data[0, 0, 1, 1] = 7
    assert stored_on(larger, grid) is None
    beside = Image(torch.zeros((1, 4, 4, 4), dtype=torch.int32), grid.padded([-1, 0, 0], [1, 0, 0]))
    assert stored_on(beside, grid) is None  # half beside it, although there is nothing


@pytest.mark.parametrize("shift", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_between_the_voxels_is_another_place(shift, axis):
    grid = make_grid((4, 3, 5), (2, 1, 3), rotation(3, 4))
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, axis] * shift
    assert stored_on(numbered(Grid(grid.shape, affine)), grid) is None
    affine = grid.affine.copy()
    affine[:3, axis] *= 1 + shift / 4
    assert stored_on(numbered(Grid(grid.shape, affine)), grid) is None
    assert stored_on(numbered(grid.with_shape([2 * n for n in grid.shape])), grid) is None
    assert stored_on(numbered(make_grid((4, 3))), grid) is None
