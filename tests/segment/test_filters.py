from __future__ import annotations

import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.rois import ROISet
from roireg.segment import RegionFilter, filter_regions
from support import make_grid


def row(*spans: tuple[int, int], scores=None) -> ROISet:
    masks = torch.zeros(len(spans), 1, 100, dtype=torch.bool)
    for k, (a, b) in enumerate(spans):
        masks[k, 0, a:b] = True
    return ROISet(masks, make_grid((1, 100)), scores=None if scores is None else torch.tensor(scores))


def spans(rois: ROISet) -> list[tuple[int, int]]:
    return [(int(m[0].nonzero().min()), int(m[0].nonzero().max()) + 1) for m in rois.masks]


def test_size_limits_are_fractions_and_inclusive():
    rois = row((0, 4), (0, 5), (0, 20), (0, 21))
    assert spans(filter_regions(rois, RegionFilter(min_fraction=0.05, max_fraction=0.2))) == [(0, 5), (0, 20)]


def test_of_overlapping_regions_the_larger_stays():
    rois = row((1, 10), (0, 20), (30, 40), (36, 60))
    assert spans(filter_regions(rois, RegionFilter(max_overlap=0.9))) == [(0, 20), (30, 40), (36, 60)]
    assert spans(filter_regions(rois, RegionFilter(max_overlap=0.4))) == [(0, 20), (36, 60)]


def test_equal_regions_leave_one_and_dropped_ones_drop_nothing():
    assert spans(filter_regions(row((0, 9), (0, 9)), RegionFilter(max_overlap=0.9))) == [(0, 9)]
    chain = row((0, 30), (20, 45), (40, 50))
    assert spans(filter_regions(chain, RegionFilter(max_overlap=0.3))) == [(0, 30), (40, 50)]


def test_the_count_keeps_the_best_scores_in_the_old_order():
    rois = row((0, 10), (10, 20), (20, 30), scores=[0.2, 0.9, 0.5])
    assert spans(filter_regions(rois, RegionFilter(max_count=2))) == [(10, 20), (20, 30)]


def test_the_empty_set_stays_empty():
    assert len(filter_regions(ROISet.empty(make_grid((4, 4))), RegionFilter())) == 0


def test_impossible_limits_are_refused():
    with pytest.raises(InputError, match="min_fraction < max_fraction"):
        RegionFilter(min_fraction=0.5, max_fraction=0.1)
