import numpy as np
import pytest
import torch

from roireg.synth.shapes import Ellipsoid, Tree, Waves, grow_tree


def test_distance_to_a_sphere_is_exact():
    sphere = Ellipsoid(np.array([1.0, 2, 3]), np.array([5.0, 5, 5]))
    points = torch.tensor([[1.0, 2, 3 + r] for r in (0.5, 4, 5, 9)], dtype=torch.float64)
    np.testing.assert_allclose(sphere(points), [-4.5, -1, 0, 4], atol=1e-6)


@pytest.mark.parametrize("power", [2.0, 2.5, 3.0])
def test_surface_points_have_distance_zero_and_slope_one(power):
    shape = Ellipsoid(np.array([3.0, -2, 1]), np.array([20.0, 10, 30]), turn_deg=30, power=power)
    rng = np.random.default_rng(0)
    directions = np.abs(rng.normal(size=(50, 3)) + 0.1) * rng.choice((-1, 1), size=(50, 3))
    u = directions / (np.abs(directions) ** power).sum(1, keepdims=True) ** (1 / power)
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    surface = torch.tensor((u * shape.radii) @ turn.T + shape.center, requires_grad=True)
    distance = shape(surface)
    np.testing.assert_allclose(distance.detach(), 0, atol=1e-9)
    (slope,) = torch.autograd.grad(distance.sum(), surface)
    np.testing.assert_allclose(slope.norm(dim=1), 1, atol=1e-6)


def test_near_misses_no_point_of_the_shape():
    for power in (2.0, 3.0):
        shape = Ellipsoid(np.array([3.0, -2, 1]), np.array([20.0, 5, 9]), turn_deg=40, power=power)
        points = torch.as_tensor(np.random.default_rng(1).uniform(-40, 40, size=(4000, 3)))
        inside = set(torch.nonzero(shape(points) < 0)[:, 0].tolist())
        assert inside and inside <= set(shape.near(points, 0.0).tolist())


def test_a_tube_is_round_and_has_round_ends():
    tube = Tree(np.array([[0.0, 0, 0]]), np.array([[10.0, 0, 0]]), np.array([2.0]))
    points = torch.tensor([[5.0, 0, 0], [5, 3, 4], [13, 4, 0], [-2, 0, 0]], dtype=torch.float64)
    np.testing.assert_allclose(tube(points), [-2, 3, 3, 0], atol=1e-12)


def test_a_tree_is_connected_and_gets_thinner():
    tree = grow_tree(np.random.default_rng(0), np.zeros(3), np.ones(3), length_mm=20, radius_mm=4, levels=4)
    assert len(tree.radii) == 1 + 2 + 4 + 8
    ends = {tuple(e) for e in tree.ends}
    assert all(tuple(s) in ends for s in tree.starts[1:])
    assert sorted(tree.radii, reverse=True) == tree.radii.tolist()


def test_waves_have_mean_zero_and_variance_one():
    waves = Waves.draw(np.random.default_rng(0), 24, 5, 20)
    values = waves(torch.as_tensor(np.random.default_rng(1).uniform(-2000, 2000, size=(40000, 3))))
    assert abs(float(values.mean())) < 0.03 and float(values.var()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(waves(torch.zeros(1, 3)), waves(torch.zeros(1, 3), 37.0))
