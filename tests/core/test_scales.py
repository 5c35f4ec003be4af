"""A transform of thumbnails on the full images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.scales import between_full_images, field_grid
from roireg.core.transforms import Affine, Chain, DisplacementField


def test_thumbnail_pixels_cover_their_full_pixels() -> None:
    """Thumbnail pixel i covers full pixels i * s ... (i + 1) * s - 1, on either side."""
    shift = Affine.translation(np.array([2.0, -3.0]))
    full = between_full_images(shift, fixed_scale=5, moving_scale=4)
    for column, row in ((0, 0), (7, 12)):
        fixed = [np.arange(i * 5, (i + 1) * 5).mean() for i in (column, row)]
        moving = [np.arange(i * 4, (i + 1) * 4).mean() for i in (column + 2, row - 3)]
        assert full.map_points(np.array([fixed]))[0] == pytest.approx(moving)
    back = full.inverse().map_points(full.map_points(np.array([[31.0, 8.5]])))
    assert back[0] == pytest.approx((31, 8.5))


def test_scale_of_one_changes_nothing() -> None:
    shift = Affine.translation(np.array([2.0, -3.0]))
    assert between_full_images(shift, fixed_scale=1, moving_scale=1) is shift
    for wrong in (0.0, -2.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="the moving scale is a positive number"):
            between_full_images(shift, fixed_scale=1, moving_scale=wrong)


def test_field_grid() -> None:
    grid = Grid.pixels((4, 5))
    field = DisplacementField(grid, torch.zeros((2, 4, 5)))
    assert field_grid(Chain((Affine.identity(2), field))) == grid
    assert field_grid(Affine.identity(2)) is None
