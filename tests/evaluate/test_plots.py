"""Pictures: colours that mean one thing, names that are no formulas, noise that JPEG can hold."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from roireg.evaluate.embed import data_uri
from roireg.evaluate.palette import FIXED, MOVING, distinct_colours
from roireg.evaluate.plots import fusion, rendered


def test_fusion_is_gray_where_both_agree_and_tinted_where_they_differ() -> None:
    black, white = np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 255, np.uint8)
    np.testing.assert_array_equal(fusion(white, white), white)
    np.testing.assert_allclose(fusion(white, black)[0, 0] / 255, to_rgb(FIXED), atol=0.01)
    np.testing.assert_allclose(fusion(black, white)[0, 0] / 255, to_rgb(MOVING), atol=0.01)
    assert np.add(to_rgb(FIXED), to_rgb(MOVING)) == pytest.approx(1, abs=0.01)


def test_colours_are_distinct() -> None:
    assert len(set(distinct_colours(20))) == 20
    assert distinct_colours(0) == []


def test_names_are_shown_letter_for_letter() -> None:
    pictures = []
    for name in (r"$\frac{$", r"$\frac$"):
        figure = Figure(figsize=(3, 2), dpi=50, layout="constrained")
        axes = figure.add_subplot()
        axes.set_yticks([0, 1], [name, "b"])
        axes.set_title(name)
        axes.legend([axes.plot([0, 1])[0]], [name])
        pictures.append(rendered(figure))
    assert pictures[0].shape == (100, 150, 3)
    assert (pictures[0] != pictures[1]).any()


def test_colourful_noise_is_embedded() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 700, 3), dtype=np.uint8)
    for picture, mode in ((noise, "RGB"), (np.repeat(noise[..., :1], 3, axis=2), "L")):
        body = data_uri(picture, quality=100).partition(",")[2]
        opened = PillowImage.open(BytesIO(base64.b64decode(body)))
        assert (opened.mode, opened.size) == (mode, (700, 300))
        assert np.abs(np.asarray(opened.convert("RGB"), float) - picture).mean() < 2
