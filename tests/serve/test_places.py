"""Places that are worth a look."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, DisplacementField
from roireg.serve.board import Board
from roireg.serve.local import LocalDoubt
from roireg.serve.places import Place, places_of

HALF = Affine(np.diag([0.5, 0.5, 1.0]))


@pytest.fixture
def image() -> Image:
    rng = np.random.default_rng(5)
    texture = torch.from_numpy(rng.normal(size=(1, 1, 80, 100))).float()
    return Image(torch.nn.functional.avg_pool2d(texture, 5, stride=1, padding=2)[0], Grid.pixels((80, 100)))


def stretched(image: Image, transform) -> list[Place]:
    doubt = LocalDoubt.of(image, image, transform)
    found = places_of((image, image), transform, transform.inverse(), Board(), doubt)
    return [place for place in found if "stretches" in place.topics]


def test_a_map_that_is_smaller_everywhere_stretches_nowhere(image: Image) -> None:
    assert stretched(image, HALF) == []


def test_the_strongest_change_is_beside_that_of_the_whole(image: Image) -> None:
    x, y = np.meshgrid(np.arange(100.0), np.arange(80.0))
    bump = np.exp(-((x - 60) ** 2 + (y - 30) ** 2) / (2 * 6**2))
    field = DisplacementField(image.grid, torch.from_numpy(np.stack([-0.6 * (x - 60) * bump, 0 * x])).float())
    (place,) = stretched(image, Chain((field, HALF)))
    assert np.linalg.norm(place.point - [60, 30]) < 4
    assert "shrinks" in place.what and "0.25 in the middle of all" in place.what
