from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.models.preprocess import to_raster
from roireg.models.rasters import raster_of, slice_grid, slice_image, volume_window
from support import make_grid, rotation


def test_a_raster_lies_on_the_grid_of_its_image():
    image = Image(torch.rand(1, 30, 40), make_grid((30, 40), (0.3, 2.0), direction=rotation(2, 1)))
    raster, grid = raster_of(image)
    assert raster.shape == (3, 30, 40) and grid == image.grid
    assert float(raster.min()) == 0 and float(raster.max()) == 255


def test_a_large_image_is_shown_coarser_over_the_same_box(monkeypatch):
    monkeypatch.setattr("roireg.models.rasters.MAX_VOXELS", {2: 300, 3: 300})
    image = Image(torch.rand(1, 30, 40), make_grid((30, 40), (0.3, 2.0), direction=rotation(2, 1)))
    raster, grid = raster_of(image)
    assert grid.size <= 300 and tuple(raster.shape[1:]) == grid.shape
    np.testing.assert_allclose(grid.corners(), image.grid.corners(), atol=1e-9)


def test_an_image_without_a_finite_value_is_named():
    nothing = Image(torch.full((1, 4, 4, 4), float("nan")), Grid.pixels((4, 4, 4)), name="scan.nii")
    for look in (raster_of, volume_window):
        with pytest.raises(InputError, match=r"scan\.nii: .*no finite value"):
            look(nothing)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_keep_their_in_plane_spacing(axis):
    image = Image(torch.rand(2, 4, 5, 6), make_grid((4, 5, 6), (3.0, 1.0, 2.0), direction=rotation(3, 2)))
    part = slice_image(image, axis, 2)
    assert torch.equal(part.data, image.data.select(axis + 1, 2))
    np.testing.assert_allclose(part.grid.spacing, np.delete([3.0, 1.0, 2.0], axis))
    assert part.grid == slice_grid(image.grid, axis)


def test_the_window_of_a_volume():
    grid = Grid.pixels((4, 5, 6))
    assert volume_window(Image(torch.arange(120.0).reshape(1, 4, 5, 6), grid)) == "none"
    level, width = volume_window(Image(torch.linspace(-1000, 1000, 120).reshape(1, 4, 5, 6), grid))
    assert level == pytest.approx(0, abs=1e-3) and width == pytest.approx(1980, rel=1e-3)
    even = torch.full((1, 4, 5, 6), 7.5)
    assert not to_raster(even, window=volume_window(Image(even, grid))).any()
    assert volume_window(Image(torch.zeros(1, 4, 5, 6), grid), window="lung") == "lung"
    few = torch.zeros(1, 4, 10, 10)
    few[0, 0, 0, 0] = 7.5
    assert volume_window(Image(few, Grid.pixels((4, 10, 10)))) == (3.75, 7.5)
