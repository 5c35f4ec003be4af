"""Soft mask resizing and prototypes."""

import numpy as np
import pytest
import torch

from match.scenes import oblique_grid
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.match import cosine_similarity, prototypes, resize_masks


def test_equal_grids_give_the_plain_mean():
    grid = oblique_grid((5, 6, 7))
    features = Image(torch.rand((4, *grid.shape), generator=torch.Generator().manual_seed(0)), grid)
    mask = torch.rand(grid.shape, generator=torch.Generator().manual_seed(1)) > 0.6
    rois = ROISet(mask[None], grid)
    expected = features.data[:, mask].mean(1)
    for mode in ("soft", "nearest"):
        torch.testing.assert_close(prototypes(features, rois, mode=mode)[0], expected)
        torch.testing.assert_close(resize_masks(rois, grid, mode=mode)[0], mask.float(), atol=1e-6, rtol=0)


def test_integer_factors_give_the_occupied_fraction():
    fine = Grid.pixels((8, 8))
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 0:4, 0:4] = True
    soft = resize_masks(ROISet(mask, fine), fine.with_shape((1, 1)))
    torch.testing.assert_close(soft, torch.full((1, 1, 1), 16 / 64))


@pytest.mark.parametrize("shape", [(64, 64), (12, 40, 44)])
def test_areas_are_conserved_and_tiny_masks_stay(shape):
    grid = Grid.pixels(shape)
    masks = torch.zeros((50, *shape), dtype=torch.bool)
    where = np.random.default_rng(0).integers(0, grid.size, 50)
    masks.view(50, -1)[torch.arange(50), torch.as_tensor(where)] = True
    rois = ROISet(masks, grid)
    coarse = grid.with_spacing(7.3)
    soft = resize_masks(rois, coarse)
    volumes = soft.flatten(1).sum(1) * float(np.prod(coarse.spacing))
    torch.testing.assert_close(volumes, torch.ones(50), rtol=1e-5, atol=1e-5)
    assert int((resize_masks(rois, coarse, mode="nearest").flatten(1).sum(1) == 0).sum()) > 0
    linear = Image(torch.as_tensor(coarse.points().T.reshape(-1, *coarse.shape).copy()).float(), coarse)
    index = coarse.index_from_world(rois.centroids)
    inside = np.all((index >= 0) & (index <= np.array(coarse.shape) - 1), axis=1)
    assert inside.sum() > 10
    # Linear features are reproduced exactly: the prototype of a voxel is the feature at its centre.
    np.testing.assert_allclose(prototypes(linear, rois).numpy()[inside], rois.centroids[inside], atol=1e-3)


def test_regions_and_features_may_have_other_affines():
    features_grid = oblique_grid()
    points = torch.as_tensor(features_grid.points().T.reshape(3, *features_grid.shape).copy()).float()
    masks = torch.zeros((1, 9, 9, 9), dtype=torch.bool)
    masks[0, 3:6, 3:7, 2:5] = True
    roi_grid = Grid.from_itk((9, 9, 9), (1.5, 1.1, 0.9), features_grid.center - 5.0, np.eye(3))
    rois = ROISet(masks, roi_grid)
    np.testing.assert_allclose(prototypes(Image(points, features_grid), rois).numpy(), rois.centroids, atol=1e-3)


def test_rows_are_independent_and_follow_the_order():
    grid = Grid.pixels((20, 30))
    masks = torch.rand((5, 20, 30), generator=torch.Generator().manual_seed(0)) > 0.8
    features = Image(torch.rand((6, 7, 11), generator=torch.Generator().manual_seed(1)), grid.with_shape((7, 11)))
    rois = ROISet(masks, grid)
    together = prototypes(features, rois)
    for i in range(5):
        torch.testing.assert_close(prototypes(features, rois.subset([i]))[0], together[i])
    torch.testing.assert_close(prototypes(features, rois.subset([3, 1])), together[[3, 1]])


def test_thin_axes_and_empty_sets():
    grid = Grid.pixels((1, 6, 6))
    rois = ROISet(torch.ones((1, 1, 6, 6), dtype=torch.bool), grid)
    assert float(resize_masks(rois, grid.with_shape((1, 3, 3))).sum()) == pytest.approx(9)
    for mode in ("soft", "nearest"):
        assert prototypes(Image(torch.ones(3, 1, 6, 6), grid), ROISet.empty(grid), mode=mode).shape == (0, 3)


def test_bad_input():
    rois = ROISet(torch.ones((1, 4, 4), dtype=torch.bool), Grid.pixels((4, 4)))
    with pytest.raises(GeometryError, match="2D"):
        resize_masks(rois, Grid.pixels((4, 4, 4)))
    with pytest.raises(InputError, match="soft or nearest"):
        resize_masks(rois, rois.grid, mode="cubic")
    with pytest.raises(InputError, match="channels"):
        cosine_similarity(torch.ones(1, 4), torch.ones(1, 3))


def test_cosine_closed_form():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    expected = torch.tensor([[1.0, 2**-0.5, 0.0], [2**-0.5, 1.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(cosine_similarity(a, 3 * a), expected)


@pytest.mark.parametrize(("shape", "shift"), [((5, 4, 6), 0.0), ((20, 3, 11), 2.7), ((1, 9, 9), -4.0)])
def test_sharing_axis_by_axis_is_the_transpose_of_linear_interpolation(shape, shift):
    generator = torch.Generator().manual_seed(0)
    rois = ROISet(torch.rand(2, 9, 8, 7, generator=generator) > 0.7, Grid((9, 8, 7), np.diag([2.0, 1.5, 1.0, 1])))
    target = rois.grid.with_shape(shape)
    moved = target.affine.copy()
    moved[:3, 3] += shift
    # A turn too small to move a weight that counts takes the path of grids with other axes.
    turn = np.eye(4)
    turn[0, 1] = 1e-5
    one, other = (resize_masks(rois, Grid(shape, a)) for a in (moved, turn @ moved))
    assert torch.allclose(one, other, atol=1e-3)
