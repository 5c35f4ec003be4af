"""Checks of values before a registration; the sentences themselves are tested through the command line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine
from roireg.pipeline.checks import check_inputs, check_pairs, check_points, labels_on, starting_map
from support import grids, make_grid, rotation


def image_on(grid: Grid, name: str = "image") -> Image:
    values = torch.arange(grid.size, dtype=torch.float32).reshape(1, *grid.shape)
    return Image(values, grid, name=name)


def mask_on(grid: Grid, index: tuple[int, ...]) -> Image:
    data = torch.zeros((1, *grid.shape), dtype=torch.int32)
    data[(0, *index)] = 1
    return Image(data, grid, name="mask")


def at(grid: Grid, offset) -> Grid:
    affine = grid.affine.copy()
    affine[:-1, -1] += offset
    return Grid(grid.shape, affine)


@given(grids(min_side=2), st.sampled_from(["auto", "identity", "centers"]))
def test_an_image_fits_itself_on_every_grid(grid, init):
    image = image_on(grid)
    mask = mask_on(grid, (0,) * grid.ndim)
    check_inputs(image, image, fixed_mask=mask, moving_mask=mask, fixed_rois=mask, moving_rois=mask, init=init)


@given(grids(min_side=2), st.floats(1.01, 4))
def test_boxes_beside_each_other_are_refused_and_centers_helps(grid, distance):
    fixed = image_on(grid)
    moving = image_on(at(grid, distance * np.ptp(grid.corners(), axis=0)))
    with pytest.raises(GeometryError, match="--init centers"):
        check_inputs(fixed, moving)
    check_inputs(fixed, moving, init="centers")
    check_inputs(fixed, moving, init=starting_map("centers", fixed.grid, moving.grid))


@given(grids(min_side=2), grids(min_side=2))
def test_the_centers_start_maps_centre_to_centre(fixed, moving):
    if fixed.ndim == moving.ndim:
        mapped = starting_map("centers", fixed, moving).map_points(fixed.center[None])[0]
        np.testing.assert_allclose(mapped, moving.center, atol=1e-9)


def test_masks_meet_through_the_start_and_in_any_voxel():
    grid = make_grid((8, 9, 10), (2, 1, 3), rotation(3, 5))
    image = image_on(grid)
    first, second = mask_on(grid, (1, 2, 3)), mask_on(grid, (4, 6, 5))
    with pytest.raises(InputError, match="no voxel in common"):
        check_inputs(image, image, fixed_mask=first, moving_mask=second)
    between = grid.world_from_index([4, 6, 5]) - grid.world_from_index([1, 2, 3])
    check_inputs(image, image, fixed_mask=first, moving_mask=second, init=Affine.translation(between))
    everywhere = replace(first, data=torch.ones_like(first.data))
    check_inputs(image, image, fixed_mask=everywhere, moving_mask=second)


def test_large_masks_that_meet_in_one_voxel_meet():
    grid = Grid.pixels((400, 600))
    left, right = (torch.zeros((1, 400, 600), dtype=torch.int32) for _ in range(2))
    left[..., :300], right[..., 300:] = 1, 1
    image = image_on(grid)
    with pytest.raises(InputError, match="no voxel in common"):
        check_inputs(image, image, fixed_mask=Image(left, grid), moving_mask=Image(right, grid))
    right[0, 123, 45] = 1
    check_inputs(image, image, fixed_mask=Image(left, grid), moving_mask=Image(right, grid))


def test_labels_tolerate_rounded_headers_only():
    grid = make_grid((8, 9, 10), (2, 1, 3))
    image = image_on(grid)
    assert labels_on(mask_on(at(grid, 0.005), (1, 1, 1)), image).grid == grid
    with pytest.raises(GeometryError, match="another grid than its image"):
        labels_on(mask_on(at(grid, 0.05), (1, 1, 1)), image)
    with pytest.raises(InputError, match="is empty"):
        labels_on(Image(torch.zeros((1, *grid.shape), dtype=torch.int32), grid), image)


def test_a_smaller_picture_is_no_crop():
    picture = replace(image_on(Grid.pixels((8, 9))), unit="px")
    with pytest.raises(GeometryError, match="9 x 8 pixels"):
        labels_on(replace(mask_on(Grid.pixels((4, 4)), (1, 1)), unit="px"), picture)


@given(grids(ndim=3, min_side=3), st.data())
def test_masks_in_any_storage_order_are_those_of_the_image(grid, data):
    image = image_on(grid)
    place = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    mask = mask_on(grid, place)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, 1] * (grid.shape[1] - 1)
    affine[:3, 1] *= -1
    flipped = Image(mask.data.flip(2).permute(0, 3, 1, 2), Grid(np.roll(grid.shape, 1), affine[:, [2, 0, 1, 3]]))
    maps = check_inputs(image, image, fixed_mask=flipped, moving_mask=mask, fixed_rois=mask, moving_rois=flipped)
    for found in (maps.fixed_mask, maps.moving_rois):
        assert found.grid == grid
        assert torch.equal(found.data, mask.data)


@pytest.mark.parametrize("init", ["middle", "AUTO", ""])
def test_unknown_words_for_the_start(init):
    image = image_on(Grid.pixels((8, 8)))
    with pytest.raises(InputError, match="auto, identity, centers"):
        check_inputs(image, image, init=init)


def test_points_fit_their_image_and_each_other():
    image = image_on(Grid.pixels((8, 8)))
    check_points(np.zeros((3, 2)), image, name="a.csv", partner=np.ones((3, 2)))
    with pytest.raises(InputError, match="columns x,y"):
        check_points(np.zeros((3, 3)), image, name="a.csv")
    with pytest.raises(InputError, match="shape"):
        check_points(np.zeros(3), image, name="a.csv")
    with pytest.raises(InputError, match="found 3 points but 2"):
        check_points(np.zeros((3, 2)), image, name="a.csv", partner=np.ones((2, 2)))


def pairs_on(fixed: Grid, moving: Grid) -> ROIPairs:
    sets = []
    for grid in (moving, fixed):
        masks = torch.zeros((1, *grid.shape), dtype=torch.bool)
        masks[(0, *(n // 2 for n in grid.shape))] = True
        sets.append(ROISet(masks, grid))
    return ROIPairs(sets[0], sets[1], (ROIPair(0, 0, 1.0, 1.0),))


@given(grids(min_side=4, max_side=9))
def test_pairs_on_a_coarser_grid_over_the_same_box_fit(grid):
    image = image_on(grid)
    coarse = grid.with_shape([max(1, n // 2) for n in grid.shape])
    check_pairs(pairs_on(coarse, grid), image, image)


def test_pairs_of_another_place_or_dimension_do_not():
    flat, deep = image_on(Grid.pixels((8, 8)), "flat"), image_on(make_grid((8, 8, 8)), "deep")
    with pytest.raises(GeometryError, match="do not fit flat"):
        check_pairs(pairs_on(deep.grid, deep.grid), flat, flat)
    with pytest.raises(GeometryError, match="moving regions"):
        check_pairs(pairs_on(flat.grid, at(flat.grid, (3.0, 0))), flat, flat)


def test_a_failed_check_names_the_image_at_fault():
    good = image_on(Grid.pixels((8, 8)), "good")
    flat = Image(torch.ones((1, 8, 8)), good.grid, name="flat.png")
    broken = good.with_data(torch.full((1, 8, 8), float("nan")))
    with pytest.raises(InputError, match=r"^flat\.png: every voxel"):
        check_inputs(good, flat)
    with pytest.raises(InputError, match="64 NaN"):
        check_inputs(broken, good)


def test_pixels_and_millimetres_are_not_mixed_up():
    values = torch.rand(1, 40, 50, generator=torch.Generator().manual_seed(0))
    slide = Image(values, make_grid((40, 50), (5e-4, 5e-4)), name="a.ome.tif")
    photo = Image(values, Grid.pixels((40, 50)), name="b.png", unit="px")
    with pytest.raises(
        GeometryError, match=r"a\.ome\.tif is 0\.025 mm wide and b\.png 50 px: one file has a physical"
    ):
        check_inputs(slide, photo)
    check_inputs(replace(slide, grid=photo.grid), photo)
