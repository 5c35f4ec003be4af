import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.errors import GeometryError
from roireg.core.grid import Grid
from support import axis_orders, grids, make_grid, rotation


@given(grids(), st.integers(0, 99))
def test_index_and_world_are_inverse(grid, seed):
    index = np.random.default_rng(seed).uniform(-5, 15, size=(7, grid.ndim))
    np.testing.assert_allclose(grid.index_from_world(grid.world_from_index(index)), index, atol=1e-8)


@given(grids())
def test_affine_is_direction_times_spacing_plus_origin(grid):
    np.testing.assert_allclose(grid.direction * grid.spacing, grid.affine[:-1, :-1], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(grid.direction, axis=0), 1)
    np.testing.assert_array_equal(grid.world_from_index(np.zeros(grid.ndim)), grid.origin)
    np.testing.assert_allclose(grid.extent, grid.spacing * grid.shape)
    assert grid.size == np.prod(grid.shape)


@given(grids())
def test_itk_round_trip(grid):
    again = Grid.from_itk(*grid.itk)
    assert again.shape == grid.shape
    np.testing.assert_allclose(again.affine, grid.affine, atol=1e-9)


@pytest.mark.parametrize("direction", [*axis_orders(3), rotation(3, 5)])
def test_physical_points_agree_with_itk(direction):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.Image([5, 7, 11], sitk.sitkUInt8)
    image.SetSpacing([0.7, 1.3, 4.0])
    image.SetOrigin([-12.5, 40.0, 7.25])
    image.SetDirection(direction.ravel().tolist())
    grid = Grid.from_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    assert grid.shape == (11, 7, 5)
    for z, y, x in ((0, 0, 0), (10, 0, 3), (4, 6, 1)):
        expected = image.TransformContinuousIndexToPhysicalPoint([x, y, z])
        np.testing.assert_allclose(grid.world_from_index([z, y, x]), expected, atol=1e-9)


def test_points_follow_storage_order():
    grid = make_grid((2, 3), spacing=(5, 2), origin=(100, 200))
    expected = [(100, 200), (102, 200), (104, 200), (100, 205), (102, 205), (104, 205)]
    np.testing.assert_allclose(grid.points(), expected)
    np.testing.assert_allclose(grid.center, (102, 202.5))


def test_pixels_is_the_pixel_index():
    grid = Grid.pixels((4, 6))
    np.testing.assert_array_equal(grid.world_from_index([1, 5]), [5, 1])
    np.testing.assert_array_equal(grid.spacing, [1, 1])


@given(grids())
def test_corners_enclose_all_voxels_half_a_voxel_out(grid):
    corners = grid.index_from_world(grid.corners())
    np.testing.assert_allclose(corners.min(0), -0.5, atol=1e-6)
    np.testing.assert_allclose(corners.max(0), np.array(grid.shape) - 0.5, atol=1e-6)
    assert grid.contains(grid.points()).all()
    assert grid.contains(grid.world_from_index(np.full(grid.ndim, -0.49)))
    assert not grid.contains(grid.world_from_index(np.full(grid.ndim, -0.51)))
    assert not grid.contains(grid.world_from_index(np.array(grid.shape) - 0.49))


@given(grids(), st.floats(0.3, 20))
def test_with_spacing_keeps_the_box(grid, spacing):
    other = grid.with_spacing(spacing)
    np.testing.assert_allclose(other.corners(), grid.corners(), atol=1e-6)
    np.testing.assert_allclose(other.extent, grid.extent, rtol=1e-9)
    # Rounded to whole voxels: within half a voxel over the length of the axis, except for one-voxel axes.
    several = np.array(other.shape) > 1
    assert (np.abs(other.extent / spacing - other.shape)[several] <= 0.5 + 1e-6).all()


@given(grids(), st.integers(0, 3), st.integers(0, 4))
def test_padded_keeps_voxels_in_place(grid, before, after):
    other = grid.padded([before] * grid.ndim, [after] * grid.ndim)
    assert other.shape == tuple(n + before + after for n in grid.shape)
    index = np.arange(grid.ndim, dtype=float)
    np.testing.assert_allclose(other.world_from_index(index + before), grid.world_from_index(index), atol=1e-9)
    back = other.padded([-before] * grid.ndim, [-after] * grid.ndim)
    assert back.is_close(grid)


def test_cropping_everything_away_is_an_error():
    with pytest.raises(GeometryError, match="at least one voxel"):
        Grid.pixels((4, 4)).padded((-2, -2), (-2, 0))


def test_overlap():
    a = Grid.pixels((10, 10))
    assert a.overlap(a) == pytest.approx(1)
    assert a.overlap(make_grid((10, 10), origin=(5, 0))) == pytest.approx(0.5)
    assert a.overlap(make_grid((10, 10), origin=(50, 0))) == 0
    assert a.overlap(make_grid((2, 2), origin=(3, 3))) == pytest.approx(1)  # inside: the smaller box counts


@given(grids())
def test_equality_hash_and_closeness(grid):
    same = Grid(grid.shape, grid.affine.copy())
    assert same == grid and hash(same) == hash(grid) and same.is_close(grid)
    moved = grid.affine.copy()
    moved[0, -1] += 0.01 * grid.spacing.min()
    assert Grid(grid.shape, moved) != grid
    assert not Grid(grid.shape, moved).is_close(grid)
    assert Grid(grid.shape, moved).is_close(grid, tolerance=0.02)
    assert not grid.padded([1] * grid.ndim, [0] * grid.ndim).is_close(grid)
    assert grid != "grid"


def test_affine_cannot_be_changed_from_outside():
    affine = np.eye(3)
    grid = Grid((2, 2), affine)
    affine[0, 0] = 9
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 9


def test_very_small_and_anisotropic_spacings_are_accepted():
    grid = make_grid((3, 4, 5), spacing=(1e-6, 1e-7, 1e-6))  # electron microscopy, in mm
    np.testing.assert_allclose(grid.spacing, (1e-6, 1e-7, 1e-6))


def test_repr_names_x_first():
    assert repr(make_grid((3, 512, 256), spacing=(5, 0.5, 0.25))) == (
        "Grid(256 x 512 x 3 voxels of 0.25 x 0.5 x 5 mm, x first)"
    )


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((4,), np.eye(2), "2 or 3 spatial axes"),
        ((4, 4, 4, 4), np.eye(5), "2 or 3 spatial axes"),
        ((4, 0), np.eye(3), "at least one voxel"),
        ((4, 4), np.eye(4), "3x3 affine"),
        ((4, 4), np.diag([1, np.nan, 1]), "not finite"),
        ((4, 4), np.diag([1, 0, 1]), "singular"),
        ((4, 4), np.array([[1, 2, 0], [1, 2, 0], [0, 0, 1]]), "singular"),
    ],
)
def test_bad_grids_are_refused(shape, affine, message):
    with pytest.raises(GeometryError, match=message):
        Grid(shape, affine)
