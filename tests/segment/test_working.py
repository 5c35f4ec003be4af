from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.errors import GeometryError, InputError
from roireg.core.image import Image
from roireg.segment.working import normalised_on, working_grid
from support import grids, make_grid


@given(grids(max_side=40), st.integers(1, 3000))
def test_same_box_fewer_voxels_and_nothing_upsampled(grid, limit):
    small = working_grid(grid, max_voxels=limit)
    assert small.size <= max(limit, 1)
    assert all(a <= b for a, b in zip(small.shape, grid.shape, strict=True))
    np.testing.assert_allclose(small.corners(), grid.corners(), atol=1e-6)


def test_thick_slices_keep_their_number():
    small = working_grid(make_grid((10, 400, 300), (10, 1, 1)), max_voxels=100_000)
    assert small.shape[0] == 10
    np.testing.assert_allclose(small.spacing[1], small.spacing[2], rtol=0.02)
    assert 90_000 < small.size <= 100_000


def test_a_small_grid_is_returned_as_it_is():
    grid = make_grid((20, 21))
    assert working_grid(grid) is grid


def test_limit_below_one_is_refused():
    with pytest.raises(GeometryError, match="at least one voxel"):
        working_grid(make_grid((20, 21)), max_voxels=0)


def test_one_scale_for_all_channels():
    data = torch.linspace(0, 1, 2 * 30 * 30).reshape(2, 30, 30)
    out = normalised_on(Image(data, make_grid((30, 30))), make_grid((30, 30)))
    assert out.min() == 0 and out.max() == 1
    assert out[0].max() <= out[1].min() + 1e-3


def test_rare_objects_on_a_constant_ground_are_not_lost():
    data = torch.zeros(1, 64, 64)
    data[0, 3, 3] = 5.0
    out = normalised_on(Image(data, make_grid((64, 64))), make_grid((64, 64)))
    assert out[0, 3, 3] == 1 and out.sum() == 1


def test_not_finite_values_are_refused():
    data = torch.zeros(1, 8, 8)
    data[0, 2, 2] = float("nan")
    with pytest.raises(InputError, match=r"scan\.nii: the image has NaN"):
        normalised_on(Image(data, make_grid((8, 8)), name="scan.nii"), make_grid((8, 8)))
