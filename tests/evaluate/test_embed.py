"""Pictures as text in a page."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import PIL.Image

from roireg.evaluate.embed import data_uri


def opened(uri: str) -> np.ndarray:
    head, _, text = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(PIL.Image.open(BytesIO(base64.b64decode(text))))


def test_colourful_noise_of_any_size_is_a_picture():
    # Hardly smaller than its pixels: more than a buffer holds that expects pictures to shrink.
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    assert opened(data_uri(noise)).shape == noise.shape


def test_gray_pictures_have_one_channel_and_colours_do_not_bleed():
    gray = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    assert opened(data_uri(gray)).shape == (16, 25)
    lines = np.zeros((16, 16, 3), dtype=np.uint8)
    lines[:, 8] = (255, 0, 0)
    shown = opened(data_uri(lines)).astype(int)
    assert (shown[:, 8, 0] > 200).all() and (shown[:, 8, 1] < 60).all() and (shown[:, 5] < 60).all()
