from __future__ import annotations

import time

import numpy as np
import pytest

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.rois import Prompt
from roireg.segment import HierarchySegmenter
from roireg.segment.prompts import ClosePointsError, box_indices, clipped
from segment.phantoms import best_dice, ellipsoid, image_of, three_discs
from support import dice, make_grid

BRIGHT, DARK_RIM, CORE, BODY = (25, 33), (50, 41), (50, 33), (38, 12)


@pytest.fixture(scope="module")
def scene():
    image, masks = three_discs()
    segmenter = HierarchySegmenter()
    return segmenter, image, dict(zip(("body", "bright", "dark", "core"), masks, strict=True))


def boxed(mask, grid) -> np.ndarray:
    index = np.argwhere(mask)
    return np.stack([grid.world_from_index(index.min(0) - 0.5), grid.world_from_index(index.max(0) + 0.5)])


def test_a_point_gives_the_region_around_it_and_larger_ones(scene):
    segmenter, image, masks = scene
    rois = segmenter.prepare(image).answer(Prompt.at(BRIGHT))
    assert dice(rois.masks[0].numpy(), masks["bright"]) > 0.9
    assert best_dice(rois.masks, masks["body"]) > 0.8
    nested = segmenter.prepare(image).answer(Prompt.at(CORE))
    assert dice(nested.masks[0].numpy(), masks["dark"]) > 0.9
    for name in ("core", "body"):
        assert best_dice(nested.masks[:3], masks[name]) > 0.9


def test_a_click_into_a_head_means_a_part_of_it():
    """The whole is the most stable region by far, and no answer as long as there are parts; alone it is one."""
    grid = make_grid((200, 180))
    head = ellipsoid(grid, (50, 60), (38, 46))
    ventricle, nucleus = ellipsoid(grid, (50, 50), (7, 12)), ellipsoid(grid, (66, 72), (8, 8))
    values = 0.6 * head + 0.1 * nucleus - 0.12 * ventricle
    prepared = HierarchySegmenter().prepare(image_of(values, grid, noise=0.01))
    for part, point in ((ventricle, (50, 50)), (nucleus, (66, 72))):
        rois = prepared.answer(Prompt.at(point))
        assert dice(rois.masks[0].numpy(), part) > 0.85
        assert len(rois) > 1 and (rois.scores.diff() <= 0).all(), "what comes later weighs no more"
    whole = prepared.answer(Prompt.at((30, 60)))
    assert best_dice(whole.masks, head) > 0.9, "it can still be chosen"


def test_every_answer_honours_every_point(scene):
    segmenter, image, _ = scene
    prompt = Prompt(np.array([CORE, DARK_RIM, BODY]), np.array([1, 1, 0]))
    rois = segmenter.prepare(image).answer(prompt)
    index = np.round(rois.grid.index_from_world(prompt.points)).astype(int)
    for mask in rois.masks.numpy():
        assert mask[tuple(index.T)].tolist() == [True, True, False]


def test_two_points_ask_for_the_region_of_both_and_a_negative_one_for_less(scene):
    segmenter, image, masks = scene
    both = segmenter.prepare(image).answer(Prompt.at(CORE, DARK_RIM))
    assert dice(both.masks[0].numpy(), masks["dark"]) > 0.9
    less = segmenter.prepare(image).answer(Prompt(np.array([CORE, DARK_RIM]), np.array([1, 0])))
    assert dice(less.masks[0].numpy(), masks["core"]) > 0.85


def test_points_that_no_single_region_joins_give_a_union(scene):
    segmenter, image, masks = scene
    prompt = Prompt(np.array([BRIGHT, CORE, BODY, DARK_RIM]), np.array([1, 1, 0, 0]))
    rois = segmenter.prepare(image).answer(prompt)
    assert len(rois) == 1
    assert dice(rois.masks[0].numpy(), masks["bright"] | masks["core"]) > 0.85


@pytest.mark.parametrize("name", ["body", "bright", "dark", "core"])
def test_a_box_gives_the_region_that_fills_it(scene, name):
    segmenter, image, masks = scene
    box = boxed(masks[name], image.grid)
    rois = segmenter.prepare(image).answer(Prompt(np.zeros((0, 2)), np.zeros(0), box=box[::-1]))
    assert dice(rois.masks[0].numpy(), masks[name]) > 0.9


