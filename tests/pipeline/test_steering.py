"""Prompts, accepted and rejected pairs, and random prompts steer a registration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import roireg
from cheaper import cheapen, shorter
from pipeline.cases import quick
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine
from roireg.fit import start
from roireg.match import KeypointMap
from roireg.pipeline.steering import accepted, blocked, combined, overlaps
from roireg.segment.hierarchy import HierarchyImage, HierarchySegmenter
from roireg.synth import SyntheticPair
from support import dice


def organ(pair: SyntheticPair, label: int, side: str = "fixed") -> torch.Tensor:
    return getattr(pair, f"{side}_labels").data[0] == label


def inside(pair: SyntheticPair, label: int, side: str = "fixed") -> np.ndarray:
    index = torch.nonzero(organ(pair, label, side)).double().numpy()
    middle = index[np.argmin(np.square(index - index.mean(0)).sum(1))]
    return getattr(pair, side).grid.world_from_index(middle)


def by_label(pair: SyntheticPair, labels: tuple[int, ...], status: str = "accepted") -> ROIPairs:
    sets = [
        ROISet(torch.stack([organ(pair, k, side) for k in labels]), getattr(pair, side).grid)
        for side in ("moving", "fixed")
    ]
    pairs = tuple(ROIPair(k, k, 1.0, 1.0, source="user", status=status) for k in range(len(labels)))
    return ROIPairs(sets[0], sets[1], pairs)


# -- prompts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_prompt_becomes_an_accepted_pair_and_its_region_fits_no_worse(flat, flat_result, side):
    label = 2
    result = roireg.register(
        flat.fixed, flat.moving, config=quick(), prompts=[Prompt.at(inside(flat, label, side))], prompt_side=side
    )
    first = result.pairs.pairs[0]
    assert (first.status, first.source) == ("accepted", "prompt")
    assert dice(result.pairs.fixed.masks[first.fixed], organ(flat, label)) > 0.7
    assert dice(result.pairs.moving.masks[first.moving], organ(flat, label, "moving")) > 0.7
    # The others are still there, but none has a region of the pair.
    others = [p for p in result.pairs.pairs if p.status == "proposed"]
    assert len(others) >= 3
    own = overlaps(result.pairs.fixed, result.pairs.fixed.subset([first.fixed]))
    assert all(own[p.fixed, 0] <= 0.5 for p in others)
    truth = organ(flat, label)
    after = [dice(r.move_labels(flat.moving_labels).data[0] == label, truth) for r in (flat_result, result)]
    assert after[1] >= after[0] - 0.01
    assert result.timings["carrying prompts"] > 0


def test_candidates_and_prompts_share_the_prepared_images(flat, monkeypatch):
    prepare, images = HierarchySegmenter.prepare, []

    def counted(self, image):
        images.append(image)
        return prepare(self, image)

    monkeypatch.setattr(HierarchySegmenter, "prepare", counted)
    config = quick(stages=("search",))
    roireg.register(flat.fixed, flat.moving, config=config, prompts=Prompt.at(flat.fixed.grid.center))
    assert [image.name for image in images] == [flat.fixed.name, flat.moving.name]


def test_a_prompt_in_a_volume(deep):
    label = max(deep.label_names, key=lambda k: int(organ(deep, k).sum()))
    config = quick(stages=("affine",))
    result = roireg.register(deep.fixed, deep.moving, config=config, prompts=Prompt.at(inside(deep, label)))
    sure = [p for p in result.pairs.pairs if p.status == "accepted"]
    said = [r for r in result.reasons if "prompt 1" in r]
    assert len(sure) + len(said) == 1


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segmenter that finds regions and answers no prompt."""
    monkeypatch.setattr(HierarchyImage, "answer", lambda self, prompt: ROISet.empty(self.image.grid))


@pytest.mark.usefixtures("blind")
def test_a_prompt_without_a_counterpart_is_named_and_the_rest_goes_on(flat, flat_result):
    result = roireg.register(flat.fixed, flat.moving, config=quick(), prompts=Prompt.at((20.0, 30.0)))
    (said,) = [r for r in result.reasons if r.startswith("prompt 1 has no counterpart in the moving image")]
    assert said.rpartition(": ")[2]
    assert result.verdict == "uncertain"
    # As if nothing had been asked.
    points = flat.fixed.grid.points()
    np.testing.assert_array_equal(result.map_points(points), flat_result.map_points(points))
    assert [p.status for p in result.pairs.pairs] == ["proposed"] * len(flat_result.pairs)


