import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from roireg.core.filters import box_mean, gaussian_bands, gaussian_smooth, gradient, resize


@st.composite
def tensors(draw, min_side=1):
    shape = tuple(draw(st.integers(min_side, 12)) for _ in range(draw(st.sampled_from((2, 3)))))
    seed = draw(st.integers(0, 999))
    return torch.as_tensor(np.random.default_rng(seed).normal(size=(2, *shape)), dtype=torch.float32)


@given(tensors(), st.integers(0, 3))
def test_box_mean_is_the_mean_of_what_lies_inside(data, radius):
    found = box_mean(data, radius)
    size = [1] + [2 * radius + 1] * (data.ndim - 1)
    total = ndimage.uniform_filter(data.double().numpy(), size, mode="constant")
    weight = ndimage.uniform_filter(np.ones(data.shape), size, mode="constant")
    np.testing.assert_allclose(found, total / weight, atol=1e-5)


def test_box_mean_takes_a_radius_per_axis():
    data = torch.arange(12.0).reshape(1, 3, 4)
    np.testing.assert_allclose(box_mean(data, (1, 0))[0, 1], data[0].mean(0))
    assert torch.equal(box_mean(data, 0), data)


@given(tensors(), st.floats(0.1, 4))
def test_gaussian_keeps_constants_and_the_range(data, sigma):
    np.testing.assert_allclose(gaussian_smooth(torch.full_like(data, 2.5), sigma), 2.5, rtol=1e-5)
    smooth = gaussian_smooth(data, sigma)
    assert smooth.shape == data.shape
    assert float(smooth.max()) <= float(data.max()) + 1e-5 and float(smooth.min()) >= float(data.min()) - 1e-5


@pytest.mark.parametrize("sigma", [(0.7, 1.5), (2.0, 0.0), (3.0, 3.0)])
def test_gaussian_of_a_spot_has_the_variance_asked_for(sigma):
    data = torch.zeros(1, 41, 43)
    data[0, 20, 21] = 1
    smooth = gaussian_smooth(data, sigma)[0].double().numpy()
    assert smooth.sum() == pytest.approx(1, abs=1e-5)
    for axis, (s, middle) in enumerate(zip(sigma, (20, 21), strict=True)):
        profile = smooth.sum(1 - axis)
        offsets = np.arange(len(profile)) - middle
        assert profile @ offsets == pytest.approx(0, abs=1e-4)
        assert profile @ offsets**2 == pytest.approx(s**2, rel=0.03, abs=1e-4)


def test_gaussian_and_box_pass_gradients():
    data = torch.randn(1, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    for f in (lambda x: gaussian_smooth(x, 1.0), lambda x: box_mean(x, 1)):
        (slope,) = torch.autograd.grad(f(data).square().sum(), data)
        assert bool(torch.isfinite(slope).all()) and float(slope.abs().sum()) > 0


@given(tensors(min_side=3), st.integers(0, 99))
def test_gradient_of_a_ramp_is_its_slope_everywhere(data, seed):
    d = data.ndim - 1
    rng = np.random.default_rng(seed)
    spacing, slope = rng.uniform(0.3, 4, size=d), rng.normal(size=d)
    axes = np.meshgrid(*(np.arange(n) * s for n, s in zip(data.shape[1:], spacing, strict=True)), indexing="ij")
    ramp = torch.as_tensor(sum(k * a for k, a in zip(slope, axes, strict=True)))[None]
    found = gradient(ramp, spacing)
    assert found.shape == (1, d, *data.shape[1:])
    for axis in range(d):
        np.testing.assert_allclose(found[0, axis], slope[axis], atol=1e-8)
    np.testing.assert_allclose(gradient(ramp)[0, 0], slope[0] * spacing[0], atol=1e-8)


def test_gradient_along_axes_of_one_and_two_voxels():
    found = gradient(torch.tensor([[[1.0, 4.0]]]), (5.0, 2.0))
    assert found.tolist() == [[[[0, 0]], [[1.5, 1.5]]]]


@given(tensors(), st.integers(1, 12))
def test_resize_of_a_constant_and_to_the_same_shape(data, n):
    shape = (n,) * (data.ndim - 1)
    np.testing.assert_allclose(resize(torch.full_like(data, 1.5), shape), 1.5, rtol=1e-5)
    assert torch.equal(resize(data, data.shape[1:]), data)


def test_resize_is_linear_interpolation_over_the_same_box():
    data = torch.as_tensor(np.random.default_rng(0).normal(size=(2, 5, 7)), dtype=torch.float32)
    expected = torch.nn.functional.interpolate(data[None], (9, 4), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(resize(data, (9, 4)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_no_weight_of_a_gaussian_is_denormal(sigma):
    (band,) = gaussian_bands(200, sigma)
    weights = band.matrix
    assert not bool(((weights > 0) & (weights < torch.finfo(torch.float32).tiny)).any())


@pytest.mark.parametrize("n", [256, 257, 700])
def test_long_axes_are_filtered_as_short_ones(n):
    data = torch.as_tensor(np.random.default_rng(0).normal(size=(2, n, 5)), dtype=torch.float64)
    size = (1, 23, 1)
    weight = ndimage.uniform_filter(np.ones(data.shape), size, mode="constant")
    expected = ndimage.uniform_filter(data.numpy(), size, mode="constant") / weight
    np.testing.assert_allclose(box_mean(data, (11, 0)), expected, atol=1e-9)
    weight = ndimage.gaussian_filter1d(np.ones(data.shape), 3.0, axis=1, mode="constant", truncate=6.5)
    expected = ndimage.gaussian_filter1d(data.numpy(), 3.0, axis=1, mode="constant", truncate=6.5) / weight
    np.testing.assert_allclose(gaussian_smooth(data, (3.0, 0.0)), expected, atol=1e-6)
    for m in (31, 613):
        expected = torch.nn.functional.interpolate(data[None], (m, 5), mode="bilinear")[0]
        torch.testing.assert_close(resize(data, (m, 5)), expected, rtol=0, atol=1e-5)


def test_a_strip_is_filtered_in_memory_of_its_own_size():
    strip = torch.ones(1, 200_000, 2)
    for filtered in (box_mean(strip, 8), gaussian_smooth(strip, 2.0), resize(strip, (100_000, 2))):
        torch.testing.assert_close(filtered, torch.ones(1, filtered.shape[1], 2))
