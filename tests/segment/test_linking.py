from __future__ import annotations

import numpy as np
import pytest
import torch

import support
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.segment.linking import between, link_slices


def disc(radius, center=(20, 20)) -> np.ndarray:
    return support.disc(Grid.pixels((40, 40)), center[::-1], radius)[0].numpy()


def stack(*masks) -> torch.Tensor:
    return torch.from_numpy(np.stack(masks)) if masks else torch.zeros((0, 40, 40), dtype=torch.bool)


def members(chains):
    return [c.members for c in chains]


def test_nested_and_moving_regions_keep_apart():
    slices = [stack(disc(12, (20, 15 + s)), disc(6, (20, 15 + s))) for s in range(4)]
    slices[2] = slices[2].flip(0)
    assert members(link_slices(slices)) == [
        [(0, 0), (1, 0), (2, 1), (3, 0)],
        [(0, 1), (1, 1), (2, 0), (3, 1)],
    ]


def test_one_region_continues_one_region():
    # Both look like the region before; the better one goes on, the other starts anew.
    chains = link_slices([stack(disc(10)), stack(disc(9), disc(10))])
    assert members(chains) == [[(0, 0), (1, 1)], [(1, 0)]]


def test_gaps_are_bridged_as_far_as_allowed():
    one = [stack(disc(8)), stack(), stack(disc(8)), stack(), stack(), stack(disc(8))]
    assert members(link_slices(one, gap=1)) == [[(0, 0), (2, 0)], [(5, 0)]]
    assert members(link_slices(one, gap=0)) == [[(0, 0)], [(2, 0)], [(5, 0)]]
    assert members(link_slices(one, gap=2)) == [[(0, 0), (2, 0), (5, 0)]]


def test_a_direct_neighbour_wins_over_one_across_a_gap():
    slices = [stack(disc(10)), stack(disc(10, (20, 24))), stack(disc(10, (20, 22)))]
    chains = link_slices(slices, min_overlap=0.8)
    assert [(1, 0), (2, 0)] in members(chains) or len(chains) == 3
    tie = link_slices([stack(disc(10)), stack(disc(10), disc(3, (5, 5))), stack(disc(10))])
    assert [(0, 0), (1, 0), (2, 0)] in members(tie)


def test_the_region_between_discs_is_a_disc_between():
    middle = between(disc(5), disc(11), 0.5)
    assert (middle ^ disc(8)).sum() <= 0.1 * disc(8).sum()
    np.testing.assert_array_equal(between(disc(5), disc(5), 0.5), disc(5))


def test_parameters_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"overlap in \(0, 1\]"):
        link_slices([], min_overlap=0)
    with pytest.raises(InputError, match="gap of at least 0"):
        link_slices([], gap=-1)
