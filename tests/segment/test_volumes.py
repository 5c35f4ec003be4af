from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.match import match_slices
from roireg.models.cache import EmbeddingCache
from roireg.models.rasters import slice_axis
from roireg.segment import HierarchySegmenter, RegionFilter
from roireg.segment.base import PreparedRegions, PromptableImage, Segmenter, make_segmenter
from roireg.segment.everything import EverythingOptions
from roireg.segment.promptable import ModelSegmenter
from roireg.segment.volumes import SliceSegmenter
from segment.fake_model import FakeModel, block_image
from segment.phantoms import ellipsoid, image_of
from support import dice, make_grid, rotation

# A tube that moves by one pixel per slice and ends before the volume, a plate of one slice, and another tube.
SHAPE = (10, 40, 48)
TUBE = [((s, slice(8 + s, 20 + s), slice(10, 22)), 100.0) for s in range(2, 8)]
OTHER = [((s, slice(5, 12), slice(30, 40)), 180.0) for s in range(0, 10)]
PLATE = [((4, slice(30, 36), slice(30, 40)), 60.0)]


def volume(*, axis: int = 0) -> tuple[Image, np.ndarray, np.ndarray]:
    """The scene with its slices along any storage axis, on an oblique grid that is coarse along it."""
    image, _ = block_image(SHAPE, [*TUBE, *OTHER, *PLATE])
    # A pixel that tells the slices apart: equal slices would be encoded once for all.
    image.data[0, :, -1, -1] = torch.arange(SHAPE[0]) + 1.0
    values = np.moveaxis(image.data[0].numpy(), 0, axis)
    spacing = [1.0, 0.8, 0.8]
    spacing = np.insert(np.array(spacing[1:]), axis, 3.0)
    grid = make_grid(values.shape, spacing, direction=rotation(3, 3), origin=(5.0, -40.0, 7.0))
    return Image(torch.from_numpy(values.copy())[None], grid), values == 100.0, values == 180.0


def segmenter(model=None, **more) -> SliceSegmenter:
    inner = ModelSegmenter(model or FakeModel(), cache=EmbeddingCache(), options=EverythingOptions(points=12))
    return SliceSegmenter(inner, **more)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_regions_of_slices_become_regions_of_the_volume(axis):
    image, tube, other = volume(axis=axis)
    model = FakeModel()
    found = segmenter(model)(image)
    assert found.grid == image.grid and model.encoded == SHAPE[0]
    masks = found.masks.numpy()
    for wanted in (tube, other):
        assert any(np.array_equal(m, wanted) for m in masks)
    # The plate is in one slice only.
    assert not any(m.sum() == 60 for m in masks)
    assert (found.scores.diff() <= 0).all()


def test_a_missing_slice_is_filled():
    image, tube, _ = volume()
    data = image.data.clone()
    data[0, 5][torch.from_numpy(tube[5])] = 0
    found = segmenter()(image.with_data(data)).masks.numpy()
    best = max(found, key=lambda m: dice(m, tube))
    assert dice(best, tube) > 0.97 and best[5].any()
    assert not any(m[5].any() and dice(m, tube) > 0.5 for m in segmenter(gap=0)(image.with_data(data)).masks.numpy())


def test_a_large_volume_keeps_its_slices_and_gets_larger_pixels():
    image, tube, _ = volume()
    found = segmenter(max_voxels=10 * 20 * 24)(image)
    assert found.grid.shape == (10, 20, 24)
    np.testing.assert_allclose(found.grid.corners(), image.grid.corners(), atol=1e-9)
    near = torch.nn.functional.avg_pool2d(torch.from_numpy(tube).float(), 2) > 0.5
    assert max(dice(m, near.numpy()) for m in found.masks.numpy()) > 0.9


def test_a_volume_of_one_slice_and_an_empty_one():
    image, _, other = volume()
    one = Image(image.data[:, 3:4], make_grid((1, 40, 48)))
    found = segmenter()(one)
    assert any(np.array_equal(m, other[3:4]) for m in found.masks.numpy())
    nothing = segmenter(FakeModel(quality=0.1))(image)
    assert len(nothing) == 0 and nothing.grid == image.grid


def test_same_volume_same_regions():
    image, _, _ = volume()
    first, second = segmenter()(image), segmenter()(image)
    assert torch.equal(first.masks, second.masks) and torch.equal(first.scores, second.scores)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_click_follows_its_structure_to_both_ends(axis):
    image, tube, _ = volume(axis=axis)
    model = FakeModel()
    s = segmenter(model)
    inside = np.insert(np.array([16, 15]), axis, 4)
    rois = s.prepare(image).answer(Prompt.at(image.grid.world_from_index(inside)))
    np.testing.assert_array_equal(rois.masks[0].numpy(), tube)
    assert float(rois.scores[0]) == pytest.approx(0.95)
    # Two slices beyond each end were tried at most, each encoded once.
    assert model.encoded <= 8
    s.prepare(image).answer(Prompt.at(image.grid.world_from_index(inside)))
    assert model.encoded <= 8


