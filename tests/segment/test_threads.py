"""One segmenter and one prepared image in many threads: the same answers as one after the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.models.cache import EmbeddingCache
from roireg.segment import (
    EverythingOptions,
    HierarchySegmenter,
    Model3DSegmenter,
    ModelSegmenter,
    PreparedRegions,
    Segmenter,
    SliceSegmenter,
)
from segment.fake_model import FakeModel, block_image
from segment.phantoms import three_discs
from segment.test_model3d import Toy, ball_image
from support import make_grid

FLAT = block_image((48, 64), [((slice(4, 20), slice(6, 30)), 100.0), ((slice(30, 40), slice(40, 56)), 180.0)])[0]
DEEP = ball_image(make_grid((24, 26, 28), (1.5, 1.5, 1.5)), (20, 18, 17), 9)[0]
EVERYTHING = EverythingOptions(points=8)

CASES = {
    "hierarchy": (HierarchySegmenter(), three_discs()[0]),
    "network": (ModelSegmenter(FakeModel(), cache=EmbeddingCache(), options=EVERYTHING), FLAT),
    "slices": (
        SliceSegmenter(ModelSegmenter(FakeModel(), cache=EmbeddingCache(), options=EVERYTHING)),
        Image(torch.stack([FLAT.data[0]] * 3)[None], make_grid((3, 48, 64), (4.0, 1.0, 1.0))),
    ),
    "3D network": (Model3DSegmenter(Toy(patch=32), cache=EmbeddingCache(), points=30), DEEP),
}


def equal(a: ROISet, b: ROISet) -> bool:
    return torch.equal(a.masks, b.masks) and torch.equal(a.scores, b.scores) and a.grid == b.grid


@pytest.mark.parametrize("name", CASES)
def test_threads_share_a_prepared_image(name):
    segmenter, image = CASES[name]
    rng = np.random.default_rng(0)
    index = rng.uniform(0.2, 0.8, (12, image.ndim)) * (np.array(image.grid.shape) - 1)
    prompts = [Prompt.at(p) for p in image.grid.world_from_index(np.round(index))]
    alone = segmenter.prepare(image)
    expected, regions = [alone.answer(p) for p in prompts], alone.regions()
    assert len(regions) and any(len(rois) for rois in expected)
    shared = segmenter.prepare(image)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(shared.answer, p) for p in prompts]
        candidates = [pool.submit(shared.regions) for _ in range(4)]
        others = [pool.submit(lambda: segmenter.prepare(image).answer(prompts[0])) for _ in range(3)]
    assert all(equal(a.result(), b) for a, b in zip(answers, expected, strict=True))
    assert all(c.result() is shared.regions() for c in candidates) and equal(shared.regions(), regions)
    assert all(equal(o.result(), expected[0]) for o in others)


def test_a_segmenter_keeps_nothing_of_an_image():
    for segmenter, image in CASES.values():
        before = dict(vars(segmenter))
        segmenter.prepare(image).regions()
        assert vars(segmenter) == before


def test_the_shorthand_finds_the_regions_of_the_prepared_image():
    class Bright(Segmenter):
        def prepare(self, image: Image) -> PreparedRegions:
            return PreparedRegions(image, lambda i: ROISet((i.data > 150).any(0)[None], i.grid))

    rois = Bright()(FLAT)
    assert torch.equal(rois.masks[0], FLAT.data[0] > 150)
