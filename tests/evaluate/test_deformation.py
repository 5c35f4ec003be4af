"""Folding, spread of volume change, inverse and displacement errors on transforms with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.filters import gaussian_smooth
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, DisplacementField, VelocityField, jacobian_determinant
from roireg.evaluate import deformation as module
from roireg.evaluate import (
    deformation_summary,
    displacement_errors,
    inverse_consistency,
    jacobian_slabs,
    overlap_mask,
    sd_log_jacobian,
)

GRID = Grid.from_itk((21, 17, 9), (0.8, 1.2, 3.0), (4, -7, 2), np.eye(3))


def random_field(grid: Grid, largest: float, sigma: float = 2.5) -> torch.Tensor:
    noise = np.random.default_rng(3).normal(size=(grid.ndim, *grid.shape)).astype(np.float32)
    smooth = gaussian_smooth(torch.from_numpy(noise), sigma)
    return smooth / smooth.abs().max() * largest


def folding_field(grid: Grid, first: int) -> DisplacementField:
    """u_x = -3 (x - x0) from column `first` on: the image is mirrored there, det J = -2."""
    columns = torch.arange(grid.shape[-1], dtype=torch.float32)
    u = torch.zeros((grid.ndim, *grid.shape))
    u[0] = -3 * (columns - first).clamp_min(0) * float(grid.spacing[-1])
    return DisplacementField(grid, u)


@pytest.mark.parametrize("grid", [GRID, Grid.pixels((13, 21)), Grid.pixels((1, 9, 21))])
def test_share_of_folded_voxels_is_exact(grid: Grid) -> None:
    # At the kink itself the central difference is the mean of slopes 0 and -3: det J = -0.5 folds too.
    summary = deformation_summary(folding_field(grid, 12), grid)
    assert summary["folding_percent"] == pytest.approx(100 * 9 / 21)
    assert summary["folded_voxels"] == 9 * grid.size / 21
    assert (summary["jacobian_min"], summary["jacobian_max"]) == pytest.approx((-2, 1), abs=1e-5)
    left = torch.zeros(grid.shape, dtype=torch.bool)
    left[..., :12] = True
    assert deformation_summary(folding_field(grid, 12), grid, left)["folding_percent"] == 0


def test_affine_has_constant_volume_change() -> None:
    summary = deformation_summary(Affine(np.diag([1.2, 0.9, 1.1, 1.0])), GRID)
    assert summary["folding_percent"] == 0
    assert summary["sdlogj"] == pytest.approx(0, abs=1e-4)
    assert summary["jacobian_min"] == pytest.approx(1.2 * 0.9 * 1.1, abs=1e-4)


def test_spread_of_log_jacobian_in_closed_form() -> None:
    determinant = torch.tensor([1.0, math.e**2] * 10)
    assert sd_log_jacobian(determinant) == pytest.approx(1, abs=1e-6)
    expected = np.std(np.log(np.array([4.0, math.e**2 + 3])))
    assert sd_log_jacobian(determinant, offset=3) == pytest.approx(expected, abs=1e-6)
    # A folded voxel is clamped to 1e-9, not dropped and not NaN.
    assert sd_log_jacobian(torch.tensor([1.0, -5.0])) == pytest.approx(-math.log(1e-9) / 2)


@pytest.mark.parametrize("voxels", [1, 500, 10**9])
def test_slabs_equal_the_whole(monkeypatch: pytest.MonkeyPatch, voxels: int) -> None:
    monkeypatch.setattr(module, "SLAB_VOXELS", voxels)
    transform = DisplacementField(GRID, random_field(GRID, 4))
    parts = torch.cat([d for _, d in jacobian_slabs(transform, GRID)])
    whole = jacobian_determinant(transform, GRID)
    assert torch.allclose(parts, whole, atol=1e-5)
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[2:6, 3:, :8] = True
    summary = deformation_summary(transform, GRID, mask)
    inside = parts[mask].double().numpy()
    assert summary["folded_voxels"] == (inside <= 0).sum()
    assert summary["sdlogj"] == pytest.approx(np.log(inside.clip(1e-9)).std(), rel=1e-6)
    assert summary["sdlogj_learn2reg"] == pytest.approx(np.log((inside + 3).clip(1e-9)).std(), rel=1e-6)


def test_folding_agrees_with_simpleitk() -> None:
    u = random_field(GRID, 5, 1.2)
    image = sitk.GetImageFromArray(u.movedim(0, -1).double().numpy(), isVector=True)
    image.SetSpacing(GRID.itk[1])
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image, True))[1:-1, 1:-1, 1:-1]
    assert (expected <= 0).any()
    inner = torch.zeros(GRID.shape, dtype=torch.bool)
    inner[1:-1, 1:-1, 1:-1] = True
    summary = deformation_summary(DisplacementField(GRID, u), GRID, inner)
    assert summary["folding_percent"] == pytest.approx(100 * (expected <= 0).mean())
    assert summary["jacobian_min"] == pytest.approx(expected.min(), abs=1e-4)


def test_inverse_consistency_measures_exactly_the_mistake() -> None:
    transform = Affine(np.array([[1.1, 0.1, 0, 3], [0, 0.9, 0, -2], [0, 0.1, 1, 1], [0, 0, 0, 1]]))
    exact = inverse_consistency(transform, transform.inverse(), GRID, GRID.padded([9] * 3, [9] * 3))
    assert exact["inverse_consistency_max"] < 1e-9
    assert exact["inverse_consistency_points"] == GRID.size
    off = Affine.translation([0, 0, 2]) @ transform.inverse()
    assert inverse_consistency(transform, off, GRID, GRID.padded([9] * 3, [9] * 3))[
        "inverse_consistency_mean"
    ] == pytest.approx(2)


def test_inverse_consistency_of_a_flow_is_small_and_samples_are_bounded() -> None:
    grid = Grid.from_itk((40, 36, 30), (1, 1, 2), (0, 0, 0), np.eye(3))
    flow = VelocityField(grid, random_field(grid, 4, 5.0))
    result = inverse_consistency(flow, flow.inverse(), grid, grid, samples=3000)
    assert 500 < result["inverse_consistency_points"] <= 3000
    assert 0 < result["inverse_consistency_mean"] < 0.1
    assert result["inverse_consistency_mean"] < result["inverse_consistency_p99"] < result["inverse_consistency_max"]


def test_inverse_consistency_counts_only_points_that_land_in_the_moving_image() -> None:
    grid = Grid.pixels((10, 10))
    half = inverse_consistency(Affine.translation([5, 0]), Affine.translation([-5, 0]), grid, grid)
    assert half["inverse_consistency_points"] == 50
    none = inverse_consistency(Affine.translation([50, 0]), Affine.translation([-50, 0]), grid, grid)
    assert none["inverse_consistency_points"] == 0
    assert math.isnan(none["inverse_consistency_mean"])


def test_displacement_error_against_a_known_field() -> None:
    truth = DisplacementField(GRID, random_field(GRID, 3))
    assert displacement_errors(truth, truth, GRID)["displacement_error_max"] == 0
    off = Affine.translation([2, 0, 0]) @ truth
    errors = displacement_errors(off, truth, GRID)
    assert list(errors.values()) == pytest.approx([2, 2, 2, 2], abs=1e-6)
    # Wrong only where x is large: a mask elsewhere sees nothing.
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[..., :5] = True
    wrong = truth.displacement.clone()
    wrong[1, ..., 5:] += 4
    assert displacement_errors(DisplacementField(GRID, wrong), truth, GRID, mask)["displacement_error_max"] < 1e-5
    assert displacement_errors(DisplacementField(GRID, wrong), truth, GRID, ~mask)[
        "displacement_error_median"
    ] == pytest.approx(4, abs=1e-5)


def test_overlap_mask_of_a_shift() -> None:
    grid = Grid.pixels((4, 10))
    mask = overlap_mask(Affine.translation([3, 0]), grid, grid)
    assert mask[:, :7].all()
    assert not mask[:, 7:].any()
    assert overlap_mask(None, grid, grid).all()


def test_masks_that_do_not_fit_are_refused() -> None:
    identity = Affine.identity(3)
    with pytest.raises(InputError, match="mask is empty"):
        deformation_summary(identity, GRID, torch.zeros(GRID.shape, dtype=torch.bool))
    with pytest.raises(GeometryError, match="mask is bool of shape"):
        displacement_errors(identity, identity, GRID, torch.ones(3, 3, 3, dtype=torch.bool))
