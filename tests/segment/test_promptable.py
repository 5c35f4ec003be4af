from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.models.cache import EmbeddingCache
from roireg.segment.base import PromptableImage
from roireg.segment.everything import EverythingOptions
from roireg.segment.filters import RegionFilter
from roireg.segment.promptable import ModelSegmenter, NetworkAnswers, probabilities, prompt_indices
from roireg.segment.prompts import ClosePointsError, prompt_from_mask
from segment.fake_model import FakeModel, block_image
from support import grids, make_grid, rotation

BLOCKS = (
    ((slice(4, 20), slice(6, 30)), 100.0),
    ((slice(8, 14), slice(10, 20)), 200.0),
    ((slice(30, 40), slice(40, 56)), 100.0),
)
GRID = make_grid((48, 64), (0.7, 1.3), direction=rotation(2, 5), origin=(-30.0, 12.0))


def world(*index) -> np.ndarray:
    return GRID.world_from_index(np.array(index, float))


def segmenter(model=None, **more) -> ModelSegmenter:
    return ModelSegmenter(model or FakeModel(), cache=EmbeddingCache(), options=EverythingOptions(points=16), **more)


@pytest.fixture
def scene():
    return block_image((48, 64), BLOCKS, GRID)


def test_a_prepared_image_answers_prompts_and_finds_candidates_once(scene):
    prepared = segmenter().prepare(scene[0])
    assert isinstance(prepared, PromptableImage) and prepared.regions() is prepared.regions()


def test_a_point_on_an_oblique_grid_gets_its_piece_then_alternatives(scene):
    image, masks = scene
    rois = segmenter().prepare(image).answer(Prompt.at(world(5, 7)))
    assert rois.grid == image.grid
    np.testing.assert_array_equal(rois.masks[0].numpy(), masks[0])
    np.testing.assert_array_equal(rois.masks[1].numpy(), masks[0] | masks[2])
    np.testing.assert_allclose(rois.scores.numpy(), [0.95, 0.9], atol=1e-6)


def test_negative_points_and_boxes_reach_the_network(scene):
    image, masks = scene
    s = segmenter()
    points = Prompt(np.stack([world(5, 7), world(9, 12), world(35, 50)]), np.array([1, 1, 0]))
    np.testing.assert_array_equal(s.prepare(image).answer(points).masks[0].numpy(), masks[0] | masks[1])
    box = Prompt(np.zeros((0, 2)), np.zeros(0), box=np.stack([world(39.5, 55.5), world(29.5, 39.5)]))
    rois = s.prepare(image).answer(box)
    np.testing.assert_array_equal(rois.masks[0].numpy(), masks[2])
    # The single best mask is a near-duplicate of the first and is left out.
    assert len(rois) == 1


def test_an_image_is_encoded_once_whatever_is_asked(scene):
    image, _ = scene
    model = FakeModel()
    s = segmenter(model)
    s.prepare(image)
    s.estimate_seconds(image)
    s(image)
    for _ in range(3):
        s.prepare(image).answer(Prompt.at(world(5, 7)))
    # Other objects with the same pixels.
    for _ in range(2):
        s.prepare(Image(image.data.clone(), image.grid)).answer(Prompt.at(world(5, 7)))
    ModelSegmenter(model, cache=s.cache)(image)
    assert model.encoded == 1


def test_another_window_is_another_image_to_the_network(scene):
    image, _ = scene
    model = FakeModel()
    cache = EmbeddingCache()
    for window in (None, (100.0, 50.0), None):
        ModelSegmenter(model, cache=cache, window=window).prepare(image)
    assert model.encoded == 2


def test_candidates_pass_the_filter_and_come_best_first(scene):
    image, masks = scene
    found = segmenter()(image)
    assert (found.scores.diff() <= 0).all() and found.grid == image.grid
    found_sizes = sorted(found.masks.flatten(1).sum(1).tolist())
    assert int(masks[1].sum()) in found_sizes
    limited = segmenter(limits=RegionFilter(max_fraction=0.05, max_count=1))(image)
    assert len(limited) == 1 and limited.masks[0].sum() <= 0.05 * 48 * 64


def test_nothing_above_the_thresholds_gives_no_candidates(scene):
    image, _ = scene
    found = segmenter(FakeModel(quality=0.1))(image)
    assert len(found) == 0 and found.grid == image.grid


def test_a_constant_image_and_a_float_image_are_taken(scene):
    image, masks = scene
    constant = Image(torch.zeros((1, 20, 30)), Grid.pixels((20, 30)))
    assert bool(segmenter().prepare(constant).answer(Prompt.at((4, 5))).masks[0].all())
    shifted = image.with_data(image.data * 7 - 900)
    np.testing.assert_array_equal(
        segmenter().prepare(shifted).answer(Prompt.at(world(5, 7))).masks[0].numpy(), masks[0]
    )


def test_a_huge_image_is_worked_on_coarser_and_prompts_still_land(monkeypatch):
    monkeypatch.setattr("roireg.models.rasters.MAX_VOXELS", {2: 1200, 3: 1200})
    image, (mask,) = block_image((60, 80), [((slice(12, 36), slice(20, 60)), 200.0)])
    s = segmenter(window="none")
    box = Prompt(np.zeros((0, 2)), np.zeros(0), box=[[19.5, 11.5], [59.5, 35.5]])
    (answer,) = s.prepare(image).answer(box).masks
    assert s.prepare(image).grid.shape == (30, 40)
    np.testing.assert_array_equal(answer.numpy(), mask[::2, ::2])