def test_a_mask_is_a_prompt_and_the_weight_pulls(flat):
    """With the region term all but alone, the region of the mask ends up on its counterpart."""
    label = 3
    mask = flat.fixed_labels.with_data((flat.fixed_labels.data == label).int())
    config = quick(stages=("affine", "velocity"))
    results = [
        roireg.register(flat.fixed, flat.moving, config=config, prompts=mask, roi_weight=w) for w in (0.0, 5.0)
    ]
    apart = []
    for result in results:
        (pair,) = [p for p in result.pairs.pairs if p.status == "accepted"]
        moved = result.move_labels(
            Image(result.pairs.moving.masks[pair.moving][None].int(), result.pairs.moving.grid)
        )
        apart.append(dice(moved.data[0] != 0, mask.data[0] != 0))
    assert apart[1] > apart[0]
    fit = results[1].config.stages[-1]
    assert fit.accepted_weight == 5.0
    assert fit.region_weight == quick().stages[-1].region_weight


def test_bad_prompts_and_weights_are_refused_before_anything_is_computed(flat):
    events: list[object] = []
    inner = flat.fixed.grid.center
    both = Prompt(np.stack([inner, inner]), np.array([1, 0]))
    flat_box = Prompt(np.zeros((0, 2)), np.zeros(0, dtype=int), box=np.array([[3.0, 3.0], [3.0, 9.0]]))
    proposed = by_label(flat, (3,), "proposed")
    for arguments, words in (
        ({"prompts": Prompt.at((900.0, 3.0))}, "outside the image"),
        ({"prompts": [both]}, "both inside"),
        ({"prompts": [flat_box]}, "no area"),
        ({"prompts": Prompt.at(inner), "prompt_side": "left"}, "fixed or in the moving"),
        ({"roi_weight": -1.0}, "from 0 to 1e.06, found -1"),
        ({"pairs": proposed, "fixed_rois": flat.fixed_labels, "moving_rois": flat.moving_labels}, "give one of them"),
        ({"pairs": ROIPairs(proposed.moving, proposed.fixed, ())}, "hold no pair"),
    ):
        with pytest.raises(InputError, match=words):
            roireg.register(flat.fixed, flat.moving, progress=events.append, **arguments)
    assert events == []


# -- pairs a person has decided on ------------------------------------------------------------------


def test_accepted_pairs_stay_rejected_ones_go_and_the_others_are_found(flat, flat_result):
    refused = flat_result.pairs.pairs[0]
    known = replace(flat_result.pairs, pairs=(replace(refused, status="rejected"),))
    mine = by_label(flat, (3,))
    result = roireg.register(flat.fixed, flat.moving, config=quick(), pairs=combined(mine, replace(known)))
    statuses = [p.status for p in result.pairs.pairs]
    assert statuses[0] == "accepted" and statuses[-1] == "rejected" and statuses.count("proposed") >= 2
    first = result.pairs.pairs[0]
    assert torch.equal(result.pairs.fixed.masks[first.fixed], organ(flat, 3))
    regions = flat_result.pairs
    alike_m = overlaps(result.pairs.moving, regions.moving.subset([refused.moving]))[:, 0] > 0.5
    alike_f = overlaps(result.pairs.fixed, regions.fixed.subset([refused.fixed]))[:, 0] > 0.5
    assert not [p for p in result.pairs.active.pairs if alike_m[p.moving] and alike_f[p.fixed]]


def test_pairs_with_a_proposed_one_or_alone_by_request_are_all_there_are(flat):
    for pairs, only in ((by_label(flat, (1, 3), "proposed"), False), (by_label(flat, (1, 3)), True)):
        result = roireg.register(
            flat.fixed, flat.moving, config=quick(stages=("search",)), pairs=pairs, pairs_only=only
        )
        assert result.pairs is pairs


def test_rejected_pairs_alone_leave_everything_else(flat, flat_result):
    refused = replace(flat_result.pairs, pairs=(replace(flat_result.pairs.pairs[0], status="rejected"),))
    result = roireg.register(flat.fixed, flat.moving, config=quick(stages=("search",)), pairs=refused)
    assert len(result.pairs.active) >= 3
    assert [p.status for p in result.pairs.pairs].count("rejected") == 1


def test_accepted_pairs_propose_a_start(flat):
    """Regions far apart that no search finds: the affine of accepted pairs is tried, and wins."""
    far = flat.moving.grid
    away = far.padded((0, 400), (0, -400)).with_shape(far.shape)
    moving = replace(flat.moving, grid=away)
    mine = by_label(flat, (1, 2, 3))
    mine = replace(mine, moving=ROISet(mine.moving.masks, away))
    config = quick(segment={"max_count": 1}, stages=("search",))
    result = roireg.register(flat.fixed, moving, config=config, init="centers", pairs=mine)
    shift = np.linalg.norm(result.affine.map_points(flat.fixed.grid.center[None])[0] - away.center)
    assert shift < 20


