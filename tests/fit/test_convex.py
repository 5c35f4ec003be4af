"""The convex search and the instance optimisation: true motion where there is one, none without reason."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fit.scenes import affine, error_mm, problem
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, DisplacementField, VelocityField, jacobian_determinant
from roireg.features import make_extractor
from roireg.fit import Convex, Instance
from roireg.fit.compared import Compared
from roireg.fit.convex import consistent, cost_volume, coupled, displacements, lattice
from roireg.fit.flow import flow_of
from roireg.fit.objectives import bending
from roireg.fit.velocity import split
from roireg.synth import GaussianBumps
from support import centred, painted, rotation, turned

GRIDS = {
    "2D": centred((61, 74), (1.5, 1.25)),
    "3D oblique anisotropic": centred((16, 34, 31), (5.2, 2.6, 2.8), rotation(3, 1)),
}


def bumps(d: int, size: float) -> GaussianBumps:
    centers = np.array([[-12.0, 8.0, 0.0], [14.0, -10.0, 4.0]])[:, :d]
    amplitudes = size * np.array([[1.0, 0.6, -0.3], [-0.7, 0.9, 0.4]])[:, :d]
    return GaussianBumps(centers, np.array([16.0, 18.0]), amplitudes)


def inner_points(grid: Grid) -> np.ndarray:
    return grid.padded([-n // 6 for n in grid.shape], [-n // 6 for n in grid.shape]).points()


def random_sides(shape, margin, seed=0) -> Compared:
    rng = np.random.default_rng(seed)
    wide = [n + 2 * m for n, m in zip(shape, margin, strict=True)]

    def values(c):
        return torch.as_tensor(rng.uniform(size=(c, *wide)), dtype=torch.float32)

    return Compared(values(3), values(3), values(1), values(1), tuple(margin))


@pytest.mark.parametrize(("shape", "span", "margin"), [((4, 5), (2, 1), (1, 2)), ((3, 1, 4), (1, 0, 2), (1, 0, 1))])
def test_costs_are_those_of_a_plain_loop(shape, span, margin):
    both = random_sides(shape, margin)
    found = cost_volume(both, span)
    moves = displacements(span).int().tolist()
    costs, seen = np.zeros((len(moves), *shape)), np.zeros((len(moves), *shape))
    fixed, counts = both.inside(both.fixed).numpy(), both.inside(both.fixed_weight)[0].numpy()
    for k, move in enumerate(moves):
        for at in product(*map(range, shape)):
            other = tuple(a + m + b for a, m, b in zip(at, margin, move, strict=True))
            if all(0 <= o < n for o, n in zip(other, both.moving.shape[1:], strict=True)):
                costs[k][at] = ((both.moving[(slice(None), *other)].numpy() - fixed[(slice(None), *at)]) ** 2).sum()
                seen[k][at] = float(both.moving_weight[(0, *other)])
    typical = (costs * seen).sum(0) / seen.sum(0)
    plain = (costs - typical) * seen * counts / ((typical * counts).sum() / counts.sum())
    smooth = np.zeros_like(plain)
    for at in product(*map(range, shape)):
        near = [slice(max(0, a - 1), a + 2) for a in at]
        smooth[(slice(None), *at)] = plain[(slice(None), *near)].reshape(len(moves), -1).mean(1)
    np.testing.assert_allclose(found.numpy(), smooth, atol=1e-5)


def test_the_coupling_takes_what_a_plain_loop_takes():
    shape, span, weights = (4, 5), (1, 2), (0.1, 1.0)
    cost = torch.as_tensor(np.random.default_rng(1).normal(size=(15, *shape)), dtype=torch.float32)
    moves = displacements(span).numpy()
    field = np.zeros((2, *shape))

    def mean(values):
        out = np.zeros_like(values)
        for y, x in product(*map(range, shape)):
            out[:, y, x] = values[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].reshape(2, -1).mean(1)
        return out

    for weight in (1e-6, *weights):
        taken = np.zeros_like(field)
        for y, x in product(*map(range, shape)):
            penalty = ((moves - field[:, y, x]) ** 2).sum(1)
            taken[:, y, x] = moves[np.argmin(cost[:, y, x].numpy() + weight * penalty)]
        field = mean(mean(taken))
    np.testing.assert_allclose(coupled(cost, span, weights).numpy(), field, atol=1e-4)


def test_equal_costs_move_nothing():
    assert not coupled(torch.zeros(35, 3, 4), (2, 3), (0.1, 1.0)).any()


def test_consistent_fields_undo_each_other():
    grid = centred((24, 26))
    fields = [bumps(2, s).displacement_on(grid).flip(0) for s in (3.0, -2.0)]
    forward, back = consistent(*fields)
    as_fields = [DisplacementField(grid, f.flip(0)) for f in (forward, back)]
    points = inner_points(grid)
    assert error_mm(Chain(tuple(as_fields)), Affine.identity(2), points) < 0.05
    # Half way between +3 and +2.
    assert 2.2 < float(forward.abs().max()) / float(fields[0].abs().max() / 3) < 2.8


@pytest.mark.parametrize("d", [2, 3])
def test_the_flow_of_a_smooth_map_is_that_map(d):
    grid = GRIDS["2D"] if d == 2 else centred((20, 26, 24), 3.0)
    truth = bumps(d, 6.0)
    flow = flow_of(truth, truth.inverse(), grid)
    assert error_mm(flow, truth, inner_points(grid)) < 0.15
    assert error_mm(flow.inverse(), truth.inverse(), inner_points(grid)) < 0.15


def test_bending_is_zero_for_affine_fields_and_known_for_squares():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    spacing = np.array([2.0, 1.0])
    assert float(bending(torch.stack([2 * x + y, x - 3 * y]), spacing)) == 0
    # d²/dx² of x² is 2, d²/dxdy of x y is 1 per step, 1/2 per mm and counted twice.
    assert float(bending((x * x)[None], spacing)) == pytest.approx(4)
    assert float(bending((x * y)[None], spacing)) == pytest.approx(2 * 0.25)


@pytest.mark.parametrize("step", [1, 2, 5, 50])
@pytest.mark.parametrize("shape", [(1, 1), (2, 31), (1, 17, 13)])
def test_lattices_are_whole_blocks_over_the_same_box(shape, step):
    grid = centred(shape, 1.3)
    fine, block = lattice(grid, step=step, max_voxels=400)
    assert all(n % b == 0 for n, b in zip(fine.shape, block, strict=True))
    np.testing.assert_allclose(fine.extent, grid.extent)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("stage", [Convex(), Instance()], ids=["convex", "instance"])
def test_equal_images_and_constant_images_do_not_move(grid, stage):
    image = painted(grid, count=60)
    start = Affine.identity(grid.ndim)
    assert stage(problem(image, image), start) is start
    flat = image.with_data(torch.full_like(image.data, 3.0))
    assert stage(problem(flat, flat), start) is start


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_deformation_beyond_the_reach_of_gradients_is_found_between_contrasts(grid):
    truth = bumps(grid.ndim, 9.0 if grid.ndim == 2 else 8.0)
    fixed = painted(grid, count=150)
    other = centred([n + 6 for n in grid.shape], grid.spacing * 0.9)
    moving = painted(other, count=150, truth=truth)
    moving = moving.with_data((moving.data.max() - moving.data).sqrt())
    start = Affine.identity(grid.ndim)
    found = Convex()(problem(fixed, moving), start)
    points = inner_points(grid)
    before = error_mm(start, truth, points)
    assert error_mm(found, truth, points) < (0.35 if grid.ndim == 2 else 0.6) * before
    assert float(jacobian_determinant(found, grid).min()) > 0
    finer = Instance()(problem(fixed, moving), found)
    assert error_mm(finer, truth, points) < 0.9 * error_mm(found, truth, points)
    assert finer.transforms[-2:] == found.transforms


def test_a_start_is_kept_and_its_rotation_looked_through():
    grid = centred((70, 66))
    start = Chain((affine(turned(100), (9.0, -6.0)),))
    local = bumps(2, 7.0)
    truth = Chain((local, start))
    asked = problem(painted(grid, count=150), painted(grid, count=150, truth=truth))
    found = Convex()(asked, start)
    assert found.transforms[1:] == start.transforms and isinstance(found.transforms[0], VelocityField)
    points = inner_points(grid)
    assert error_mm(found, truth, points) < 0.35 * error_mm(start, truth, points)
    flow, rest = split(found)
    assert flow is found.transforms[0] and rest is start.transforms[0]


def test_both_ways_give_inverse_fields():
    grid = GRIDS["2D"]
    truth = bumps(2, 8.0)
    images = painted(grid, count=150), painted(grid, count=150, truth=truth)
    start, points = Affine.identity(2), inner_points(grid)
    there = Convex(steps=(4,), reach=(4,))(problem(*images), start)
    back = Convex(steps=(4,), reach=(4,))(problem(*images[::-1]), start)
    assert error_mm(Chain((there, back)), start, points) < 0.1
    one_way = Convex(steps=(4,), reach=(4,), consistent=False)(problem(*images), start)
    assert error_mm(one_way, truth, points) < 0.6 * error_mm(start, truth, points)


def test_what_lies_behind_a_mask_does_not_matter():
    grid = centred((64, 72))
    fixed, moving = painted(grid, count=150), painted(grid, count=150, truth=bumps(2, 8.0))
    spoiled = moving.with_data(moving.data.clone())
    spoiled.data[..., 44:] = painted(grid, seed=9, count=150).data[..., 44:]
    mask = moving.with_data((torch.arange(72) < 40).float().expand(1, *grid.shape))
    start, points = Affine.identity(2), grid.points()
    for side in ("fixed_mask", "moving_mask"):
        pairs = ((fixed, moving), (fixed, spoiled)) if side == "moving_mask" else ((moving, fixed), (spoiled, fixed))
        masked = [Convex()(problem(*pair, **{side: mask}), start) for pair in pairs]
        seen = [Convex()(problem(*pair), start) for pair in pairs]
        assert error_mm(*masked, points) < 0.15 * error_mm(*seen, points)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (5, 47), (2, 3, 2), (1, 29, 31)])
def test_tiny_images_give_a_finite_result(shape):
    rng = np.random.default_rng(2)
    fixed, moving = (
        Image(torch.as_tensor(rng.normal(size=(1, *shape)), dtype=torch.float32), centred(shape)) for _ in "ab"
    )
    for stage in (Convex(), Instance(iterations=3)):
        found = stage(problem(fixed, moving), Affine.identity(len(shape)))
        assert np.isfinite(found.map_points(fixed.grid.points())).all()


def test_encodings_of_a_network_are_compared_where_they_lie():
    grid = centred((60, 64))
    truth = affine(np.eye(2), (6.0, -4.0))
    fixed, moving = painted(grid, count=150), painted(grid, count=150, truth=truth)
    encoder = make_extractor("intensity")
    coarse = grid.with_shape((30, 32))
    asked = replace(
        problem(fixed.with_data(torch.zeros_like(fixed.data)), moving.with_data(torch.zeros_like(moving.data))),
        encodings=(encoder(fixed, coarse), encoder(moving, coarse)),
    )
    found = Convex(features=("model",))(asked, Affine.identity(2))
    assert error_mm(found, truth, inner_points(grid)) < 2.0
    with pytest.raises(InputError, match=r"set network\.model"):
        Convex(features=("model",))(problem(fixed, moving), Affine.identity(2))
    with pytest.raises(InputError, match="'nothing' is unknown"):
        Instance(features=("nothing",))(problem(fixed, moving), Affine.identity(2))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValidationError, match="one value for every search"):
        Convex(steps=(4, 2), reach=(3,))
    image = painted(centred((100, 100, 100)), count=3)
    with pytest.raises(InputError, match="steps larger or its reach smaller"):
        Convex(steps=(1,), reach=(12,))(problem(image, image), Affine.identity(3))


def test_instance_optimisation_does_not_drift_where_noise_is_all_there_is_to_gain():
    # Interpolation smooths noise, so a distance alone is less half way between voxels than at them.
    grid = centred((24, 40, 40))
    image = painted(grid, count=150)
    rng = np.random.default_rng(4)
    noisy = [
        image.with_data(image.data + 0.3 * torch.as_tensor(rng.normal(size=image.data.shape), dtype=torch.float32))
        for _ in "ab"
    ]
    found = Instance(smoothness=10.0)(problem(*noisy), Affine.identity(3))
    moved = found.displacement_on(grid).flatten(1).mean(1)
    assert float(moved.abs().max()) < 0.15
