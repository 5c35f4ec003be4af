"""Pictures: colours that mean one thing, names that are no formulas, histograms that agree."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from roireg.evaluate.palette import FIXED, MOVING, distinct_colours
from roireg.evaluate.plots import draw_regions, fusion, jacobian_picture, rendered, resized, tone_curve


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


def test_tone_curve_undoes_a_change_of_contrast() -> None:
    fixed = np.random.default_rng(0).integers(0, 256, 40_000).astype(np.uint8)
    moving = np.round(255 * (fixed / 255) ** 2.0).astype(np.uint8)
    curve = tone_curve(moving, fixed)
    assert (np.diff(curve) >= 0).all()
    matched = np.interp(moving / 255, np.linspace(0, 1, len(curve)), curve)
    assert np.abs(matched - fixed / 255).mean() < 0.02
    np.testing.assert_allclose(tone_curve(fixed, fixed), np.linspace(0, 1, len(curve)), atol=0.01)


def test_regions_change_what_they_should() -> None:
    base = np.full((50, 80, 3), 90, np.uint8)
    mask = np.zeros((1, 50, 80), np.float32)
    assert (draw_regions(base, mask, ["#ff0000"], [1], longest=80) == 90).all()
    mask[:, 10:40, 20:60] = 1
    drawn = draw_regions(base, mask, ["#ff0000"], [1], longest=80).astype(int)
    assert drawn.shape == (50, 80, 3)
    assert drawn[25, 20, 0] > drawn[25, 20, 1] + 30
    assert (drawn[:6, :15] == 90).all()
    # The anatomy inside stays as it is.
    assert (drawn[14:18, 26:34] == 90).all()


def test_jacobian_is_blue_where_smaller_and_red_where_larger() -> None:
    determinant = np.where(np.arange(80) < 40, 0.5, 2.0) * np.ones((50, 1))
    colours = jacobian_picture(determinant, np.full((50, 80, 3), 90, np.uint8), limit=1.0).astype(int)
    assert colours[5, 5, 2] > colours[5, 5, 0] + 50
    assert colours[5, 75, 0] > colours[5, 75, 2] + 50


def test_resized_pictures_cover_the_same_box() -> None:
    ramp = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], 8, 0).repeat(3, 2)
    larger = resized(ramp, (24, 60)).astype(float)
    assert larger.shape == (24, 60, 3)
    np.testing.assert_allclose(larger[:, 6:-6].mean(), ramp[:, 2:-2].mean(), atol=1)
    assert resized(ramp, (8, 20)) is ramp
