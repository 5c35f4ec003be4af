from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from roireg.models.base import Embedding
from roireg.segment.everything import (
    EverythingOptions,
    crop_boxes,
    estimate_seconds,
    everything,
    point_grid,
)
from segment.fake_model import FakeModel, block_image

BLOCKS = (
    ((slice(4, 20), slice(6, 30)), 100.0),
    ((slice(8, 14), slice(10, 20)), 200.0),
    ((slice(30, 40), slice(40, 56)), 100.0),
)


@pytest.fixture
def scene():
    image, masks = block_image((48, 64), BLOCKS)
    return image.data.expand(3, -1, -1), masks


def contains(found, mask) -> bool:
    return any(np.array_equal(m, mask) for m in found.masks.numpy())


def test_every_piece_is_found_once_and_no_empty_mask(scene):
    raster, masks = scene
    model = FakeModel()
    found = everything(model, raster, options=EverythingOptions(points=16))
    for mask in masks:
        assert contains(found, mask)
    unique = {np.packbits(m).tobytes() for m in found.masks.numpy()}
    assert len(unique) == len(found) and found.masks.flatten(1).any(1).all()
    assert model.encoded == 1
    assert sum(model.decoded) == 16 * 16


def test_best_first_and_boxes_fit(scene):
    raster, _ = scene
    found = everything(FakeModel(), raster, options=EverythingOptions(points=16))
    assert (found.scores.diff() <= 0).all()
    for mask, box in zip(found.masks.numpy(), found.boxes.numpy(), strict=True):
        index = np.argwhere(mask)
        np.testing.assert_array_equal(box, [index.min(0), index.max(0)])


def test_thresholds_and_the_batch_size_do_what_they_say(scene):
    raster, _ = scene
    strict = everything(FakeModel(), raster, options=EverythingOptions(points=8, pred_iou_thresh=0.92))
    assert len(strict) and (strict.quality > 0.92).all()
    assert len(everything(FakeModel(quality=0.5), raster, options=EverythingOptions(points=8))) == 0
    one = everything(FakeModel(), raster, options=EverythingOptions(points=8, batch=1))
    all_at_once = everything(FakeModel(), raster, options=EverythingOptions(points=8, batch=64))
    assert torch.equal(one.masks, all_at_once.masks) and torch.equal(one.scores, all_at_once.scores)


def test_small_upscaling_steps_change_nothing(scene, monkeypatch):
    raster, _ = scene
    whole = everything(FakeModel(), raster, options=EverythingOptions(points=8))
    monkeypatch.setattr("roireg.segment.everything.UPSCALE_BYTES", {"cpu": 1})
    assert torch.equal(everything(FakeModel(), raster, options=EverythingOptions(points=8)).masks, whole.masks)


def test_crops_find_what_the_grid_of_the_image_misses():
    image, (tiny,) = block_image((120, 160), [((slice(30, 33), slice(50, 53)), 90.0)])
    raster = image.data.expand(3, -1, -1)
    assert not contains(everything(FakeModel(), raster, options=EverythingOptions(points=4)), tiny)
    model = FakeModel()
    found = everything(model, raster, options=EverythingOptions(points=20, crop_layers=1, crop_divisor=1))
    assert contains(found, tiny)
    assert model.encoded == 5
    # The background of a crop ends at its inner edges; no such cut mask may survive.
    for mask in found.masks.numpy():
        assert mask.sum() == 9 or mask.sum() == 120 * 160 - 9


@given(st.integers(1, 70), st.integers(1, 90), st.integers(0, 2), st.floats(0, 0.9))
def test_crops_cover_the_image(height, width, layers, overlap):
    options = EverythingOptions(crop_layers=layers, crop_overlap=overlap)
    boxes = crop_boxes((height, width), options)
    for layer in range(layers + 1):
        seen = np.zeros((height, width), bool)
        for _, (low, high) in (b for b in boxes if b[0] == layer):
            assert (high > low).all() and (low >= 0).all() and (high <= (height, width)).all()
            seen[low[0] : high[0], low[1] : high[1]] = True
        assert seen.all()


