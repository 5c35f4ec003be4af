"""Slice-range matching."""

from collections import Counter

import numpy as np
import pytest
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.match import PUBLISHED, match_slices

LEVELS = (1.0, 2.0, 3.0)


def volume(shift=0, *, axis=0, spacing=(3.0, 1.0, 1.0)):
    """Eight slices; slice s holds three bars, bright as level * (1 + s), moved on by `shift` slices."""
    data = torch.zeros(8, 9, 10)
    for s in range(8):
        if 0 <= s - shift < 6:
            for i, level in enumerate(LEVELS):
                data[s, 3 * i : 3 * i + 2, 2:8] = level + 10 * (s - shift + 1)
    data = data.movedim(0, axis)
    zyx = list(spacing[1:])
    zyx.insert(axis, spacing[0])
    grid = Grid.from_itk(tuple(data.shape)[::-1], zyx[::-1], (0.0, 0.0, 0.0), np.eye(3))
    return Image(data[None].contiguous(), grid)


class Stage:
    """Segments by level and encodes levels as one-hot features; counts calls per slice."""

    def __init__(self):
        self.segmented, self.encoded = Counter(), Counter()

    def segment(self, image):
        self.segmented[image.name] += 1
        return ROISet.from_labels(image.data[0].int(), image.grid)

    def encode(self, image):
        self.encoded[image.name] += 1
        values = [level + 10 * s for s in range(1, 8) for level in LEVELS]
        return image.with_data(torch.stack([image.data[0] == v for v in values]).float())


def run(fixed, moving, **options):
    m, f = Stage(), Stage()
    result = match_slices(
        fixed,
        moving,
        lambda i: (m if i.name.startswith("moving") else f).segment(i),
        lambda i: (m if i.name.startswith("moving") else f).encode(i),
        options=PUBLISHED,
        **options,
    )
    return result, m, f


def named(image, name):
    return Image(image.data, image.grid, name=name)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_slice_is_worked_on_once_and_finds_its_partner(axis):
    moving, fixed = named(volume(0, axis=axis), "moving"), named(volume(2, axis=axis), "fixed")
    result, m, f = run(fixed, moving, axis=axis, reach=3)
    for stage in (m, f):
        assert len(stage.segmented) == 8 and set(stage.segmented.values()) == {1}
        assert len(stage.encoded) == 6 and set(stage.encoded.values()) == {1}
    assert len(result) == 18
    for p in result.pairs:
        a, b = torch.nonzero(result.moving.masks[p.moving]), torch.nonzero(result.fixed.masks[p.fixed])
        a[:, axis] += 2
        assert torch.equal(a, b)
        assert len(set(b[:, axis].tolist())) == 1


def test_reach_limits_the_search():
    moving, fixed = named(volume(0), "moving"), named(volume(2), "fixed")
    assert len(run(fixed, moving, reach=1)[0]) == 0
    assert len(run(fixed, moving, reach=2)[0]) == 18
    assert len(run(fixed, moving, reach_mm=5.9)[0]) == 0
    assert len(run(fixed, moving, reach_mm=6.0)[0]) == 18


def test_reach_in_mm_follows_the_world():
    moving = volume(0)
    affine = moving.grid.affine.copy()
    affine[2, 3] += 6.0  # two slices up: moving slice s now lies beside fixed slice s + 2
    moving = Image(moving.data, Grid(moving.grid.shape, affine), name="moving")
    assert len(run(named(volume(2), "fixed"), moving, reach_mm=0.5)[0]) == 18


def test_unmatched_regions_are_kept_or_dropped_as_asked():
    moving, fixed = named(volume(0), "moving"), named(volume(2), "fixed")
    kept = run(fixed, moving, reach=1)[0]
    assert len(kept.moving) == 18 and len(kept.unmatched_moving) == 18
    assert len(run(fixed, moving, reach=1, keep_unmatched=False)[0].moving) == 0


def test_little_memory_keeps_the_regions_coarser_in_the_slices():
    moving, fixed = named(volume(0), "moving"), named(volume(2), "fixed")
    full = run(fixed, moving)[0]
    told: list[str] = []
    memory = len(full.fixed) * full.fixed.grid.size // 3
    little = run(fixed, moving, memory=memory, progress=lambda event: told.append(event.detail))[0]
    assert told[-1] == "to save memory, regions are kept 2 times as coarse within the slices"
    assert little.fixed.grid.shape[0] == full.fixed.grid.shape[0]
    assert little.fixed.grid.size < full.fixed.grid.size / 3
    assert np.allclose(little.fixed.grid.center, full.fixed.grid.center)
    assert len(little) == len(full) > 0
    step = little.fixed.grid.spacing.max()
    assert np.abs(little.fixed.centroids - full.fixed.centroids).max() < step


@pytest.mark.parametrize("turned", [0, 1, 2])
def test_slices_lie_along_the_coarsest_axis_of_the_fixed_volume_whatever_the_order_of_storage(turned):
    fixed = named(volume(2, axis=0), "fixed")
    # The same world, stored with its slices along another axis and counted from the other end.
    order = np.roll([0, 1, 2], turned)
    data = volume(0, axis=0).data[0].permute(*order.tolist()).flip(int(np.argwhere(order == 0)[0, 0]))
    corners = [fixed.grid.shape[0] - 1, 0, 0]
    spacing, direction = fixed.grid.spacing[order], fixed.grid.direction[:, order].copy()
    direction[:, int(np.argwhere(order == 0)[0, 0])] *= -1
    origin = fixed.grid.world_from_index([corners])[0]
    grid = Grid.from_itk(tuple(data.shape)[::-1], spacing[::-1], origin, direction[:, ::-1])
    moving = Image(data[None].contiguous(), grid, name="moving")
    result, m, f = run(fixed, moving, reach=3)
    assert len(m.segmented) == len(f.segmented) == 8 and len(result) == 18
    lag = result.fixed.centroids[[p.fixed for p in result.pairs]][:, 2]
    lag = lag - result.moving.centroids[[p.moving for p in result.pairs]][:, 2]
    assert np.allclose(lag, 2 * 3.0)


def test_bad_input():
    image = named(volume(), "moving")
    with pytest.raises(GeometryError, match="two 3D images"):
        run(image, Image(torch.ones(1, 4, 4), Grid.pixels((4, 4))))
    with pytest.raises(GeometryError, match="storage axis 0, 1 or 2"):
        run(image, image, axis=3)
    with pytest.raises(InputError, match="reach"):
        run(image, image, reach=-1)
    with pytest.raises(InputError, match="limit"):
        run(image, image, memory=10)
