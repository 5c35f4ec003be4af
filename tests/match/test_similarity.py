"""Region descriptors and their similarity."""

import numpy as np
import pytest
import torch

from match.scenes import FLAT, about, pair_of_sets
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.match import DescriptorWeights, describe, descriptor_similarity
from support import disc, turned


def scene(truth, *, seed=0):
    """Both region sets and images in which every region has a brightness of its own."""
    fixed, moving = pair_of_sets(FLAT, FLAT.padded((20, 20), (20, 20)), truth, count=6, seed=seed)
    level = torch.linspace(0.2, 1, 6)
    images = []
    for rois in (fixed, moving):
        data = torch.zeros(rois.grid.shape)
        for mask, value in zip(rois.masks, level, strict=True):
            data[mask] = value
        images.append(Image(data[None], rois.grid))
    return fixed, moving, *images


def test_equal_regions_have_similarity_one_and_are_symmetric():
    fixed, _, image, _ = scene(about(FLAT, np.eye(2), 0.0))
    d = describe(image, fixed)
    s = descriptor_similarity(d, d)
    torch.testing.assert_close(s.diagonal(), torch.ones(6))
    torch.testing.assert_close(s, s.T)
    assert float(s.max()) <= 1 and float(s.min()) > 0


def test_corresponding_regions_are_the_most_similar():
    fixed, moving, fixed_image, moving_image = scene(about(FLAT, turned(10), (3.0, 2.0)))
    s = descriptor_similarity(describe(fixed_image, fixed), describe(moving_image, moving))
    assert s.argmax(0).tolist() == list(range(6))


def test_a_rigid_motion_changes_neither_size_nor_elongation():
    fixed, moving, fixed_image, moving_image = scene(about(FLAT, turned(70), (3.0, 2.0)))
    a, b = describe(fixed_image, fixed), describe(moving_image, moving)
    torch.testing.assert_close(a.elongation, b.elongation, atol=0.06, rtol=0)
    # Sizes are relative to each image's own.
    shift = 0.5 * np.log(np.prod(fixed.grid.extent) / np.prod(moving.grid.extent))
    torch.testing.assert_close(a.size + shift, b.size, atol=0.03, rtol=0, check_dtype=False)


def test_context_is_the_ring_and_spread_the_deviation():
    grid = Grid.pixels((40, 40))
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 10:20, 10:20] = True
    data = torch.where(mask, 3.0, 1.0)
    data[0, 10:20, 10:15] = 5.0
    d = describe(Image(data, grid), ROISet(mask, grid))
    assert float(d.inside) == pytest.approx(4.0)
    assert float(d.spread) == pytest.approx(1.0, abs=1e-4)
    assert float(d.context) == pytest.approx(-3.0)
    whole = describe(Image(data, grid), ROISet(torch.ones_like(mask), grid))
    assert float(whole.context) == 0
    assert float(whole.size) == pytest.approx(0, abs=1e-6)


def test_row_i_alone_is_row_i():
    _, moving, _, moving_image = scene(about(FLAT, np.eye(2), 0.0))
    together = describe(moving_image, moving)
    for i in (0, 5):
        alone = describe(moving_image, moving.subset([i]))
        for name in ("inside", "spread", "context", "size", "elongation", "position"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[i])


def test_weights_switch_parts_off():
    fixed, moving, fixed_image, moving_image = scene(about(FLAT, np.eye(2), 0.0))
    a, b = describe(fixed_image, fixed), describe(moving_image, moving)
    nothing = DescriptorWeights(inside=0, spread=0, context=0, size=0, elongation=0, position=0)
    torch.testing.assert_close(descriptor_similarity(a, b, weights=nothing), torch.ones(6, 6))


def test_channels_must_agree():
    fixed, moving, fixed_image, moving_image = scene(about(FLAT, np.eye(2), 0.0))
    two = fixed_image.with_data(fixed_image.data.repeat(2, 1, 1))
    with pytest.raises(InputError, match="same channels"):
        descriptor_similarity(describe(two, fixed), describe(moving_image, moving))


def test_the_embedding_tells_regions_apart_that_look_alike():
    """Equal discs in an even image: only what they are part of says which is which."""
    grid = Grid((24, 48), np.eye(3))
    masks = torch.cat([disc(grid, (12, 12), 5), disc(grid, (12, 36), 5)])
    plain = Image(torch.zeros(1, *grid.shape), grid)
    meaning = torch.zeros(2, *grid.shape)
    meaning[0, :, :24], meaning[1, :, 24:] = 1, 1
    rois = ROISet(masks, grid)
    d = describe(plain, rois, embedding=Image(meaning, grid))
    torch.testing.assert_close(d.embedding, torch.eye(2))
    off = DescriptorWeights(position=0)
    on = DescriptorWeights(position=0, embedding=3)
    torch.testing.assert_close(descriptor_similarity(d, d, weights=off), torch.ones(2, 2))
    expected = torch.tensor([[1.0, np.exp(-3.0)], [np.exp(-3.0), 1.0]], dtype=torch.float32)
    torch.testing.assert_close(descriptor_similarity(d, d, weights=on), expected)
    # Without embeddings on both sides the weight has nothing to count.
    bare = describe(plain, rois)
    torch.testing.assert_close(descriptor_similarity(d, bare, weights=on), torch.ones(2, 2))
