from functools import cache

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.warp import warp
from roireg.synth import LABEL_NAMES, SyntheticPair, as_raster, draw_anatomy, make_pair, trunk_grid
from roireg.synth.deform import draw_bumps
from support import dice, make_grid, rotation


@cache
def pair_2d(modality: str = "same", section: str = "chest") -> SyntheticPair:
    return make_pair(2, seed=1, shape=(120, 160), modality=modality, section=section)


@cache
def pair_3d() -> SyntheticPair:
    return make_pair(3, seed=5, shape=(24, 48, 64), oblique_deg=15)


def mean_dice(a: torch.Tensor, b: torch.Tensor) -> float:
    """Over all labels of the first map."""
    values = [v for v in torch.unique(a).tolist() if v]
    return float(np.mean([dice(a == v, b == v) for v in values]))


@pytest.mark.parametrize("make", [pair_2d, pair_3d])
def test_everything_fits_together(make):
    pair = make()
    for image, labels in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
        assert image.grid == labels.grid and image.data.dtype == torch.float32 and labels.data.dtype == torch.uint8
        assert (
            bool(torch.isfinite(image.data).all()) and 0 <= float(image.data.min()) <= float(image.data.max()) <= 255
        )
    shown = set(pair.fixed_labels.data.unique().tolist()) | set(pair.moving_labels.data.unique().tolist())
    assert set(pair.label_names) == shown - {0}
    assert pair.fixed_points.shape == pair.moving_points.shape and len(pair.fixed_points) > 20
    np.testing.assert_allclose(pair.transform.map_points(pair.fixed_points), pair.moving_points, atol=1e-12)
    assert pair.fixed.grid.contains(pair.fixed_points).all() and pair.moving.grid.contains(pair.moving_points).all()


@pytest.mark.parametrize("make", [pair_2d, pair_3d])
def test_the_inverse_is_known_to_a_thousandth_of_a_millimetre(make):
    pair = make()
    points = pair.fixed.grid.points()[::7]
    there = pair.transform.map_points(points)
    np.testing.assert_allclose(pair.transform.inverse().map_points(there), points, atol=1e-4)


@pytest.mark.parametrize("section", ["chest", "abdomen"])
def test_the_true_transform_brings_the_labels_together(section):
    pair = pair_2d(section=section)
    before = mean_dice(pair.fixed_labels.data, warp(pair.moving_labels, None, pair.fixed.grid, mode="nearest").data)
    warped = warp(pair.moving_labels, pair.transform, pair.fixed.grid, mode="nearest")
    assert mean_dice(pair.fixed_labels.data, warped.data) > 0.95 > before + 0.1


def test_the_moving_image_is_the_anatomy_at_the_inverse_and_not_an_interpolation():
    pair = make_pair(2, seed=2, shape=(90, 120), noise=0, bias=0)
    points = pair.moving.grid.points()
    at = torch.as_tensor(np.column_stack([pair.transform.inverse().map_points(points), np.full(len(points), 36.0)]))
    values, labels = draw_anatomy(2).paint(at, softness_mm=0.6 * float(pair.moving.grid.spacing.min()))
    np.testing.assert_allclose(pair.moving.data.reshape(-1), values, atol=1e-4)
    assert torch.equal(pair.moving_labels.data.reshape(-1), labels)


def test_a_slice_of_the_volume_is_the_2d_phantom():
    flat = make_pair(2, seed=3, shape=(48, 64), noise=0, bias=0).fixed
    grid = trunk_grid(2, shape=(48, 64))
    affine = np.diag([0.0, 0, 0, 1])
    affine[0:2, 1:3] = grid.affine[:2, :2]
    affine[0:2, 3] = grid.origin
    affine[:3, 0], affine[2, 3] = (0, 0, 1), 36.0
    at = torch.as_tensor(Grid((1, 48, 64), affine).points())
    values, _ = draw_anatomy(3).paint(at, softness_mm=0.6 * float(grid.spacing.min()))
    np.testing.assert_allclose(flat.data.reshape(-1), values, atol=1e-4)


def test_equal_seeds_give_equal_pairs_and_others_do_not():
    a, b, c = (make_pair(2, seed=s, shape=(40, 50)) for s in (4, 4, 5))
    assert torch.equal(a.fixed.data, b.fixed.data) and torch.equal(a.moving.data, b.moving.data)
    np.testing.assert_array_equal(a.moving_points, b.moving_points)
    assert not torch.equal(a.fixed.data, c.fixed.data)
    # Options of one image leave the other draws alone.
    quiet = make_pair(2, seed=4, shape=(40, 50), noise=0, modality="other")
    assert torch.equal(quiet.moving_labels.data, a.moving_labels.data)
    np.testing.assert_array_equal(quiet.moving_points, a.moving_points)


def test_no_deformation_no_noise_gives_equal_images():
    still = {"max_displacement_mm": 0, "rotation_deg": 0, "translation_mm": 0, "scale": 0}
    pair = make_pair(2, shape=(40, 50), noise=0, bias=0, **still)
    assert torch.equal(pair.fixed.data, pair.moving.data)
    noisy = make_pair(2, shape=(40, 50), **still)
    assert not torch.equal(noisy.fixed.data, noisy.moving.data)
    assert torch.equal(noisy.fixed_labels.data, noisy.moving_labels.data)


