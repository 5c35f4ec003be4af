"""Orientation channels: no polarity, and they turn with the world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.transforms import Affine
from roireg.features.orientation import BASIS, orientation_channels, steered
from support import centred, painted, rotation

FLAT = centred((48, 52), (2.0, 2.0))
CUBE = centred((30, 32, 34), (3.0, 3.0, 3.0))


def channels(image):
    return orientation_channels(image.data, torch.ones(1, *image.grid.shape))


@pytest.mark.parametrize("grid", [FLAT, CUBE], ids=["2D", "3D"])
def test_sign_and_size_of_the_contrast_do_not_matter(grid):
    image = painted(grid)
    negative = image.with_data(7 - 30 * image.data)
    torch.testing.assert_close(channels(image), channels(negative), atol=2e-3, rtol=0)


def test_a_ramp_tells_its_own_direction_in_world_axes():
    angle = np.radians(35)
    points = FLAT.points()
    waves = np.sin((points @ [np.cos(angle), np.sin(angle)]) / 3).reshape(1, *FLAT.shape)
    c2, s2, c4, s4 = orientation_channels(torch.tensor(waves).float(), torch.ones(1, *FLAT.shape))[:, 20:28, 20:28]
    # The mean of every channel is taken off, which here is nearly all of it: undo that with a second direction.
    other = np.sin(points[:, 0] / 3).reshape(1, *FLAT.shape)
    half = torch.tensor(np.where(points[:, 1].reshape(FLAT.shape) < 0, waves, other)).float()
    both = orientation_channels(half, torch.ones(1, *FLAT.shape))
    upper, lower = both[:, 6:16, 20:30].mean((1, 2)), both[:, 34:44, 20:30].mean((1, 2))
    expected = torch.tensor([np.cos(2 * angle) - 1, np.sin(2 * angle), np.cos(4 * angle) - 1, np.sin(4 * angle)])
    difference = (upper - lower).double()
    np.testing.assert_allclose(difference / difference.norm(), expected / expected.norm(), atol=0.05)
    assert max(float(c.abs().max()) for c in (c2, s2, c4, s4)) < 1


@pytest.mark.parametrize("d", [2, 3])
def test_steered_channels_are_those_of_the_turned_image(d):
    turn = rotation(d, 4)
    grid = FLAT if d == 2 else CUBE
    truth = np.eye(d + 1)
    truth[:d, :d] = turn
    still, turned = painted(grid, count=60), painted(grid, count=60, truth=Affine(truth))
    expected = channels(turned)
    index = grid.index_from_world(grid.points() @ turn)[:, ::-1].reshape(1, *grid.shape, d)
    from roireg.core.warp import sample

    found = steered(sample(channels(still)[None], torch.as_tensor(index.copy()).float())[0], turn)
    middle = torch.as_tensor((np.linalg.norm(grid.points(), axis=1) < 30).reshape(grid.shape))
    pair = torch.stack([found[:, middle].flatten(), expected[:, middle].flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.9


def test_the_basis_is_orthonormal_and_without_trace():
    np.testing.assert_allclose(np.einsum("aij,bij->ab", BASIS, BASIS), np.eye(5), atol=1e-12)
    np.testing.assert_allclose(np.trace(BASIS, axis1=1, axis2=2), 0, atol=1e-12)


def test_what_the_weight_hides_changes_nothing():
    image = painted(FLAT)
    weight = torch.ones(1, *FLAT.shape)
    weight[..., 30:] = 0
    spoiled = image.with_data(torch.where(weight > 0, image.data, 50 * torch.rand(image.data.shape)))
    torch.testing.assert_close(orientation_channels(image.data, weight), orientation_channels(spoiled.data, weight))
