from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from roireg.core import warp as warp_module
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, DisplacementField
from roireg.core.warp import halved, identity_coords, resample, sample, slab_points, voxel_coords, warp
from support import axis_orders, grids, make_grid, rotation


def noise_image(grid: Grid, seed: int = 0, channels: int = 1) -> Image:
    data = np.random.default_rng(seed).normal(size=(channels, *grid.shape))
    return Image(torch.as_tensor(data, dtype=torch.float32), grid)


def naive_warp(image: Image, transform, grid: Grid) -> np.ndarray:
    """Linear interpolation with the border repeated, by scipy, point by point in world space."""
    points = grid.points() if transform is None else transform.map_points(grid.points())
    index = image.grid.index_from_world(points).T
    return np.stack(
        [map_coordinates(c.double().numpy(), index, order=1, mode="nearest").reshape(grid.shape) for c in image.data]
    )


@given(grids(), st.integers(0, 999), st.booleans())
def test_warp_equals_the_naive_reference(grid, seed, shear):
    rng = np.random.default_rng(seed)
    moving_grid = make_grid(
        rng.integers(1, 8, size=grid.ndim), rng.uniform(0.3, 5, grid.ndim), rotation(grid.ndim, seed)
    )
    image = noise_image(moving_grid, seed, channels=2)
    matrix = np.eye(grid.ndim + 1)
    matrix[:-1, :-1] += rng.normal(scale=0.2, size=(grid.ndim, grid.ndim)) * shear
    matrix[:-1, -1] = moving_grid.center - matrix[:-1, :-1] @ grid.center
    transform = Affine(matrix)
    found = warp(image, transform, grid)
    assert found.grid == grid and found.channels == 2
    np.testing.assert_allclose(found.data, naive_warp(image, transform, grid), atol=2e-4)


@pytest.mark.parametrize("shape", [(1, 7, 11), (7, 1, 13), (13, 11, 1), (1, 1, 5), (3, 64, 64), (2, 3), (1, 9)])
def test_identity_gives_the_image_back(shape):
    grid = make_grid(shape, [10.0, 1.0, 1.0][-len(shape) :], rotation(len(shape), 3))
    image = noise_image(grid)
    np.testing.assert_allclose(warp(image, None, grid).data, image.data, atol=1e-4)
    assert torch.equal(warp(image, Affine.identity(len(shape)), grid, mode="nearest").data, image.data)


def test_a_large_thin_stack():
    grid = make_grid((3, 512, 512), (5, 0.5, 0.5), origin=(-128, -128, 40))
    image = noise_image(grid)
    shifted = warp(image, Affine.translation((1.5, -2.0, 5.0)), grid).data
    np.testing.assert_allclose(shifted[:, :-1, 4:, :-3], image.data[:, 1:, :-4, 3:], atol=2e-3)


@pytest.mark.parametrize("direction", [*axis_orders(3), rotation(3, 9)])
def test_a_world_translation_moves_content_by_that_much_for_every_axis_order(direction):
    grid = make_grid((9, 10, 11), (2.0, 1.0, 0.5), direction, origin=(3, 4, 5))
    steps = np.array([1, -2, 3])  # in storage order
    offset = grid.world_from_index(steps) - grid.origin
    image = noise_image(grid)
    found = warp(image, Affine.translation(offset), grid).data[0]
    np.testing.assert_allclose(found[:-1, 2:, :-3], image.data[0, 1:, :-2, 3:], atol=1e-4)


def test_a_bright_spot_follows_the_inverse_of_the_pull_back():
    grid = make_grid((21, 21), (0.5, 0.5))
    data = torch.zeros(1, 21, 21)
    data[0, 10, 10] = 1  # world (5, 5)
    found = warp(Image(data, grid), Affine.translation((2.0, 0.0)), grid, mode="nearest").data[0]
    assert torch.nonzero(found).tolist() == [[10, 6]]  # world (3, 5)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("rows", [1, 2, 5, 1000])
