"""Planes for display: hanging, letters, sampling, cuts through regions."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch

from roireg.core.filters import gaussian_smooth
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.core.transforms import Affine, DisplacementField, jacobian_determinant
from roireg.core.warp import sample, warp
from roireg.evaluate import planes as module
from roireg.evaluate.planes import best_cut, body_letters, display_planes, jacobian_on_plane, sample_plane

SIZE, SPACING = (14, 10, 8), (1.0, 1.5, 2.5)
ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]


def stored(order: tuple[int, ...], signs: tuple[int, ...]) -> Grid:
    """Return one box of the world stored with permuted and flipped axes."""
    reference = Grid.from_itk(SIZE, SPACING, (-6, 3, 20), np.eye(3))
    columns, corner = [], np.zeros(3)
    for axis, sign in zip(order, signs, strict=True):
        columns.append(reference.affine[:3, axis] * sign)
        corner[axis] = 0 if sign > 0 else reference.shape[axis] - 1
    affine = np.eye(4)
    affine[:3, :3] = np.stack(columns, axis=1)
    affine[:3, 3] = reference.world_from_index(corner)
    return Grid(tuple(reference.shape[a] for a in order), affine)


def world_pattern(grid: Grid) -> Image:
    x, y, z = grid.points().T
    values = np.sin(x / 3) + 0.1 * y + 0.02 * z * x
    return Image(torch.from_numpy(values.reshape(1, *grid.shape)).float(), grid)


def test_every_storage_order_is_hung_the_same_way() -> None:
    point = (0.2, 9.1, 31.0)
    expected = None
    for order, signs in ORIENTATIONS:
        grid = stored(order, signs)
        image = world_pattern(grid)
        planes = display_planes(grid, point, smallest=40, largest=60)
        pictures = [sample_plane(image.data, grid, p.display) for p in planes]
        assert [p.name for p in planes] == ["Axial", "Coronal", "Sagittal"]
        assert [p.letters for p in planes] == [
            ("R", "L", "A", "P"),
            ("R", "L", "S", "I"),
            ("A", "P", "S", "I"),
        ]
        if expected is None:
            expected = pictures
        for picture, reference in zip(pictures, expected, strict=True):
            np.testing.assert_allclose(picture, reference, atol=1e-4)


def test_axial_plane_shows_left_on_the_right_and_front_on_top() -> None:
    grid = stored((2, 1, 0), (-1, -1, 1))
    axial = display_planes(grid, grid.center)[0]
    index = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0]])
    corner, right, down = axial.display.world_from_index(index)
    assert (right - corner)[0] > 0
    assert (down - corner)[1] > 0
    assert axial.size == pytest.approx((14.0, 15.0))


def test_display_pixels_are_square_and_cover_the_same_box() -> None:
    grid = Grid.from_itk((50, 40, 6), (1.5, 1.5, 10), (0, 0, 0), np.eye(3))
    for plane in display_planes(grid, grid.center, smallest=200, largest=300):
        np.testing.assert_allclose(plane.display.extent, plane.native.extent)
        rows, columns = plane.display.spacing[1:]
        assert rows / columns == pytest.approx(1, abs=0.02)
        assert 200 <= max(plane.display.shape) <= 300


def test_letters_of_oblique_directions_name_both() -> None:
    assert body_letters([1, 0, 0]) == "L"
    assert body_letters([0, 0, -1]) == "I"
    assert body_letters([-0.8, 0.6, 0]) == "RP"
    assert body_letters([0.1, -0.99, 0.1]) == "A"


def test_positions_name_coordinate_and_slice() -> None:
    grid = Grid.from_itk((5, 6, 7), (1, 1, 4), (0, 0, -8), np.eye(3))
    assert display_planes(grid, (2, 3, 4.5))[0].position == "z = 4.0 mm, slice 4/7"
    # A point outside is moved to the border.
    assert display_planes(grid, (2, 3, 400))[0].position == "z = 16.0 mm, slice 7/7"


@pytest.mark.parametrize(("size", "names"), [((9, 8, 1), ["Axial"]), ((1, 8, 9), ["Sagittal"]), ((1, 1, 9), 1)])
def test_lines_are_left_out_unless_nothing_else_remains(size: tuple[int, ...], names: list[str] | int) -> None:
    grid = Grid.from_itk(size, (1, 1, 1), (0, 0, 0), np.eye(3))
    planes = display_planes(grid, grid.center)
    assert len(planes) == names if isinstance(names, int) else [p.name for p in planes] == names


def test_two_dimensional_images_keep_x_right_and_y_down_without_letters() -> None:
    flipped = Grid.from_itk((6, 4), (1, 1), (5, 0), [[-1, 0], [0, 1]])
    (plane,) = display_planes(flipped, flipped.center)
    corner, right = plane.native.world_from_index([[0, 0], [0, 1]])
    np.testing.assert_allclose(right - corner, [1, 0])
    assert (plane.letters, plane.position) == (("", "", "", ""), "")


def test_plane_equals_the_slice_of_a_full_warp() -> None:
    grid = stored((1, 2, 0), (1, -1, 1))
    image = world_pattern(grid)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(3, *grid.shape)).astype(np.float32))
    transform = Affine.translation([1.3, -0.4, 2.0]) @ DisplacementField(grid, gaussian_smooth(noise, 1.0) * 4)
    for plane in display_planes(grid, grid.center):
        expected = warp(image, transform, plane.native, fill=-5).data.numpy().reshape(1, *plane.native.shape[1:])
        actual = sample_plane(image.data, grid, plane.native, transform, fill=-5)
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_fine_images_are_averaged_not_skipped() -> None:
    grid = Grid.pixels((400, 400))
    stripes = torch.zeros(1, 400, 400)
    stripes[..., ::2] = 1
    picture = sample_plane(stripes, grid, grid.with_shape((40, 40)))
    np.testing.assert_allclose(picture[:, 1:-1, 1:-1], 0.5, atol=0.02)


def test_only_the_reached_box_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def spy(data: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        sizes.append(data.numel())
        return sample(data, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "sample", spy)
    grid = Grid.from_itk((300, 300, 300), (1, 1, 1), (0, 0, 0), np.eye(3))
    masks = torch.zeros(1, dtype=torch.bool).expand(50, *grid.shape)
    for plane in display_planes(grid, grid.center):
        assert sample_plane(masks, grid, plane.display, channels=[3, 7]).max() == 0
    assert max(sizes) <= 2 * 300 * 300 * 8


def test_far_away_planes_show_the_fill_value() -> None:
    grid = Grid.pixels((5, 5))
    picture = sample_plane(torch.ones(2, 5, 5), grid, grid, Affine.translation([100, 0]), fill=7)
    assert picture.shape == (2, 5, 5)
    assert (picture == 7).all()
    assert sample_plane(torch.ones(2, 5, 5), grid, grid, channels=[]).shape == (0, 5, 5)


def test_jacobian_of_a_plane_is_that_of_the_volume() -> None:
    grid = Grid.from_itk((20, 18, 16), (1, 1, 1), (0, 0, 0), np.eye(3))
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(3, *grid.shape)).astype(np.float32))
    transform = DisplacementField(grid, gaussian_smooth(noise, 2.0) * 25)
    whole = jacobian_determinant(transform, grid).numpy()
    axial = display_planes(grid, (10, 9, 7), smallest=20, largest=20)[0]
    determinant, folded = jacobian_on_plane(transform, axial)
    np.testing.assert_allclose(determinant, whole[7], atol=1e-4)
    np.testing.assert_array_equal(folded, whole[7] <= 0)
    assert folded.any()


def test_best_cut_prefers_confident_regions_and_their_middle() -> None:
    grid = Grid.from_itk((20, 20, 20), (1, 1, 2), (0, 0, 0), np.eye(3))
    masks = torch.zeros((3, *grid.shape), dtype=torch.bool)
    masks[0, 2:5, 2:5, 2:5] = True
    masks[1, 12:17, 12:17, 12:17] = True
    masks[1, 14, 10:19, 10:19] = True
    masks[2, 0, 0, 0] = True
    rois = ROISet(masks, grid)
    np.testing.assert_allclose(best_cut(rois, [0, 1, 2], [0.3, 0.9, 0.1])[2], 14 * 2)
    assert 2 <= best_cut(rois, [0, 1], [0.9, 0.3])[0] <= 4


def test_parallel_planes_and_joined_voxels() -> None:
    grid = Grid.from_itk((40, 30, 20), (1, 1, 4), (0, 0, -8), np.eye(3))
    image = world_pattern(grid)
    axial, coronal, _ = display_planes(grid, (2, 3, 8))
    moved = axial.at(axial.index + 3)
    assert (axial.position, moved.position) == ("z = 8.0 mm, slice 5/20", "z = 20.0 mm, slice 8/20")
    np.testing.assert_allclose(sample_plane(image.data, grid, moved.native)[0], image.data[0, 7], atol=1e-5)
    assert moved.display.shape == axial.display.shape
    assert coronal.sampled(400).shape == coronal.native.shape
    # 80 mm by 40 mm: a pixel of 4 mm joins voxels across, not down.
    assert coronal.sampled(20).shape == (1, 20, 10)
    np.testing.assert_allclose(coronal.sampled(20).extent[1:], coronal.native.extent[1:])