def test_slices_can_be_encoded_beforehand_and_prompts_then_encode_none():
    image, _, other = volume()
    model = FakeModel()
    prepared = segmenter(model).prepare(image)
    assert model.encoded == 0
    prepared.encode()
    assert model.encoded == SHAPE[0]
    rois = prepared.answer(Prompt.at(image.grid.world_from_index([0, 8, 35])))
    np.testing.assert_array_equal(rois.masks[0].numpy(), other)
    assert model.encoded == SHAPE[0]


def test_a_box_limits_the_slices():
    image, _, other = volume()
    corners = image.grid.world_from_index(np.array([[2.5, 4.5, 29.5], [6.5, 11.5, 39.5]]))
    rois = segmenter().prepare(image).answer(Prompt(np.zeros((0, 3)), np.zeros(0), box=corners))
    expected = other.copy()
    expected[:3] = expected[7:] = False
    np.testing.assert_array_equal(rois.masks[0].numpy(), expected)
    thin = image.grid.world_from_index(np.array([[2.8, 4.5, 29.5], [3.2, 11.5, 39.5]]))
    rois = segmenter().prepare(image).answer(Prompt(np.zeros((0, 3)), np.zeros(0), box=thin))
    assert rois.masks[0].any(dim=(1, 2)).nonzero()[:, 0].tolist() == [3]


def test_points_in_other_slices_are_asked_there():
    image, tube, other = volume()
    points = image.grid.world_from_index(np.array([[4, 16, 15], [7, 8, 35]]))
    rois = segmenter().prepare(image).answer(Prompt.at(*points))
    mask = rois.masks[0].numpy()
    np.testing.assert_array_equal(mask[2:7], tube[2:7])
    # From slice 7 on the second point counts.
    np.testing.assert_array_equal(mask[7:], other[7:])


def test_a_negative_point_in_a_later_slice_is_passed_on():
    image, tube, _ = volume()
    points = image.grid.world_from_index(np.array([[4, 16, 15], [6, 30, 40]]))
    rois = segmenter().prepare(image).answer(Prompt(points, np.array([1, 0])))
    np.testing.assert_array_equal(rois.masks[0].numpy(), tube)


def test_falling_quality_ends_the_walk():
    image, _, _ = volume()

    class Fading(FakeModel):
        def decode(self, embedding, **asked):
            # The last pixel marks the slices where the network is unsure.
            answer = super().decode(embedding, **asked)
            factor = 0.2 if float(embedding.tensors["colour"][0, -1, -1]) > 100 else 1.0
            return type(answer)(answer.logits, answer.quality * factor)

    data = image.data.clone()
    data[0, 6:, -1, -1] = 255.0
    rois = (
        segmenter(Fading()).prepare(image.with_data(data)).answer(Prompt.at(image.grid.world_from_index([2, 8, 35])))
    )
    assert rois.masks[0].any(dim=(1, 2)).tolist() == [True] * 6 + [False] * 4


def test_the_embedded_segmenter_is_lifted_as_well():
    grid = make_grid((7, 36, 44), (6.0, 1.5, 1.5))
    ball = ellipsoid(grid, (36, 28, 18), (14, 12, 16))
    image = image_of(0.8 * ball, grid, noise=0.03)
    s = SliceSegmenter(HierarchySegmenter(RegionFilter(max_count=20)))
    assert dice(s.prepare(image).answer(Prompt.at((36, 28, 18))).masks[0].numpy(), ball) > 0.85
    assert max(dice(m.numpy(), ball) for m in s(image).masks) > 0.85


def test_progress_runs_once_through_the_volume_and_can_stop_it():
    image, _, _ = volume()
    events = []
    segmenter(progress=events.append)(image)
    fractions = [e.fraction for e in events]
    assert fractions == sorted(set(fractions)) and fractions[-1] == 1 and len(fractions) > 2 * SHAPE[0]
    assert {e.stage for e in events} == {"segmenting slices"}

    class Stopped(Exception):
        pass

    def stop(event):
        if event.fraction > 0.5:
            raise Stopped

    model = FakeModel()
    with pytest.raises(Stopped):
        segmenter(model, progress=stop)(image)
    assert model.encoded == 6


