"""Similarities and smoothness against naive implementations, finite differences and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.filters import gaussian_smooth
from roireg.core.rois import ROISet
from roireg.fit.objectives import (
    FLOOR,
    FeatureDistance,
    LocalCorrelation,
    RegionAgreement,
    block_mean,
    diffusion,
)
from roireg.fit.signed_distance import signed_distances
from support import centred, disc

CASES = [
    ((8, 6), (2, 2), (1, 1)),
    ((7, 5), (2, 2), (1, 1)),  # ragged blocks
    ((9, 4), (3, 1), (1, 2)),  # anisotropic step, windows wider than the axis
    ((5, 1), (2, 1), (1, 0)),
    ((4, 5, 6), (1, 2, 2), (1, 1, 1)),
    ((3, 7, 5), (1, 2, 3), (2, 1, 0)),
]


def noise(shape, *, seed=0) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).random((1, *shape)))


def naive_loss(fixed, warped, step, radius, weight=None, moving_weight=None):
    """The definition, window by window: weighted block means, then their mean over the blocks of the window."""
    shape = fixed.shape[1:]
    blocks = [range(-(-n // s)) for n, s in zip(shape, step, strict=True)]
    total, norm = fixed.new_zeros(()), fixed.new_zeros(())
    inside = torch.ones_like(fixed)
    for part in (weight, moving_weight):
        inside = inside if part is None else inside * part

    def block(data, at):
        box = tuple(slice(i * s, min((i + 1) * s, n)) for i, s, n in zip(at, step, shape, strict=True))
        return data[(0, *box)].mean()

    for at in itertools.product(*blocks):
        near = itertools.product(
            *(
                [j for j in range(i - r, i + r + 1) if j in line]
                for i, r, line in zip(at, radius, blocks, strict=True)
            )
        )
        near = list(near)

        def mean(data, near=near):
            share = torch.stack([block(inside, b) for b in near]).mean().clamp(min=1e-6)
            return torch.stack([block(data * inside, b) for b in near]).mean() / share

        f, w = mean(fixed), mean(warped)
        variance_f, variance_w = mean(fixed**2) - f**2 + FLOOR, mean(warped**2) - w**2 + FLOOR
        covariance = mean(fixed * warped) - f * w + FLOOR
        importance = fixed.new_ones(()) if weight is None else block(weight, at)
        norm = norm + importance
        if moving_weight is not None:
            importance = importance * block(moving_weight, at)
        total = total + importance * covariance**2 / (variance_f * variance_w)
    return 1 - total / norm


@pytest.mark.parametrize("weighted", ["no weights", "fixed", "both"])
@pytest.mark.parametrize("shape, step, radius", CASES)
def test_local_correlation_is_its_definition_and_so_is_its_gradient(shape, step, radius, weighted):
    fixed, warped = noise(shape, seed=1), noise(shape, seed=2).requires_grad_()
    weight = None if weighted == "no weights" else (noise(shape, seed=3) > 0.3).double()
    moving_weight = noise(shape, seed=4) if weighted == "both" else None
    expected = naive_loss(fixed, warped, step, radius, weight, moving_weight)
    (by_hand,) = torch.autograd.grad(expected, warped)

    found = LocalCorrelation(fixed, step=step, radius=radius, weight=weight)(warped, moving_weight)
    (gradient,) = torch.autograd.grad(found, warped)

    assert found.item() == pytest.approx(expected.item(), abs=1e-10)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-6, atol=1e-10)


def test_local_correlation_gradient_agrees_with_finite_differences():
    term = LocalCorrelation(noise((6, 8), seed=1), step=(2, 2), radius=(1, 1))
    warped = noise((6, 8), seed=2).requires_grad_()
    assert torch.autograd.gradcheck(term, (warped,), eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape, step, radius", CASES)
def test_equal_images_are_exactly_at_the_optimum(shape, step, radius):
    fixed = noise(shape).float()
    fixed[..., : shape[-1] // 2] = 0.25  # flat windows are no exception
    warped = fixed.clone().requires_grad_()
    loss = LocalCorrelation(fixed, step=step, radius=radius)(warped)
    (gradient,) = torch.autograd.grad(loss, warped)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert float(gradient.abs().max()) < 1e-6  # rounding; images that differ give some 1e-2


@given(st.floats(0.4, 3), st.floats(-1, 1), st.integers(0, 50))
def test_scale_offset_and_inversion_of_intensities_hardly_matter(scale, offset, seed):
    fixed, warped = noise((12, 12), seed=seed), noise((12, 12), seed=seed + 100)
    warped = 0.6 * fixed + 0.4 * warped
    term = LocalCorrelation(fixed, step=(2, 2), radius=(1, 1))
    plain = float(term(warped))
    assert float(term(scale * warped + offset)) == pytest.approx(plain, abs=0.02)
    assert float(term(1 - warped)) == pytest.approx(plain, abs=0.02)


def test_a_lost_overlap_costs_and_does_not_pay():
    fixed = noise((16, 16))
    seen = torch.ones_like(fixed)
    seen[..., :8] = 0
    term = LocalCorrelation(fixed, step=(2, 2), radius=(1, 1))
    assert float(term(fixed)) == pytest.approx(0, abs=1e-9)
    assert float(term(fixed, seen)) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_places_of_weight_zero_do_not_count(side):
    fixed, other = noise((12, 12), seed=1), noise((12, 12), seed=1)
    weight = torch.zeros_like(fixed)
    weight[..., :6] = 1
    other[..., 6:] = noise((12, 6), seed=5)  # windows that reach over there do not see it
    other.requires_grad_()
    term = LocalCorrelation(fixed, step=(1, 1), radius=(1, 1), weight=weight if side == "fixed" else None)
    loss = term(other, None if side == "fixed" else weight)
    assert loss.item() == pytest.approx(0 if side == "fixed" else 0.5, abs=1e-9)
    (gradient,) = torch.autograd.grad(loss, other)
    assert float(gradient.abs().max()) < 1e-9


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_block_means_of_ragged_blocks_are_means(a, b, s, t):
    s, t = min(s, a), min(t, b)
    data = noise((a, b))
    found = block_mean(data, (s, t))
    assert tuple(found.shape) == (1, -(-a // s), -(-b // t))
    assert float(found[0, -1, -1]) == pytest.approx(
        float(data[0, (a - 1) // s * s :, (b - 1) // t * t :].mean()), abs=1e-9
    )


def test_feature_distance_is_a_weighted_mean_of_squares():
    fixed, warped = torch.zeros(3, 4, 5), torch.ones(3, 4, 5)
    assert float(FeatureDistance(fixed)(warped)) == pytest.approx(3)
    weight = torch.zeros(1, 4, 5)
    weight[0, 1] = 1
    warped[:, 1] = 2
    assert float(FeatureDistance(fixed, weight=weight)(warped)) == pytest.approx(12)
    assert float(FeatureDistance(fixed, weight=weight)(warped, weight / 2)) == pytest.approx(6)


# -- regions --------------------------------------------------------------------------------------


def distances(grid, center, radius, truncation):
    return signed_distances(ROISet(disc(grid, center, radius), grid), truncation=truncation)


def test_equal_regions_are_exactly_at_the_optimum():
    grid = centred((40, 40))
    fixed = distances(grid, (0, 0), 8, 10)
    warped = fixed.clone().requires_grad_()
    loss = RegionAgreement(fixed, torch.ones(1))(warped)
    (gradient,) = torch.autograd.grad(loss, warped)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert float(gradient.abs().max()) < 1e-6


def test_the_further_a_region_is_away_the_more_it_costs():
    grid = centred((40, 40))
    fixed = distances(grid, (0, 0), 8, 10)
    term = RegionAgreement(fixed, torch.ones(1))
    losses = [float(term(distances(grid, (x, 0), 8, 10))) for x in (0, 2, 4, 8, 12, 16)]
    assert losses == sorted(losses)
    assert losses[-1] > losses[0] + 1


def test_regions_apart_still_pull_in_the_right_direction():
    grid = centred((40, 60))
    fixed = distances(grid, (-8, 0), 5, 12)
    moving = distances(grid, (8, 0), 5, 12)
    assert not bool(((fixed < 0) & (moving < 0)).any())
    term = RegionAgreement(fixed, torch.ones(1))

    def loss_moved(pixels: float) -> float:
        shift = torch.as_tensor(np.roll(moving.numpy(), -round(pixels), axis=2))
        return float(term(shift))

    assert loss_moved(1) < loss_moved(0) < loss_moved(-1)


def test_within_its_tolerance_a_region_costs_nothing_and_beyond_it_pulls():
    grid = centred((40, 40))
    fixed = distances(grid, (0, 0), 8, 10)
    loose, exact = (
        RegionAgreement(fixed, torch.ones(1), tolerance=torch.tensor([0.25])),
        RegionAgreement(fixed, torch.ones(1)),
    )
    for shift, free in ((2, True), (5, False)):
        moved = distances(grid, (shift, 0), 8, 10).requires_grad_()
        loss = loose(moved)
        (gradient,) = torch.autograd.grad(loss, moved)
        assert (loss.item() == 0 and not gradient.any()) is free
        assert exact(moved).item() > loss.item()


def test_every_region_counts_by_its_weight():
    grid = centred((30, 30))
    fixed = torch.cat([distances(grid, (-5, 0), 4, 6), distances(grid, (6, 4), 3, 6)])
    moving = gaussian_smooth(fixed.roll(2, dims=2), 1.0)
    weight = torch.tensor([0.2, 0.6])
    together = float(RegionAgreement(fixed, weight)(moving))
    assert float(RegionAgreement(fixed, 10 * weight)(moving)) == pytest.approx(10 * together, rel=1e-5)
    alone = [float(RegionAgreement(fixed[k : k + 1], torch.ones(1))(moving[k : k + 1])) for k in (0, 1)]
    assert together == pytest.approx(0.2 * alone[0] + 0.6 * alone[1], rel=1e-5)


# -- smoothness -----------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0.3, 8), min_size=3, max_size=3),
    st.lists(st.floats(-0.5, 0.5), min_size=9, max_size=9),
    st.sampled_from([2, 3]),
)
def test_diffusion_of_a_linear_field_is_the_squared_norm_of_its_gradient_per_mm(spacing, values, d):
    shape, steps = (4, 5, 6)[:d], np.array(spacing[:d])
    gradient = np.array(values).reshape(3, 3)[:d, :d]  # mm per mm along the storage axes
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    field = np.einsum("ca,a...->c...", gradient, index * steps.reshape(-1, *[1] * d))
    found = float(diffusion(torch.as_tensor(field), steps))
    assert found == pytest.approx((gradient**2).sum(), rel=1e-6, abs=1e-12)


def test_diffusion_leaves_axes_of_one_voxel_out():
    field = torch.arange(6.0).reshape(1, 6, 1).expand(2, 6, 1)
    assert float(diffusion(field, np.array([2.0, 5.0]))) == pytest.approx(2 * 0.25)
    assert float(diffusion(torch.ones(3, 1, 1, 1), np.ones(3))) == 0
