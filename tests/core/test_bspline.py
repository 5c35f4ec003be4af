"""Free-form deformations: against a naive sum, and as fields and inverses."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline as Basis

from roireg.core.bspline import BSpline
from roireg.core.errors import GeometryError
from roireg.core.grid import Grid
from support import make_grid, rotation


def _spline(ndim: int, order: int, size: float = 1.0) -> BSpline:
    shape = (7, 6, 8)[:ndim]
    grid = make_grid(shape, (4.0, 3.0, 5.0)[:ndim], rotation(ndim, 2), (10.0, -5.0, 3.0)[:ndim])
    values = np.random.default_rng(order).normal(size=(ndim, *shape)) * size
    return BSpline(grid, torch.as_tensor(values, dtype=torch.float32), order)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("ndim", [2, 3])
def test_it_is_the_sum_over_all_coefficients(ndim: int, order: int) -> None:
    spline = _spline(ndim, order)
    margin = 0.5 * (order - 1)
    rng = np.random.default_rng(0)
    index = rng.uniform(margin, np.array(spline.grid.shape) - 1 - margin, (20, ndim))
    kernel = Basis.basis_element(np.arange(order + 2) - (order + 1) / 2, extrapolate=False)
    expected = spline.grid.world_from_index(index)
    for place in product(*(range(n) for n in spline.grid.shape)):
        weight = np.prod(np.nan_to_num(kernel(index - np.array(place))), axis=1)
        expected = expected + weight[:, None] * spline.coefficients[(slice(None), *place)].numpy()
    np.testing.assert_allclose(spline.map_points(spline.grid.world_from_index(index)), expected, atol=1e-5)


def test_there_is_no_motion_where_coefficients_are_missing() -> None:
    spline = _spline(2, 3)
    outside = spline.grid.world_from_index(np.array([[0.9, 3.0], [5.1, 3.0], [3.0, 0.5], [50.0, 50.0]]))
    np.testing.assert_array_equal(spline.map_points(outside), outside)


def test_equal_coefficients_are_a_shift() -> None:
    grid = Grid.pixels((6, 6))
    spline = BSpline(grid, torch.full((2, 6, 6), 2.5))
    points = np.array([[1.0, 1.0], [4.0, 4.0], [2.3, 3.7]])
    np.testing.assert_allclose(spline.map_points(points), points + 2.5, atol=1e-6)


def test_field_and_inverse_agree_with_it() -> None:
    spline = _spline(3, 3, size=0.5)
    rng = np.random.default_rng(1)
    points = spline.grid.world_from_index(rng.uniform(2, np.array(spline.grid.shape) - 3, (200, 3)))
    mapped = spline.map_points(points)
    assert np.abs(mapped - points).max() > 0.3
    np.testing.assert_allclose(spline.field.map_points(points), mapped, atol=0.01)
    np.testing.assert_allclose(spline.inverse().map_points(mapped), points, atol=0.02)


@pytest.mark.parametrize(
    ("shape", "order", "message"),
    [((4, 3), 3, "need 4 coefficients"), ((6, 6), 4, "degree 1 to 3"), ((6, 6), 0, "found 0")],
)
def test_unusable_splines_are_refused(shape: tuple[int, ...], order: int, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        BSpline(Grid.pixels(shape), torch.zeros(2, *shape), order)