def test_accepted_pairs_propose_a_start_also_where_key_points_have_decided(flat, monkeypatch):
    decided = [KeypointMap(Affine.translation((9.0, 9.0)), agreeing=30, matched=31, decisive=True, spread=1.0)]
    monkeypatch.setattr(start, "keypoint_maps", lambda *images, **how: decided)
    asked: list[list[str]] = []

    find = start.find_start

    def listening(problem, given, proposals, *, options):
        asked.append([c.source for c in given])
        asked.append([c.source for c in proposals])
        return find(problem, given, proposals, options=options)

    monkeypatch.setattr(start, "find_start", listening)
    config = quick(stages=("search",))
    roireg.register(flat.fixed, flat.moving, config=config, pairs=by_label(flat, (1, 2, 3)))
    assert asked == [["key points"], ["accepted pairs"]]


# -- random prompts ---------------------------------------------------------------------------------


def test_the_preset_of_random_prompts(flat, monkeypatch):
    cheapen(monkeypatch, shorter)
    config = quick(roireg.preset("promptreg")).with_options("velocity", iterations=(15,), levels=1)
    assert config.prompt.count == 8
    results = [roireg.register(flat.fixed, flat.moving, config=config, seed=2) for _ in range(2)]
    assert 3 <= len(results[0].pairs) <= 8
    assert {p.source for p in results[0].pairs.pairs} == {"prompt"}
    np.testing.assert_array_equal(results[0].affine.matrix, results[1].affine.matrix)
    assert results[0].provenance["start"] == "region pairs"


@pytest.mark.usefixtures("blind")
def test_without_a_counterpart_random_prompts_leave_the_start_as_it_is(flat):
    config = quick(prompt={"count": 2}, stages=("search",))
    result = roireg.register(flat.fixed, flat.moving, config=config, init="identity")
    np.testing.assert_array_equal(result.affine.matrix, np.eye(3))
    assert result.verdict == "uncertain"
    assert "none of 2 random prompts has a counterpart" in result.reasons[-1]


# -- joining ----------------------------------------------------------------------------------------


def squares(*corners: int, size: int = 4, n: int = 20) -> ROISet:
    masks = torch.zeros(len(corners), n, n, dtype=torch.bool)
    for mask, c in zip(masks, corners, strict=True):
        mask[c : c + size, c : c + size] = True
    return ROISet(masks, Grid.pixels((n, n)))


def test_what_is_ruled_out_by_hand():
    candidates = squares(0, 6, 12)
    known = ROIPairs(
        squares(0, 6),
        squares(0, 12),
        (ROIPair(0, 0, 1, 1, status="accepted"), ROIPair(1, 1, 1, 1, status="rejected")),
    )
    expected = np.array([[True, True, True], [True, False, True], [True, False, False]])
    np.testing.assert_array_equal(blocked(candidates, candidates, known), expected)
    found = ROIPairs(candidates, candidates, tuple(ROIPair(m, f, 0.5, 0.5) for m in range(3) for f in range(3)))
    together = combined(known, found)
    assert [(p.moving, p.fixed, p.status) for p in together.pairs] == [
        (3, 3, "accepted"),
        (1, 1, "proposed"),
        (2, 1, "proposed"),
        (2, 2, "proposed"),
        (4, 4, "rejected"),
    ]
    assert torch.equal(together.fixed.masks[4], known.fixed.masks[1])


def test_regions_meet_on_the_grid_of_the_proposals_and_none_vanishes():
    fine = squares(3, size=1)
    coarse = fine.grid.with_shape((5, 5))
    there = fine.on(coarse)
    assert int(there.masks.sum()) == 1 and bool(there.masks[0, 0, 0])
    assert len(ROISet.empty(fine.grid).on(coarse)) == 0
    joined = combined(ROIPairs(fine, fine, (ROIPair(0, 0, 1, 1, status="accepted"),)), ROIPairs(there, there, ()))
    assert joined.moving.grid == coarse and len(joined.moving) == 2


def test_what_a_person_rejected_stays_rejected():
    pairs = ROIPairs(squares(0, 6), squares(0, 6), (ROIPair(0, 0, 1, 1), ROIPair(1, 1, 1, 1, status="rejected")))
    assert [p.status for p in accepted(pairs).pairs] == ["accepted", "rejected"]
