"""Affine maps from regions: known maps come back in mm, wrong pairs do not spoil them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fit.scenes import affine, error_mm, problem, region_pairs
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine
from roireg.fit.region_affine import MODELS, RegionAffine, affine_from_points, affine_from_regions
from support import centred, ellipsoids, rotation, turned

GRIDS = {
    "2D": (centred((90, 100)), centred((100, 90), (1.1, 0.9), turned(15)[:, ::-1])),
    "3D": (centred((20, 44, 44), (2.5, 1.0, 1.0)), centred((26, 46, 40), (2.0, 1.1, 1.2), rotation(3, 4))),
}
LINEAR = {"rigid": 1.0, "similarity": 1.12}
TURN = 8.0


def truth_of(model: str, d: int):
    shift = np.array([4.0, -3.0, 2.0][:d])
    if model == "translation":
        return affine(np.eye(d), shift)
    linear = turned(TURN, d) * LINEAR.get(model, 1.0)
    if model == "affine":
        shear = np.eye(d)
        shear[0, 1] = 0.1
        linear = linear @ shear @ np.diag([1.1, 0.93, 1.05][:d])
    return affine(linear, shift)


def spread(d: int, count: int, seed: int = 0):
    """Centres and axes (mm) of ellipsoids that stay inside both grids."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-1, 1, size=(count, d)) * (26 if d == 2 else 11)
    sizes = rng.uniform(4, 9, size=(count, 1, d))
    return centers, np.linalg.qr(rng.normal(size=(count, d, d)))[0] * sizes


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dimension", GRIDS)
def test_a_known_map_is_recovered_on_any_grid(dimension, model):
    fixed, moving = GRIDS[dimension]
    truth = truth_of(model, fixed.ndim)
    pairs = region_pairs(fixed, moving, truth, *spread(fixed.ndim, 8))
    found = affine_from_regions(pairs, model=model)
    assert error_mm(found, truth, fixed.corners() / 2) < 0.5 * fixed.spacing.min()


@pytest.mark.parametrize("dimension", GRIDS)
def test_a_third_of_wrong_pairs_does_not_spoil_it(dimension):
    fixed, moving = GRIDS[dimension]
    truth = truth_of("similarity", fixed.ndim)
    partner = list(range(10))
    partner[0], partner[4], partner[7] = 4, 7, 0  # 30 %
    pairs = region_pairs(fixed, moving, truth, *spread(fixed.ndim, 10, seed=5), partner=partner)
    points = fixed.corners() / 2
    robust = error_mm(affine_from_regions(pairs, model="similarity"), truth, points)
    f, m = pairs.fixed_masks().centroids, pairs.moving_masks().centroids
    plain = error_mm(affine_from_points(f, m, model="similarity"), truth, points)
    assert robust < 1.0
    assert robust < 0.2 * plain


def test_rejected_pairs_are_never_used():
    fixed, moving = GRIDS["2D"]
    truth = truth_of("rigid", 2)
    pairs = region_pairs(fixed, moving, truth, *spread(2, 6))
    wrong = [ROIPair((k + 1) % 6, k, 1.0, 1.0, status="rejected") for k in range(6)]
    both = ROIPairs(pairs.moving, pairs.fixed, (*pairs.pairs, *wrong))
    a, b = (affine_from_regions(p, model="rigid").matrix for p in (pairs, both))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("count", [1, 2])
def test_few_pairs_give_what_they_can_carry(count):
    fixed, moving = GRIDS["2D"]
    truth = truth_of("similarity", 2)
    pairs = region_pairs(fixed, moving, truth, *spread(2, count, seed=2))
    linear = affine_from_regions(pairs, model="affine").matrix[:2, :2]
    # A similarity: columns of equal length, at right angles.
    assert np.linalg.norm(linear[:, 0]) == pytest.approx(np.linalg.norm(linear[:, 1]), rel=1e-6)
    assert linear[:, 0] @ linear[:, 1] == pytest.approx(0, abs=1e-6)
    assert np.sqrt(np.linalg.det(linear)) == pytest.approx(1.12, rel=0.05)


def test_three_pairs_in_3d_still_give_a_similarity():
    fixed, moving = GRIDS["3D"]
    truth = truth_of("similarity", 3)
    pairs = region_pairs(fixed, moving, truth, *spread(3, 3, seed=1))
    linear = affine_from_regions(pairs, model="affine").matrix[:3, :3]
    gram = linear.T @ linear
    np.testing.assert_allclose(gram, np.eye(3) * gram[0, 0], atol=1e-6)


@pytest.mark.parametrize("model, moments", [("rigid", 0.5), ("affine", 0.0)])
def test_one_pair_without_orientation_gives_the_translation_between_its_centroids(model, moments):
    fixed, moving = GRIDS["2D"]
    pairs = region_pairs(fixed, moving, truth_of("similarity", 2), *spread(2, 1, seed=3))
    found = affine_from_regions(pairs, model=model, moments=moments)
    np.testing.assert_allclose(found.matrix[:2, :2], np.eye(2), atol=1e-12)
    np.testing.assert_allclose(found.map_points(pairs.fixed.centroids), pairs.moving.centroids, atol=1e-9)


def test_moments_tell_the_scale_that_centroids_of_one_place_cannot():
    grid = centred((80, 80))
    pairs = region_pairs(grid, grid, affine(1.5 * np.eye(2), (0, 0)), np.zeros((1, 2)), [np.diag([14.0, 9.0])])
    found = affine_from_regions(pairs)
    assert np.sqrt(np.linalg.det(found.matrix[:2, :2])) == pytest.approx(1.5, rel=0.03)


