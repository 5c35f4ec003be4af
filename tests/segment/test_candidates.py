from __future__ import annotations

import numpy as np
import torch

from roireg.segment.candidates import Candidate, cleaned, pack, stability


def test_stability_counts_the_uncertain_rim():
    logits = torch.tensor([[[2.0, 2.0, 0.5, -0.5], [-2.0, -2.0, -2.0, -2.0]], [[-9.0] * 4] * 2])
    np.testing.assert_allclose(stability(logits, 1.0).numpy(), [2 / 4, 0])


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
