"""The Hausdorff rule of auxiliary prompts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.errors import InputError
from roireg.match.auxiliary import auxiliary_point, discrepancy
from support import disc, grids, make_grid

GRID = make_grid((60, 80), (1.0, 1.0))


def test_directed_distances_of_points_are_those_of_the_definition():
    wanted, found = torch.zeros(2, 20, 30, dtype=torch.bool)
    wanted[5, 5] = wanted[5, 15] = found[5, 5] = found[8, 5] = True
    d = discrepancy(wanted, found, make_grid((20, 30), (2.0, 1.0)))
    assert (d.missed, d.excess) == (10.0, 6.0)
    np.testing.assert_array_equal(d.missed_at, [15, 10])
    np.testing.assert_array_equal(d.excess_at, [5, 16])
    with pytest.raises(InputError, match="empty"):
        discrepancy(wanted, torch.zeros_like(wanted), GRID)


@given(grids(min_side=3), st.integers(0, 9999))
def test_directed_distances_are_the_naive_ones_and_swap_with_the_regions(grid, seed):
    rng = np.random.default_rng(seed)
    a, b = (torch.as_tensor(rng.random(grid.shape) < 0.3) for _ in range(2))
    a[(0,) * grid.ndim] = b[(-1,) * grid.ndim] = True
    d, e = discrepancy(a, b, grid), discrepancy(b, a, grid)
    assert (d.missed, d.excess) == (e.excess, e.missed)
    # Along the storage axes; for a sheared grid mm and axes would differ.
    p, q = (np.argwhere(m.numpy()) * grid.spacing for m in (a, b))
    assert d.missed == pytest.approx(np.linalg.norm(p[:, None] - q[None], axis=-1).min(1).max())


def test_equal_regions_ask_for_nothing():
    mask = disc(GRID, (40, 30), 12)[0]
    assert auxiliary_point(mask, mask, GRID, tolerance=1.0, inward=2.0) is None


def test_a_missed_part_asks_for_a_positive_point_inside_it():
    wanted = disc(GRID, (40, 30), 15)[0]
    found = wanted & torch.as_tensor(np.arange(80) < 38)
    point, label = auxiliary_point(wanted, found, GRID, tolerance=2.0, inward=3.0)
    assert label == 1
    row, column = np.round(GRID.index_from_world(point)).astype(int)
    assert wanted[row, column] and not found[row, column]
    far = discrepancy(wanted, found, GRID).missed_at
    assert 1.5 <= np.linalg.norm(point - far) <= 3.5


def test_an_excess_asks_for_a_negative_point_at_its_end():
    wanted = disc(GRID, (30, 30), 10)[0]
    found = wanted | disc(GRID, (50, 30), 12)[0]
    point, label = auxiliary_point(wanted, found, GRID, tolerance=2.0, inward=2.0)
    assert label == 0
    assert point[0] == pytest.approx(62, abs=1)


def test_a_shift_alone_asks_for_nothing():
    """Both directed distances are equal then: the rule is about shape."""
    a, b = disc(GRID, (30, 30), 10)[0], disc(GRID, (38, 30), 10)[0]
    assert auxiliary_point(a, b, GRID, tolerance=1.0, inward=2.0) is None
