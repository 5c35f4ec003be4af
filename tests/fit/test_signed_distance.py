"""Signed distances against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.rois import ROISet
from roireg.fit.signed_distance import signed_distances
from support import centred, grids


def brute_force(mask, spacing, truncation):
    """To the nearest voxel centre of the other side, less half a voxel."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in mask.shape), indexing="ij"), -1) * spacing
    apart = np.linalg.norm(index.reshape(-1, 1, mask.ndim) - index.reshape(1, -1, mask.ndim), axis=-1)
    inside = mask.ravel()
    half = 0.5 * spacing.min()
    to_in = np.where(inside[None], apart, np.inf).min(1) - half
    to_out = half - np.where(~inside[None], apart, np.inf).min(1)
    return np.clip(np.where(inside, to_out, to_in) / truncation, -1, 1).reshape(mask.shape)


@given(grids(max_side=6), st.integers(0, 10_000), st.floats(0.3, 30))
def test_signed_distances_are_those_of_brute_force(grid, seed, truncation):
    rng = np.random.default_rng(seed)
    masks = rng.random((3, *grid.shape)) < rng.uniform(0.1, 0.9, size=(3, *[1] * grid.ndim))
    masks[:, *[0] * grid.ndim] = True  # at the border, and never empty
    found = signed_distances(ROISet(torch.as_tensor(masks), grid), truncation=truncation).numpy()
    for k in range(3):
        np.testing.assert_allclose(found[k], brute_force(masks[k], grid.spacing, truncation), atol=1e-5)


def test_a_region_that_fills_the_image_is_inside_everywhere():
    grid = centred((4, 5, 6), (3.0, 1.0, 1.0))
    found = signed_distances(ROISet(torch.ones(1, 4, 5, 6, dtype=torch.bool), grid), truncation=2.0)
    assert bool((found == -1).all())


def test_a_large_region_reaches_as_far_as_a_small_truncation_lets_it():
    grid = centred((1, 40))
    mask = torch.zeros(1, 1, 40, dtype=torch.bool)
    mask[..., 10:20] = True
    found = signed_distances(ROISet(mask, grid), truncation=3.0)[0, 0]
    expected = np.array([1.0, 5 / 6, 0.5, 1 / 6, -1 / 6, -0.5, -5 / 6, -1.0])
    np.testing.assert_allclose(found[6:14].numpy(), expected, atol=1e-6)
    assert bool((found[:7] == 1).all()) and bool((found[13:17] == -1).all())


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (5.0, 0.5)])
def test_the_distance_is_in_mm_and_changes_sign_at_the_boundary(spacing):
    grid = centred((30, 30), spacing)
    mask = torch.zeros(1, 30, 30, dtype=torch.bool)
    mask[:, 10:20, 8:24] = True
    found = 50.0 * signed_distances(ROISet(mask, grid), truncation=50.0)[0]
    assert bool(((found < 0) == mask[0]).all())
    half = 0.5 * min(spacing)
    along_x = found[15, 24:30].numpy()
    np.testing.assert_allclose(along_x, spacing[1] * np.arange(1, 7) - half, atol=1e-3)
    along_y = found[20:25, 15].numpy()
    np.testing.assert_allclose(along_y, spacing[0] * np.arange(1, 6) - half, atol=1e-3)
