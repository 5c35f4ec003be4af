"""What a report shows: regions in the body, slices with detail."""

from __future__ import annotations

import numpy as np
import torch

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.evaluate.choice import Body, pairs_in_bodies, shown_pairs, shown_slices

GRID = Grid.from_itk((40, 50, 60), (1, 1, 1), (0, 0, 0), np.eye(3))


def scan(grid: Grid = GRID, air: float = 0.0) -> Image:
    """Return textured tissue in a box of slices 20..49, rows 10..39, columns 12..29."""
    data = torch.full((1, *grid.shape), air)
    data[0, 20:50, 10:40, 12:30] = torch.rand(30, 30, 18, generator=torch.Generator().manual_seed(0)) + 1
    return Image(data, grid)


def boxes(*corners: tuple[int, int, int]) -> ROISet:
    masks = torch.zeros((len(corners), *GRID.shape), dtype=torch.bool)
    for mask, (k, j, i) in zip(masks, corners, strict=True):
        mask[k : k + 8, j : j + 8, i : i + 8] = True
    return ROISet(masks, GRID)


def test_body_reaches_where_the_image_differs_from_its_background() -> None:
    for air in (0.0, 3.0):
        body = Body(scan(air=air))
        assert [body.span(axis) for axis in range(3)] == [(20, 49), (10, 39), (12, 29)]
        assert body.size == 30 * 30 * 18
    even = Body(Image(torch.ones(1, 8, 9), Grid.pixels((8, 9))))
    assert [even.span(axis) for axis in range(2)] == [(0, 7), (0, 8)]


def test_regions_in_air_and_regions_that_hide_others_are_not_drawn() -> None:
    rois = boxes((0, 0, 0), (25, 15, 14), (26, 16, 15), (38, 28, 20), (50, 40, 30))
    confidences = (0.9, 0.8, 0.7, 0.6, 0.5)
    pairs = ROIPairs(rois, rois, tuple(ROIPair(i, i, 1, c) for i, c in enumerate(confidences)))
    body = Body(scan())
    assert pairs_in_bodies(pairs, body, body) == [1, 2, 3]
    assert shown_pairs(pairs, body, body, most=20) == [1, 3]
    assert shown_pairs(pairs, body, body, most=1) == [1]
    # What a person accepted is drawn wherever it lies; rejected pairs never are.
    changed = (ROIPair(0, 0, 1, 0.9, status="accepted"), ROIPair(1, 1, 1, 0.8, status="rejected"))
    chosen = shown_pairs(ROIPairs(rois, rois, (*changed, *pairs.pairs[2:])), body, body, most=20)
    assert chosen == [0, 2, 3]


def test_without_a_pair_in_the_body_the_most_confident_are_drawn() -> None:
    rois = boxes((0, 0, 0), (50, 40, 30))
    pairs = ROIPairs(rois, rois, (ROIPair(0, 0, 1, 0.2), ROIPair(1, 1, 1, 0.9)))
    body = Body(scan())
    assert shown_pairs(pairs, body, body, most=1) == [1]
    assert shown_pairs(ROIPairs(rois, rois, ()), body, body, most=1) == []


def test_slices_pass_through_the_body_the_regions_and_the_labels() -> None:
    image = scan()
    body = Body(image)
    for index, (first, last) in zip(shown_slices(image, body), ((20, 49), (10, 39), (12, 29)), strict=True):
        assert first + 3 <= index <= last - 3
    rois = boxes((41, 12, 21))
    for index, corner in zip(shown_slices(image, body, regions=(rois, [0], [0.5])), (41, 12, 21), strict=True):
        assert corner <= index < corner + 8
    # A label map stored in another order.
    labels = torch.zeros(1, 40, 60, 50)
    labels[0, 13:16, 44:47, 30:33] = 1
    affine = GRID.affine[:, [2, 0, 1, 3]]
    index = shown_slices(image, body, labels=Image(labels, Grid((40, 60, 50), affine)))
    assert [44 <= index[0] < 47, 30 <= index[1] < 33, 13 <= index[2] < 16] == [True] * 3
