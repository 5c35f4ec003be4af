from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.segment.candidates import Candidate, bounding_boxes, box_nms, cleaned, pack, stability


@given(st.integers(0, 10_000), st.integers(2, 3))
def test_boxes_are_the_extreme_indices(seed, ndim):
    rng = np.random.default_rng(seed)
    masks = rng.random((4, *rng.integers(1, 7, ndim))) < 0.3
    masks = masks[masks.reshape(4, -1).any(1)]
    boxes = bounding_boxes(torch.from_numpy(masks)).numpy()
    for mask, box in zip(masks, boxes, strict=True):
        index = np.argwhere(mask)
        np.testing.assert_array_equal(box, [index.min(0), index.max(0)])


def test_stability_counts_the_uncertain_rim():
    logits = torch.tensor([[[2.0, 2.0, 0.5, -0.5], [-2.0, -2.0, -2.0, -2.0]], [[-9.0] * 4] * 2])
    np.testing.assert_allclose(stability(logits, 1.0).numpy(), [2 / 4, 0])


def naive_nms(boxes, scores, limit):
    kept = []
    for k in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        (a0, a1) = boxes[k]
        for j in kept:
            (b0, b1) = boxes[j]
            shared = np.prod(np.clip(np.minimum(a1, b1) - np.maximum(a0, b0), 0, None))
            if shared / (np.prod(a1 - a0) + np.prod(b1 - b0) - shared) > limit:
                break
        else:
            kept.append(k)
    return kept


@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 0.7]))
def test_nms_is_the_plain_definition(seed, limit):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 20, (25, 2))
    boxes = np.stack([low, low + rng.integers(1, 15, (25, 2))], axis=1)
    scores = rng.integers(0, 6, 25) / 5
    found = box_nms(torch.from_numpy(boxes), torch.from_numpy(scores), limit + 1e-3)
    assert found == naive_nms(boxes, scores, limit + 1e-3)


def test_nms_handles_boxes_without_width_and_no_boxes():
    line = torch.tensor([[[0, 3], [9, 3]], [[0, 3], [9, 3]], [[0, 7], [9, 7]]])
    assert box_nms(line, torch.tensor([0.5, 0.9, 0.1]), 0.7) == [1, 2]
    assert box_nms(torch.zeros((0, 2, 2)), torch.zeros(0), 0.7) == []


def test_packing_keeps_every_pixel_and_drops_what_a_crop_cut():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(3, 30, 50))).float() * 30
    logits[:, :, 40:] = -30
    crop = np.array([[60, 0], [90, 50]])
    assert pack(logits, torch.ones(3), offset=1.0, min_stability=0, crop=crop, shape=(90, 100)) == []
    # The same crop as an image of its own: its edges are those of the image.
    found = pack(logits, torch.ones(3), offset=1.0, min_stability=0, crop=crop - [60, 0], shape=(30, 50))
    for c, full in zip(found, logits, strict=True):
        out = np.zeros((30, 50), bool)
        out[c.slices] = c.inside()
        np.testing.assert_array_equal(out, full.numpy() > 0)


def test_packing_drops_unstable_and_empty_masks():
    logits = torch.full((3, 8, 8), -10.0)
    logits[0, 2:6, 2:6] = 10.0
    logits[1, 2:6, 2:6] = 0.5
    crop = np.array([[0, 0], [8, 8]])
    found = pack(logits, torch.tensor([0.9, 0.8, 0.7]), offset=1.0, min_stability=0.9, crop=crop, shape=(8, 8))
    assert [round(c.quality, 3) for c in found] == [0.9]
    assert found[0].low.tolist() == [2, 2] and found[0].high.tolist() == [5, 5]
    both = pack(logits, torch.tensor([0.9, 0.8, 0.7]), offset=1.0, min_stability=0, crop=crop, shape=(8, 8))
    assert len(both) == 2


def candidate(mask: np.ndarray, quality: float = 0.9) -> Candidate:
    index = np.argwhere(mask)
    low, high = index.min(0), index.max(0)
    inside = mask[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
    return Candidate(np.packbits(inside), low, high, quality, 1.0, mask.size)


def test_cleaning_fills_holes_removes_islands_and_prefers_what_it_left_alone():
    mask = np.zeros((40, 40), bool)
    mask[5:25, 5:25] = True
    whole = mask.copy()
    mask[10:12, 10:12] = False
    mask[35, 35] = True
    (found,) = cleaned([candidate(mask, 0.99), candidate(whole, 0.5)], min_area=10, limit=0.7)
    assert found.quality == 0.5
    (alone,) = cleaned([candidate(mask)], min_area=10, limit=0.7)
    out = np.zeros_like(mask)
    out[alone.slices] = alone.inside()
    np.testing.assert_array_equal(out, whole)


def test_cleaning_never_empties_a_mask():
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = mask[0, 0] = mask[0, 1] = True
    (found,) = cleaned([candidate(mask)], min_area=100, limit=0.7)
    assert found.inside().sum() == 2


def test_cleaning_keeps_an_open_notch():
    mask = np.ones((6, 6), bool)
    mask[0, 3] = False
    (found,) = cleaned([candidate(mask)], min_area=5, limit=0.7)
    np.testing.assert_array_equal(found.inside(), mask)


def test_boxes_of_thin_axes():
    for axis, other in itertools.permutations(range(2)):
        shape = [1, 1]
        shape[other] = 5
        mask = torch.zeros((1, *shape), dtype=torch.bool)
        mask[0].select(other, 3)[...] = True
        box = bounding_boxes(mask)[0]
        assert box[:, axis].tolist() == [0, 0] and box[:, other].tolist() == [3, 3]
