"""What tells names of regions from intensities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.kinds import LIKE, UNLIKE, count_and_likeness

RNG = np.random.default_rng(0)


def image(values: np.ndarray) -> Image:
    return Image(torch.from_numpy(values[None].astype(np.int32)), Grid(values.shape, np.eye(values.ndim + 1)))


def blocks(side: int, shape: tuple[int, ...]) -> np.ndarray:
    """Blocks of a side, each with a number of its own."""
    names = RNG.permutation(int(np.prod(shape))).reshape(shape) + 1
    return np.kron(names, np.ones([side] * len(shape), int))


@pytest.mark.parametrize(("side", "shape"), [(4, (12, 12, 12)), (3, (8, 9, 10)), (12, (40, 40))])
def test_atlases_of_many_small_regions_are_labels(side: int, shape: tuple[int, ...]) -> None:
    count, likeness = count_and_likeness(image(blocks(side, shape) * 7))
    assert count > 700 and likeness >= (LIKE if side > 3 else UNLIKE)


def test_ids_of_free_surfer_and_single_voxels_are_labels() -> None:
    cells = ndimage.zoom(RNG.integers(1000, 14176, (9, 9, 9)), 8, order=0)
    assert count_and_likeness(image(cells))[1] > LIKE
    points = np.zeros((40, 40, 40), int)
    points[tuple(RNG.integers(0, 20, (3, 200)) * 2)] = np.arange(200) + 1
    assert count_and_likeness(image(points))[1] == 1


@pytest.mark.parametrize("shape", [(120, 130), (30, 40, 50), (60, 50, 1)])
@pytest.mark.parametrize("top", [255, 3000])
def test_intensities_are_none(shape: tuple[int, ...], top: int) -> None:
    smooth = ndimage.gaussian_filter(RNG.normal(size=shape), 3)
    smooth += 0.02 * smooth.std() * RNG.normal(size=shape)
    values = np.round((smooth - smooth.min()) / np.ptp(smooth) * top)
    values[: shape[0] // 3] = 0
    assert count_and_likeness(image(values))[1] < UNLIKE
