"""Scores in closed form, and against SimpleITK and scipy."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.transforms import Affine, DisplacementField
from roireg.core.warp import warp
from roireg.evaluate import Scores, Truth, score, surface_distances, worsened
from roireg.io import to_itk
from roireg.synth import make_pair, trunk_grid


def values(scores: Scores) -> dict[str, float]:
    return {name: metric.value for name, metric in scores.metrics.items()}


@cache
def phantom(ndim: int) -> Truth:
    """Anisotropic and oblique, the moving image on a grid of its own."""
    if ndim == 2:
        pair = make_pair(2, seed=1, shape=(60, 80), max_displacement_mm=10, translation_mm=6)
    else:
        other = trunk_grid(3, shape=(20, 28, 36))
        pair = make_pair(3, seed=5, shape=(16, 30, 40), oblique_deg=15, moving_grid=other, max_displacement_mm=10)
    return Truth(
        pair.fixed.grid,
        labels=(pair.fixed_labels, pair.moving_labels),
        points=(pair.fixed_points, pair.moving_points),
        transform=pair.transform,
        images=Pair(pair.fixed, pair.moving),
    )


def itk_of(data: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(data)
    _, spacing, origin, direction = grid.itk
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def two_squares(shift: int) -> Truth:
    """Label 1 and 2 on 30 x 40 pixels; those of the moving image lie `shift` columns to the right."""
    maps = []
    for offset in (0, shift):
        data = torch.zeros((1, 30, 40), dtype=torch.int32)
        data[0, 5:15, 8 + offset : 18 + offset] = 1
        data[0, 18:24, 20 + offset : 28 + offset] = 2
        maps.append(Image(data, Grid.pixels((30, 40)), unit="px"))
    points = np.array([[8.0, 5.0], [20.0, 18.0], [27.0, 23.0]])
    return Truth(
        maps[0].grid,
        "px",
        labels=(maps[0], maps[1]),
        points=(points, points + [shift, 0.0]),
        transform=Affine.translation([shift, 0.0]),
    )


def test_a_known_shift_is_scored_in_closed_form():
    truth = two_squares(3)
    before, after = values(truth.baseline), values(score(Affine.translation([3.0, 0.0]), truth))
    assert before["dice_mean"] == pytest.approx((7 / 10 + 5 / 8) / 2)
    assert before["hd95_mean"] == before["landmark_error_max"] == before["displacement_error_mean"] == 3
    assert after["dice_mean"] == 1 and after["hd95_mean"] == after["landmark_error_mean"] == 0
    assert after["displacement_error_mean"] == 0
    half = values(score(Affine.translation([2.0, 0.0]), truth))
    assert half["landmark_error_mean"] == half["landmark_error_median"] == half["landmark_error_max"] == 1


def test_every_comparison_tells_the_state_before_and_its_unit():
    truth = two_squares(3)
    scores = score(Affine.translation([3.0, 0.0]), truth)
    for name, metric in scores.metrics.items():
        baseline = truth.baseline.metrics.get(name)
        assert metric.before == (None if baseline is None else baseline.value)
    assert scores.metrics["landmark_error_mean"].unit == scores.metrics["hd95_mean"].unit == "px"
    assert scores.metrics["dice_mean"].unit == "" and scores.metrics["folding_percent"].unit == "%"
    assert all(metric.before is None for metric in truth.baseline.metrics.values())


def test_folding_and_volume_change_are_those_of_the_transform():
    truth = two_squares(0)
    mirror = values(score(Affine(np.diag([-1.0, 1.0, 1.0])), truth))
    assert mirror["folding_percent"] == 100
    grown = values(score(Affine(np.diag([1.1, 1.2, 1.0])), truth))
    assert grown["folding_percent"] == 0 and grown["sdlogj"] == pytest.approx(0, abs=1e-5)
    assert "folding_percent" not in truth.baseline.metrics


def test_a_label_that_is_pushed_out_counts_as_zero():
    truth = two_squares(0)
    gone = score(Affine.translation([30.0, 0.0]), truth)
    assert gone.metrics["dice_mean"].value == 0 and gone.labels.lost == (1, 2) and "hd95_mean" not in gone.metrics
    hidden = truth.labels[1].data.clone()
    hidden[hidden == 1] = 0
    hidden[0, 0, 39] = 1  # still in the map, but where this transform does not look
    truth = replace(truth, labels=(truth.labels[0], truth.labels[1].with_data(hidden)))
    scores = score(Affine.translation([-2.0, 0.0]), truth)
    assert scores.labels.lost == (1,)
    assert scores.metrics["dice_mean"].value == pytest.approx((0 + 6 / 8) / 2)
    assert scores.metrics["hd95_mean"].value == 2
    assert scores.labels.dice == {1: 0.0, 2: 6 / 8}


def test_the_mask_decides_which_voxels_count():
    grid = Grid.pixels((4, 6))
    displacement = torch.zeros((2, 4, 6))
    displacement[0, :, 3:] = 2.0
    mask = torch.zeros((4, 6), dtype=torch.bool)
    mask[:, :3] = True
    field = DisplacementField(grid, displacement)
    truth = Truth(grid, "px", transform=Affine.identity(2), mask=mask)
    assert score(field, truth).metrics["displacement_error_max"].value == 0
    assert score(field, replace(truth, mask=~mask)).metrics["displacement_error_mean"].value == 2


def test_images_are_compared_where_they_overlap():
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 20, 24)).astype(np.float32))
    grid = Grid.pixels((20, 24))
    images = Pair(Image(data, grid), Image(data.roll(3, 2), grid))
    scores = score(Affine.translation([3.0, 0.0]), Truth(images=images))
    assert scores.metrics["ncc"].value == pytest.approx(1) and scores.metrics["ncc"].before < 0.5
    away = score(Affine.translation([50.0, 0.0]), Truth(images=images))
    assert away.metrics == {} and away.labels is None


def test_an_inverse_is_held_against_the_transform():
    truth = two_squares(3)
    there = Affine.translation([3.0, 0.0])
    wrong = score(there, truth, inverse=Affine.translation([-3.0, 2.0]))
    assert wrong.metrics["inverse_consistency_max"].value == pytest.approx(2)
    right = score(there, truth, inverse=there.inverse())
    assert right.metrics["inverse_consistency_max"].value == pytest.approx(0, abs=1e-9)
    assert not any(name.startswith("inverse") for name in score(there, truth).metrics)


def test_a_known_field_folds_and_spreads_as_computed_by_hand():
    # x -> x + a sin(kx) has det J = 1 + a k cos(kx), here by central differences of the sampled field.
    grid = Grid.pixels((6, 64))
    columns = np.arange(64.0)
    shift = 6.0 * np.sin(2 * np.pi * columns / 16)
    displacement = torch.zeros((2, 6, 64))
    displacement[0] = torch.from_numpy(shift).float()
    found = values(score(DisplacementField(grid, displacement), Truth(grid, "px")))
    determinant = 1 + np.gradient(shift)
    assert determinant.min() < 0
    assert found["folding_percent"] == pytest.approx(100 * np.mean(determinant <= 0), abs=1e-9)
    for name, offset in (("sdlogj", 0), ("sdlogj_learn2reg", 3)):
        expected = np.log(np.clip(determinant + offset, 1e-9, 1e9)).std()
        assert found[name] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_surface_distances_agree_with_itk_and_scipy(ndim):
    truth = phantom(ndim)
    fixed, moving = truth.labels
    moved = warp(moving, None, fixed.grid, mode="nearest", fill=0).data[0].numpy()
    target = fixed.data[0].numpy()
    distances = []
    for label in sorted((set(np.unique(target)) & set(np.unique(moved))) - {0}):
        images = [itk_of((part == label).astype(np.uint8), fixed.grid) for part in (target, moved)]
        # Full face neighbourhood of the eroded mask is the surface; padded so that the border of the image counts.
        edges = [
            sitk.GetArrayFromImage(sitk.LabelContour(sitk.ConstantPad(i, [1] * ndim, [1] * ndim))) for i in images
        ]
        steps = fixed.grid.spacing
        far = [ndimage.distance_transform_edt(edge == 0, sampling=steps) for edge in edges]
        both = [far[1][edges[0] > 0], far[0][edges[1] > 0]]
        distances.append(max(np.percentile(values, 95) for values in both))
        measured = surface_distances(torch.from_numpy(target == label), torch.from_numpy(moved == label), fixed.grid)
        hausdorff = sitk.HausdorffDistanceImageFilter()
        hausdorff.Execute(*images)
        # ITK measures from every voxel of a region, of which none is farther than the surface.
        assert measured["hausdorff"] == pytest.approx(hausdorff.GetHausdorffDistance(), rel=1e-4)
    assert truth.baseline.metrics["hd95_mean"].value == pytest.approx(np.mean(distances), rel=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_dice_equals_that_of_simpleitk(ndim):
    truth = phantom(ndim)
    transform = Affine.translation([4.3, -2.7, 5.1][:ndim])
    fixed, moving = (itk_of(labels.data[0].numpy().astype(np.int32), labels.grid) for labels in truth.labels)
    moved = sitk.Resample(moving, fixed, to_itk(transform), sitk.sitkNearestNeighbor, 0)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(fixed, moved)
    scores = score(transform, truth)
    assert len(scores.labels.dice) > 3
    for label, value in scores.labels.dice.items():
        assert value == pytest.approx(overlap.GetDiceCoefficient(label), abs=2e-3)
    expected = np.mean([overlap.GetDiceCoefficient(label) for label in scores.labels.dice])
    assert scores.metrics["dice_mean"].value == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_true_transform_scores_best(ndim):
    truth = phantom(ndim)
    before, after = values(truth.baseline), values(score(truth.transform, truth))
    assert after["landmark_error_max"] < 1e-3 < before["landmark_error_mean"]
    assert after["dice_mean"] > before["dice_mean"] + 0.1
    assert after["displacement_error_max"] == 0 and after["folding_percent"] == 0
    assert after["ncc"] > before["ncc"]


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(GeometryError, match="transform is 3D but the images are 2D"):
        score(Affine.identity(3), two_squares(0))
    with pytest.raises(GeometryError, match="grid 2D, fixed points 3D, moving points 3D"):
        Truth(Grid.pixels((4, 5)), points=(np.zeros((1, 3)), np.zeros((1, 3))))
    with pytest.raises(InputError, match="give the fixed grid"):
        Truth(transform=Affine.identity(2))
    with pytest.raises(InputError, match="as many points"):
        score(None, Truth(points=(np.zeros((1, 2)), np.zeros((2, 2)))))
    with pytest.raises(InputError, match="mask is empty"):
        score(Affine.identity(2), Truth(Grid.pixels((4, 5)), mask=torch.zeros((4, 5), dtype=torch.bool)))


def test_labels_and_landmarks_that_got_worse_are_said():
    truth = two_squares(3)
    assert worsened(score(truth.transform, truth), truth.baseline) == ()
    labels, points = worsened(score(Affine.translation([-6, 0]), truth), truth.baseline)
    assert labels.startswith("2 of 2 labels overlap less than before: label 2, Dice 0.62 → 0.00")
    assert points == "3 of 3 landmarks lie farther apart than before: number 1, 3 → 9 px"
    # One landmark is brought farther off, the others stay.
    u = torch.zeros(2, 30, 40)
    u[0, :10, :14] = -2
    one = DisplacementField(truth.grid, u)
    (sentence,) = worsened(score(one, replace(truth, labels=None)), replace(truth, labels=None).baseline)
    assert sentence == "1 of 3 landmarks lie farther apart than before: number 1, 3 → 5 px"
    assert worsened(score(one, Truth(truth.grid)), Truth(truth.grid).baseline) == ()
