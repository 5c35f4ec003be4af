"""The peer is given a fair chance: it works in the world and on thin images."""

from dataclasses import replace

import numpy as np
import pytest

from bench.scenes import deep_pair, flat_pair
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, DisplacementField, jacobian_determinant
from roireg.evaluate import landmark_errors
from roireg.synth import make_pair
from roireg_bench.peers.demons import DemonsOptions, demons
from support import axis_orders, rotation


@pytest.mark.parametrize("pair", [flat_pair, deep_pair])
def test_landmarks_come_nearer(pair):
    p = pair()
    found = demons(p.fixed, p.moving)
    assert isinstance(found, DisplacementField) and found.grid.is_close(p.fixed.grid)
    before, after = (landmark_errors(t, p.fixed_points, p.moving_points).mean() for t in (None, found))
    assert after < before
    assert float(jacobian_determinant(found, p.fixed.grid).min()) > 0


def test_equal_images_do_not_move():
    image = flat_pair().fixed
    assert float(demons(image, image).displacement.abs().max()) == 0


@pytest.mark.parametrize("turn", [axis_orders(2)[3], rotation(2, 4), 2 * np.eye(2)])
def test_a_turned_or_scaled_world_turns_and_scales_the_result(turn):
    p = flat_pair()
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = (-40, 300)
    expected = demons(p.fixed, p.moving).map_points(p.fixed_points)
    placed = [
        replace(image, grid=Grid(image.grid.shape, matrix @ image.grid.affine)) for image in (p.fixed, p.moving)
    ]
    world = Affine(matrix)
    found = world.inverse().map_points(demons(*placed).map_points(world.map_points(p.fixed_points)))
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_few_slices_are_not_shrunk_away():
    p = make_pair(3, seed=2, shape=(3, 40, 48), max_displacement_mm=8)
    found = demons(p.fixed, p.moving, DemonsOptions(iterations=(20, 10, 5)))
    assert found.displacement.shape == (3, 3, 40, 48)
    assert float(found.displacement.abs().max()) > 1


def test_wrong_use_is_refused():
    with pytest.raises(InputError, match="2D and 3D"):
        demons(flat_pair().fixed, deep_pair().moving)
    with pytest.raises(InputError, match="found 3 for 1 levels"):
        demons(flat_pair().fixed, flat_pair().moving, DemonsOptions(shrink=(1,)))
