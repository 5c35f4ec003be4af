import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.rois import Prompt, ROIPair, ROIPairs, ROISet
from support import grids, make_grid, rotation

GRID = make_grid((4, 5), (2, 1), origin=(10, 20))


def two_regions() -> ROISet:
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, 0:2, 0:2] = True
    masks[1, 1:4, 1:5] = True
    return ROISet(masks, GRID, ("a", None), torch.tensor([0.5, 0.9]))


def test_volumes_and_centroids_are_in_mm():
    rois = two_regions()
    np.testing.assert_allclose(rois.volumes, [8, 24])
    assert rois.sizes.tolist() == [int(mask.sum()) for mask in rois.masks]
    np.testing.assert_allclose(rois.centroids, [(10.5, 21), (12.5, 24)])


@given(grids(), st.integers(0, 99))
def test_moments_of_a_box_in_closed_form(grid, seed):
    # A whole grid is a box: variance L^2 / 12 along each of its axes, L its length in mm.
    rois = ROISet(torch.ones(1, *grid.shape, dtype=torch.bool), grid)
    np.testing.assert_allclose(rois.centroids[0], grid.center, atol=1e-8)
    np.testing.assert_allclose(rois.volumes[0], np.prod(grid.extent))
    expected = grid.direction @ np.diag(grid.extent**2 / 12) @ grid.direction.T
    np.testing.assert_allclose(rois.covariances[0], expected, atol=1e-8 * grid.extent.max() ** 2)


def test_an_ellipsoid_has_the_covariance_of_an_ellipsoid():
    axes, center = rotation(3, 3), np.array([5.0, -3, 8])
    radii = np.array([20.0, 12, 8])
    grid = make_grid((60, 60, 60), (1, 1, 1), rotation(3, 7))
    grid = make_grid(grid.shape, grid.spacing, grid.direction, grid.origin - grid.center + center)
    inside = (((grid.points() - center) @ axes / radii) ** 2).sum(1) <= 1
    rois = ROISet(torch.as_tensor(inside).reshape(1, *grid.shape), grid)
    np.testing.assert_allclose(rois.covariances[0], axes @ np.diag(radii**2 / 5) @ axes.T, atol=1)


def test_from_labels_takes_every_value_but_zero_in_order():
    labels = torch.tensor([[0, 7, 7], [2, 0, 7]], dtype=torch.int16)
    rois = ROISet.from_labels(labels, Grid.pixels((2, 3)), names={7: "liver"})
    assert rois.names == ("2", "liver")
    assert rois.masks.flatten(1).sum(1).tolist() == [1, 3]
    assert len(ROISet.from_labels(torch.zeros(2, 3, dtype=torch.int16), Grid.pixels((2, 3)))) == 0


def test_the_empty_set_has_empty_moments():
    empty = ROISet.empty(GRID)
    assert len(empty) == 0
    assert empty.volumes.shape == (0,) and empty.centroids.shape == (0, 2) and empty.covariances.shape == (0, 2, 2)
    assert empty.layers() == []


def test_subset_keeps_order_names_and_scores():
    chosen = two_regions().subset([1, 0])
    assert chosen.names == (None, "a")
    np.testing.assert_allclose(chosen.scores, [0.9, 0.5])
    np.testing.assert_allclose(chosen.volumes, [24, 8])
    assert len(two_regions().subset([])) == 0


def test_scores_default_to_one():
    assert ROISet(torch.ones(1, 4, 5, dtype=torch.bool), GRID).scores.tolist() == [1]
    assert two_regions().to("cpu").names == ("a", None)


@given(st.integers(1, 6), st.integers(0, 999))
def test_layers_hold_every_region_once_and_without_loss(k, seed):
    rng = np.random.default_rng(seed)
    masks = torch.as_tensor(rng.random((k, 4, 5)) < 0.3)
    masks[:, 0, 0] |= ~masks.flatten(1).any(1)
    rois = ROISet(masks, GRID)
    seen = []
    for labels, members in rois.layers():
        for value, index in enumerate(members, 1):
            assert torch.equal(labels == value, masks[index])
            seen.append(index)
    assert sorted(seen) == list(range(k))


def test_regions_apart_share_one_layer():
    labels = torch.tensor([[1, 2, 3]])
    assert len(ROISet.from_labels(labels, Grid.pixels((1, 3))).layers()) == 1
    assert len(two_regions().layers()) == 2


def test_bad_sets_are_refused():
    with pytest.raises(GeometryError, match="bool"):
        ROISet(torch.ones(1, 4, 5), GRID)
    with pytest.raises(GeometryError, match="shape"):
        ROISet(torch.ones(1, 5, 4, dtype=torch.bool), GRID)
    with pytest.raises(InputError, match="empty"):
        ROISet(torch.zeros(1, 4, 5, dtype=torch.bool), GRID)
    with pytest.raises(InputError, match="as many names"):
        ROISet(torch.ones(1, 4, 5, dtype=torch.bool), GRID, ("a", "b"))
    with pytest.raises(InputError, match="as many names"):
        ROISet(torch.ones(1, 4, 5, dtype=torch.bool), GRID, ("a",), torch.ones(2))


def test_pairs_follow_their_order_and_know_what_is_unmatched():
    rois = two_regions()
    pairs = ROIPairs(
        rois,
        rois,
        (ROIPair(1, 0, 0.8, 0.7), ROIPair(0, 0, 0.6, 0.5, status="rejected"), ROIPair(1, 1, 0.4, 0.3, name="x")),
    )
    assert len(pairs) == 3 and len(pairs.active) == 2
    assert pairs.moving_masks().volumes.tolist() == [24, 8, 24]
    assert pairs.fixed_masks().volumes.tolist() == [8, 8, 24]
    np.testing.assert_allclose(pairs.similarity, [0.8, 0.6, 0.4])
    np.testing.assert_allclose(pairs.confidence, [0.7, 0.5, 0.3])
    assert pairs.unmatched_moving == [0] and pairs.unmatched_fixed == []
    assert repr(pairs) == "ROIPairs(3 pairs of 2 moving and 2 fixed regions)"


def test_bad_pairs_are_refused():
    rois = two_regions()
    for moving, fixed in ((2, 0), (0, 2), (-1, 0)):
        with pytest.raises(InputError, match="points outside"):
            ROIPairs(rois, rois, (ROIPair(moving, fixed, 1, 1),))
    with pytest.raises(InputError, match="proposed, accepted, rejected"):
        ROIPair(0, 0, 1, 1, status="maybe")


def test_prompts():
    prompt = Prompt.at((1, 2, 3), (4, 5, 6))
    assert prompt.points.shape == (2, 3) and prompt.labels.tolist() == [1, 1]
    boxed = Prompt(np.zeros((0, 3)), np.zeros(0), np.array([[0, 0, 0], [1, 2, 3]]))
    assert boxed.points.shape == (0, 3) and boxed.box.shape == (2, 3)


@pytest.mark.parametrize(
    ("points", "labels", "message"),
    [
        ([[1, 2]], [1, 1], "one label per point"),
        ([[1, 2]], [2], "1 .inside. or 0"),
        ([[1, 2]], [0], "at least one positive point or a box"),
        ([], [], "at least one positive point or a box"),
    ],
)
def test_bad_prompts_are_refused(points, labels, message):
    with pytest.raises(InputError, match=message):
        Prompt(np.array(points, float), np.array(labels))