def test_the_estimate_of_a_volume_encodes_one_slice():
    image, _, _ = volume()
    model = FakeModel()
    assert segmenter(model).estimate_seconds(image) > 0
    assert model.encoded == 1
    flat, _ = block_image((30, 30), [((slice(4, 15), slice(4, 15)), 90.0)])
    assert segmenter(model).estimate_seconds(flat) > 0
    with pytest.raises(InputError, match="HierarchySegmenter is not estimated"):
        SliceSegmenter(HierarchySegmenter()).estimate_seconds(image)


def test_two_dimensional_images_pass_through():
    image, masks = block_image((30, 30), [((slice(4, 15), slice(4, 15)), 90.0)])
    s = segmenter()
    assert isinstance(s.prepare(image), PromptableImage)
    assert torch.equal(s(image).masks, s.segmenter(image).masks)
    np.testing.assert_array_equal(s.prepare(image).answer(Prompt.at((6, 6))).masks[0].numpy(), masks[0])


def test_slices_see_one_window():
    # Noise of a few grey values in the first slice must not be stretched to full contrast.
    data = torch.zeros((1, 3, 20, 20))
    data[0, 0] = torch.rand((20, 20), generator=torch.Generator().manual_seed(0))
    data[0, 1:, 5:15, 5:15] = 1000.0
    volume = segmenter().prepare(Image(data, make_grid((3, 20, 20), (4.0, 1.0, 1.0))))
    first = volume.settings.segmenter.prepare(volume.slices[0]).raster
    assert float(first.max()) < 2


def test_slice_matching_takes_this_segmenter_and_encodes_each_slice_once():
    from roireg.features import EncoderFeatures

    image, _, _ = volume()
    model, cache = FakeModel(), EmbeddingCache()
    inner = ModelSegmenter(model, cache=cache, options=EverythingOptions(points=12))
    features = EncoderFeatures(model, cache=cache)
    pairs = match_slices(image, image, inner, lambda part: features(part, part.grid), axis=0, reach=1)
    assert len(pairs) > 0
    assert model.encoded == SHAPE[0]


def test_the_slice_axis_is_the_coarsest_then_the_first():
    assert slice_axis(make_grid((5, 6, 7), (1, 1, 3))) == 2
    assert slice_axis(make_grid((5, 6, 7), (1, 1, 1))) == 0
    assert slice_axis(make_grid((5, 6, 7), (1.0, 1.005, 1.0))) == 0
    assert slice_axis(make_grid((5, 1, 7), (9, 1, 1))) == 1
    assert slice_axis(make_grid((5, 6, 7), (9, 1, 1)), 2) == 2
    with pytest.raises(GeometryError, match="axis 3"):
        slice_axis(make_grid((5, 6, 7)), 3)


def test_what_cannot_be_done_is_said():
    image, _, _ = volume()

    class Plain(Segmenter):
        def prepare(self, image: Image) -> PreparedRegions:
            return PreparedRegions(image, lambda part: ROISet.empty(part.grid))

    with pytest.raises(InputError, match="answers no prompts"):
        SliceSegmenter(Plain()).prepare(image).answer(Prompt.at(image.grid.center))
    with pytest.raises(InputError, match="outside the image"):
        segmenter().prepare(image).answer(Prompt.at(image.grid.world_from_index([40, 0, 0])))
    with pytest.raises(InputError, match="outside the prompt box"):
        corners = image.grid.world_from_index(np.array([[0, 4, 30], [2, 11, 39]]))
        segmenter().prepare(image).answer(
            Prompt(image.grid.world_from_index([[5, 8, 35]]), np.array([1]), box=corners)
        )
    with pytest.raises(InputError, match="min_score"):
        SliceSegmenter(Plain(), min_score=2)
    with pytest.raises(InputError, match="overlap"):
        SliceSegmenter(Plain(), min_overlap=0)


def test_the_registered_name_builds_one_from_a_network():
    s = make_segmenter("model", model=FakeModel(), profile="fast", window="lung")
    assert isinstance(s, SliceSegmenter) and s.segmenter.options.points == 16 and s.segmenter.window == "lung"
    with pytest.raises(InputError, match="not both"):
        make_segmenter("model", model=FakeModel(), cache=EmbeddingCache(), cache_folder="x")
    with pytest.raises(InputError, match="profile 'slow' is unknown"):
        make_segmenter("model", model=FakeModel(), profile="slow")
    with pytest.raises(InputError, match="model 'sam-vit-bas' is unknown"):
        make_segmenter("model", model="sam-vit-bas")


def test_grids_without_a_volume_are_refused():
    with pytest.raises(GeometryError, match="found 2D"):
        slice_axis(Grid.pixels((4, 5)))