def test_a_box_with_a_negative_point(scene):
    segmenter, image, masks = scene
    box = boxed(masks["dark"], image.grid)
    rois = segmenter.prepare(image).answer(Prompt(np.array([CORE]), np.array([0]), box=box))
    assert len(rois) and not (rois.masks.numpy() & ellipsoid(rois.grid, CORE, (0.5, 0.5))).any()


def test_prompts_in_a_volume_of_thick_slices():
    grid = make_grid((9, 60, 70), (8.0, 1.0, 1.0))
    ball = ellipsoid(grid, (40, 30, 32), (12, 10, 20))
    image = image_of(0.8 * ball, grid, noise=0.05)
    segmenter = HierarchySegmenter()
    assert dice(segmenter.prepare(image).answer(Prompt.at((40, 30, 32))).masks[0].numpy(), ball) > 0.85
    box = Prompt(np.zeros((0, 3)), np.zeros(0), box=boxed(ball, grid))
    assert dice(segmenter.prepare(image).answer(box).masks[0].numpy(), ball) > 0.85


def test_a_prepared_image_answers_within_fifty_milliseconds(scene):
    segmenter, image, _ = scene
    prepared = segmenter.prepare(image)
    times = []
    for _ in range(5):
        start = time.process_time()
        prepared.answer(Prompt.at(CORE))
        times.append(time.process_time() - start)
    assert min(times) < 0.05


def test_a_constant_image_still_answers():
    grid = make_grid((30, 30))
    rois = HierarchySegmenter().prepare(image_of(np.zeros((30, 30)), grid)).answer(Prompt.at((4, 5)))
    assert bool(rois.masks[0, 5, 4])


def test_prompts_that_cannot_be_answered_say_why(scene):
    segmenter, image, _ = scene
    with pytest.raises(InputError, match=r"point \(500.0, 3.0\) is outside the image"):
        segmenter.prepare(image).answer(Prompt.at((500, 3)))
    with pytest.raises(InputError, match=r"\(nan, 3.0\) is no finite number"):
        segmenter.prepare(image).answer(Prompt.at((float("nan"), 3)))
    with pytest.raises(InputError, match="prompt box is no finite number"):
        segmenter.prepare(image).answer(Prompt(np.zeros((0, 2)), np.zeros(0), box=[[1, 1], [20, float("inf")]]))
    with pytest.raises(InputError, match="box is outside"):
        segmenter.prepare(image).answer(Prompt(np.zeros((0, 2)), np.zeros(0), box=[[-50, -50], [-20, -20]]))
    with pytest.raises(GeometryError, match="3D points does not fit a 2D image"):
        segmenter.prepare(image).answer(Prompt.at((1, 2, 3)))
    with pytest.raises(GeometryError, match="3D prompt box"):
        segmenter.prepare(image).answer(Prompt(np.zeros((0, 2)), np.zeros(0), box=np.zeros((2, 3))))
    with pytest.raises(ClosePointsError, match="same smallest piece"):
        segmenter.prepare(image).answer(Prompt(np.array([CORE, CORE]), np.array([1, 0])))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
def test_a_box_ends_at_the_border_of_the_image(spacing):
    grid = make_grid((40, 50), spacing, origin=(3.0, -7.0))
    none = np.zeros((0, 2)), np.zeros(0)
    within = Prompt(*none, grid.world_from_index(np.array([[30.0, 9.0], [4.0, 40.0]])))
    assert clipped(within, grid, "a.png") is within
    over = Prompt(*none, grid.world_from_index(np.array([[30.0, 45.0], [60.0, 70.0]])))
    low, high = box_indices(over.box, grid, "a.png")
    np.testing.assert_allclose([low, high], [[30, 45], [39.5, 49.5]])
    np.testing.assert_allclose(clipped(over, grid, "a.png").box, grid.world_from_index(np.stack([low, high])))
    assert clipped(Prompt.at((4.0, 0.0)), Grid.pixels((9, 9)), "a.png").box is None
