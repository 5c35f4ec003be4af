"""Overlap, surface and point errors: closed form, brute force, and SimpleITK as an independent reference."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine
from roireg.evaluate import (
    CATALOGUE,
    MetricValue,
    centroid_errors,
    dice,
    landmark_errors,
    metric,
    score_labels,
    score_moved_labels,
    summarise_errors,
    surface_distances,
)
from support import disc, make_grid, rotation

ANGLE = 0.4
OBLIQUE = [math.cos(ANGLE), -math.sin(ANGLE), 0, math.sin(ANGLE), math.cos(ANGLE), 0, 0, 0, 1]


def oblique_grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (0.7, 1.1, 2.5)) -> Grid:
    return Grid.from_itk(shape[::-1], spacing, (5, -3, 11), OBLIQUE)


def naive_surface(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Voxels with a face neighbour outside, one voxel at a time."""
    found = []
    for index in np.argwhere(mask):
        on_surface = max(grid.shape) == 1
        for axis in range(mask.ndim):
            if grid.shape[axis] == 1:
                continue
            for step in (-1, 1):
                other = index.copy()
                other[axis] += step
                outside = not 0 <= other[axis] < mask.shape[axis]
                on_surface |= outside or not mask[tuple(other)]
        if on_surface:
            found.append(index)
    return grid.world_from_index(found)


masks_3d = arrays(bool, (3, 4, 4)).filter(lambda m: m.any())


def test_dice_of_overlapping_boxes() -> None:
    a, b = torch.zeros(10, 10, dtype=torch.bool), torch.zeros(10, 10, dtype=torch.bool)
    a[:4, :5], b[2:6, :5] = True, True
    assert dice(a, b) == 2 * 10 / 40
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0


@given(masks_3d, masks_3d)
def test_dice_is_symmetric_and_bounded(a: np.ndarray, b: np.ndarray) -> None:
    one, other = torch.from_numpy(a), torch.from_numpy(b)
    assert dice(one, other) == dice(other, one)
    assert 0 <= dice(one, other) <= 1
    assert dice(one, one) == 1