def test_the_other_modality_has_the_same_shapes_and_other_contrast():
    same, other = pair_2d(), pair_2d("other")
    assert torch.equal(same.moving_labels.data, other.moving_labels.data)
    # Fat turns from dark to bright, bone from bright to dark: no linear map makes one from the other.
    body = same.moving.data > 30
    assert float((same.moving.data - other.moving.data)[body].abs().mean()) > 20
    correlation = np.corrcoef(same.moving.data[body], other.moving.data[body])[0, 1]
    assert correlation < 0.6


def test_bias_is_smooth_multiplicative_and_of_the_size_asked_for():
    still = {"max_displacement_mm": 5, "noise": 0, "shape": (60, 80)}
    plain, biased = make_pair(2, bias=0, **still).fixed.data, make_pair(2, bias=0.2, **still).fixed.data
    inside = (plain > 5) & (biased < 255)
    ratio = (biased / plain)[inside]
    assert 0.6 < float(ratio.min()) < 1 - 0.02 or 1 + 0.02 < float(ratio.max()) < 1.6
    field = torch.where(inside, biased / plain, torch.nan)[0]
    assert float((field[:, 1:] - field[:, :-1]).abs().nan_to_num().max()) < 0.03


def test_noise_has_the_deviation_asked_for():
    clean, noisy = (make_pair(2, shape=(60, 80), noise=n, bias=0).fixed.data for n in (0.0, 5.0))
    inside = (clean > 60) & (clean < 200)
    assert float((noisy - clean)[inside].std()) == pytest.approx(5, rel=0.1)


def test_all_organs_are_in_the_volume():
    assert set(pair_3d().label_names.values()) == set(LABEL_NAMES.values())


def test_grids_as_asked():
    grid = trunk_grid(3, spacing=(8, 3, 3), oblique_deg=20)
    assert grid.shape == (32, 96, 128)
    np.testing.assert_allclose(grid.spacing, (8, 3, 3))
    np.testing.assert_allclose(grid.center, 0, atol=1e-9)
    np.testing.assert_allclose(grid.direction.T @ grid.direction, np.eye(3), atol=1e-12)
    cosine = (np.trace(grid.direction[:, ::-1]) - 1) / 2
    assert np.rad2deg(np.arccos(cosine)) == pytest.approx(20)
    small = trunk_grid(2, shape=(10, 20), spacing=(2, 1))
    np.testing.assert_allclose(small.extent, (20, 20))
    np.testing.assert_allclose(trunk_grid(2, shape=(10, 20)).extent, (288, 384))


def test_another_moving_grid():
    moving = make_grid((1, 30, 40), (5, 6, 6), rotation(3, 1), origin=(-100, -80, 0))
    pair = make_pair(3, shape=(8, 30, 40), moving_grid=moving)
    assert pair.moving.grid == moving and pair.fixed.grid != moving


def test_raster_pairs_live_in_pixels():
    pair = make_pair(2, seed=6, shape=(60, 90), spacing=(4.5, 4.0), oblique_deg=10)
    raster = as_raster(pair)
    assert raster.fixed.grid == Grid.pixels((60, 90)) and raster.fixed.unit == "px"
    assert raster.fixed.data.dtype == torch.uint8 and raster.fixed.dtype == "uint8"
    index = pair.fixed.grid.index_from_world(pair.fixed_points)
    np.testing.assert_allclose(raster.fixed_points, index[:, ::-1], atol=1e-9)
    np.testing.assert_allclose(raster.transform.map_points(raster.fixed_points), raster.moving_points, atol=1e-9)
    warped = warp(raster.moving_labels, raster.transform, raster.fixed.grid, mode="nearest")
    expected = warp(pair.moving_labels, pair.transform, pair.fixed.grid, mode="nearest")
    assert float((warped.data == expected.data).float().mean()) > 0.999
    with pytest.raises(InputError, match="only 2D"):
        as_raster(pair_3d())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ndim": 4}, "2 or 3 dimensions"),
        ({"ndim": 2, "shape": (3, 4, 5)}, "shape of a 2D phantom has 2 values"),
        ({"ndim": 3, "spacing": (1, 1)}, "spacing of a 3D phantom has 3 values"),
        ({"ndim": 2, "modality": "pet"}, '"same" or "other"'),
        ({"ndim": 2, "section": "head"}, "chest, abdomen"),
        ({"ndim": 2, "moving_grid": trunk_grid(3)}, "moving grid of a 2D phantom"),
        ({"ndim": 2, "max_displacement_mm": 400}, "may fold"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_pair(**options)


def test_bumps_of_every_default_pair_leave_room_to_the_fold_limit():
    half = np.array((384.0, 288.0, 256.0)) / 2
    for ndim in (2, 3):
        for seed in range(10):
            rng = np.random.default_rng(seed)
            bumps = draw_bumps(rng, -half[:ndim], half[:ndim], max_displacement_mm=14)
            assert bumps.strain(bumps._probes()) < 0.6
