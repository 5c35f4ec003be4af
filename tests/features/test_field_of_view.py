"""Frames, apertures and padding end the field of view inside their outline, air outside that of a body."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.image import Image
from roireg.core.warp import warp
from roireg.features.field_of_view import field_of_view
from support import centred, turned

GRID = centred((180, 200), (1.0, 1.0))
POINTS = GRID.points()


def seen(image: Image) -> np.ndarray:
    mask = field_of_view(image)
    assert mask.channels == 1 and set(np.unique(mask.data)) <= {0, 1}
    return warp(mask, None, image.grid, mode="nearest").data[0].numpy() > 0


def shown(inside: np.ndarray, grid=GRID) -> Image:
    """Texture well above black where inside, black elsewhere."""
    points = grid.points()
    waves = sum(
        np.sin(points @ w)
        for w in ([0.31, 0.12, 0.2], [-0.17, 0.29, 0.1], [0.05, -0.4, 0.3])
        for w in [w[: grid.ndim]]
    )
    texture = 150 + 20 * waves.reshape(1, *grid.shape)
    return Image(torch.as_tensor(texture * inside.reshape(1, *grid.shape)).float(), grid)


def square(half: float, degrees: float) -> np.ndarray:
    return (np.abs(POINTS @ turned(degrees)) < half).all(1)


GEOMETRIC = {
    "aperture": np.hypot(*POINTS.T) < 70,
    "aperture cut off": (np.hypot(*POINTS.T) < 90) & (np.abs(POINTS[:, 1]) < 65),
    "frame": (np.abs(POINTS[:, 0]) < 80) & (np.abs(POINTS[:, 1]) < 60),
    "turned padding": square(60, 25),
}


@pytest.mark.parametrize("name", GEOMETRIC)
def test_what_is_not_of_the_scene_ends_inside_its_outline(name):
    inside = GEOMETRIC[name].reshape(GRID.shape)
    mask = seen(shown(inside))
    assert not (mask & ~inside).any()
    assert mask.sum() > 0.7 * inside.sum()


def test_a_body_keeps_its_outline_and_loses_the_air():
    radius = 55 + 9 * np.sin(3 * np.arctan2(*POINTS.T)) + 5 * np.cos(2 * np.arctan2(*POINTS.T))
    body = (np.hypot(*POINTS.T) < radius).reshape(GRID.shape)
    mask = seen(shown(body))
    assert mask[body].all()
    assert 0 < (mask & ~body).sum() < 0.5 * body.sum()


def test_text_in_the_surround_is_not_shown():
    body = (np.hypot(POINTS[:, 0] / 1.3, POINTS[:, 1]) < 50 + 6 * np.sin(3 * np.arctan2(*POINTS.T))).reshape(
        GRID.shape
    )
    text = np.zeros(GRID.shape, dtype=bool)
    text[8:16, 10:60:6] = text[8:16, 11:60:6] = True
    image = shown(body)
    mask = seen(image.with_data(torch.where(torch.as_tensor(text)[None], 255.0, image.data)))
    assert not mask[text].any() and mask[body].all()


def test_white_ground_counts_like_black_and_no_surround_is_shown_everywhere():
    inside = GEOMETRIC["aperture"].reshape(GRID.shape)
    image = shown(inside)
    np.testing.assert_array_equal(seen(image), seen(image.with_data(255 - image.data)))
    assert seen(shown(np.ones(GRID.shape))).all()
    assert seen(Image(torch.zeros(1, *GRID.shape), GRID)).all()


def test_volumes():
    grid = centred((24, 40, 44), (3.0, 2.0, 2.0))
    points = grid.points()
    cylinder = (np.hypot(points[:, 0], points[:, 1]) < 34).reshape(grid.shape)
    mask = seen(shown(cylinder, grid))
    assert not (mask & ~cylinder).any() and mask.sum() > 0.7 * cylinder.sum()
    bumpy = np.linalg.norm(points / [1.0, 1.2, 0.8], axis=1) < 24 + 5 * np.sin(points[:, 0] / 6) * np.cos(
        points[:, 1] / 7
    )
    body = bumpy.reshape(grid.shape)
    mask = seen(shown(body, grid))
    assert mask[body].all() and mask.mean() < 0.7


def test_noisy_air_is_air():
    body = (np.hypot(*POINTS.T) < 55 + 9 * np.sin(3 * np.arctan2(*POINTS.T))).reshape(GRID.shape)
    image = shown(body)
    noise = np.random.default_rng(0).normal(scale=4, size=image.data.shape)
    mask = seen(image.with_data(image.data + torch.as_tensor(noise).float()))
    assert mask[body].all()
    assert mask.mean() < 1.5 * body.mean()


def test_of_a_picture_that_is_all_border_everything_is_shown():
    for shape in ((1, 1), (2, 1), (2, 2, 2)):
        values = torch.arange(float(np.prod(shape))).reshape(1, *shape)
        assert field_of_view(Image(values, centred(shape))).data.all()
