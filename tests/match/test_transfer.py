"""A prompt carried from one image to the other, with a segmenter that is never wrong and with the embedded one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from match.prompt_scenes import GRIDS, Balls, Knows, balls, flat_grid, two_sides
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.core.transforms import Affine
from roireg.match.carry import Guide, Side, anchor_of, carried_prompt, carried_regions, inside
from roireg.match.evidence import CALIBRATION, Evidence, confidence_of
from roireg.match.transfer import transfer_prompt
from roireg.match.transfer_options import PROMPTREG, TransferOptions
from roireg.match.variants import View, draw_views, view_of
from roireg.segment import HierarchySegmenter
from roireg.segment.promptable import NetworkAnswers
from roireg.segment.prompts import ClosePointsError, inner_point

OFFSET = {"flat": (6.0, -4.0), "deep": (5.0, 3.0, -4.0)}


# All balls together are found again as well as one of them: here the segmenter's first answer is meant.
ALONE = TransferOptions(readings=1)


def label_of(found: ROISet, truth: torch.Tensor) -> int:
    """The ball that a region is, 0 where it is none of them exactly."""
    labels = [k for k in (1, 2, 3) if torch.equal(found.masks[0], truth == k)]
    return labels[0] if labels else 0


# -- the whole way --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flat", "deep"])
@pytest.mark.parametrize("label", [1, 2, 3])
@pytest.mark.parametrize("guided", [True, False])
def test_every_ball_finds_itself(kind, label, guided):
    source, target, guide, own, other = two_sides(GRIDS[kind], OFFSET[kind])
    asked = Prompt.at(own.centers[label - 1])
    found = transfer_prompt(asked, source, target, guide=guide if guided else None, options=ALONE)
    assert found.reason == ""
    assert label_of(found.source, own.labels) == label
    assert label_of(found.target, other.labels) == label
    assert (
        other.labels[tuple(np.round(target.image.grid.index_from_world(found.prompt.points[0])).astype(int))] == label
    )
    assert found.evidence.returned_overlap == 1.0
    assert found.evidence.returned_distance == 0.0
    assert found.similarity > 0.95
    assert found.confidence == confidence_of(found.evidence)


@pytest.mark.parametrize("place", ["argmax", "soft", "inverse"])
def test_every_way_to_a_point_lands_in_the_ball(place):
    source, target, _, own, other = two_sides(flat_grid(), OFFSET["flat"])
    options = PROMPTREG.model_copy(update={"place": place, "rounds": 0, "least_confidence": 0.0})
    found = transfer_prompt(Prompt.at(own.centers[0]), source, target, options=options)
    assert label_of(found.target, other.labels) == 1


def test_a_guide_decides_between_twins():
    """Two balls of equal brightness: appearance cannot tell them apart, position can."""
    source, target, guide, own, other = two_sides(flat_grid(), OFFSET["flat"], levels=(0.9, 0.9, 0.25))
    for label in (1, 2):
        asked = Prompt.at(own.centers[label - 1])
        assert (
            label_of(transfer_prompt(asked, source, target, guide=guide, options=ALONE).target, other.labels) == label
        )


def test_a_box_and_a_region_cross_as_points_do():
    source, target, guide, own, other = two_sides(flat_grid(), OFFSET["flat"])
    index = np.argwhere((own.labels == 2).numpy())
    corners = own.image.grid.world_from_index(np.stack([index.min(0) - 0.5, index.max(0) + 0.5]))
    boxed = transfer_prompt(Prompt(np.zeros((0, 2)), np.zeros(0), corners), source, target, guide=guide)
    assert label_of(boxed.target, other.labels) == 2
    assert boxed.prompt.box is not None
    region = ROISet((own.labels == 3)[None], own.image.grid)
    given = transfer_prompt(region, source, target, guide=guide)
    assert label_of(given.target, other.labels) == 3
    assert torch.equal(given.source.masks, region.masks)


def test_the_embedded_segmenter_finds_the_same_ball():
    segmenter = HierarchySegmenter()
    source, target, guide, own, other = two_sides(flat_grid(), OFFSET["flat"], segmenter=segmenter)
    for label in (1, 2):
        found = transfer_prompt(Prompt.at(own.centers[label - 1]), source, target, guide=guide)
        truth = other.labels == label
        mask = found.target.masks[0]
        assert 2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum()) > 0.85


# -- no answer ------------------------------------------------------------------------------------


def test_a_place_outside_the_other_image_has_no_counterpart():
    source, target, _, own, _ = two_sides(flat_grid(), OFFSET["flat"])
    away = Affine.translation((500.0, 0.0))
    found = transfer_prompt(Prompt.at(own.centers[0]), source, target, guide=Guide(away, away.inverse(), 5.0))
    assert found.target is None and found.prompt is None and found.evidence is None
    assert "outside" in found.reason
    assert label_of(found.source, own.labels) == 1


def test_a_ball_that_is_gone_has_no_counterpart():
    """The other image shows nothing but noise where the ball should be, and the embedded segmenter is honest."""
    grid = flat_grid()
    source, target, guide, own, _ = two_sides(grid, OFFSET["flat"], segmenter=HierarchySegmenter())
    noise = Image(torch.rand((1, *grid.shape), generator=torch.Generator().manual_seed(0)), grid)
    blank = Side(HierarchySegmenter().prepare(noise), target.features.with_data(-target.features.data.flip(1, 2)))
    found = transfer_prompt(Prompt.at(own.centers[0]), source, blank, guide=guide)
    assert found.target is None
    assert "confidence" in found.reason
    assert found.prompt is not None


def test_a_segmenter_without_an_answer_is_no_error():
    source, target, guide, own, other = two_sides(flat_grid(), OFFSET["flat"])

    class Silent(Knows):
        def answer(self, prompt):
            return ROISet.empty(self.image.grid)

    asked = Prompt.at(own.centers[0])
    assert "no region" in transfer_prompt(asked, replace(source, prepared=Silent(own)), target, guide=guide).reason
    assert "nothing" in transfer_prompt(asked, source, replace(target, prepared=Silent(other)), guide=guide).reason


def test_mistakes_are_named():
    source, target, _, own, _ = two_sides(flat_grid(), OFFSET["flat"])
    deep = two_sides(GRIDS["deep"], OFFSET["deep"])[1]
    with pytest.raises(GeometryError, match="2D to 3D"):
        transfer_prompt(Prompt.at(own.centers[0]), source, deep)
    with pytest.raises(InputError, match="one region"):
        transfer_prompt(ROISet(torch.stack([own.labels == 1, own.labels == 2]), own.image.grid), source, target)
    for wrong in ({"place": "best"}, {"readings": 0}, {"least_confidence": 2}, {"window": 0.1}):
        with pytest.raises(ValidationError):
            TransferOptions(**wrong)
    with pytest.raises(InputError, match="width"):
        Guide(Affine.identity(2), Affine.identity(2), 0.0)


# -- parts ----------------------------------------------------------------------------------------


def test_confidence_rises_with_every_piece_of_evidence():
    base = Evidence(0.5, 0.5, 0.5, True, 0.5, 0.0)
    for name in ("appearance", "overlap", "returned_overlap"):
        values = [confidence_of(replace(base, **{name: v})) for v in (0.0, 0.4, 0.8, 1.0)]
        assert values == sorted(values) and values[0] < values[-1]
    assert confidence_of(replace(base, guided=False)) < confidence_of(base)
    logit = np.dot(CALIBRATION, (1, 1, 0.5, 0.5, 0.5))
    assert confidence_of(base) == pytest.approx(1 / (1 + np.exp(-logit)))


def test_a_carried_prompt_keeps_its_shape():
    grid = Grid.pixels((100, 120))
    prompt = Prompt([[20.0, 30.0], [24.0, 30.0], [500.0, 30.0]], [1, 0, 1], [[10.0, 20.0], [40.0, 50.0]])
    moved = carried_prompt(prompt, anchor_of(prompt), np.array([50.0, 60.0]), None, grid)
    np.testing.assert_allclose(moved.points, [[50, 60], [54, 60]])
    np.testing.assert_array_equal(moved.labels, [1, 0])
    np.testing.assert_allclose(np.sort(moved.box, axis=0), [[40, 50], [70, 80]])
    double = Affine(np.diag([2.0, 2.0, 1.0]))
    wide = carried_prompt(
        prompt, anchor_of(prompt), np.array([50.0, 60.0]), Guide(double, double.inverse(), 1.0), grid
    )
    np.testing.assert_allclose(wide.points, [[50, 60], [58, 60]])
    assert carried_prompt(Prompt.at((5.0, 5.0)), np.array([5.0, 5.0]), np.array([-9.0, 5.0]), None, grid) is None


def test_carried_regions_are_those_of_warping_each_mask():
    grid = GRIDS["deep"]
    scene = balls(grid, (0, 0, 0))
    guide = Guide(Affine.translation((4.0, -3.0, 3.0)), Affine.translation((-4.0, 3.0, -3.0)), 1.0)
    rois = ROISet.from_labels(scene.labels, grid)
    moved = carried_regions(rois, grid, guide)
    for mask, center in zip(moved, scene.centers, strict=True):
        index = torch.nonzero(mask > 0.5).double().numpy()
        np.testing.assert_allclose(grid.world_from_index(index.mean(0)), center + (4, -3, 3), atol=0.8)
    assert guide.source_coords(grid, grid) is guide.source_coords(grid, grid)
    assert guide.reversed is guide.reversed


def test_the_inner_point_of_a_ring_is_in_the_ring_and_prompts_are_moved_inside():
    grid = Grid.pixels((41, 41))
    distance = np.linalg.norm(grid.points() - 20, axis=1).reshape(41, 41)
    ring = ROISet(torch.as_tensor((distance > 8) & (distance < 15))[None], grid)
    point = inner_point(ring.masks[0], grid)
    assert 10 < np.linalg.norm(point - 20) < 13
    moved = inside(Prompt([[20.0, 20.0], [20.0, 8.0], [1.0, 1.0]], [1, 1, 0]), ring)
    assert ring.masks[(0, *np.round(moved.points[0][::-1]).astype(int))]
    np.testing.assert_array_equal(moved.points[1:], [[20, 8], [1, 1]])


def test_views_average_the_region_and_ask_only_where_the_prompt_is_seen():
    source, target, guide, own, other = two_sides(flat_grid(), OFFSET["flat"])
    views = (*draw_views(3, 2, rng=np.random.default_rng(0)), View(scale=40.0))
    seen = []
    for view in views:
        picture = view_of(own.image, view)
        labels = view_of(Image(own.labels[None].float(), own.image.grid), view).data[0].round().long()
        seen.append((view, Knows(replace(own, image=picture, labels=labels))))
    with_views = replace(source, views=tuple(seen))
    found = transfer_prompt(Prompt.at(own.centers[1]), with_views, target, guide=guide)
    overlap = (found.source.masks[0] & (own.labels == 2)).sum() / (found.source.masks[0] | (own.labels == 2)).sum()
    assert float(overlap) > 0.85
    assert label_of(found.target, other.labels) == 2
    assert [len(knows.prompts) for _, knows in seen] == [1, 1, 1, 0]


def test_an_auxiliary_point_mends_a_counterpart_that_misses_a_part():
    """The segmenter answers one positive point with half of the ball, two with all of it."""
    source, target, guide, own, other = two_sides(flat_grid(), OFFSET["flat"])
    columns = torch.arange(flat_grid().shape[1])
    middle = round(float(torch.nonzero(other.labels == 1).double()[:, 1].mean()))

    class Halves(Knows):
        def answer(self, prompt):
            whole, grid = super().answer(prompt).masks[:1], self.image.grid
            if (prompt.labels == 1).sum() < 2:
                whole = whole & (columns <= middle)
            return ROISet(whole, grid, scores=torch.tensor([0.9])) if whole.any() else ROISet.empty(grid)

    halves = replace(target, prepared=Halves(other))
    options = TransferOptions(least_confidence=0.0)
    asked = Prompt.at(own.centers[0])
    plain = transfer_prompt(asked, source, halves, guide=guide, options=options)
    mended = transfer_prompt(asked, source, halves, guide=guide, options=options.model_copy(update={"rounds": 2}))
    assert label_of(plain.target, other.labels) == 0
    assert label_of(mended.target, other.labels) == 1
    assert (mended.prompt.labels == 1).sum() == 2


# -- what reaches the person ----------------------------------------------------------------------


class Picky(Knows):
    """Takes no negative point within 10 mm of a positive one, and can be made to fail in another way."""

    fails: Exception | None = None

    def answer(self, prompt):
        if self.fails is not None and (prompt.labels == 0).any():
            raise self.fails
        apart = prompt.points[prompt.labels == 0][:, None] - prompt.points[prompt.labels == 1][None]
        if apart.size and np.linalg.norm(apart, axis=-1).min() < 10:
            raise ClosePointsError("too close")
        return super().answer(prompt)


def test_a_negative_point_that_comes_too_close_is_left_out_and_that_is_said():
    source, target, guide, own, other = two_sides(flat_grid(), OFFSET["flat"])
    far, near = own.centers[1], own.centers[0] + (4.0, 0.0)
    asked = Prompt(np.stack([own.centers[0], near, far]), [1, 0, 0])
    picky = replace(target, prepared=Picky(other))
    found = transfer_prompt(asked, source, picky, guide=guide)
    assert label_of(found.target, other.labels) == 1
    assert found.notes == ("left out in image: 1 negative point too close to a positive one",)
    # The far one has its say, and nothing is claimed of the near one.
    assert found.prompt.labels.tolist() == [1, 0]
    assert transfer_prompt(asked, source, target, guide=guide).notes == ()
    with pytest.raises(ClosePointsError, match="too close"):
        transfer_prompt(asked, replace(source, prepared=Picky(own)), target, guide=guide)


def test_other_failures_of_a_segmenter_are_not_swallowed():
    source, target, guide, own, other = two_sides(flat_grid(), OFFSET["flat"])
    lost = Picky(other)
    lost.fails = InputError("the server does not answer")
    asked = Prompt(np.stack([own.centers[0], own.centers[1]]), [1, 0])
    with pytest.raises(InputError, match="server does not answer"):
        transfer_prompt(asked, source, replace(target, prepared=lost), guide=guide)


def test_a_note_of_the_segmenter_is_handed_on():
    source, target, guide, own, _ = two_sides(flat_grid(), OFFSET["flat"])

    class Notes(Knows):
        def answer(self, prompt):
            found = super().answer(prompt)
            return NetworkAnswers(found.masks, found.grid, scores=found.scores, note="guessed")

    noting = replace(source, prepared=Notes(own))
    asked = Prompt.at(own.centers[0])
    assert transfer_prompt(asked, noting, target, guide=guide).notes == ("guessed",)
    away = Affine.translation((500.0, 0.0))
    lost = transfer_prompt(asked, noting, target, guide=Guide(away, away.inverse(), 5.0))
    assert lost.target is None and lost.notes == ("guessed",)


def test_reasons_name_the_file_and_not_its_folder():
    source, target, _, own, other = two_sides(flat_grid(), OFFSET["flat"])
    away = Affine.translation((500.0, 0.0))
    image = Image(target.image.data, target.image.grid, name="/data/of/somebody/moving.png")
    far = replace(target, prepared=Knows(replace(other, image=image)))
    reason = transfer_prompt(Prompt.at(own.centers[0]), source, far, guide=Guide(away, away.inverse(), 5.0)).reason
    assert "in moving.png," in reason


def test_a_box_beyond_the_border_is_asked_for_as_far_as_it_reaches():
    """The middle of the whole box lies outside of the other image, that of what is left of it does not."""
    source, target, guide, own, other = two_sides(
        flat_grid(), OFFSET["flat"], places=((0.86, 0.86), (0.2, 0.2), (0.3, 0.7))
    )
    grid = own.image.grid
    low = np.argwhere((own.labels == 1).numpy()).min(0) - 0.5
    corners = grid.world_from_index(np.stack([low, np.array(grid.shape) * 1.7]))
    asked = Prompt(np.zeros((0, 2)), np.zeros(0), corners)
    assert not target.image.grid.contains(guide.forward.map_points(anchor_of(asked)[None])[0])
    found = transfer_prompt(asked, source, target, guide=guide)
    assert label_of(found.target, other.labels) == 1


def test_a_carried_box_holds_its_points_however_the_guide_turns():
    grid = Grid.pixels((100, 100))
    c, s = np.cos(np.pi / 4), np.sin(np.pi / 4)
    turn = Affine(np.array([[c, -s, 50.0], [s, c, -20.0], [0, 0, 1]]))
    prompt = Prompt([[48.0, 42.0]], [1], [[40.0, 40.0], [60.0, 60.0]])
    guide = Guide(turn, turn.inverse(), 1.0)
    moved = carried_prompt(prompt, anchor_of(prompt), turn.map_points(prompt.points)[0], guide, grid)
    deep = carried_prompt(
        Prompt([], [], [[1, 1, 1], [4, 4, 4]]), np.ones(3), np.ones(3), None, Grid.pixels((9, 9, 9))
    )
    np.testing.assert_array_equal(deep.box, [[1, 1, 1], [4, 4, 4]])
    assert (moved.points[0] >= moved.box.min(0) - 1e-9).all() and (moved.points[0] <= moved.box.max(0) + 1e-9).all()


# -- the published settings -----------------------------------------------------------------------


def test_the_published_settings_have_no_gate():
    """The way back from noise does not lead to the ball: the confidence says so; there is an answer all the same."""
    assert PROMPTREG.least_confidence == 0 < TransferOptions().least_confidence
    grid = flat_grid()
    source, target, _, own, _ = two_sides(grid, OFFSET["flat"], segmenter=HierarchySegmenter())
    noise = Image(torch.rand((1, *grid.shape), generator=torch.Generator().manual_seed(0)), grid)
    blank = Side(HierarchySegmenter().prepare(noise), target.features.with_data(-target.features.data.flip(1, 2)))
    found = transfer_prompt(Prompt.at(own.centers[0]), source, blank, options=PROMPTREG)
    assert found.target is not None and found.confidence < TransferOptions().least_confidence


def test_published_prompts_are_inverted_point_by_point():
    """Points in three balls become points in the same balls, however these have moved against each other."""
    grid = flat_grid()
    source, _, _, own, _ = two_sides(grid, OFFSET["flat"])
    _, target, _, _, other = two_sides(grid, OFFSET["flat"], places=((0.4, 0.7), (0.3, 0.3), (0.7, 0.4)))
    prompt = Prompt(own.centers, np.array([1, 1, 0]))
    options = PROMPTREG.model_copy(update={"place": "argmax", "rounds": 0})
    found = transfer_prompt(prompt, source, target, options=options)
    assert found.prompt.labels.tolist() == [1, 1, 0]
    index = np.round(grid.index_from_world(found.prompt.points)).astype(int)
    at = [int(other.labels[tuple(i)]) for i in index]
    assert at[0] == 1 and at[2] == 3
    apart = np.linalg.norm(found.prompt.points - found.prompt.points[0] - own.centers + own.centers[0], axis=1)
    assert apart[2] > 5  # not carried as a whole


def test_auxiliary_points_are_left_to_the_published_settings():
    assert TransferOptions().rounds == 0 and PROMPTREG.rounds == 5


class Sees(Knows):
    """Answers everything with the regions it is given."""

    def __init__(self, scene: Balls, *masks: torch.Tensor):
        super().__init__(scene)
        self.masks = masks

    def answer(self, prompt):
        self.prompts.append(prompt)
        grid = self.image.grid
        return ROISet(torch.stack(self.masks), grid) if self.masks else ROISet.empty(grid)


@pytest.mark.parametrize("options", [PROMPTREG, ALONE])
def test_views_correct_the_first_answer_as_published_and_only_refine_it_by_default(options):
    """The image itself is answered with ball 2, five of six views of it with ball 1."""
    source, target, _, own, other = two_sides(flat_grid(), OFFSET["flat"])
    wrong, right = own.labels == 2, own.labels == 1
    views = tuple((View(), Sees(own, right)) for _ in range(5))
    views += ((View(), Sees(own, wrong)),)
    misled = replace(source, prepared=Sees(own, wrong), views=views)
    found = transfer_prompt(
        Prompt.at(own.centers[0]), misled, target, options=options.model_copy(update={"least_confidence": 0.0})
    )
    assert label_of(found.source, own.labels) == (1 if options is PROMPTREG else 2)
    if options is PROMPTREG:
        assert label_of(found.target, other.labels) == 1
        index = np.round(other.image.grid.index_from_world(found.prompt.points[0])).astype(int)
        assert int(other.labels[tuple(index)]) == 1


def test_views_that_agree_on_nothing_are_no_answer_as_published():
    source, target, _, own, other = two_sides(flat_grid(), OFFSET["flat"])
    views = tuple((View(), Sees(own, own.labels == k)) for k in (1, 2, 3))
    split = replace(source, views=(*views, (View(), Sees(own))))
    asked = Prompt.at(own.centers[0])
    found = transfer_prompt(asked, split, target, options=PROMPTREG)
    assert found.target is None and "views agree on no region" in found.reason

    class Turns(Knows):
        """Another ball every time it is asked."""

        def answer(self, prompt):
            self.prompts.append(prompt)
            return ROISet((self.scene.labels == len(self.prompts) % 3 + 1)[None], self.image.grid)

    source = replace(source, views=tuple((View(), Sees(own, own.labels == 1)) for _ in range(6)))
    options = PROMPTREG.model_copy(update={"place": "argmax", "rounds": 0, "threshold": 0.6})
    found = transfer_prompt(asked, source, replace(target, prepared=Turns(other)), options=options)
    assert found.target is None and "views agree on no region of image" in found.reason
    assert found.prompt is not None


def test_a_view_in_which_points_come_too_close_is_left_out():
    source, target, guide, own, other = two_sides(flat_grid(), OFFSET["flat"])
    picky = Picky(own)
    picky.fails = ClosePointsError("too close")
    asked = Prompt(np.stack([own.centers[0], own.centers[1]]), [1, 0])
    views = ((View(), picky), (View(), Sees(own, own.labels == 1)))
    found = transfer_prompt(asked, replace(source, views=views), target, guide=guide)
    assert label_of(found.source, own.labels) == 1 and label_of(found.target, other.labels) == 1