def test_the_point_grid_is_the_published_one():
    points = point_grid((100, 50), EverythingOptions(points=2))
    np.testing.assert_allclose(points, [[25, 12.5], [25, 37.5], [75, 12.5], [75, 37.5]])
    assert len(point_grid((9, 9), EverythingOptions(points=32, crop_divisor=2), 2)) == 64
    assert len(point_grid((9, 9, 9), EverythingOptions(points=8))) == 64
    fine = point_grid((1, 3), EverythingOptions(points=10))
    assert (fine <= [0.5, 2.5]).all()


def test_one_pixel_images_and_lines():
    for shape in ((1, 1), (1, 40), (7, 1)):
        raster = torch.full((3, *shape), 80.0)
        found = everything(FakeModel(), raster, options=EverythingOptions(points=4))
        assert len(found) == 1 and bool(found.masks.all())


def test_volumes_with_a_network_for_volumes():
    image, masks = block_image((12, 16, 20), [((slice(2, 8), slice(3, 11), slice(4, 12)), 120.0)])
    found = everything(FakeModel(ndim=3), image.data, options=EverythingOptions(points=16, crop_layers=0))
    assert contains(found, masks[0])


def test_progress_tells_the_time_left_and_can_stop_the_run(scene):
    raster, _ = scene
    events = []
    everything(FakeModel(), raster, options=EverythingOptions(points=16, batch=16), progress=events.append)
    assert [e.fraction for e in events] == [k / 16 for k in range(17)]
    assert events[0].detail == "encoding the image"
    assert all("left" in e.detail for e in events[1:])

    class Stopped(Exception):
        pass

    def stop(event):
        if event.fraction > 0:
            raise Stopped

    model = FakeModel()
    with pytest.raises(Stopped):
        everything(model, raster, options=EverythingOptions(points=16, batch=16), progress=stop)
    assert len(model.decoded) == 1


def test_the_estimate_scales_with_points_crops_and_images(scene, monkeypatch):
    raster, _ = scene
    now = iter(range(1000))
    monkeypatch.setattr("roireg.segment.everything.perf_counter", lambda: float(next(now)))
    # Every measurement takes one tick: encoding 1 s, a batch 1 s.
    options = EverythingOptions(points=16, batch=64)
    assert estimate_seconds(FakeModel(), raster, options=options) == 1 + 4
    assert estimate_seconds(FakeModel(), raster, options=options, images=3) == 15
    assert estimate_seconds(
        FakeModel(), raster, options=EverythingOptions(points=16, batch=64, crop_layers=1)
    ) == 5 * (1 + 4)


@pytest.mark.parametrize(("batch", "asked"), [(64, [64]), (6, [6, 6, 4])])
def test_the_estimate_asks_for_one_encoding_and_few_points(batch, asked, scene):
    raster, _ = scene
    model = FakeModel()
    estimate_seconds(model, raster, options=EverythingOptions(points=32, batch=batch))
    assert model.encoded == 1 and model.decoded == asked


def test_large_embeddings_are_asked_less_at_once():
    def batch(side):
        tensors = {"image": torch.zeros(1, 4, side, side)}
        return EverythingOptions().batch_for(Embedding(tensors, (8, 8), np.ones(2), np.zeros(2), (side, side)))

    assert [batch(side) for side in (8, 16, 32, 64, 128)] == [64, 32, 8, 2, 1]


def test_options_of_a_profile():
    assert EverythingOptions().at("full") == EverythingOptions(points=32, crop_layers=0)
    assert EverythingOptions().at("fast").points == 16
    assert EverythingOptions(points=5, crop_layers=2).at("fast") == EverythingOptions(points=5, crop_layers=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"points": 0},
        {"pred_iou_thresh": 1.5},
        {"stability_score_offset": 0},
        {"batch": 0},
        {"crop_layers": -1},
        {"min_quality": 0.5},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        EverythingOptions(**wrong)
