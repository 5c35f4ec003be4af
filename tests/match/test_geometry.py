"""Affine hypotheses from regions: known maps are recovered in mm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from match.scenes import FLAT, about, oblique_grid, pair_of_sets, random_ellipsoids
from roireg.core.errors import GeometryError
from roireg.core.grid import Grid
from roireg.core.rois import ROISet
from roireg.core.seeds import generator
from roireg.match import GeometryOptions, affine_hypotheses, pair_agreement
from roireg.match.moments import fit_affine, fit_similarity, moment_rotations, overlap_coefficient, plausible
from support import centred, ellipsoids, turned


def mean_error(affine, truth, grid):
    points = 0.5 * (grid.corners() + grid.center)
    return float(np.linalg.norm(affine.map_points(points) - truth.map_points(points), axis=1).mean())


def rng():
    return generator(0, stream="test")


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, -135])
@pytest.mark.parametrize("scale", [0.8, 1.0, 1.3])
def test_2d_similarities_of_any_angle_without_known_partners(degrees, scale):
    truth = about(FLAT, scale * turned(degrees), (4.0, -6.0))
    wide = FLAT.padded((30, 30), (30, 30))
    fixed, moving = pair_of_sets(FLAT, wide, truth)
    # Every region may be any other: geometry alone decides.
    found = affine_hypotheses(fixed, moving, np.ones((8, 8)), rng=rng())
    assert mean_error(found[0].affine, truth, FLAT) < 0.75
    assert sum(m == f for m, f in found[0].pairs) >= 6


def test_translation_of_half_the_image_with_partly_shared_regions():
    grid = oblique_grid()
    truth = about(grid, np.eye(3), 0.45 * grid.extent[1] * grid.direction[:, 1])
    fixed, moving = pair_of_sets(grid, grid.padded((0, 0, 0), (0, 20, 0)), truth, count=9, seed=3)
    found = affine_hypotheses(fixed, moving, np.full((9, 9), 0.5) + 0.2 * np.eye(9), rng=rng())
    assert mean_error(found[0].affine, truth, grid) < 1.0


def test_3d_affine_on_an_oblique_anisotropic_grid():
    grid = oblique_grid()
    linear = np.array([[1.1, 0.08, 0.0], [-0.08, 0.95, 0.05], [0.0, -0.05, 1.0]])
    truth = about(grid, linear, (5.0, -4.0, 3.0))
    fixed, moving = pair_of_sets(grid, grid.padded((4, 8, 8), (4, 8, 8)), truth, count=14, seed=1)
    best = affine_hypotheses(fixed, moving, np.full((14, 14), 0.3) + 0.6 * np.eye(14), rng=rng())[0]
    assert best.kind == "affine"
    assert mean_error(best.affine, truth, grid) < 0.5
    assert best.residuals.max() < 1.0


def test_identical_regions_give_exactly_no_motion():
    fixed, _ = pair_of_sets(FLAT, FLAT, about(FLAT, np.eye(2), 0.0))
    best = affine_hypotheses(fixed, fixed, np.ones((8, 8)), rng=rng())[0]
    np.testing.assert_allclose(best.affine.matrix, np.eye(3), atol=1e-9)
    assert best.pairs and all(m == f for m, f in best.pairs)


def test_outliers_do_not_move_the_answer():
    truth = about(FLAT, turned(15), (6.0, 3.0))
    wide = FLAT.padded((20, 20), (20, 20))
    fixed, moving = pair_of_sets(FLAT, wide, truth, count=7)
    clutter_m = ellipsoids(wide, *random_ellipsoids(wide, 7, seed=20))
    clutter_f = ellipsoids(FLAT, *random_ellipsoids(FLAT, 7, seed=21))
    both_m = ROISet(torch.cat([moving.masks, clutter_m.masks]), wide)
    both_f = ROISet(torch.cat([fixed.masks, clutter_f.masks]), FLAT)
    best = affine_hypotheses(both_f, both_m, np.full((14, 14), 0.7), rng=rng())[0]
    assert mean_error(best.affine, truth, FLAT) < 1.0
    assert sum(m == f < 7 for m, f in best.pairs) >= 6


def test_hypotheses_are_ranked_distinct_and_repeatable():
    truth = about(FLAT, turned(20), (3.0, 3.0))
    fixed, moving = pair_of_sets(FLAT, FLAT.padded((20, 20), (20, 20)), truth)
    options = GeometryOptions(separation=0.06)
    similarity = np.random.default_rng(0).random((8, 8))
    first = affine_hypotheses(fixed, moving, similarity, rng=rng(), count=6, options=options)
    again = affine_hypotheses(fixed, moving, similarity, rng=rng(), count=6, options=options)
    assert len(first) > 1
    assert [h.score for h in first] == sorted((h.score for h in first), reverse=True)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.affine.matrix, b.affine.matrix)
    size = float(np.sqrt(np.prod(FLAT.extent)))
    gaps = [mean_error(a.affine, b.affine, FLAT) for i, a in enumerate(first) for b in first[:i]]
    assert min(gaps) >= options.separation * size


def test_order_of_the_regions_does_not_matter():
    truth = about(FLAT, turned(-40), (2.0, 5.0))
    fixed, moving = pair_of_sets(FLAT, FLAT.padded((20, 20), (20, 20)), truth)
    similarity = np.full((8, 8), 0.5) + 0.3 * np.eye(8)
    order = np.random.default_rng(1).permutation(8)
    plain = affine_hypotheses(fixed, moving, similarity, rng=rng())[0]
    mixed = affine_hypotheses(fixed, moving.subset(order.tolist()), similarity[order], rng=rng())[0]
    assert mean_error(plain.affine, mixed.affine, FLAT) < 0.5
    assert {(int(order[m]), f) for m, f in mixed.pairs} == set(plain.pairs)


def test_of_two_maps_that_explain_the_regions_alike_the_smaller_motion_comes_first():
    """A hexagon turned by 20 degrees is one turned by -40 or 80 as well; likeness says 80, but by next to nothing."""
    grid = centred((90, 90))
    places = 28 * np.array([turned(60 * k) @ [1.0, 0.0] for k in range(6)])
    truth = about(grid, turned(20), 0.0)
    roots = [4 * np.eye(2)] * 6
    fixed, moving = ellipsoids(grid, places, roots), ellipsoids(grid, truth.map_points(places), roots)
    further = np.roll(np.eye(6), 1, axis=0)  # moving region k + 1 for fixed region k
    best = affine_hypotheses(fixed, moving, 0.9 + 0.02 * further, rng=rng())[0]
    assert mean_error(best.affine, truth, grid) < 1.0


def test_limits_hold():
    truth = about(FLAT, 3.0 * np.eye(2), 0.0)
    fixed, moving = pair_of_sets(FLAT, FLAT.padded((90, 90), (90, 90)), truth)
    for h in affine_hypotheses(fixed, moving, np.ones((8, 8)), rng=rng()):
        singular = np.linalg.svd(h.affine.matrix[:-1, :-1], compute_uv=False)
        assert singular.max() <= 2 + 1e-6 and singular.min() >= 0.5 - 1e-6


def test_one_pair_gives_a_translation_and_no_pair_nothing():
    one = ellipsoids(FLAT, *[a[:1] for a in random_ellipsoids(FLAT, 1)])
    found = affine_hypotheses(one, one, np.ones((1, 1)), rng=rng())
    np.testing.assert_allclose(found[0].affine.matrix, np.eye(3), atol=1e-9)
    assert affine_hypotheses(one, one, np.zeros((1, 1)), rng=rng()) == []
    assert affine_hypotheses(one, ROISet.empty(FLAT), np.zeros((0, 1)), rng=rng()) == []


def test_slabs_of_one_voxel_work():
    grid = Grid.from_itk((40, 36, 1), (1.0, 1.0, 8.0), (0.0, 0.0, 0.0), np.eye(3))
    fixed, moving = pair_of_sets(
        grid, grid.padded((0, 10, 10), (0, 10, 10)), about(grid, np.eye(3), (6.0, -4.0, 0.0))
    )
    best = affine_hypotheses(fixed, moving, np.eye(8), rng=rng())[0]
    assert mean_error(best.affine, about(grid, np.eye(3), (6.0, -4.0, 0.0)), grid) < 0.5


def test_bad_input():
    one = ellipsoids(FLAT, *[a[:1] for a in random_ellipsoids(FLAT, 1)])
    with pytest.raises(GeometryError, match="that shape"):
        affine_hypotheses(one, one, np.ones((2, 1)), rng=rng())
    with pytest.raises(GeometryError, match="both must agree"):
        affine_hypotheses(one, ROISet.empty(oblique_grid()), np.ones((0, 1)), rng=rng())


def test_agreement_is_one_where_regions_coincide():
    truth = about(FLAT, turned(25), (3.0, 1.0))
    fixed, moving = pair_of_sets(FLAT, FLAT.padded((20, 20), (20, 20)), truth)
    agreement = pair_agreement(fixed, moving, truth)
    assert np.diag(agreement).min() > 0.99
    assert agreement.max() <= 1 + 1e-12 and agreement.min() >= 0


def test_limiting_the_regions_keeps_the_largest_and_their_numbers():
    truth = about(FLAT, turned(25), (3.0, 1.0))
    fixed, moving = pair_of_sets(FLAT, FLAT.padded((20, 20), (20, 20)), truth)
    few = GeometryOptions(max_regions=5)
    best = affine_hypotheses(fixed, moving, np.full((8, 8), 0.2) + 0.8 * np.eye(8), rng=rng(), options=few)[0]
    largest = set(np.argsort(-fixed.volumes)[:5].tolist())
    assert len(best.pairs) >= 4 and {f for _, f in best.pairs} <= largest and all(m == f for m, f in best.pairs)
    assert pair_agreement(fixed, moving, truth, options=few).shape == (8, 8)


# -- closed forms on points and moments ------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.sampled_from([2, 3]))
def test_fits_recover_exact_maps(seed, d):
    r = np.random.default_rng(seed)
    points, weight = r.normal(size=(d + 4, d)) * 30, r.uniform(0.1, 1, d + 4)
    q = np.linalg.qr(r.normal(size=(d, d)))[0]
    q[:, 0] *= np.sign(np.linalg.det(q))
    linear, shift = r.uniform(0.5, 2) * q, r.normal(size=d) * 50
    fitted = fit_similarity(points[None], (points @ linear.T + shift)[None], weight[None])[0]
    np.testing.assert_allclose(fitted[:-1, :-1], linear, atol=1e-8)
    np.testing.assert_allclose(fitted[:-1, -1], shift, atol=1e-6)
    general = q + 0.2 * r.normal(size=(d, d))
    fitted = fit_affine(points, points @ general.T + shift, weight)
    np.testing.assert_allclose(fitted[:-1, :-1], general, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.sampled_from([2, 3]))
def test_overlap_matches_the_textbook_formula(seed, d):
    r = np.random.default_rng(seed)
    mean = r.normal(size=(2, 3, d))
    root = r.normal(size=(2, 3, d, d))
    cov = root @ root.transpose(0, 1, 3, 2) + 0.1 * np.eye(d)
    got = overlap_coefficient(mean[0], cov[0], mean[1], cov[1])
    for i in range(3):
        for j in range(3):
            middle, delta = (cov[0, i] + cov[1, j]) / 2, mean[0, i] - mean[1, j]
            expected = np.exp(-delta @ np.linalg.inv(middle) @ delta / 8) * np.sqrt(
                np.sqrt(np.linalg.det(cov[0, i]) * np.linalg.det(cov[1, j])) / np.linalg.det(middle)
            )
            assert got[i, j] == pytest.approx(expected, rel=1e-6)


def test_moment_rotations_contain_the_true_one():
    for d, count in ((2, 2), (3, 4)):
        r = np.random.default_rng(d)
        cov = np.diag(np.arange(1.0, d + 1) ** 2)
        q = np.linalg.qr(r.normal(size=(d, d)))[0]
        q[:, 0] *= np.sign(np.linalg.det(q))
        options = [o[0] for o in moment_rotations(cov[None], (q @ cov @ q.T)[None])]
        assert len(options) == count
        assert all(np.linalg.det(o) > 0 for o in options)
        assert min(np.abs(o - q).max() for o in options) < 1e-9


def test_plausible_limits():
    cases = [np.eye(2), 2.1 * np.eye(2), np.diag([1.0, -1.0]), np.diag([1.9, 1.0]), turned(50)]
    matrices = np.stack([np.pad(c, (0, 1)) + np.diag([0, 0, 1.0]) for c in cases])
    assert plausible(matrices, 2.0, 1.6, 180.0).tolist() == [True, False, False, False, True]
    assert plausible(matrices, 2.0, 1.6, 45.0).tolist() == [True, False, False, False, False]
