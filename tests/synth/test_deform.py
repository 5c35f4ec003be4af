import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roireg.core.errors import InputError
from roireg.core.seeds import generator
from roireg.core.transforms import jacobian_determinant
from roireg.synth import GaussianBumps, draw_affine, draw_bumps, trunk_grid


def test_one_bump_in_closed_form():
    bump = GaussianBumps(np.array([[1.0, 2.0]]), np.array([10.0]), np.array([[3.0, -4.0]]))
    points = np.array([[1.0, 2.0], [11.0, 2.0], [1e4, 1e4]])
    weights = np.array([[1.0], [np.exp(-0.5)], [0.0]])
    np.testing.assert_allclose(bump.map_points(points), points + weights * (3, -4), atol=1e-12)
    # The gradient of one bump is largest, |a| exp(-1/2) / s, one width from the centre.
    assert bump.strain(points) == pytest.approx(5 * np.exp(-0.5) / 10)


@settings(max_examples=15)
@given(st.sampled_from((2, 3)), st.integers(0, 999), st.floats(0.5, 20))
def test_bumps_reach_what_was_asked_never_fold_and_invert_exactly(ndim, seed, largest):
    rng = generator(seed, stream="test")
    half = np.array([190.0, 140, 128][:ndim])
    bumps = draw_bumps(rng, -half, half, max_displacement_mm=largest)
    grid = trunk_grid(ndim, shape=(20,) * ndim)
    lengths = bumps.displacement_on(grid).norm(dim=0)
    assert 0.8 * largest <= float(lengths.max()) <= 1.1 * largest
    assert float(jacobian_determinant(bumps, grid).min()) > 0
    points = rng.uniform(-half, half, size=(200, ndim))
    np.testing.assert_allclose(bumps.inverse().map_points(bumps.map_points(points)), points, atol=5e-6)
    np.testing.assert_allclose(bumps.map_points(bumps.inverse().map_points(points)), points, atol=5e-6)
    assert bumps.inverse().inverse().map_points(points).tolist() == bumps.map_points(points).tolist()


def test_folding_bumps_are_refused():
    with pytest.raises(InputError, match="may fold"):
        GaussianBumps(np.zeros((1, 3)), np.array([5.0]), np.array([[20.0, 0, 0]]))
    with pytest.raises(InputError, match="lower the displacement"):
        draw_bumps(generator(0), (-100, -100), (100, 100), max_displacement_mm=200)


@given(st.sampled_from((2, 3)), st.integers(0, 999))
def test_affine_stays_within_its_limits(ndim, seed):
    center = np.arange(10.0, 10 + ndim)
    affine = draw_affine(generator(seed), center, rotation_deg=5, translation_mm=7, scale=0.1)
    assert np.abs(affine.map_points(center[None]) - center).max() <= 7
    stretch = np.linalg.svd(affine.matrix[:-1, :-1], compute_uv=False)
    assert stretch.min() >= 0.9 - 1e-9 and stretch.max() <= 1.1 + 1e-9
    still = draw_affine(generator(seed), center, rotation_deg=0, translation_mm=0, scale=0)
    np.testing.assert_allclose(still.matrix, np.eye(ndim + 1), atol=1e-12)


def test_mapping_no_points():
    bumps = draw_bumps(generator(1), (-50, -50), (50, 50), max_displacement_mm=3)
    assert bumps.inverse().map_points(torch.zeros(0, 2)).shape == (0, 2)
    assert repr(bumps.inverse()) == "GaussianBumps(10 bumps in 2D, inverted)"
