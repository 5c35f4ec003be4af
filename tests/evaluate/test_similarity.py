"""Similarity: bounds, invariances, and scikit-image as an independent reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import normalized_mutual_information

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.evaluate import similarity

GRID = Grid.from_itk((30, 28, 12), (1, 1, 3), (0, 0, 0), np.eye(3))


def noise(seed: int = 0, channels: int = 1, grid: Grid = GRID) -> Image:
    values = np.random.default_rng(seed).normal(size=(channels, *grid.shape)).astype(np.float32)
    return Image(torch.from_numpy(values), grid)


def test_equal_images_are_as_alike_as_can_be() -> None:
    result = similarity(noise(), noise())
    assert result == pytest.approx({"ncc": 1, "lncc2": 1, "nmi": 2}, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 1e4), st.floats(-1e3, 1e3), st.sampled_from([-1, 1]))
def test_linear_intensity_changes_keep_what_ignores_them(gain: float, offset: float, sign: int) -> None:
    changed = noise().with_data(noise().data * gain * sign + offset * gain)
    result = similarity(noise(), changed)
    assert result["ncc"] == pytest.approx(sign, abs=1e-3)
    assert result["lncc2"] > 0.99
    # Float32 rounding of large offsets may move single voxels to the next bin.
    assert result["nmi"] > 1.9


def test_another_contrast_keeps_mutual_information() -> None:
    image = noise()
    folded = image.with_data(image.data.abs())
    result = similarity(image, folded)
    assert abs(result["ncc"]) < 0.05
    assert result["nmi"] > 1.5


def test_unrelated_images_are_unlike() -> None:
    result = similarity(noise(1), noise(2), bins=8)
    assert abs(result["ncc"]) < 0.05
    assert result["lncc2"] < 0.05
    assert result["nmi"] < 1.01


def test_constant_image_has_nothing_in_common() -> None:
    flat = noise().with_data(torch.full((1, *GRID.shape), 3.0))
    assert similarity(noise(), flat) == pytest.approx({"ncc": 0, "lncc2": 0, "nmi": 1})
    assert similarity(flat, flat) == {"ncc": 0, "lncc2": 0, "nmi": 1}


def test_mutual_information_agrees_with_scikit_image() -> None:
    rng = np.random.default_rng(5)
    a = rng.integers(0, 16, GRID.shape)
    b = (a + rng.integers(0, 4, GRID.shape)) % 16
    images = [Image(torch.from_numpy(v[None].astype(np.float32)), GRID) for v in (a, b)]
    expected = normalized_mutual_information(a, b, bins=16)
    assert similarity(*images, bins=16)["nmi"] == pytest.approx(expected, rel=1e-6)


def test_mask_hides_what_differs() -> None:
    image = noise()
    broken = image.data.clone()
    broken[:, 6:] = noise(9).data[:, 6:]
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[:6] = True
    assert similarity(image, image.with_data(broken), mask)["ncc"] == pytest.approx(1, abs=1e-6)
    assert similarity(image, image.with_data(broken))["ncc"] < 0.7


def test_large_images_are_compared_coarsely_and_colours_by_luma() -> None:
    grid = Grid.from_itk((64, 60, 10), (0.5, 0.5, 4), (0, 0, 0), np.eye(3))
    points = grid.points().reshape(*grid.shape, 3)
    smooth = torch.from_numpy(np.sin(points[..., 0] / 4) + np.cos(points[..., 1] / 3)).float()
    image = Image(smooth.expand(3, *grid.shape), grid)
    mask = torch.ones(grid.shape, dtype=torch.bool)
    result = similarity(image, image, mask, max_voxels=9000, radius=1)
    assert result["ncc"] == pytest.approx(1, abs=1e-6)
    other = image.with_data(image.data.flip(-1))
    fine, coarse = (similarity(image, other, max_voxels=n)["ncc"] for n in (10**6, 9000))
    assert coarse == pytest.approx(fine, abs=0.03)


def test_bad_input_is_refused() -> None:
    with pytest.raises(GeometryError, match="share a grid"):
        similarity(noise(), noise(grid=Grid.pixels((12, 28, 30))))
    with pytest.raises(GeometryError, match="mask has shape"):
        similarity(noise(), noise(), torch.ones(2, 2, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="mask is empty"):
        similarity(noise(), noise(), torch.zeros(GRID.shape, dtype=torch.bool))