def test_dice_refuses_what_has_no_answer() -> None:
    with pytest.raises(InputError, match="two empty masks"):
        dice(torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(GeometryError, match="equal shape"):
        dice(torch.ones(3, 3, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shifted_sheets_are_apart_by_the_spacing(axis: int) -> None:
    grid = oblique_grid((9, 9, 9))
    a, b = torch.zeros(grid.shape, dtype=torch.bool), torch.zeros(grid.shape, dtype=torch.bool)
    a.select(axis, 2)[:], b.select(axis, 5)[:] = True, True
    result = surface_distances(a, b, grid)
    expected = 3 * grid.spacing[axis]
    assert result == pytest.approx({"hd95": expected, "hausdorff": expected, "assd": expected})


def test_concentric_balls_are_apart_by_their_radii() -> None:
    grid = oblique_grid((24, 60, 80), (0.5, 0.5, 1.0))
    result = surface_distances(disc(grid, grid.center, 6)[0], disc(grid, grid.center, 9)[0], grid)
    assert result["assd"] == pytest.approx(3, abs=0.3)
    assert result["hd95"] == pytest.approx(3, abs=0.7)


def test_equal_masks_are_at_distance_zero_even_when_they_fill_the_image() -> None:
    grid = Grid.pixels((5, 6))
    full = torch.ones(grid.shape, dtype=torch.bool)
    assert surface_distances(full, full, grid) == {"hd95": 0, "hausdorff": 0, "assd": 0}


@settings(max_examples=40)
@given(masks_3d, masks_3d, st.sampled_from([(3, 4, 4), (1, 4, 4), (3, 1, 4)]))
def test_surfaces_match_brute_force(a: np.ndarray, b: np.ndarray, shape: tuple[int, int, int]) -> None:
    cut = tuple(slice(0, n) for n in shape)
    a, b = a[cut], b[cut]
    if not (a.any() and b.any()):
        return
    grid = oblique_grid(shape)
    distances = cdist(naive_surface(a, grid), naive_surface(b, grid))
    there, back = distances.min(1), distances.min(0)
    result = surface_distances(torch.from_numpy(a.copy()), torch.from_numpy(b.copy()), grid)
    assert result["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert result["hausdorff"] == pytest.approx(max(there.max(), back.max()))
    assert result["assd"] == pytest.approx(np.concatenate([there, back]).mean())


def test_labels_agree_with_simpleitk() -> None:
    grid = oblique_grid((16, 30, 34))
    fixed, warped = torch.zeros(grid.shape, dtype=torch.int32), torch.zeros(grid.shape, dtype=torch.int32)
    # Sparse ids, as in whole-brain label sets.
    fixed[disc(grid, grid.center, 8)[0]], warped[disc(grid, grid.center + (1.5, 0, 2), 7)[0]] = 2035, 2035
    fixed[disc(grid, grid.center + (0, 2, 0), 4)[0]], warped[disc(grid, grid.center, 5)[0]] = 7, 7
    scores = score_labels(fixed, warped, grid)
    images = []
    for labels in (fixed, warped):
        image = sitk.GetImageFromArray(labels.numpy())
        image.SetSpacing(grid.itk[1])
        images.append(image)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    for label in (7, 2035):
        assert scores.dice[label] == pytest.approx(overlap.GetDiceCoefficient(label))
        surfaces = [sitk.LabelContour(image == label, False) for image in images]
        maps = [sitk.Abs(sitk.SignedMaurerDistanceMap(s, False, False, True)) for s in surfaces]
        arrays_of = [sitk.GetArrayFromImage(s).astype(bool) for s in surfaces]
        there = sitk.GetArrayFromImage(maps[1])[arrays_of[0]]
        back = sitk.GetArrayFromImage(maps[0])[arrays_of[1]]
        expected = max(np.percentile(there, 95), np.percentile(back, 95))
        assert scores.hd95[label] == pytest.approx(expected, rel=1e-4)
        assert scores.assd[label] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-4)


def test_label_scores_report_what_is_missing_and_average_the_rest() -> None:
    grid = Grid.pixels((12, 12))
    fixed, warped = torch.zeros(grid.shape, dtype=torch.int64), torch.zeros(grid.shape, dtype=torch.int64)
    fixed[:3, :4], warped[1:4, 1:5] = 1, 1
    fixed[6:8, 6:8], warped[6:8, 6:8] = 4, 4
    fixed[10, 10], warped[10, 0] = 5, 6
    scores = score_labels(fixed, warped, grid)
    assert (scores.only_fixed, scores.only_warped) == ((5,), (6,))
    assert scores.dice == {1: 2 * 6 / 24, 4: 1.0}
    assert scores.centroid == pytest.approx({1: math.sqrt(2), 4: 0})
    assert scores.means()["dice_mean"] == 0.75
    assert set(scores.means()) <= set(CATALOGUE)
    assert json.loads(json.dumps(scores.as_dict(), allow_nan=False))["dice"]["4"] == 1.0
    assert "hd95_mean" not in score_labels(fixed, warped, grid, surfaces=False).means()
    assert score_labels(fixed * 0, warped, grid).means() == {}


def test_bad_label_shapes_and_empty_masks_are_refused() -> None:
    grid = Grid.pixels((4, 4))
    with pytest.raises(GeometryError, match="do not fit a grid"):
        score_labels(torch.zeros(4, 5, dtype=torch.int32), torch.zeros(4, 4, dtype=torch.int32), grid)
    with pytest.raises(InputError, match="not empty"):
        surface_distances(torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool), grid)
    with pytest.raises(GeometryError, match="do not fit a grid"):
        surface_distances(torch.ones(4, 5, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool), grid)


def test_landmark_error_is_the_length_of_what_the_transform_leaves() -> None:
    fixed = np.random.default_rng(0).normal(size=(5, 3)) * 20
    moving = fixed + np.array([3.0, 4.0, 0.0])
    assert landmark_errors(None, fixed, moving) == pytest.approx(np.full(5, 5.0))
    assert landmark_errors(Affine.translation([3, 4, 0]), fixed, moving) == pytest.approx(np.zeros(5), abs=1e-12)
    assert summarise_errors([1, 2, 6], "e") == {"e_mean": 3, "e_median": 2, "e_max": 6}
    assert summarise_errors([], "e") == {}


@pytest.mark.parametrize("shapes", [((0, 3), (0, 3)), ((4, 3), (5, 3)), ((3,), (3,))])
def test_bad_landmark_lists_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="landmarks need"):
        landmark_errors(None, np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_centroid_errors_follow_pairs_and_leave_rejected_ones_out() -> None:
    grid = oblique_grid((12, 20, 20))
    fixed = ROISet(torch.stack([disc(grid, grid.center, 3)[0], disc(grid, grid.center + (3, 0, 0), 2)[0]]), grid)
    shifted = Grid(grid.shape, Affine.translation([0, 7, 0]).matrix @ grid.affine)
    moving = ROISet(fixed.masks.flip(0), shifted)
    pairs = (ROIPair(1, 0, 1, 1), ROIPair(0, 1, 1, 1), ROIPair(0, 0, 1, 1, status="rejected"))
    roi_pairs = ROIPairs(moving, fixed, pairs)
    assert centroid_errors(None, roi_pairs) == pytest.approx([7, 7])
    assert centroid_errors(Affine.translation([0, 7, 0]), roi_pairs) == pytest.approx([0, 0], abs=1e-9)
    assert len(centroid_errors(None, ROIPairs(moving, fixed, pairs[2:]))) == 0


def test_metric_values_know_their_direction_and_survive_json() -> None:
    assert metric("dice_mean", 0.8, 0.7).improved is True
    assert metric("hd95_mean", 8, 7).improved is False
    assert metric("jacobian_min", 0.3, 0.2).improved is None
    assert metric("ncc", 0.5, 0.5).improved is None
    assert metric("ncc", math.nan, 0.5).improved is None
    assert metric("hd95_mean", 2, unit="px").unit == "px"
    saved = json.loads(json.dumps(metric("ncc", math.nan, 0.5).as_dict(), allow_nan=False))
    assert (saved["value"], saved["before"]) == (None, 0.5)
    with pytest.raises(InputError, match="better when"):
        MetricValue(1.0, better="bigger")


def strip(*columns: int) -> Image:
    """One row of 12 pixels, label k + 1 on three pixels from columns[k]."""
    data = torch.zeros((1, 1, 12), dtype=torch.int32)
    for label, column in enumerate(columns, 1):
        data[0, 0, column : column + 3] = label
    return Image(data, Grid.pixels((1, 12)), unit="px")


def test_a_label_that_leaves_the_image_has_no_overlap_and_no_distance():
    fixed, moving = strip(0, 6), strip(1, 8)
    still = score_moved_labels(fixed, moving, None)
    assert still.dice == {1: 2 / 3, 2: 1 / 3} and still.lost == ()
    away = score_moved_labels(fixed, moving, Affine.translation([5.0, 0.0]))
    assert away.dice == {2: 0.0, 1: 0.0} and away.lost == (1,) and set(away.hd95) == {2}
    assert away.means()["dice_mean"] == 0 and away.as_dict()["lost"] == [1] and away.only_fixed == ()
    # Without the expectation the lost label would be left out, and losing it would look like a gain.
    half = score_moved_labels(fixed, moving, Affine.translation([4.0, 0.0]))
    assert half.dice == {1: 0.0, 2: pytest.approx(1 / 3)} and half.means()["dice_mean"] == pytest.approx(1 / 6)


def test_labels_of_one_map_alone_are_not_expected():
    both = score_moved_labels(strip(0, 6), strip(0), None)
    assert both.dice == {1: 1.0} and both.only_fixed == (2,) and both.lost == ()
    assert score_moved_labels(strip(), strip(3), None).means() == {}
    with pytest.raises(GeometryError, match="both must be equal"):
        score_moved_labels(strip(0), Image(torch.ones((1, 2, 2, 2)), oblique_grid((2, 2, 2))), None)


@pytest.mark.parametrize("ids", [(1, 2, 3, 4, 5, 6), (-7, 2, 9, 2**30), (40, 65535, 2**24 + 1)])
def test_all_labels_at_once_as_each_alone(ids):
    rng = np.random.default_rng(5)
    grid = make_grid((7, 9, 8), (2.0, 1.5, 0.7), rotation(3, 2), (5, -3, 8))
    coarse = [rng.choice([0, *ids], (4, 5, 4)).astype(np.int32) for _ in range(2)]
    fixed, warped = (torch.from_numpy(np.kron(c, np.ones((2, 2, 2), np.int32))[:7, :9, :8].copy()) for c in coarse)
    found = score_labels(fixed, warped, grid)
    assert set(found.dice) == set(ids)
    for label in ids:
        a, b = fixed == label, warped == label
        assert np.isclose(found.dice[label], dice(a, b))
        centroids = [grid.world_from_index(np.argwhere(m.numpy())).mean(0) for m in (a, b)]
        assert np.isclose(found.centroid[label], np.linalg.norm(centroids[0] - centroids[1]))
        surfaces = [grid.world_from_index(_naive_surface(m.numpy())) for m in (a, b)]
        between = np.linalg.norm(surfaces[0][:, None] - surfaces[1], axis=-1)
        nearest = [between.min(1), between.min(0)]
        assert np.isclose(found.hd95[label], max(np.percentile(n, 95) for n in nearest))
        assert np.isclose(found.assd[label], np.concatenate(nearest).mean())


def _naive_surface(mask):
    padded = np.pad(mask, 1)
    steps = [np.roll(padded, s, a)[1:-1, 1:-1, 1:-1] for a in range(3) for s in (1, -1)]
    return np.argwhere(mask & ~np.logical_and.reduce(steps))
