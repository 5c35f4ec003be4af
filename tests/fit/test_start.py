"""Where to start: maps that single regions propose, and the choice among them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fit.scenes import affine, error_mm, problem
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine
from roireg.fit import Candidate, Search
from roireg.fit.dense_affine import AffineOptions
from roireg.fit.level import VelocityOptions
from roireg.fit.start import find_start, single_pair_maps
from support import centred, ellipsoids, painted, turned

GRID = centred((60, 64), (1.5, 1.5))
DEEP = centred((24, 26, 28), (3.0, 3.0, 3.0))
SETTINGS = Search(
    affine=AffineOptions(model="rigid", screen_voxels=1500, refine_voxels=4000, iterations=40, keep=3),
    trial=VelocityOptions(levels=2, iterations=(30, 20), max_voxels=1500, correlation_radius=2, features=None),
    trials=2,
    least_gain=0.02,
)


def start(fixed, moving, given, proposals, options=SETTINGS, **more):
    """The chosen map, and what the search has learnt."""
    asked = problem(fixed, moving, **more)
    return find_start(asked, given, proposals, options=options), asked.trace


@given(st.floats(-180, 180), st.floats(0.6, 1.6), st.floats(-8, 8), st.floats(-8, 8))
def test_an_elongated_region_proposes_every_rotation_in_2d(degrees, scale, x, y):
    grid = centred((100, 100))
    truth = affine(scale * turned(degrees), (x, y))
    root = turned(25) @ np.diag([16.0, 7.0])
    fixed = ellipsoids(grid, [(3.0, -4.0)], [root])
    moving = ellipsoids(grid, truth.map_points(np.array([[3.0, -4.0]])), [truth.matrix[:2, :2] @ root])
    found = single_pair_maps(fixed, moving, np.ones((1, 1)), count=5)
    assert len(found) == 3  # the translation, and either way round
    body = fixed.grid.world_from_index(np.argwhere(fixed.masks[0].numpy()))
    assert min(error_mm(c.affine, truth, body) for c in found) < 1.0


def test_round_regions_and_volumes_propose_translations_only():
    for grid, center in ((centred((50, 50)), [(2.0, 3.0)]), (centred((20, 20, 20)), [(1.0, 2.0, -1.0)])):
        d = grid.ndim
        root = np.diag([7.0, 7.2, 3.0][:d])
        fixed, moving = ellipsoids(grid, center, [root]), ellipsoids(grid, np.add(center, 3.0), [root])
        (found,) = single_pair_maps(fixed, moving, np.ones((1, 1)), count=3)
        np.testing.assert_allclose(found.affine.matrix[:d, :d], np.eye(d))
        np.testing.assert_allclose(found.affine.map_points(fixed.centroids), moving.centroids, atol=1e-9)


def test_the_most_similar_pairs_propose_first():
    grid = centred((60, 60))
    root = 5 * np.eye(2)
    fixed = ellipsoids(grid, [(-10.0, 0.0), (10.0, 0.0)], [root, root])
    moving = ellipsoids(grid, [(-10.0, 9.0), (10.0, -9.0), (0.0, 0.0)], [root] * 3)
    similarity = np.array([[0.1, 0.2], [0.3, 0.9], [0.8, 0.0]])  # (moving, fixed)
    found = single_pair_maps(fixed, moving, similarity, count=2)
    np.testing.assert_allclose([c.affine.matrix[:2, 2] for c in found], [(0, -9), (10, 0)], atol=1e-9)


def test_the_planted_candidate_is_found():
    truth = affine(turned(50), (9.0, -6.0))
    fixed, moving = painted(GRID), painted(GRID, truth=truth)
    given_start = [Candidate(Affine.identity(2), "where the images lie")]
    proposals = [
        Candidate(affine(turned(a), (x, y)), f"{a} degrees")
        for a, x, y in ((-120, 0, 0), (48, 8, -5), (170, 5, 5), (-20, -9, 6))
    ]
    best, trace = start(fixed, moving, given_start, proposals)
    assert trace.source == "48 degrees"
    assert error_mm(best, truth, GRID.points()) < 1.0
    assert trace.rivals and all(loss > trace.loss for _, loss in trace.rivals)
    reach = np.linalg.norm(GRID.extent) / 8
    corners = GRID.corners()
    for rival, _ in trace.rivals:
        assert np.abs(rival.map_points(corners) - best.map_points(corners)).max() > reach


def test_the_given_start_is_kept_where_proposals_are_hardly_better():
    fixed = painted(GRID)
    given_start = [Candidate(Affine.translation((1.0, 0.0)), "given")]
    proposals = [Candidate(Affine.identity(2), "regions")]
    moving = painted(GRID, truth=Affine.translation((0.5, 0.0)))
    best, trace = start(
        fixed, moving, given_start, proposals, options=SETTINGS.model_copy(update={"least_gain": 0.99})
    )
    assert trace.source == "given"
    np.testing.assert_array_equal(best.matrix, given_start[0].affine.matrix)


def test_equal_images_stay_with_the_given_start():
    image = painted(GRID)
    proposals = [Candidate(affine(turned(30), (4.0, 4.0)), "regions")]
    best, trace = start(image, image, [Candidate(Affine.identity(2), "given")], proposals)
    assert trace.source == "given"
    np.testing.assert_array_equal(best.matrix, np.eye(3))


def test_the_first_given_start_wins_a_tie_and_no_proposal_is_needed():
    image = painted(GRID)
    starts = [Candidate(Affine.identity(2), name) for name in ("first", "second")]
    _, trace = start(image, image, starts, [])
    assert trace.source == "first"
    assert trace.loss == pytest.approx(0, abs=0.05)
    assert trace.rivals == ()


def test_two_given_starts_are_told_apart_by_their_trials():
    truth = affine(turned(60), (25.0, 10.0))
    elsewhere = Grid(GRID.shape, truth.matrix @ GRID.affine)
    fixed, moving = painted(GRID), painted(elsewhere, truth=truth)
    starts = [Candidate(Affine.identity(2), "where the images lie"), Candidate(truth, "as they were turned")]
    best, trace = start(fixed, moving, starts, [])
    assert trace.source == "as they were turned"
    assert best is truth and len(trace.rivals) == 1


def gain(fixed, moving, truth, **changes) -> float:
    """Share by which the trial of the true map ends lower than that of the identity; `changes` of the trial."""
    options = Search(affine=SETTINGS.affine)
    options = options.model_copy(update={"trial": options.trial.model_copy(update={"max_voxels": 8000, **changes})})
    best, trace = start(fixed, moving, [Candidate(Affine.identity(3), "a"), Candidate(truth, "b")], [], options)
    assert best is truth
    return 1 - trace.loss / trace.rivals[0][1]


def noisy(image, seed):
    noise = np.random.default_rng(seed).normal(0, 0.08, image.data.shape)
    return image.with_data(image.data + torch.as_tensor(noise, dtype=torch.float32))


def test_the_right_start_is_told_in_noise_with_any_window():
    truth = affine(turned(20, 3), (15.0, -9.0, 9.0))
    fixed, moving = noisy(painted(DEEP), 1), noisy(painted(DEEP, truth=truth), 2)
    aware = [gain(fixed, moving, truth, correlation_radius=w) for w in (1, 2)]
    assert min(aware) > 0.9 * max(aware) > 0.4


def test_features_tell_the_right_start_more_clearly_in_another_contrast():
    truth = affine(turned(20, 3), (15.0, -9.0, 9.0))
    fixed, moving = painted(DEEP, count=150), painted(DEEP, count=150, truth=truth)
    moving = moving.with_data((moving.data - moving.data.median()).abs())
    assert gain(fixed, moving, truth) > 1.36 * gain(fixed, moving, truth, feature_weight=0.0)


def test_progress_ends_at_one():
    image = painted(GRID)
    events = []
    start(image, image, [Candidate(Affine.identity(2), "a")], [], progress=events.append)
    fractions = [e.fraction for e in events]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def mosaic(contrast: int, truth: Affine | None = None) -> Image:
    """A hundred cells, each of a random intensity; those of two contrasts have nothing to do with each other."""
    grid = centred((96, 96))
    sites = np.random.default_rng(7).uniform(-60, 60, (100, 2))
    points = grid.points() if truth is None else truth.inverse().map_points(grid.points())
    cell = np.linalg.norm(points[:, None] - sites, axis=2).argmin(1)
    values = np.random.default_rng(contrast).uniform(size=100)[cell].reshape(1, *grid.shape)
    return Image(torch.as_tensor(values, dtype=torch.float32), grid)


def test_where_unlike_images_lie_is_refined_and_kept_where_it_is_right():
    truth = affine(turned(4), (2.0, -1.5))
    identity = Affine.identity(2)
    alike = mosaic(1, Affine.translation((0.7, 0.0)))  # the deformation follows that
    for moving, expected in ((mosaic(2, truth), truth), (mosaic(2), identity), (alike, identity)):
        asked = replace(problem(mosaic(1), moving), starts=(Candidate(identity, "where the images lie"),))
        found = SETTINGS(asked, identity)
        assert error_mm(found, expected, asked.pair.fixed.grid.points()) < (0.6 if expected is truth else 1e-9)