def test_slabs_do_not_show(monkeypatch, mode, rows):
    grid = make_grid((11, 6, 7), (3, 1, 1), rotation(3, 2))
    image = noise_image(grid, channels=3)
    field = DisplacementField(grid, 0.8 * noise_image(grid, 5, channels=3).data)
    whole, displacement = warp(image, field, grid, mode=mode).data, field.displacement_on(grid)
    monkeypatch.setattr(warp_module, "SLAB_VOXELS", rows * 6 * 7)
    assert len(list(slab_points(grid, torch.device("cpu")))) == -(-11 // rows)
    assert torch.equal(warp(image, field, grid, mode=mode).data, whole)
    assert torch.equal(field.displacement_on(grid), displacement)


def test_slab_points_are_the_points_of_the_grid(monkeypatch):
    grid = make_grid((5, 3, 2), (2, 1, 1), rotation(3, 4), (1, 2, 3))
    monkeypatch.setattr(warp_module, "SLAB_VOXELS", 12)
    parts = list(slab_points(grid, torch.device("cpu")))
    assert [p[0] for p in parts] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    np.testing.assert_allclose(torch.cat([p[1] for p in parts]), grid.points(), atol=1e-12)


def test_fill_outside_and_border_outside():
    grid = Grid.pixels((4, 4))
    image = Image(torch.full((1, 4, 4), 5.0), grid)
    away = Affine.translation((100.0, 0.0))
    assert warp(image, away, grid).data.unique().tolist() == [5]
    assert warp(image, away, grid, fill=-1000).data.unique().tolist() == [-1000]
    assert warp(image, away, grid, fill=0).data.unique().tolist() == [0]
    half = warp(image, Affine.translation((2.0, 0.0)), grid, fill=-7).data[0]
    np.testing.assert_allclose(half, [[5, 5, -7, -7]] * 4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_label_maps_get_no_new_labels_and_keep_their_type(dtype):
    grid = make_grid((6, 7, 8), (2, 1, 1))
    labels = torch.tensor([0, 3, 17, 200])[torch.as_tensor(np.random.default_rng(0).integers(0, 4, grid.shape))]
    image = Image(labels.to(dtype)[None], grid)
    turned = warp(image, Affine.translation((0.4, 1.3, -0.7)), grid, mode="nearest", fill=0)
    assert turned.data.dtype == dtype
    assert set(turned.data.unique().tolist()) <= {0, 3, 17, 200}


def test_integer_images_are_rounded_not_cut():
    grid = Grid.pixels((1, 4))
    image = Image(torch.tensor([[[0, 3, 6, 9]]], dtype=torch.int16), grid)
    assert warp(image, Affine.translation((0.6, 0.0)), grid).data[0, 0, :3].tolist() == [2, 5, 8]


@given(st.sampled_from((2, 3)), st.integers(0, 99))
def test_sample_rows_of_a_batch_are_independent(ndim, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, size=ndim))
    data = torch.as_tensor(rng.normal(size=(3, 2, *shape)), dtype=torch.float32)
    coords = torch.as_tensor(rng.uniform(-1, 7, size=(3, *[1] * (ndim - 1), 6, ndim)), dtype=torch.float32)
    both = sample(data, coords)
    for i in range(3):
        torch.testing.assert_close(both[i : i + 1], sample(data[i : i + 1], coords[i : i + 1]), rtol=0, atol=0)
    torch.testing.assert_close(
        sample(data, identity_coords(shape, torch.device("cpu")).expand(3, *shape, ndim)), data, rtol=0, atol=1e-5
    )


def test_sample_takes_coordinates_x_first():
    data = torch.arange(12.0).reshape(1, 1, 3, 4)
    found = sample(data, torch.tensor([[[[3.0, 1.0]]]]))
    assert found.item() == pytest.approx(7)


def test_voxel_coords_reverse_the_index():
    grid = make_grid((5, 6, 7), (3, 2, 1), rotation(3, 1), (4, 5, 6))
    points = torch.as_tensor(np.random.default_rng(0).normal(scale=10, size=(8, 3)))
    np.testing.assert_allclose(voxel_coords(grid, points), grid.index_from_world(points.numpy())[:, ::-1], atol=1e-9)


# -- resample ------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(grids(min_side=4), st.floats(0.4, 3))
def test_constants_stay_constant(grid, factor):
    image = Image(torch.full((1, *grid.shape), 3.5), grid)
    other = grid.with_spacing(grid.spacing * factor)
    np.testing.assert_allclose(resample(image, other).data, 3.5, atol=1e-4)


@pytest.mark.parametrize("factor", [0.5, 1, 2, 2.7, 4, 5])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_ramp_stays_where_it_is_in_the_world(factor, ndim):
    grid = make_grid((40, 44, 36)[:ndim], (2.0, 1.0, 1.5)[:ndim], rotation(ndim, 8))
    slope = np.arange(1.0, ndim + 1)
    image = Image(torch.as_tensor((grid.points() @ slope).reshape(1, *grid.shape), dtype=torch.float32), grid)
    other = grid.with_spacing(grid.spacing * factor)
    found = resample(image, other).data[0]
    expected = (other.points() @ slope).reshape(other.shape)
    # Borders are repeated, so only what lies 3 new voxels (or 3 old ones) inside is a ramp still.
    inner = tuple(slice(m, -m) for m in [max(3, int(3 / factor) + 1)] * ndim)
    np.testing.assert_allclose(found[inner], expected[inner], atol=2e-3)


def test_coarser_grids_are_low_passed_and_finer_ones_are_not():
    grid = Grid.pixels((64, 64))
    checker = Image((torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float()[None], grid)
    np.testing.assert_allclose(resample(checker, grid.with_shape((16, 16))).data, 0.5, atol=1e-3)
    fine = grid.with_shape((128, 128))
    assert torch.equal(resample(checker, fine).data, warp(checker, None, fine).data)
    labels = resample(checker, grid.with_shape((16, 16)), mode="nearest").data
    assert set(labels.unique().tolist()) <= {0.0, 1.0}


def test_large_pictures_of_bytes_are_warped_as_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Piece by piece and in bytes, against the whole at once in floats, rounded."""
    rng = np.random.default_rng(3)
    values = torch.from_numpy(rng.integers(0, 255, (3, 70, 90)).astype(np.uint8))
    image = Image(values, Grid.pixels((70, 90)), unit="px", dtype="uint8")
    turn = Affine(np.array([[0.9, -0.4, 20.0], [0.4, 0.9, -15.0], [0, 0, 1]]))
    target = Grid.from_itk((61, 83), (1.2, 0.9), (-4.0, 3.0), np.eye(2))
    expected = {
        mode: warp(replace(image, data=values.float()), turn, target, mode=mode, fill=[9, 250, 30]).data.round()
        for mode in ("linear", "nearest")
    }
    low = resample(replace(image, data=values.float()), image.grid.with_shape((23, 30))).data
    monkeypatch.setattr("roireg.core.warp.LARGE", 0)
    monkeypatch.setattr("roireg.core.warp.SLAB_VOXELS", 400)
    for mode, whole in expected.items():
        warped = warp(image, turn, target, mode=mode, fill=[9, 250, 30])
        assert warped.data.dtype == torch.uint8
        assert float((warped.data.float() - whole).abs().max()) <= 1  # a half may be rounded either way
        assert float((warped.data.float() != whole).float().mean()) < 0.002
    assert torch.allclose(resample(image, image.grid.with_shape((23, 30))).data, low, atol=1e-4)


def test_halved_pictures_keep_their_box(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(torch.arange(40 * 60, dtype=torch.float32).reshape(1, 40, 60), Grid.pixels((40, 60)), unit="px")
    assert halved(image) is image
    monkeypatch.setattr("roireg.core.warp.LARGE", 100)
    small = halved(image, most=200)
    assert small.grid.shape == (10, 15)
    assert np.allclose(small.grid.corners(), image.grid.corners())
    assert torch.allclose(small.data, image.data.reshape(1, 10, 4, 15, 4).mean((2, 4)))
