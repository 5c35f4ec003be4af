"""Masks compared with each other, against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core import masks as module
from roireg.core.masks import bounding_boxes, box_nms, dilated, intersections, iou, mask_nms


@pytest.mark.parametrize("slab", [7, 1 << 18])
def test_shared_voxels_and_overlaps_are_the_plain_counts(slab, monkeypatch):
    monkeypatch.setattr(module, "SLAB", slab)
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 5, 6)) < 0.4, rng.random((4, 5, 6)) < 0.6
    a[0] = b[0] = False
    shared, overlap = intersections(*map(torch.from_numpy, (a, b))), iou(*map(torch.from_numpy, (a, b)))
    for i, one in enumerate(a):
        for j, two in enumerate(b):
            assert shared[i, j] == (one & two).sum()
            assert overlap[i, j] == (one & two).sum() / max(1, (one | two).sum())
    assert iou(torch.zeros(0, 4, 4, dtype=torch.bool), torch.ones(2, 4, 4, dtype=torch.bool)).shape == (0, 2)


def test_suppression_prefers_the_better_and_then_the_earlier():
    masks = torch.zeros(4, 10, dtype=torch.bool)
    masks[0, :6] = masks[1, :5] = masks[2, :6] = masks[3, 7:] = True
    assert mask_nms(masks, torch.tensor([0.5, 0.9, 0.5, 0.1]), 0.9) == [1, 0, 3]
    assert mask_nms(masks, torch.tensor([0.5, 0.9, 0.5, 0.1]), 0.8) == [1, 3]
    assert mask_nms(masks, torch.tensor([0.5, 0.9, 0.5, 0.1]), 0.5) == [1, 3]


@given(st.integers(0, 999), st.floats(0.05, 0.95))
def test_suppression_agrees_with_a_loop(seed, limit):
    generator = np.random.default_rng(seed)
    masks = torch.from_numpy(generator.random((7, 5, 6)) < generator.uniform(0.3, 0.9, (7, 1, 1)))
    masks[:, 0, 0] = True
    scores = torch.from_numpy(generator.random(7))
    kept: list[int] = []
    for k in sorted(range(7), key=lambda k: -float(scores[k])):
        if all((masks[k] & masks[j]).sum() <= limit * (masks[k] | masks[j]).sum() for j in kept):
            kept.append(k)
    assert mask_nms(masks, scores, limit) == kept


@given(st.integers(0, 10_000), st.integers(2, 3))
def test_boxes_are_the_extreme_indices(seed, ndim):
    rng = np.random.default_rng(seed)
    masks = rng.random((4, *rng.integers(1, 7, ndim))) < 0.3
    masks = masks[masks.reshape(4, -1).any(1)]
    boxes = bounding_boxes(torch.from_numpy(masks)).numpy()
    for mask, box in zip(masks, boxes, strict=True):
        index = np.argwhere(mask)
        np.testing.assert_array_equal(box, [index.min(0), index.max(0)])


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


def test_boxes_of_thin_axes():
    for axis, other in itertools.permutations(range(2)):
        shape = [1, 1]
        shape[other] = 5
        mask = torch.zeros((1, *shape), dtype=torch.bool)
        mask[0].select(other, 3)[...] = True
        box = bounding_boxes(mask)[0]
        assert box[:, axis].tolist() == [0, 0] and box[:, other].tolist() == [3, 3]


@given(st.integers(0, 99), st.lists(st.integers(0, 9), min_size=2, max_size=3))
def test_a_box_reaches_what_its_definition_says(seed, radius):
    rng = np.random.default_rng(seed)
    masks = rng.random((2, *rng.integers(1, 12, len(radius)))) < 0.05
    expected = np.zeros_like(masks)
    for k, *index in np.argwhere(masks):
        expected[(k, *(slice(max(i - r, 0), i + r + 1) for i, r in zip(index, radius, strict=True)))] = True
    assert np.array_equal(dilated(torch.as_tensor(masks), radius).numpy(), expected)
