"""The matcher: published and default settings, known pairs, labels."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from match.scenes import FLAT, about, pair_of_sets
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.match import PUBLISHED, MatchOptions, match, match_labels
from support import turned

PLAIN = MatchOptions(similarity="cosine", geometric=False, threshold=0.8)


def blocks(vectors, *, grid=None):
    """One 2 x 2 block per vector, in a row, and a feature map that holds the vector in its block."""
    k, c = len(vectors), len(vectors[0])
    grid = grid or Grid.pixels((2, 2 * k))
    masks = torch.zeros((k, 2, 2 * k), dtype=torch.bool)
    data = torch.zeros(c, 2, 2 * k)
    for i, v in enumerate(vectors):
        masks[i, :, 2 * i : 2 * i + 2] = True
        data[:, :, 2 * i : 2 * i + 2] = torch.tensor(v, dtype=torch.float32)[:, None, None]
    return ROISet(masks, grid), Image(data, grid)


A, B, C = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]


def test_published_settings_are_greedy_cosine_above_the_threshold():
    moving, features_m = blocks([A, B, [0.7, 0.7, 0]])
    fixed, features_f = blocks([[0.1, 1, 0], [1, 0, 0], C])
    result = match(fixed, moving, features_f, features_m, options=PUBLISHED)
    assert [(p.moving, p.fixed) for p in result.pairs] == [(0, 1), (1, 0)]
    assert result.pairs[0].similarity == pytest.approx(1.0)
    assert result.unmatched_moving == [2] and result.unmatched_fixed == [2]
    assert all(0 <= p.confidence <= 1 for p in result.pairs)


def test_excluded_pairs_are_never_proposed():
    moving, features_m = blocks([A, B])
    fixed, features_f = blocks([A, [0.9, 0.3, 0]])
    for assignment in ("greedy", "many", "optimal", "mutual"):
        options = MatchOptions(similarity="cosine", geometric=False, assignment=assignment, threshold=0.8)
        result = match(fixed, moving, features_f, features_m, options=options, excluded=[(0, 0)])
        assert [(p.moving, p.fixed) for p in result.pairs] == [(0, 1)]


def test_one_to_many_merges_masks_that_share_a_target():
    moving, features_m = blocks([[1, 0.4, 0], [1, -0.4, 0], C])
    fixed, features_f = blocks([A, C])
    options = MatchOptions(similarity="cosine", geometric=False, assignment="many", threshold=0.8)
    result = match(fixed, moving, features_f, features_m, options=options)
    merged = next(p for p in result.pairs if p.fixed == 0)
    assert merged.moving == 3 and len(result.moving) == 4
    assert torch.equal(result.moving.masks[3], moving.masks[0] | moving.masks[1])
    assert merged.similarity == pytest.approx(1.0)  # the mean of both halves is A itself


def test_a_union_that_is_less_alike_than_its_best_part_leaves_it_alone():
    moving, features_m = blocks([A, [1, 0.7, 0], C])
    fixed, features_f = blocks([A, C])
    options = MatchOptions(similarity="cosine", geometric=False, assignment="many", threshold=0.8)
    result = match(fixed, moving, features_f, features_m, options=options)
    assert {(p.moving, p.fixed) for p in result.pairs} == {(0, 0), (2, 1)}


def test_with_many_no_region_is_pulled_to_two_places():
    """Everything is alike: each region would have every partner; as pairs they contradict each other."""
    alike = [[1, 0.1 * k, 0] for k in range(4)]
    (moving, features_m), (fixed, features_f) = blocks(alike), blocks(alike[:3])
    options = MatchOptions(similarity="cosine", geometric=False, assignment="many", threshold=0.8)
    result = match(fixed, moving, features_f, features_m, options=options)
    for side in ("moving", "fixed"):
        used = [getattr(p, side) for p in result.pairs]
        assert len(used) == len(set(used)) > 0


def test_geometry_tells_equal_looking_regions_apart():
    truth = about(FLAT, turned(12), (5.0, -3.0))
    fixed, moving = pair_of_sets(FLAT, FLAT.padded((20, 20), (20, 20)), truth)
    features = [Image(torch.ones(1, *r.grid.shape), r.grid) for r in (fixed, moving)]
    by_geometry = match(fixed, moving, *features, options=MatchOptions(similarity="cosine"))
    right = [p for p in by_geometry.pairs if p.moving == p.fixed]
    assert len(right) >= 7
    assert len(by_geometry) - len(right) <= 1
    guided = match(fixed, moving, *features, options=MatchOptions(similarity="cosine", geometric=False), guide=truth)
    assert {(p.moving, p.fixed) for p in guided.pairs} >= {(i, i) for i in range(8)}
    assert min(p.confidence for p in guided.pairs if p.moving == p.fixed) > 0.65


def test_permuting_regions_permutes_pairs():
    truth = about(FLAT, turned(12), (5.0, -3.0))
    fixed, moving = pair_of_sets(FLAT, FLAT.padded((20, 20), (20, 20)), truth)
    features = [Image(r.masks.float(), r.grid) for r in (fixed, moving)]
    order = np.random.default_rng(0).permutation(8).tolist()
    plain = match(fixed, moving, *features)
    mixed = match(fixed, moving.subset(order), *features)
    assert len(plain) >= 7
    assert {(order[p.moving], p.fixed) for p in mixed.pairs} == {(p.moving, p.fixed) for p in plain.pairs}


def test_same_input_same_result():
    truth = about(FLAT, turned(12), (5.0, -3.0))
    fixed, moving = pair_of_sets(FLAT, FLAT, truth)
    features = [Image(r.masks.float(), r.grid) for r in (fixed, moving)]
    assert match(fixed, moving, *features).pairs == match(fixed, moving, *features).pairs


def test_empty_sides_give_no_pairs():
    moving, features = blocks([A])
    none = ROISet.empty(moving.grid)
    assert match(moving, none, features, features).pairs == ()
    assert match(none, moving, features, features).unmatched_moving == [0]


def test_bad_input():
    moving, features = blocks([A])
    solid = ROISet.empty(Grid.pixels((2, 2, 2)))
    with pytest.raises(GeometryError, match="3D moving"):
        match(moving, solid, features, features)
    with pytest.raises(InputError, match="points outside"):
        match(moving, moving, features, features, excluded=[(5, 0)])
    for bad in ({"similarity": "l2"}, {"assignment": "x"}, {"prototype": "x"}, {"top": 0}):
        with pytest.raises(ValidationError):
            MatchOptions(**bad)


def test_labels_pair_equal_names_only():
    grid = Grid.pixels((1, 4))
    fixed = ROISet.from_labels(torch.tensor([[1, 2, 3, 0]]), grid, names={1: "liver", 2: "spleen", 3: "aorta"})
    moving = ROISet.from_labels(torch.tensor([[2, 7, 0, 1]]), grid, names={1: "liver", 2: "spleen", 7: "kidney"})
    result = match_labels(fixed, moving)
    assert [(p.name, moving.names[p.moving], fixed.names[p.fixed]) for p in result.pairs] == [
        ("liver",) * 3,
        ("spleen",) * 3,
    ]
    assert {p.source for p in result.pairs} == {"labels"}
    assert [moving.names[i] for i in result.unmatched_moving] == ["kidney"]
    assert [fixed.names[i] for i in result.unmatched_fixed] == ["aorta"]
    twice = ROISet(fixed.masks, grid, ("a", "a", None))
    with pytest.raises(InputError, match="several regions of class a"):
        match_labels(fixed, twice)
