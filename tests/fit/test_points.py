"""Stable points, their affine map and the coarse field: against plain references, and true motion from images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fit.scenes import affine, error_mm, problem
from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, VelocityField, jacobian_determinant
from roireg.core.warp import sample, voxel_coords
from roireg.fit import Coarse, StablePoints
from roireg.fit.coarse import control_grid, interpolation, smoothest_field
from roireg.fit.stable_points import affine_of_points, turned_grid
from roireg.match.stable_points import PointPairs, stable_points
from roireg.synth import GaussianBumps
from support import centred, make_grid, painted, rotation, turned


def unit(image: Image) -> Image:
    return image.with_data(image.data / image.data.norm(dim=0, keepdim=True))


def random_maps(seed: int, shapes=((6, 7), (5, 8))) -> list[Image]:
    rng = np.random.default_rng(seed)
    return [unit(Image(torch.as_tensor(rng.normal(size=(4, *s)), dtype=torch.float32), centred(s))) for s in shapes]


def test_points_are_those_of_a_plain_loop():
    fixed, moving = random_maps(3)
    allowed = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) > 0.2
    found = stable_points(fixed, moving, moving_mask=allowed, stride=2, rounds=3, threshold=0.1)
    f = fixed.data.flatten(1).T.numpy()
    cells = np.argwhere(allowed.numpy())
    m = moving.data[:, allowed].T.numpy()
    query = [k for k, (y, x) in enumerate(cells) if y % 2 == (4 % 2) // 2 and x % 2 == (7 % 2) // 2]
    stable = set()
    for _ in range(3):
        there = [int(np.argmax(f @ m[q])) for q in query]
        back = [int(np.argmax(m @ f[t])) for t in there]
        stable |= {q for q, b in zip(query, back, strict=True) if q == b}
        query = back
    pairs = [(q, int(np.argmax(f @ m[q]))) for q in sorted(stable)]
    pairs = [(q, t) for q, t in pairs if f[t] @ m[q] > 0.1]
    assert len(found) == len(pairs) > 3
    at = [moving.grid.world_from_index(cells[q]) for q, _ in pairs]
    assert np.abs(found.moving - at).max() <= 0.5
    np.testing.assert_allclose(found.similarity, [f[t] @ m[q] for q, t in pairs], atol=1e-6)


def test_memory_is_bounded_and_does_not_change_the_points():
    maps = random_maps(5, ((12, 13), (14, 11)))
    whole, parts = (stable_points(*maps, stride=1, threshold=-1, chunk=c) for c in (10**7, 50))
    np.testing.assert_array_equal(whole.fixed, parts.fixed)
    np.testing.assert_array_equal(whole.moving, parts.moving)


def test_a_shift_by_part_of_a_cell_is_found():
    grid = centred((20, 24))
    truth = affine(np.eye(2), (0.3, -0.4))

    def bumps(points):
        centers = np.random.default_rng(0).uniform(-14, 14, size=(30, 2))
        return np.exp(-0.5 * ((points[:, None] - centers) ** 2).sum(-1) / 9).T.reshape(30, *grid.shape)

    fixed, moving = (
        unit(Image(torch.as_tensor(bumps(p), dtype=torch.float32), grid))
        for p in (grid.points(), truth.inverse().map_points(grid.points()))
    )
    points = stable_points(fixed, moving, threshold=0.9)
    apart = (points.moving - points.fixed).mean(0)
    np.testing.assert_allclose(apart, [0.3, -0.4], atol=0.1)


def test_nothing_to_match_gives_no_point():
    fixed, moving = random_maps(1)
    none = torch.zeros(6, 7, dtype=torch.bool)
    assert len(stable_points(fixed, moving, fixed_mask=none)) == 0
    assert len(stable_points(fixed, moving, threshold=1.01)) == 0


@pytest.mark.parametrize("fit", ["irls", "ransac"])
@pytest.mark.parametrize("d", [2, 3])
def test_a_third_of_wrong_points_does_not_turn_the_map(fit, d):
    rng = np.random.default_rng(d)
    truth = affine(turned(20, d) * 1.1, rng.normal(size=d) * 5)
    source = rng.uniform(-40, 40, size=(90, d))
    target = truth.map_points(source) + rng.normal(scale=0.2, size=source.shape)
    target[:30] += rng.uniform(20, 60, size=(30, d))
    options = {"model": "affine", "scale": 1.0, "rng": np.random.default_rng(0)}
    robust, plain = (affine_of_points(source, target, fit=f, **options) for f in (fit, "least_squares"))
    assert error_mm(robust, truth, source) < 0.5 < 5 < error_mm(plain, truth, source)


def test_turned_grids_cover_the_box():
    grid = make_grid((5, 9, 7), (4.0, 1.0, 1.5), rotation(3, 2), [3.0, -4.0, 50.0])
    direction = rotation(3, 5)
    found = turned_grid(grid, direction, np.array([1.0, 2.0, 1.5]))
    assert found.contains(grid.corners()).all()
    np.testing.assert_allclose(found.direction, direction, atol=1e-9)
    np.testing.assert_allclose(found.spacing, [1.0, 2.0, 1.5])


@pytest.mark.parametrize(
    ("grid", "linear"),
    [
        (centred((72, 80), (1.3, 1.1)), turned(6) @ np.diag([1.1, 0.93])),
        (centred((14, 32, 30), (6.0, 2.8, 3.0), rotation(3, 1)), turned(5, 3) @ np.diag([1.08, 0.95, 1.0])),
    ],
    ids=["2D", "3D oblique"],
)
def test_an_affine_map_is_found_on_unequal_grids(grid, linear):
    d = grid.ndim
    truth = affine(linear, [7.0, -5.0, 4.0][:d])
    other = centred([n + 5 for n in grid.shape], grid.spacing * 0.95, rotation(d, 4) if d == 3 else None)
    asked = problem(painted(grid, count=120), painted(other, count=120, truth=truth))
    found = StablePoints()(asked, Affine.identity(d))
    assert isinstance(found, Affine) and asked.trace.source == "matched points"
    start = error_mm(Affine.identity(d), truth, grid.points())
    assert error_mm(found, truth, grid.points()) < 0.2 * start


def test_features_turn_with_the_start_and_a_deformed_start_is_followed():
    grid = centred((70, 66))
    truth = affine(turned(90), (8.0, -6.0))
    images = painted(grid, count=120), painted(grid, count=120, truth=truth)
    near = affine(turned(85), (3.0, -1.0))
    found = StablePoints()(problem(*images), near)
    assert error_mm(found, truth, grid.points()) < 0.25 * error_mm(near, truth, grid.points())
    flow = VelocityField(grid, torch.zeros(2, *grid.shape))
    start = Chain((flow, near))
    found = StablePoints()(problem(*images), start)
    assert found.transforms[:2] == start.transforms
    assert error_mm(found, truth, grid.points()) < 0.25 * error_mm(near, truth, grid.points())


def test_a_start_that_was_asked_for_stays_and_the_points_are_known():
    grid = centred((70, 66))
    truth = affine(np.eye(2), (5.0, -3.0))
    asked = replace(problem(painted(grid, count=120), painted(grid, count=120, truth=truth)), searchable=False)
    start = Affine.identity(2)
    assert StablePoints()(asked, start) is start and len(asked.trace.points) > 20


def test_images_without_structure_keep_the_start():
    grid = centred((40, 44))
    flat = Image(torch.full((1, 40, 44), 2.0), grid)
    start = Affine.identity(2)
    asked = problem(flat, flat)
    found = Coarse()(asked, StablePoints()(asked, start))
    np.testing.assert_allclose(found.map_points(grid.points()), grid.points(), atol=0.5)
    assert Coarse()(problem(flat, flat), start) is start
    for shape in ((1, 1), (2, 3, 2)):
        tiny = Image(torch.rand(1, *shape), centred(shape))
        assert StablePoints()(problem(tiny, tiny), Affine.identity(len(shape))).ndim == len(shape)


def test_interpolation_is_that_of_sampling():
    grid = make_grid((4, 5, 3), (2.0, 1.0, 3.0), rotation(3, 6), [1.0, 2.0, 3.0])
    values = torch.rand(1, *grid.shape, generator=torch.Generator().manual_seed(1))
    points = grid.center + np.random.default_rng(0).normal(size=(40, 3)) * 3
    coords = voxel_coords(grid, torch.as_tensor(points)).float().reshape(1, 1, 1, 40, 3)
    expected = sample(values[None], coords)[0].flatten().numpy()
    np.testing.assert_allclose(interpolation(grid, points) @ values.flatten().numpy(), expected, atol=1e-5)


def test_the_field_is_the_least_of_the_published_objective():
    grid = centred((4, 5), 3.0)
    rng = np.random.default_rng(7)
    points, moves = rng.uniform(-7, 7, size=(12, 2)), rng.normal(size=(12, 2))
    weights = rng.uniform(0.2, 1, size=12)
    found = smoothest_field(grid, points, moves, weights=weights, smoothness=0.04)
    # The same as rows of a dense least-squares problem, the differences written out.
    at = np.arange(20).reshape(4, 5)
    steps = np.concatenate(
        [np.stack([a.ravel(), b.ravel()], 1) for a, b in ((at[:-1], at[1:]), (at[:, :-1], at[:, 1:]))]
    )
    rough = np.zeros((len(steps), 20))
    rough[np.arange(len(steps)), steps[:, 0]], rough[np.arange(len(steps)), steps[:, 1]] = -1, 1
    root = np.sqrt(weights / weights.sum())[:, None]
    rows = np.concatenate([root * interpolation(grid, points).toarray(), np.sqrt(0.04 / 20) * rough])
    values = np.concatenate([root * moves, np.zeros((len(steps), 2))])
    np.testing.assert_allclose(found, np.linalg.lstsq(rows, values, rcond=None)[0], atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 61), (1, 30, 30), (9, 30, 26)])
def test_a_smooth_field_is_recovered_from_points_before_any_start(shape):
    grid = centred(shape, 2.0)
    d = grid.ndim
    local = GaussianBumps(np.zeros((1, d)), np.array([22.0]), 6.0 * np.array([[1.0, -0.5, 0.0]])[:, :d])
    start = Chain((affine(turned(30, d), [4.0, 2.0, -3.0][:d]),))
    truth = Chain((local, start))
    points = grid.points()[:: max(1, grid.size // 900)]
    target = truth.map_points(points)
    target[::10] += 25.0
    asked = problem(*(Image(torch.zeros(1, *shape), grid) for _ in "ab"))
    asked.trace.points = PointPairs(points, target, np.ones(len(points)))
    found = Coarse()(asked, start)
    assert found.transforms[1:] == start.transforms
    assert error_mm(found, truth, points) < 0.25 * error_mm(start, truth, points)
    plain = Coarse(robust=False)(asked, start)
    assert error_mm(found, truth, points) < error_mm(plain, truth, points)


def test_points_that_contradict_each_other_do_not_fold_the_field():
    grid = centred((60, 60))
    rng = np.random.default_rng(3)
    points = rng.uniform(-28, 28, size=(200, 2))
    asked = problem(*(Image(torch.zeros(1, 60, 60), grid) for _ in "ab"))
    asked.trace.points = PointPairs(points, points + rng.normal(scale=15, size=points.shape), np.ones(200))
    found = Coarse(smoothness=1e-4, robust=False)(asked, Affine.identity(2))
    assert float(jacobian_determinant(found, grid).min()) > 0


def test_control_points_are_about_as_far_apart_along_all_axes():
    grid = control_grid(make_grid((8, 100, 50), (10.0, 1.0, 1.0)), 10)
    assert grid.shape == (8, 10, 5)
    assert control_grid(centred((1, 40)), 12).shape == (1, 12)
