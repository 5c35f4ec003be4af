"""What lies around an object, for the kinds of images there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.background import background
from roireg.core.grid import Grid
from roireg.core.image import Image

RNG = np.random.default_rng(0)


def _image(values: np.ndarray, unit: str = "mm") -> Image:
    data = torch.from_numpy(values.astype(np.float32))
    return Image(data, Grid.pixels(values.shape[1:]), unit=unit)


def _body(shape: tuple[int, ...], around: float, noise: float, inside: tuple[float, float]) -> np.ndarray:
    """A block of tissue that reaches the first and the last slice of a volume."""
    values = around + noise * RNG.standard_normal(shape)
    values[..., 6:-6, 6:-6] = RNG.uniform(*inside, values[..., 6:-6, 6:-6].shape)
    return values


def test_air_of_a_ct_is_its_lowest_value() -> None:
    values = np.round(_body((12, 30, 34), -1000, 8, (-100, 1500))).clip(-1024)
    values[0, 0, 0] = -1024
    assert background(_image(values[None])) == (-1024,)
    assert background(_image(np.where(values < -900, -1024, values)[None])) == (-1024,)


def test_ct_that_is_all_body() -> None:
    values = RNG.uniform(-1024, 1500, (1, 8, 20, 20)).round()
    values[0, 4, 10, 10] = -1024
    assert background(_image(values)) == (-1024,)


def test_bright_slide_is_white() -> None:
    slide = _body((3, 40, 50), 255, 0, (60, 220))
    assert background(_image(slide, "px")) == (255, 255, 255)
    tinted = np.stack([_body((40, 50), around, 1, (60, 200)) for around in (240, 232, 244)])
    assert background(_image(tinted, "px")) == pytest.approx((240, 232, 244), abs=1)


@pytest.mark.parametrize("unit", ["px", "mm"])
def test_signed_map_is_zero(unit: str) -> None:
    assert background(_image(_body((12, 30, 34), 0, 0.01, (-8, 8))[None], unit)) == pytest.approx((0,), abs=0.01)
    assert background(_image(RNG.normal(0, 3, (1, 20, 20)), unit)) == (0,)


def test_dark_images_and_photographs() -> None:
    assert background(_image(_body((1, 40, 40), 0, 0, (50, 200)), "px")) == (0,)
    assert background(_image(_body((1, 40, 40), 3, 0.2, (50, 900)))) == pytest.approx((3,), abs=1)
    assert background(_image(RNG.uniform(20, 250, (3, 40, 40)), "px")) == (0, 0, 0)
    assert background(_image(RNG.uniform(20, 250, (1, 40, 40)))) == (pytest.approx(20, abs=1),)


def test_pictures_of_bytes_and_single_voxels() -> None:
    values = torch.full((1, 5, 6), 200, dtype=torch.uint8)
    values[0, 2, 3] = 10
    assert background(Image(values, Grid.pixels((5, 6)), unit="px")) == (200,)
    assert background(_image(np.full((1, 1, 1), 7.0))) == (7,)
