"""The intensity descriptor: invariances, scale of the channels, position."""

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.filters import gaussian_smooth
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.features import IntensityFeatures, foreground_mask, normalise_intensity


def picture(shape=(40, 32), seed=0):
    noise = torch.rand((1, *shape), generator=torch.Generator().manual_seed(seed))
    return Image(gaussian_smooth(noise, 2.0), Grid.pixels(shape))


def test_linear_contrast_changes_nothing():
    image = picture()
    plain = IntensityFeatures()(image, image.grid).data
    scaled = IntensityFeatures()(image.with_data(7 * image.data - 3), image.grid).data
    torch.testing.assert_close(plain, scaled, atol=2e-3, rtol=0)


def test_absolute_features_survive_inversion_and_signed_ones_do_not():
    image = picture()
    inverted = image.with_data(-image.data)
    options = {"position": 0.0}
    absolute = IntensityFeatures(absolute=True, **options)
    signed = IntensityFeatures(**options)
    torch.testing.assert_close(
        absolute(image, image.grid).data, absolute(inverted, image.grid).data, atol=5e-3, rtol=0
    )
    assert float((signed(image, image.grid).data - signed(inverted, image.grid).data).abs().max()) > 1


@pytest.mark.parametrize("shape", [(30, 24), (12, 14, 16), (1, 20, 20), (3, 30, 31)])
def test_channels_have_comparable_scale(shape):
    features = IntensityFeatures()(picture(shape), Grid.pixels(shape)).data
    assert features.shape == (12 + len(shape), *shape)
    assert bool(torch.isfinite(features).all())
    assert float(features[:12].abs().max()) <= 3.0
    spread = features[:12].flatten(1).square().mean(1).sqrt()
    assert float(spread.min()) > 0.6 and float(spread.max()) <= 1.001


def test_a_constant_image_gives_zero_appearance():
    image = Image(torch.full((1, 8, 8), 5.0), Grid.pixels((8, 8)))
    assert float(IntensityFeatures(position=0)(image, image.grid).data.abs().max()) == 0


def test_world_not_voxels_defines_scale_and_position():
    """The same scene on a grid of other spacing and origin gives the same features."""
    image = picture((48, 48))
    affine = np.array([[0.0, 2.0, 100.0], [2.0, 0.0, -50.0], [0.0, 0.0, 1.0]])
    placed = Image(image.data, Grid((48, 48), affine))
    a = IntensityFeatures()(image, image.grid).data
    b = IntensityFeatures()(placed, placed.grid).data
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_position_is_relative_to_the_foreground():
    data = torch.zeros(1, 60, 60)
    data[:, 10:30, 15:35] = 1
    image = Image(data, Grid.pixels((60, 60)))
    moved = image.with_data(torch.roll(data, (12, 20), dims=(1, 2)))
    a, b = (IntensityFeatures(position=1.0)(i, i.grid).data[-2:] for i in (image, moved))
    torch.testing.assert_close(a[:, 10:30, 15:35], b[:, 22:42, 35:55], atol=1e-4, rtol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_foreground_is_what_the_border_is_not(sign):
    data = torch.zeros(1, 20, 20)
    data[:, 5:15, 6:12] = 1
    assert torch.equal(foreground_mask(sign * data), data[0] > 0)


def test_normalise_uses_the_whole_range():
    out = normalise_intensity(torch.linspace(-5, 5, 1001).reshape(1, 7, 143))
    assert float(out.min()) == 0 and float(out.max()) == 1
    sparse = torch.zeros(1, 100, 100)
    sparse[0, 0, 0] = 2
    assert float(normalise_intensity(sparse).max()) == 1


def test_bad_parameters():
    with pytest.raises(InputError, match="positive scales"):
        IntensityFeatures(scales=())
    with pytest.raises(InputError, match="position weight"):
        IntensityFeatures(position=-1)