def test_no_active_pair_is_said():
    grid = centred((20, 20))
    rois = ellipsoids(grid, np.zeros((1, 2)), [4 * np.eye(2)])
    for pairs in ((), (ROIPair(0, 0, 1.0, 1.0, status="rejected"),)):
        with pytest.raises(InputError, match="no region pair"):
            affine_from_regions(ROIPairs(rois, rois, pairs))
    with pytest.raises(InputError, match="no region pair"):
        affine_from_regions(ROIPairs(ROISet.empty(grid), ROISet.empty(grid)))


# -- points ---------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.sampled_from([2, 3]), st.sampled_from(MODELS))
def test_points_give_back_the_map_that_made_them(seed, d, model):
    rng = np.random.default_rng(seed)
    truth = affine(rotation(d, seed), rng.normal(size=d) * 30)
    if model == "translation":
        truth = affine(np.eye(d), truth.matrix[:d, d])
    elif model == "similarity":
        truth = affine(1.7 * truth.matrix[:d, :d], truth.matrix[:d, d])
    elif model == "affine":
        truth = affine(truth.matrix[:d, :d] @ np.diag(rng.uniform(0.5, 2, d)), truth.matrix[:d, d])
    points = rng.normal(size=(8, d)) * 20
    found = affine_from_points(points, truth.map_points(points), weights=rng.uniform(0.1, 1, 8), model=model)
    np.testing.assert_allclose(found.map_points(points), truth.map_points(points), atol=1e-3)


@given(st.integers(0, 1000), st.sampled_from([2, 3]))
def test_rigid_and_similarity_never_mirror(seed, d):
    rng = np.random.default_rng(seed)
    f, m = rng.normal(size=(2, 6, d))
    for model in ("rigid", "similarity"):
        linear = affine_from_points(f, m, model=model).matrix[:d, :d]
        assert np.linalg.det(linear) > 0
        if model == "rigid":
            np.testing.assert_allclose(linear @ linear.T, np.eye(d), atol=1e-9)


def test_points_on_a_line_or_in_one_place_still_give_a_map():
    line = np.outer(np.linspace(-5, 5, 6), [1.0, 2.0, 0.0])
    found = affine_from_points(line, 1.2 * line + 3.0)
    np.testing.assert_allclose(found.map_points(line), 1.2 * line + 3.0, atol=1e-3)
    same = np.tile([1.0, 2.0], (4, 1))
    np.testing.assert_allclose(affine_from_points(same, same + 5).map_points(same), same + 5, atol=1e-9)


def test_weights_of_zero_leave_points_out():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(7, 2))
    target = points + [3.0, -1.0]
    target[0] += 100
    found = affine_from_points(points, target, weights=np.array([0.0, 1, 1, 1, 1, 1, 1]))
    np.testing.assert_allclose(found.map_points(points[1:]), target[1:], atol=1e-4)


def test_bad_points_are_refused():
    points = np.zeros((3, 2))
    with pytest.raises(InputError, match="'wobbly' is unknown; use one of"):
        affine_from_points(points, points, model="wobbly")
    for weights, p in ((np.zeros(3), points), (None, points[:0])):
        with pytest.raises(InputError, match="positive weight"):
            affine_from_points(p, p, weights=weights)


def test_regions_may_be_boolean_masks_of_one_voxel():
    grid = centred((9, 9))
    masks = torch.zeros(3, 9, 9, dtype=torch.bool)
    masks[0, 1, 1] = masks[1, 7, 2] = masks[2, 4, 7] = True
    rois = ROISet(masks, grid)
    moved = ROISet(masks.roll(1, dims=2), grid)
    found = affine_from_regions(ROIPairs(moved, rois, tuple(ROIPair(k, k, 1.0, 1.0) for k in range(3))))
    np.testing.assert_allclose(found.matrix[:2], [[1, 0, 1], [0, 1, 0]], atol=1e-4)


def of_few_regions(centers, shift):
    """Two small regions, turned and shifted, in an image they do not span; what the guarded stage makes of them."""
    grid = centred((90, 100))
    axes = np.stack([np.diag([5.0, 8.0])] * len(centers))
    pairs = region_pairs(grid, grid, affine(turned(20), np.array(shift)), np.array(centers, dtype=float), axes)
    image = Image(torch.zeros(1, *grid.shape), grid)
    return RegionAffine(least_span=0.5)(problem(image, image, pairs=pairs), Affine.identity(2)), pairs


def test_the_map_of_regions_that_span_nothing_is_not_extrapolated():
    near, _ = of_few_regions([(0, -8), (0, 8)], (1.0, 1.0))
    np.testing.assert_array_equal(near.matrix, np.eye(3))
    far, pairs = of_few_regions([(0, -8), (0, 8)], (28.0, -25.0))
    np.testing.assert_array_equal(far.matrix[:2, :2], np.eye(2))
    apart = np.linalg.norm(far.map_points(pairs.fixed.centroids) - pairs.moving.centroids, axis=1)
    assert apart.mean() < 4
    wide, _ = of_few_regions([(-30, -30), (30, -28), (0, 33), (-25, 20)], (1.0, 1.0))
    assert abs(np.linalg.det(wide.matrix[:2, :2]) - 1) < 0.1
    assert abs(wide.matrix[0, 1]) > 0.25  # turned by 20 degrees
