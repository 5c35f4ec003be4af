"""Similarity maps and the points they point at."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.match.similarity_map import (
    inverse_prompt,
    peaks,
    position_prior,
    similarity_map,
    soft_argmax,
    standardised,
)
from support import grids, make_grid


def features(grid: Grid, channels: int = 5, seed: int = 0) -> Image:
    return Image(torch.randn((channels, *grid.shape), generator=torch.Generator().manual_seed(seed)), grid)


@given(grids(), st.integers(0, 99))
def test_the_map_is_the_cosine_at_every_place(grid, seed):
    f = features(grid, seed=seed)
    p = torch.randn(5, generator=torch.Generator().manual_seed(seed + 1))
    found = similarity_map(f, p)
    naive = [torch.cosine_similarity(v, p, dim=0) for v in f.data.flatten(1).T]
    torch.testing.assert_close(found.flatten(), torch.stack(naive), atol=1e-5, rtol=0)
    torch.testing.assert_close(similarity_map(f, 3.0 * p), found, atol=1e-5, rtol=0)


def test_zero_features_and_zero_prototypes_are_similar_to_nothing():
    f = features(Grid.pixels((3, 4)))
    f.data[:, 0, 0] = 0
    assert similarity_map(f, torch.ones(5))[0, 0] == 0
    assert (similarity_map(f, torch.zeros(5)) == 0).all()
    with pytest.raises(InputError, match="5 channels"):
        similarity_map(f, torch.ones(4))


def test_standardised_maps_share_mean_and_spread_and_keep_differences():
    a, b = features(Grid.pixels((6, 7))), features(Grid.pixels((9, 4)), seed=3)
    b.data.mul_(2).add_(1)
    a.data[4], b.data[4] = 7.0, 7.0
    x, y = standardised(a, b)
    mean = (x.data.flatten(1).mean(1) + y.data.flatten(1).mean(1)) / 2
    power = (x.data.flatten(1).square().mean(1) + y.data.flatten(1).square().mean(1)) / 2
    torch.testing.assert_close(mean, torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(power, torch.tensor([1.0, 1, 1, 1, 0]), atol=1e-4, rtol=0)
    ratio = (x.data[0, 1, 1] - x.data[0, 0, 0]) / (y.data[0, 1, 1] - y.data[0, 0, 0])
    torch.testing.assert_close(ratio, (a.data[0, 1, 1] - a.data[0, 0, 0]) / (b.data[0, 1, 1] - b.data[0, 0, 0]))
    with pytest.raises(InputError, match="same channels"):
        standardised(a, features(Grid.pixels((3, 3)), channels=2))


@given(grids(min_side=2), st.floats(0.5, 20))
def test_the_prior_is_a_gaussian_in_mm(grid, width):
    point = grid.center
    prior = position_prior(grid, point, width)
    distance = np.linalg.norm(grid.points() - point, axis=1)
    expected = torch.as_tensor(-(distance**2) / (2 * width**2), dtype=torch.float32)
    torch.testing.assert_close(prior.flatten(), expected, rtol=1e-4, atol=1e-4)


def test_peaks_are_apart_and_in_order():
    grid = make_grid((20, 30), (2.0, 1.0))
    score = torch.zeros(20, 30)
    score[3, 4], score[4, 5], score[15, 20] = 3.0, 2.9, 2.0
    found = peaks(score, grid, count=2, apart=6.0)
    np.testing.assert_allclose([p for p, _ in found], grid.world_from_index([[3, 4], [15, 20]]))
    assert [s for _, s in found] == [3.0, 2.0]
    assert len(peaks(score, grid, count=99, apart=1e6)) == 1


def test_the_soft_maximum_of_a_parabola_is_below_a_voxel():
    grid = make_grid((41, 41), (0.5, 1.5))
    true = grid.world_from_index([20.3, 19.6])
    score = torch.as_tensor(-np.square(grid.points() - true).sum(1) / 8.0).reshape(41, 41)
    top = peaks(score, grid, count=1, apart=1.0)[0][0]
    assert np.linalg.norm(top - true) > 0.1
    np.testing.assert_allclose(soft_argmax(score, grid, top, radius=12.0), true, atol=0.02)
    np.testing.assert_array_equal(soft_argmax(score, grid, true + 1e4, radius=1.0), true + 1e4)


@pytest.mark.parametrize("shape", [(24, 30), (9, 14, 12)])
def test_the_linearised_inverse_finds_the_prompt_of_a_smooth_chain(shape):
    """Where the prototype of a prompt is linear in its position, one step of the inverse is nearly exact."""
    grid = make_grid(shape, [1.5] * len(shape))
    d = len(shape)
    mix = torch.randn(6, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    base = 30 * torch.randn(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    points = torch.as_tensor(grid.points())
    data = (base[:, None] + mix @ points.T).float().reshape(6, *shape)

    def at(point):
        return (base + mix @ torch.as_tensor(point)).float() if grid.contains(point) else None

    true = grid.center + 2.2
    start = grid.center - 1.4
    found = inverse_prompt(Image(data, grid), at(true), start, at, step=4.0, rounds=6)
    assert np.linalg.norm(found - true) < 0.35 * np.linalg.norm(start - true)
    still = inverse_prompt(Image(data, grid), at(true), true, at, step=4.0)
    assert np.linalg.norm(still - true) < 0.05
    outside = grid.corners().max(0) + 50
    np.testing.assert_array_equal(inverse_prompt(Image(data, grid), at(true), outside, at, step=4.0), outside)
