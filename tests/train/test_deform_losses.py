"""Losses of deformation networks against the same computed voxel by voxel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from roireg.train.deform_losses import cosine_distance, dice_distance, dissimilarity, label_masks, roughness

FLOOR = 1e-4


def images(*shape: int, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, *shape, generator=rng), torch.rand(2, 1, *shape, generator=rng)


@pytest.mark.parametrize("shape", ((7, 6), (5, 4, 6)))
def test_local_correlation_against_a_naive_reference(shape):
    fixed, moved = images(*shape)
    total = []
    for a, b in zip(fixed.numpy()[:, 0].astype(float), moved.numpy()[:, 0].astype(float), strict=True):
        for at in itertools.product(*map(range, shape)):
            window = tuple(slice(max(0, k - 1), k + 2) for k in at)
            x, y = a[window].ravel(), b[window].ravel()
            covariance = np.mean(x * y) - x.mean() * y.mean() + FLOOR
            total.append(covariance**2 / ((x.var() + FLOOR) * (y.var() + FLOOR)))
    assert float(dissimilarity(fixed, moved, "lncc", radius=1)) == pytest.approx(1 - np.mean(total), abs=1e-4)


def test_whole_correlation_and_squares_against_naive_references():
    fixed, moved = images(6, 8, seed=1)
    expected = []
    for a, b in zip(fixed.numpy().reshape(2, -1), moved.numpy().reshape(2, -1), strict=True):
        covariance = np.mean((a - a.mean()) * (b - b.mean())) + FLOOR
        expected.append(1 - covariance / np.sqrt((a.var() + FLOOR) * (b.var() + FLOOR)))
    assert float(dissimilarity(fixed, moved, "ncc")) == pytest.approx(np.mean(expected), abs=1e-5)
    assert float(dissimilarity(fixed, moved, "mse")) == pytest.approx(float(((fixed - moved) ** 2).mean()), abs=1e-6)


@pytest.mark.parametrize("kind", ("lncc", "ncc", "mse"))
def test_equal_and_constant_images_agree(kind):
    fixed, _ = images(9, 9)
    flat = torch.full_like(fixed, 0.4)
    assert float(dissimilarity(fixed, fixed, kind)) == pytest.approx(0, abs=1e-4)
    assert float(dissimilarity(flat, flat, kind)) == pytest.approx(0, abs=1e-3)
    if kind == "lncc":
        assert float(dissimilarity(fixed, 1 - fixed, kind)) < 0.02  # the sign of the contrast does not matter


def test_roughness_against_a_naive_reference():
    field = torch.rand(1, 2, 5, 6, generator=torch.Generator().manual_seed(2))
    u = field.numpy()[0]
    first = sum((np.diff(u, axis=a) ** 2).sum(0).mean() for a in (1, 2))
    assert float(roughness(field)) == pytest.approx(first, rel=1e-5)
    second = sum((np.diff(u, 2, axis=a) ** 2).sum(0).mean() for a in (1, 2))
    second += 2 * (np.diff(np.diff(u, axis=1), axis=2) ** 2).sum(0).mean()
    assert float(roughness(field, "bending")) == pytest.approx(second, rel=1e-5)
    slope = torch.arange(6.0).expand(1, 2, 5, 6)
    assert float(roughness(slope, "bending")) == 0 and float(roughness(slope)) == 2
    assert float(roughness(torch.rand(1, 3, 1, 1, 1))) == 0


def test_dice_at_one_scale_against_a_naive_reference():
    rng = np.random.default_rng(0)
    a, b = (rng.random((1, 3, 8, 8)) > 0.5 for _ in range(2))
    expected = np.mean([1 - 2 * (x & y).sum() / (x.sum() + y.sum()) for x, y in zip(a[0], b[0], strict=True)])
    fixed, moved = (torch.as_tensor(m.astype(np.float32)) for m in (a, b))
    assert float(dice_distance(fixed, moved, scales=(0.0,))) == pytest.approx(expected, abs=1e-5)


def test_wide_scales_pull_masks_together_that_do_not_overlap():
    fixed = torch.zeros(1, 1, 24, 24)
    fixed[..., 4:8, 4:8] = 1
    near, far = fixed.roll(6, -1), fixed.roll(14, -1)
    assert float(dice_distance(fixed, near, (0.0,))) == float(dice_distance(fixed, far, (0.0,))) == 1
    assert float(dice_distance(fixed, fixed)) < float(dice_distance(fixed, near)) < float(dice_distance(fixed, far))


def test_empty_masks_take_no_part():
    fixed = torch.zeros(1, 2, 8, 8)
    moved = torch.zeros_like(fixed, requires_grad=True)
    loss = dice_distance(fixed, moved)
    loss.backward()
    assert float(loss.detach()) == 0 and float(moved.grad.abs().max()) == 0
    fixed[0, 0, 2:5, 2:5] = 1
    assert float(dice_distance(fixed, fixed)) == pytest.approx(0, abs=1e-6)


def test_labels_are_those_of_both_images():
    fixed = torch.tensor([[[0, 1], [2, 3]], [[5, 5], [0, 0]]], dtype=torch.int16)
    moving = torch.tensor([[[1, 1], [3, 4]], [[0, 0], [0, 0]]], dtype=torch.int16)
    a, b = label_masks(fixed, moving, 8, torch.Generator().manual_seed(0))
    assert a.shape == b.shape == (2, 2, 2, 2)
    kept = {tuple(m.flatten().tolist()) for m in a[0]}
    assert kept == {(0, 1, 0, 0), (0, 0, 0, 1)} and float(a[1].sum() + b[1].sum()) == 0
    one, _ = label_masks(fixed, moving, 1, torch.Generator().manual_seed(0))
    assert one.shape == (2, 1, 2, 2)


def test_cosines():
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).T.reshape(1, 2, 1, 2)
    b = torch.tensor([[3.0, 0.0], [1.0, 0.0]]).T.reshape(1, 2, 1, 2)
    assert float(cosine_distance(a, b)) == pytest.approx(0.5)
