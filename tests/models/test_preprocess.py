"""Windows, sizes, padding and half pixels: what a network sees, and where its masks lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.errors import InputError
from roireg.models.preprocess import CT_WINDOWS, Preprocessing, VolumeInput, to_raster

LAYOUTS = {
    "pad": Preprocessing(128),
    "stretch": Preprocessing(128, layout="stretch"),
    "nearest": Preprocessing(128, layout="stretch", resampling="nearest"),
    "patches": Preprocessing(98, layout="patches", patch=14),
}
SHAPES = [(37, 61), (61, 37), (128, 128), (301, 200), (5, 3), (1, 17), (255, 1)]

sides = st.integers(1, 400)
layouts = st.sampled_from(sorted(LAYOUTS))


# -- intensities ----------------------------------------------------------------------------------


def test_8_bit_values_are_kept():
    gray = torch.tensor([[[0.0, 7.0], [100.0, 255.0]]])
    assert torch.equal(to_raster(gray), gray.expand(3, 2, 2))
    colour = torch.randint(0, 256, (3, 4, 5)).float()
    assert torch.equal(to_raster(colour), colour)
    assert torch.equal(to_raster(torch.cat([colour, torch.full((1, 4, 5), 9.0)])), colour)


def test_16_bit_values_are_stretched_between_percentiles():
    values = torch.arange(10001.0).reshape(1, 73, 137)
    raster = to_raster(values, percentiles=(10, 90))
    torch.testing.assert_close(raster, ((values - 1000) / 8000 * 255).clamp(0, 255).expand(3, -1, -1))


def test_the_default_percentiles_ignore_a_few_hot_pixels():
    values = torch.rand(1, 100, 100) * 300
    values[0, 0, :10] = 60000
    assert to_raster(values)[:, 50:].mean() == pytest.approx(127, abs=6)


def test_colours_share_one_window():
    values = torch.stack([torch.linspace(0, 1000, 20), torch.linspace(0, 2000, 20), torch.zeros(20)])[:, None]
    raster = to_raster(values, percentiles=(0, 100))
    torch.testing.assert_close(raster, values / 2000 * 255)


def test_two_or_many_channels_are_averaged():
    values = torch.stack([torch.full((2, 2), 10.0), torch.full((2, 2), 30.0)])
    assert torch.equal(to_raster(values), torch.full((3, 2, 2), 20.0))


@pytest.mark.parametrize("name", CT_WINDOWS)
def test_ct_windows(name):
    level, width = CT_WINDOWS[name]
    values = torch.tensor([[[level - width, level - width / 2, level, level + width / 2, 3000.0]]])
    expected = torch.tensor([0, 0, 127.5, 255, 255])
    torch.testing.assert_close(to_raster(values, window=name)[1, 0], expected)
    assert torch.equal(to_raster(values, window=name), to_raster(values, window=(level, width)))


def test_volumes_too():
    assert to_raster(torch.rand(1, 4, 5, 6)).shape == (3, 4, 5, 6)


def test_values_that_are_not_finite_count_for_nothing():
    values = torch.linspace(0, 1000, 50).reshape(1, 5, 10)
    broken = values.clone()
    broken[0, 0, 1], broken[0, 0, 2], broken[0, 0, 3] = torch.nan, torch.inf, -torch.inf
    raster = to_raster(broken, percentiles=(0, 100))
    assert raster[0, 0, 1:4].tolist() == [0, 255, 0]
    torch.testing.assert_close(raster[:, 1:], to_raster(values, percentiles=(0, 100))[:, 1:])


def test_an_image_of_one_value_is_black():
    assert not to_raster(torch.full((1, 3, 3), 812.5)).any()


def test_a_nearly_constant_image_keeps_what_it_shows():
    values = torch.zeros(1, 100, 100)
    values[0, 5, 5] = 0.25
    assert to_raster(values)[0, 5, 5] == 255


@pytest.mark.parametrize(
    ("data", "window", "words"),
    [
        (torch.full((1, 2, 2), torch.nan), None, "no finite value"),
        (torch.rand(1, 2, 2), "lungs", "'lungs' is unknown; use one of abdomen"),
        (torch.rand(1, 2, 2), (40.0, 0.0), "width must be a positive"),
        (torch.rand(1, 2, 2), (torch.nan, 5.0), "width must be a positive"),
    ],
)
def test_what_cannot_be_shown(data, window, words):
    with pytest.raises(InputError, match=words):
        to_raster(data, window=window)


# -- as the reference processors ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(37, 61), (211, 90), (128, 100), (400, 300)])
def test_sam_sees_what_the_reference_processor_shows(shape):
    from transformers import SamImageProcessorPil

    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    reference = SamImageProcessorPil(size={"longest_edge": 128}, pad_size={"height": 128, "width": 128})
    shown = reference(picture, return_tensors="pt")
    pixels, frame = LAYOUTS["pad"](torch.from_numpy(picture).permute(2, 0, 1))
    assert frame.resized == tuple(shown["reshaped_input_sizes"][0].tolist())
    # The reference rounds to whole grey levels after each of two passes.
    assert (pixels - shown["pixel_values"]).abs().max() < 1.1 / 57
    assert (pixels - shown["pixel_values"]).abs().mean() < 0.4 / 57


def test_stretching_is_what_pil_does():
    import PIL.Image

    # Without the extremes, at which PIL clips between its two passes.
    picture = np.random.default_rng(0).integers(70, 186, (90, 70, 3), dtype=np.uint8)
    for resampling in ("bilinear", "bicubic"):
        method = PIL.Image.Resampling[resampling.upper()]
        how = Preprocessing(64, layout="stretch", mean=(0, 0, 0), std=(1, 1, 1), resampling=resampling)
        pixels, _ = how(torch.from_numpy(picture).permute(2, 0, 1))
        resized = np.asarray(PIL.Image.fromarray(picture).resize((64, 64), method)).transpose(2, 0, 1)
        assert np.abs(pixels[0].numpy() - resized).max() < 1.6


def test_medsam_scales_every_image_to_its_own_extremes():
    how = Preprocessing(32, layout="stretch", mean=None, resampling="bicubic")
    pixels, _ = how(torch.rand(3, 40, 50) * 90 + 60)
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert how(torch.full((1, 5, 5), 3.3))[0].max() < 0.01


@pytest.mark.parametrize("shape", [(90, 70), (20, 33)])
def test_nearest_takes_the_pixel_below_every_centre(shape):
    how = Preprocessing(32, layout="stretch", mean=(0, 0, 0), std=(1, 1, 1), resampling="nearest")
    picture = torch.rand(1, *shape) * 255
    pixels, frame = how(picture)
    rows, columns = (((torch.arange(32) + 0.5) * n / 32).floor().long() for n in shape)
    assert torch.equal(pixels[0, 0], picture[0][rows][:, columns])
    # A point of the raster lies where its pixel went, to half a pixel of the raster.
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2).float()
    there = frame.to_input(places).flip(-1)
    expected = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"), -1).reshape(-1, 2)
    assert ((there - expected).abs() <= torch.from_numpy(0.5 * frame.scale) + 1e-5).all()


def test_every_preprocessing_has_words():
    assert LAYOUTS["pad"].words == "longest side 128 px, padded to a square (bilinear), ImageNet mean and deviation"
    assert "multiples of 14 px" in LAYOUTS["patches"].words
    plain = Preprocessing(64, layout="stretch", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert plain.words == "stretched to 64 x 64 px (bilinear), mean (0.0, 0.0, 0.0), deviation (1.0, 1.0, 1.0)"
    assert (
        VolumeInput(1.5, 128, (-50.0, 350.0)).words == "1.5 mm voxels, cubes of 128 voxels, CT window -50 to 350 HU"
    )
    assert VolumeInput(None, None).words == "the image's own voxels, all at once"


def test_padding_is_zero_after_normalisation_and_lies_below_and_right():
    pixels, frame = LAYOUTS["pad"](torch.full((1, 30, 60), 255.0))
    assert frame.resized == (64, 128)
    assert not pixels[0, :, 64:].any()
    expected = torch.tensor([(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375])
    torch.testing.assert_close(pixels[0, :, :64], expected[:, None, None].expand(3, 64, 128))


def test_dino_sees_multiples_of_the_patch():
    pixels, frame = LAYOUTS["patches"](torch.rand(1, 50, 111))
    assert pixels.shape == (1, 3, 42, 98)
    assert frame.cells(14)[2] == (3, 7)


@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 5), (3, 0, 4), (1, 3, 4, 5)])
def test_what_is_no_raster(shape):
    with pytest.raises(InputError, match="cannot be encoded"):
        LAYOUTS["pad"](torch.zeros(shape))


# -- places ---------------------------------------------------------------------------------------


@given(layouts, sides, sides)
def test_corners_map_to_corners(layout, height, width):
    frame = LAYOUTS[layout].frame((height, width))
    corners = torch.tensor([[-0.5, -0.5], [height - 0.5, width - 0.5]])
    rows, columns = frame.resized
    expected = torch.tensor([[-0.5, -0.5], [columns - 0.5, rows - 0.5]])
    torch.testing.assert_close(frame.to_input(corners), expected, atol=1e-3, rtol=0)


@given(layouts, sides, sides)
def test_cells_and_input_pixels_agree(layout, height, width):
    frame = LAYOUTS[layout].frame((height, width))
    scale, offset, covered = frame.cells(14)
    index = torch.rand(5, 2) * torch.tensor([height, width])
    cells = index.numpy() * scale + offset
    pixels = frame.to_input(index).flip(-1).numpy()
    np.testing.assert_allclose((cells + 0.5) * 14 - 0.5, pixels, atol=1e-3)
    assert all((c - 1) * 14 < n <= c * 14 for c, n in zip(covered, frame.resized, strict=True))


@given(layouts, st.integers(1, 300), st.integers(1, 300))
def test_a_ramp_returns_without_any_shift(layout, height, width):
    """Cells that hold their own raster coordinate come back as the index of every pixel."""
    frame = LAYOUTS[layout].frame((height, width))
    shape = (frame.size[0] // 2, frame.size[1] // 2)
    place = [((torch.arange(n) + 0.5) * 2) / s - 0.5 for n, s in zip(shape, frame.scale.tolist(), strict=True)]
    maps = torch.stack(torch.meshgrid(*place, indexing="ij"))[None]
    back = frame.upscale(maps)
    assert back.shape == (1, 2, height, width)
    index = torch.stack(torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij"))
    # Within half a cell of the border interpolation has nothing to lean on and repeats the last cell.
    for axis, n in enumerate((height, width)):
        margin = 1.0 / frame.scale[axis]
        inside = (index[axis] >= margin - 0.5) & (index[axis] <= n - 0.5 - margin)
        torch.testing.assert_close(back[0, axis][inside], index[axis][inside], atol=2e-3 * max(1, n / 100), rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(37, 61), (128, 93), (61, 201), (200, 200), (255, 100)])
def test_a_checker_returns_where_it_was(layout, shape):
    """What a network sees of a checkerboard, reduced to its mask resolution, gives the same board again."""
    field = 16
    rows, columns = (torch.arange(n) // field for n in shape)
    board = ((rows[:, None] + columns[None]) % 2).float() * 255
    how = LAYOUTS[layout]
    how = replace(how, size=4 * how.size, mean=(127.5,) * 3, std=(127.5,) * 3)
    pixels, frame = how(board[None])
    back = frame.upscale(torch.nn.functional.avg_pool2d(pixels[:, :1], 2))[0, 0] > 0
    shift = [_crossings(back, axis) - _crossings(board > 0, axis) for axis in (0, 1)]
    for s in shift:
        assert np.abs(s).max() < 0.5 and abs(s.mean()) < 0.05


def _crossings(board: torch.Tensor, axis: int) -> np.ndarray:
    """Positions of the borders along a line through the middle of the first fields."""
    line = (board if axis == 0 else board.T)[:, 8].int()
    return torch.nonzero(line.diff()).numpy().ravel() + 0.5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_shape_goes_in_and_comes_back(layout, shape):
    pixels, frame = LAYOUTS[layout](torch.rand(1, *shape) * 255)
    assert torch.isfinite(pixels).all() and pixels.shape[-2:] == frame.size
    back = frame.upscale(torch.zeros(2, 3, frame.size[0] // 2, frame.size[1] // 2))
    assert back.shape == (2, 3, *shape)