def test_a_mask_prompt_is_shown_at_the_resolution_of_the_network(scene):
    image, masks = scene
    model = FakeModel()
    region = ROISet(torch.from_numpy(masks[0])[None], image.grid)
    segmenter(model).prepare(image).answer(Prompt.at(world(5, 7)), mask=region)
    shown = model.masks_seen[0]
    assert shown.shape == (1, 1, 64, 64)
    np.testing.assert_array_equal(shown[0, 0, :48].numpy() > 0, masks[0])
    assert float(shown[0, 0, 48:].max()) == -8
    assert float(shown.max()) == 8 and float(shown.min()) == -8


def test_a_mask_prompt_may_lie_on_another_grid(scene):
    image, masks = scene
    coarse = image.grid.with_shape((24, 32))
    region = ROISet(torch.from_numpy(masks[0][::2, ::2].copy())[None], coarse)
    model = FakeModel()
    segmenter(model).prepare(image).answer(Prompt.at(world(5, 7)), mask=region)
    np.testing.assert_array_equal(model.masks_seen[0][0, 0, :48].numpy() > 0, masks[0])


def test_answers_come_from_one_prompt_one_mask(scene):
    image, masks = scene
    two = ROISet(torch.from_numpy(np.stack(masks[:2])), image.grid)
    with pytest.raises(InputError, match="is one region, found 2"):
        segmenter().prepare(image).answer(Prompt.at(world(5, 7)), mask=two)


def test_answers_bring_the_probability_of_every_voxel(scene):
    image, _ = scene
    found = segmenter().prepare(image).answer(Prompt.at(world(5, 7)))
    soft = probabilities(found)
    assert isinstance(found, NetworkAnswers) and soft.shape == found.masks.shape
    assert torch.equal(soft > 0.5, found.masks)
    # The logits of the network are 10 and -10.
    assert float(soft.max()) == pytest.approx(1 / (1 + np.exp(-10)), abs=0.002)
    second = found.subset([1])
    assert torch.equal(probabilities(second)[0], soft[1]) and second.note == found.note
    assert torch.equal(probabilities(found.to("cpu")), soft)
    plain = ROISet(found.masks, found.grid)
    assert torch.equal(probabilities(plain), found.masks.float())


def test_prompts_a_network_does_not_take_are_refused(scene):
    image, _ = scene
    only_boxes = segmenter(FakeModel(prompts=("box",)))
    with pytest.raises(InputError, match="takes no point prompts; use box"):
        only_boxes.prepare(image).answer(Prompt.at(world(5, 7)))


def test_prompts_that_cannot_be_answered_say_why(scene):
    image, _ = scene
    s = segmenter()
    with pytest.raises(InputError, match="is outside the image"):
        s.prepare(image).answer(Prompt.at(world(-5, 7)))
    with pytest.raises(InputError, match="box is outside"):
        s.prepare(image).answer(Prompt(np.zeros((0, 2)), np.zeros(0), box=np.stack([world(-9, -9), world(-5, -4)])))
    with pytest.raises(InputError, match="box is empty"):
        s.prepare(image).answer(Prompt(np.zeros((0, 2)), np.zeros(0), box=np.stack([world(9, 9), world(9, 14)])))
    with pytest.raises(ClosePointsError, match="same voxel"):
        s.prepare(image).answer(Prompt(np.stack([world(5, 7), world(5.2, 7.1)]), np.array([1, 0])))
    with pytest.raises(GeometryError, match="3D points does not fit a 2D image"):
        s.prepare(image).answer(Prompt.at((1, 2, 3)))
    with pytest.raises(GeometryError, match="3D prompt box"):
        s.prepare(image).answer(Prompt(np.zeros((0, 2)), np.zeros(0), box=np.zeros((2, 3))))
    volume = Image(torch.zeros((1, 3, 4, 5)), Grid.pixels((3, 4, 5)))
    with pytest.raises(GeometryError, match="takes 2D images, found 3D"):
        s(volume)
    with pytest.raises(InputError, match="no finite value"):
        s(Image(torch.full((1, 8, 8), float("nan")), Grid.pixels((8, 8)), name="scan.nii"))
    with pytest.raises(InputError, match="at least 1"):
        ModelSegmenter(FakeModel(), alternatives=0)


@given(grids(ndim=2))
@settings(max_examples=25)
def test_the_prompt_of_a_mask_lies_in_it_and_its_box_fits(grid):
    rng = np.random.default_rng(grid.size)
    mask = rng.random(grid.shape) < 0.4
    mask[tuple(rng.integers(0, grid.shape))] = True
    prompt = prompt_from_mask(mask, grid)
    points, labels, box = prompt_indices(prompt, grid, "image")
    assert labels.tolist() == [1]
    assert mask[tuple(np.round(points[0]).astype(int))]
    index = np.argwhere(mask)
    np.testing.assert_allclose(box, [index.min(0) - 0.5, index.max(0) + 0.5], atol=1e-6)


def test_the_point_of_a_mask_is_far_from_its_border():
    mask = np.zeros((21, 41), bool)
    mask[2:19, 2:19] = True
    mask[10, 19:40] = True
    prompt = prompt_from_mask(mask, Grid.pixels((21, 41)))
    np.testing.assert_allclose(prompt.points[0], [10, 10])
