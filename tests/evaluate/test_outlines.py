"""Lines as SVG paths: they lie where the pixels are, and few characters say it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from roireg.evaluate.outlines import arrow_path, dot_path, label_outlines, number_places, outlines, svg_path

ONE = np.array([1.0, 1.0])


def points_of(path: str) -> np.ndarray:
    """Return the absolute points of a path of one line."""
    numbers = np.array([int(n) for n in re.findall(r"-?\d+", path)]).reshape(-1, 2)
    return np.cumsum(numbers, axis=0)


def test_outline_of_a_disc_is_its_circle() -> None:
    rows, columns = np.mgrid[:80, :100]
    disc = np.hypot(rows - 40, columns - 60) < 20
    (line,) = outlines(disc)
    assert np.abs(np.hypot(line[:, 1] - 40, line[:, 0] - 60) - 20).max() < 1
    points = points_of(svg_path([line], 10 * ONE))
    # Pixel 60 has its centre at 60.5 pixels from the edge.
    assert np.abs(np.hypot(points[:, 1] - 405, points[:, 0] - 605) - 200).max() < 12


def test_regions_that_blur_would_wipe_out_keep_an_outline() -> None:
    dot = np.zeros((9, 9), bool)
    dot[4, 4] = True
    assert len(outlines(dot)) == 1
    assert outlines(np.zeros((9, 9), bool)) == []
    assert outlines(np.ones((1, 9), bool)) == []


def test_only_wanted_labels_are_outlined() -> None:
    labels = np.zeros((40, 60), np.float32)
    labels[5:15, 5:15], labels[20:30, 30:50] = 3, 70000
    assert label_outlines(labels, np.zeros(0)) == []
    (line,) = label_outlines(labels, np.array([70000.0, 5.0]))
    assert line[:, 0].min() == pytest.approx(29.5, abs=0.6)
    assert line[:, 1].max() == pytest.approx(29.5, abs=0.6)
    assert len(label_outlines(labels, np.array([3.0, 70000.0]))) == 2


def test_paths_are_thinned_and_tiny_lines_left_out() -> None:
    wave = np.stack([np.linspace(0, 99, 400), 20 * np.sin(np.linspace(0, 6, 400))], axis=1)
    fine, coarse = (svg_path([wave], ONE, apart=apart) for apart in (3.0, 12.0))
    assert 3 * len(coarse) < 1.2 * len(fine) < 1200
    assert svg_path([wave[:5]], ONE) == ""
    both = svg_path([wave, wave + 50], ONE)
    assert both.count("M") == 2
    assert both.startswith(svg_path([wave], ONE))


def test_arrows_and_dots() -> None:
    start, end = np.array([[10.0, 10.0]]), np.array([[30.0, 10.0]])
    assert dot_path(start, 2 * ONE) == "M21 21h0"
    assert arrow_path(start, end, 2 * ONE).startswith("M21 21L61 21 ")
    assert arrow_path(start, start, 2 * ONE) == "M21 21L21 21"


def test_numbers_lie_in_their_regions_and_apart() -> None:
    masks = np.zeros((4, 100, 100), np.float32)
    rows, columns = np.mgrid[:100, :100]
    ring = np.hypot(rows - 50, columns - 50)
    masks[0] = (ring > 20) & (ring < 30)
    masks[1] = ring < 10
    masks[2] = (ring < 12) & (rows > 46)
    places = number_places(masks)
    assert places[3] is None
    for mask, place in zip(masks, places, strict=False):
        if place is not None:
            assert mask[int(place[1] * 100), int(place[0] * 100)] == 1
    (a, b) = places[1:3]
    assert a is not None and b is not None
    assert np.hypot(a[0] - b[0], a[1] - b[1]) >= 0.05
