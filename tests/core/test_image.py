import numpy as np
import pytest
import torch

from roireg.core.errors import GeometryError
from roireg.core.grid import Grid
from roireg.core.image import Image, extremes

GRID = Grid.pixels((2, 3))


def test_shape_must_fit_the_grid():
    for shape in ((2, 3), (1, 3, 2), (1, 1, 2, 3)):
        with pytest.raises(GeometryError, match=r"scan.nii.*expected \(channel"):
            Image(torch.zeros(shape), GRID, "scan.nii")


def test_gray_is_luma_for_color_mean_otherwise_and_itself_for_one_channel():
    data = torch.arange(6.0).reshape(1, 2, 3)
    one = Image(data, GRID)
    assert one.gray() is one
    rgb = Image(torch.cat([data, 2 * data, 3 * data]), GRID).gray().data
    np.testing.assert_allclose(rgb, (0.299 + 2 * 0.587 + 3 * 0.114) * data, rtol=1e-6)
    rgba = Image(torch.cat([data, data, data, 99 + data]).to(torch.uint8), GRID).gray().data
    np.testing.assert_allclose(rgba, data, rtol=1e-6)
    five = Image(torch.cat([k * data for k in range(5)]), GRID).gray().data
    np.testing.assert_allclose(five, 2 * data)


def test_with_data_keeps_what_is_not_given():
    image = Image(torch.zeros(1, 2, 3), GRID, "a", "px", "uint8", {"k": "v"})
    other = image.with_data(torch.ones(2, 2, 3))
    assert (other.name, other.unit, other.dtype, other.metadata, other.grid) == ("a", "px", "uint8", {"k": "v"}, GRID)
    assert other.channels == 2 and other.ndim == 2 and image.channels == 1
    moved = image.with_data(torch.zeros(1, 4, 4), Grid.pixels((4, 4)))
    assert moved.grid.shape == (4, 4)
    assert image.to("cpu").data.device.type == "cpu"


def test_repr_names_the_file():
    assert repr(Image(torch.zeros(1, 2, 3), GRID, "a.png")).startswith("Image('a.png', 1 channel(s), Grid(3 x 2")


def test_stains_are_averaged_and_colours_weighted():
    data = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0))
    stains = Image(data, Grid.pixels((5, 6)), metadata={"channels": "DAPI, FITC, Cy3, Cy5"})
    torch.testing.assert_close(stains.gray().data, data.mean(0, keepdim=True))
    colours = Image(data, Grid.pixels((5, 6)))
    luma = 0.299 * data[0] + 0.587 * data[1] + 0.114 * data[2]
    torch.testing.assert_close(colours.gray().data, luma[None])


def test_the_extremes_of_colours_stored_pixel_by_pixel_are_found_without_a_copy():
    stored = torch.arange(24, dtype=torch.uint8).reshape(2, 4, 3)
    assert extremes(stored.movedim(-1, 0)) == (0.0, 23.0)
    assert extremes(torch.tensor([-1.5, 2.0])) == (-1.5, 2.0)
    assert np.isnan(extremes(torch.tensor([1.0, float("nan")]))).all()
