"""Prompt sessions on phantoms whose true transform is known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.core.transforms import Affine
from roireg.features import IntensityFeatures
from roireg.match.transfer import TransferOptions
from roireg.pipeline import register
from roireg.pipeline.prompting import (
    PROMPT_PRESETS,
    PromptSession,
    PromptSettings,
    find_guide,
    prompt,
    prompt_pairs,
    prompt_session,
)
from roireg.pipeline.prompts import random_prompts
from roireg.segment import HierarchySegmenter, PreparedRegions, Segmenter
from roireg.synth import SyntheticPair


def heart(pair: SyntheticPair, side: str) -> tuple[int, np.ndarray]:
    """The organ with the largest part in the fixed image, and an inner point of it on a side."""
    labels = pair.fixed_labels.data[0]
    shared = [k for k in pair.label_names if (labels == k).any() and (pair.moving_labels.data[0] == k).any()]
    sizes = {k: int((labels == k).sum()) for k in shared}
    label = sorted(sizes, key=lambda k: -sizes[k])[1]
    image = pair.fixed_labels if side == "fixed" else pair.moving_labels
    index = torch.nonzero(image.data[0] == label).double().numpy()
    middle = index[np.argmin(np.square(index - index.mean(0)).sum(1))]
    return label, image.grid.world_from_index(middle)


@pytest.fixture(scope="module")
def session(flat) -> PromptSession:
    return prompt_session(flat.fixed, flat.moving, guide=flat.transform)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_prompt_lands_where_the_true_transform_says(flat, session, side):
    label, point = heart(flat, side)
    result = session.answer(Prompt.at(point), side=side)
    (answer,) = result.answers
    assert answer.side == side and answer.pair == 0 and answer.reason == ""
    assert not result.abstained
    truth = flat.moving_labels if side == "fixed" else flat.fixed_labels
    index = np.round(truth.grid.index_from_world(answer.found.points[0])).astype(int)
    assert int(truth.data[0][tuple(index)]) == label
    (pair,) = result.pairs.pairs
    assert pair.source == "prompt" and pair.confidence == answer.confidence
    # A pair carries its prompt in the moving image, wherever it was given.
    in_moving = answer.given if side == "moving" else answer.found
    np.testing.assert_array_equal(pair.prompts[0].points, in_moving.points)


def test_the_same_in_an_oblique_volume_with_its_own_moving_grid(deep):
    session = prompt_session(deep.fixed, deep.moving, guide=deep.transform)
    _, point = heart(deep, "moving")
    (answer,) = session.answer(Prompt.at(point), side="moving").answers
    expected = deep.transform.map_points(answer.found.points)
    assert np.linalg.norm(expected[0] - point) < 0.12 * float(np.mean(deep.fixed.grid.extent))


def test_images_are_encoded_once_for_many_prompts(flat):
    built, encoded = [], []

    class Counting(HierarchySegmenter):
        def prepare(self, image):
            built.append(image.name)
            return super().prepare(image)

    class Encoder(IntensityFeatures):
        def __call__(self, image, grid):
            encoded.append(image.name)
            return super().__call__(image, grid)

    session = prompt_session(flat.fixed, flat.moving, segmenter=Counting(), features=Encoder(), guide=flat.transform)
    for side in ("fixed", "moving"):
        session.answer([Prompt.at(heart(flat, side)[1])] * 3, side=side)
    assert len(built) == 2
    assert len(encoded) == 2


def test_threads_share_a_session(flat, session):
    points = flat.fixed.grid.world_from_index(
        np.random.default_rng(0).uniform(0.2, 0.8, (6, 2)) * flat.fixed.grid.shape
    )
    sides = ["fixed", "moving"] * 3
    alone = [session.answer(Prompt.at(p), side=s) for p, s in zip(points, sides, strict=True)]
    fresh = prompt_session(flat.fixed, flat.moving, guide=flat.transform)
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda p, s: fresh.answer(Prompt.at(p), side=s), points, sides))
    for one, other in zip(alone, together, strict=True):
        assert [a.confidence for a in one.answers] == [a.confidence for a in other.answers]
        assert torch.equal(one.pairs.fixed.masks, other.pairs.fixed.masks)
        assert torch.equal(one.pairs.moving.masks, other.pairs.moving.masks)


def test_images_that_are_prepared_already_are_not_prepared_again(flat, session):
    class Unasked(HierarchySegmenter):
        def prepare(self, image):
            raise AssertionError("prepared again")

    prepared = tuple(HierarchySegmenter().prepare(image) for image in (flat.fixed, flat.moving))
    given = PromptSession.of(
        flat.fixed, flat.moving, segmenter=Unasked(), prepared=prepared, guide=session.guide
    ).answer(Prompt.at(heart(flat, "fixed")[1]))
    expected = session.answer(Prompt.at(heart(flat, "fixed")[1]))
    assert torch.equal(given.pairs.moving.masks, expected.pairs.moving.masks) and len(given.pairs)


def test_the_segmenter_says_first_which_images_it_takes(flat):
    class Deep(HierarchySegmenter):
        def prepare(self, image):
            raise GeometryError(f"{image.name}: takes 3D images, found {image.ndim}D")

    class Unasked(IntensityFeatures):
        def __call__(self, image, grid):
            raise AssertionError("features of an image that the segmenter does not take")

    with pytest.raises(GeometryError, match="takes 3D images, found 2D"):
        prompt_session(flat.fixed, flat.moving, segmenter=Deep(), features=Unasked(), guide=flat.transform)


def test_a_box_beyond_the_border_is_asked_for_as_far_as_it_reaches(flat, session):
    grid = flat.fixed.grid
    _, point = heart(flat, "fixed")
    corner = grid.corners()[np.argmax(np.linalg.norm(grid.corners() - point, axis=1))]
    beyond = point + 3 * (corner - point)
    (answer,) = session.answer(Prompt(np.zeros((0, 2)), np.zeros(0), np.stack([point, beyond]))).answers
    assert "outside" not in answer.reason
    ends = grid.index_from_world(answer.given.box)
    assert (ends >= -0.5 - 1e-6).all() and (ends <= np.array(grid.shape) - 0.5 + 1e-6).all()
    np.testing.assert_allclose(
        np.sort(answer.given.box, axis=0), np.sort(np.stack([point, corner]), axis=0), atol=1e-6
    )


def test_several_prompts_give_one_pair_each_and_equal_answers_on_their_own(flat, session):
    points = [heart(flat, "fixed")[1], flat.fixed.grid.center]
    together = session.answer([Prompt.at(p) for p in points])
    assert len(together.answers) == 2
    for k, point in enumerate(points):
        alone = session.answer(Prompt.at(point))
        assert alone.answers[0].confidence == together.answers[k].confidence
        if alone.answers[0].pair is not None:
            number = together.answers[k].pair
            assert torch.equal(alone.pairs.fixed.masks[0], together.pairs.fixed.masks[number])
    assert set(together.timings) == {"encoding", "guide", "prompts"}


def test_a_mask_is_a_prompt(flat, session):
    label, _ = heart(flat, "moving")
    mask = flat.moving_labels.with_data((flat.moving_labels.data == label).to(torch.int32))
    result = session.answer(mask, side="moving")
    assert torch.equal(result.pairs.moving.masks[0], mask.data[0] > 0)
    assert result.pairs.moving.grid == flat.moving.grid
    truth = flat.fixed_labels.data[0] == label
    found = result.pairs.fixed.masks[0]
    assert 2 * float((found & truth).sum()) / float(found.sum() + truth.sum()) > 0.5


def test_regions_of_different_grids_meet_on_that_of_the_image(flat):
    """A segmenter on a coarse grid and a mask on the image grid, in one answer."""
    settings = PromptSettings(transfer=TransferOptions(least_confidence=0.0))
    coarse = HierarchySegmenter(max_voxels=1500)
    session = prompt_session(flat.fixed, flat.moving, segmenter=coarse, guide=flat.transform, settings=settings)
    label, point = heart(flat, "moving")
    mask = flat.moving_labels.with_data((flat.moving_labels.data == label).to(torch.int32))
    result = session.answer([Prompt.at(point), mask], side="moving")
    assert len(result.pairs) == 2
    assert result.pairs.moving.grid == flat.moving.grid
    assert bool(result.pairs.moving.masks.flatten(1).any(1).all())


def test_no_counterpart_says_why_and_keeps_the_place(flat, session):
    strict = replace(session, settings=PromptSettings(transfer=TransferOptions(least_confidence=1.0)))
    _, point = heart(flat, "fixed")
    result = strict.answer(Prompt.at(point))
    (answer,) = result.answers
    assert result.abstained and answer.pair is None and len(result.pairs.fixed) == 0
    assert "confidence" in answer.reason
    assert answer.found is not None and len(answer.regions) == 1
    assert session.settings.transfer.least_confidence < 1.0


@pytest.mark.usefixtures("cheap_presets")
def test_the_quick_registration_guides_by_itself(flat):
    session = prompt_session(flat.fixed, flat.moving)
    points = flat.fixed_points
    apart = np.linalg.norm(session.guide.forward.map_points(points) - flat.transform.map_points(points), axis=1)
    still = np.linalg.norm(points - flat.transform.map_points(points), axis=1)
    assert apart.mean() < 0.5 * still.mean()
    assert find_guide(flat.fixed, flat.moving, "none") is None
    assert find_guide(flat.fixed, flat.moving, "centers").width > session.guide.width


def test_the_published_settings_run(flat):
    settings = PROMPT_PRESETS["promptreg"]
    session = prompt_session(flat.fixed, flat.moving, settings=settings.model_copy(update={"views": 2}))
    assert session.guide is None
    assert len(session.fixed.views) == 2
    asked = random_prompts(flat.moving, 4)
    result = session.answer(asked, side="moving")
    assert len(result.answers) == 4
    for answer in result.answers:
        # Nothing is held back; how far to trust it is said.
        assert answer.pair is not None or answer.reason
    assert any(a.pair is not None for a in result.answers)
    assert not all(a.confidence >= PromptSettings().transfer.least_confidence for a in result.answers)


def test_equal_seeds_give_equal_answers(flat):
    _, point = heart(flat, "moving")
    settings = PromptSettings(views=2)
    results = [
        prompt(
            flat.fixed, flat.moving, Prompt.at(point), side="moving", guide=flat.transform, settings=settings, seed=3
        )
        for _ in range(2)
    ]
    assert torch.equal(results[0].pairs.fixed.masks, results[1].pairs.fixed.masks)
    assert results[0].answers[0].confidence == results[1].answers[0].confidence


def test_random_prompts_start_a_registration(flat, session):
    pairs = prompt_pairs(session, 8, seed=1)
    assert 2 <= len(pairs) <= 8
    confidence = pairs.confidence.tolist()
    assert confidence == sorted(confidence, reverse=True)
    for i, a in enumerate(pairs.pairs):
        for b in pairs.pairs[:i]:
            assert not (
                torch.equal(pairs.moving.masks[a.moving], pairs.moving.masks[b.moving])
                and torch.equal(pairs.fixed.masks[a.fixed], pairs.fixed.masks[b.fixed])
            )
    from pipeline.cases import error, quick

    result = register(flat.fixed, flat.moving, pairs=pairs, config=quick(stages=("search",)))
    assert error(result.transform, flat) < error(None, flat)


def test_mistakes_are_named(flat, deep, session):
    inside = Prompt.at(flat.fixed.grid.center)
    for arguments, words in (
        ({"guide": "there"}, "auto, identity, centers, none"),
        ({"settings": "best"}, "default, promptreg"),
        ({"segmenter": "nothing"}, "'nothing' is unknown; use hierarchy, or name a network with --model"),
        ({"segmenter": "model"}, "segmenter model is that of a network; name it with --model"),
        ({"features": "nothing"}, "unknown"),
        ({"features": "model"}, "those of a network; name it with --model"),
    ):
        with pytest.raises(InputError, match=words):
            prompt_session(flat.fixed, flat.moving, **arguments)
    with pytest.raises(InputError, match="fixed or in the moving"):
        session.answer(inside, side="left")
    with pytest.raises(InputError, match="no prompt"):
        session.answer([])
    with pytest.raises(GeometryError, match="another grid"):
        session.answer(Image(torch.ones(1, 9, 9), Grid.pixels((9, 9))))
    with pytest.raises(InputError, match="outside"):
        session.answer(Prompt.at((1e4, 3.0)))
    with pytest.raises(GeometryError):
        prompt_session(flat.fixed, deep.moving)
    with pytest.raises(GeometryError, match="2D"):
        prompt_session(deep.fixed, deep.moving, guide=Affine.identity(2))

    class OnlyAll(Segmenter):
        def prepare(self, image):
            return PreparedRegions(image, lambda _: ROISet.empty(image.grid))

    with pytest.raises(InputError, match="answers no prompts"):
        prompt_session(flat.fixed, flat.moving, segmenter=OnlyAll(), guide=flat.transform)


def test_without_a_guide_the_embedding_says_where_to_look(flat):
    alone = prompt_session(flat.fixed, flat.moving, guide="none")
    guided = prompt_session(flat.fixed, flat.moving, guide=flat.transform)
    asked = prompt_session(flat.fixed, flat.moving, guide="none", features="intensity")
    # Fused vectors hold the 96 numbers of the embedding and more.
    assert alone.fixed.features.channels > 96 > guided.fixed.features.channels
    assert asked.fixed.features.channels == guided.fixed.features.channels
