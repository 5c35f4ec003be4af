"""The whole recipe on small phantoms whose true transform is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import roireg
from cheaper import cheaper
from pipeline.cases import error, quick
from roireg.core.errors import GeometryError, InputError
from roireg.core.filters import gaussian_smooth
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine, Chain, DisplacementField
from roireg.core.warp import warp
from roireg.evaluate import deformation_summary
from roireg.pipeline import preset
from roireg.synth import make_pair
from support import Homography


def pairs_of(case, *, status="proposed") -> ROIPairs:
    """The organs of a phantom as region pairs."""
    moving = ROISet.from_labels(case.moving_labels.data[0], case.moving_labels.grid)
    fixed = ROISet.from_labels(case.fixed_labels.data[0], case.fixed_labels.grid)
    shared = [n for n in fixed.names if n in moving.names]
    pairs = (ROIPair(moving.names.index(n), fixed.names.index(n), 1.0, 1.0, status=status) for n in shared)
    return ROIPairs(moving, fixed, tuple(pairs))


def same(a, b) -> bool:
    """Bit-identical results, timings aside."""
    points = a.fixed.grid.points()
    equal = np.array_equal(a.map_points(points), b.map_points(points))
    return equal and a.metrics == b.metrics and a.pairs.pairs == b.pairs.pairs and a.verdict == b.verdict


# -- the default recipe -----------------------------------------------------------------------------


def test_a_raster_pair_is_registered(flat, flat_result):
    assert error(flat_result.transform, flat) < 0.4 * error(None, flat)
    assert deformation_summary(flat_result.transform, flat.fixed.grid)["folded_voxels"] == 0
    assert flat_result.verdict == "ok" and flat_result.reasons == ()
    assert len(flat_result.pairs) > 0
    assert flat_result.warped.grid == flat.fixed.grid and flat_result.warped.data.shape == flat.fixed.data.shape


def test_a_picture_on_its_side_is_found_by_its_key_points(flat):
    fixed = flat.fixed
    angle, centre = np.radians(100), fixed.grid.center
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:2, 2] = centre - turn[:2, :2] @ centre
    truth = Affine(turn)
    wide = fixed.grid.padded((60, 60), (60, 60))
    moving = replace(warp(fixed, truth.inverse(), wide, fill=0.0), name="turned")
    found = roireg.register(fixed, moving, config=quick())
    assert found.provenance["start"] == "key points" and found.verdict != "failed"
    points = 0.7 * fixed.grid.corners() + 0.3 * centre
    assert np.linalg.norm(found.map_points(points) - truth.map_points(points), axis=1).max() < 1.0
    blind = quick(options={"search": {"key_points": False}})
    assert roireg.register(fixed, moving, config=blind).provenance["start"] != "key points"


def test_a_photograph_of_a_flat_scene_from_aside_is_found_by_its_key_points():
    grid = Grid.pixels((240, 300))
    noise = np.random.default_rng(5).normal(size=(3, *grid.shape)).astype(np.float32)
    blobs = [gaussian_smooth(torch.from_numpy(n[None]), s) * s for n, s in zip(noise, (2.0, 4.0, 8.0), strict=True)]
    fixed = Image(sum(blobs), grid, name="front", unit="px")
    truth = Homography(np.array([[0.8, 0.1, 10.0], [-0.1, 0.95, 20.0], [9e-4, -3e-4, 1.0]]))
    moving = replace(warp(fixed, truth.inverse(), grid), name="aside")
    found = roireg.register(fixed, moving, config=quick())
    points = grid.with_shape((12, 12)).points()
    expected = truth.map_points(points)
    seen = ((expected >= 0) & (expected <= np.array(grid.shape[::-1]) - 1)).all(axis=1)
    assert np.linalg.norm(found.map_points(points) - expected, axis=1)[seen].mean() < 0.5
    assert found.verdict == "ok" and found.provenance["start"] == "key points"
    back = np.linalg.norm(found.inverse.map_points(expected[seen]) - points[seen], axis=1)
    assert back.mean() < 0.5


def test_an_oblique_anisotropic_volume_is_registered_to_another_grid(deep, deep_result):
    assert deep.fixed.grid.shape != deep.moving.grid.shape
    assert not np.allclose(np.abs(deep.fixed.grid.direction).max(0), 1)
    assert error(deep_result.transform, deep) < 0.6 * error(None, deep)
    assert deformation_summary(deep_result.transform, deep.fixed.grid)["folded_voxels"] == 0
    assert deep_result.verdict == "ok"
    assert deep_result.warped.grid == deep.fixed.grid


def test_regions_of_a_volume_are_found_without_labels():
    case = make_pair(3, seed=1, shape=(10, 16, 20))
    result = roireg.register(case.fixed, case.moving, config=quick())
    assert len(result.pairs) > 0
    assert error(result.transform, case) < 0.8 * error(None, case)


def test_registering_a_b_a_gives_a_twice_the_same(flat, flat_result, monkeypatch):
    monkeypatch.undo()  # nothing that was prepared is kept
    roireg.register(flat.moving, flat.fixed, config=quick(stages=("search",)))
    assert same(flat_result, roireg.register(flat.fixed, flat.moving, config=quick()))


def test_equal_images_do_not_move(flat):
    result = roireg.register(flat.fixed, flat.fixed, config=quick())
    points = flat.fixed.grid.points()
    np.testing.assert_array_equal(result.map_points(points), points)
    assert result.verdict == "ok"
    assert result.metrics["lncc2"].value == result.metrics["lncc2"].before


def test_timings_provenance_and_progress_say_what_was_done(flat):
    events = []
    result = roireg.register(
        flat.fixed, flat.moving, config=quick(stages=("search",)), progress=events.append, seed=5, device="cpu"
    )
    stages = [name for name in result.timings if name != "total"]
    assert {"finding regions", "finding the start", "pairing regions", "judging the result"} <= set(stages)
    assert result.timings["total"] == pytest.approx(sum(result.timings[s] for s in stages))
    for stage in stages:
        assert [e.fraction for e in events if e.stage == stage][-1] == 1.0
    assert result.provenance["seed"] == 5 and result.provenance["device"] == "cpu"
    assert result.provenance["settings"] == result.config.model_dump(mode="json")
    assert result.provenance["preset"] == "custom"


def test_color_images_are_registered_by_their_luma(flat, flat_result):
    def tinted(image: Image) -> Image:
        data = torch.cat([image.data.float(), 0.7 * image.data.float(), 255 - image.data.float()])
        return image.with_data(data.round().to(torch.uint8))

    result = roireg.register(tinted(flat.fixed), tinted(flat.moving), config=quick())
    assert error(result.transform, flat) < 0.5 * error(None, flat)
    assert result.warped.channels == 3 and result.warped.data.dtype == torch.uint8


# -- regions that are given -------------------------------------------------------------------------


def test_label_maps_become_pairs_of_equal_ids(deep, deep_result):
    ids = [set(torch.unique(i.data).tolist()) - {0} for i in (deep.fixed_labels, deep.moving_labels)]
    assert {p.name for p in deep_result.pairs.pairs} == {str(v) for v in ids[0] & ids[1]}
    assert all(p.source == "labels" for p in deep_result.pairs.pairs)


def test_one_label_map_alone_is_refused(flat):
    with pytest.raises(InputError, match="that of the moving image is missing"):
        roireg.register(flat.fixed, flat.moving, fixed_rois=flat.fixed_labels)


def test_given_pairs_are_used_and_rejected_ones_are_not(flat):
    blind = {"features": None, "correlation_weight": 0, "feature_weight": 0, "region_weight": 1}
    config = quick(options={"velocity": blind})
    pairs = pairs_of(flat, status="accepted")
    right = roireg.register(flat.fixed, flat.moving, config=config, pairs=pairs, pairs_only=True)
    assert right.pairs is pairs
    assert error(right.transform, flat) < 0.7 * error(None, flat)

    wrong = [
        ROIPair(p.moving, q.fixed, 1.0, 1.0, status="rejected")
        for p, q in zip(pairs.pairs, pairs.pairs[1:] + pairs.pairs[:1], strict=True)
    ]
    both = replace(pairs, pairs=(*pairs.pairs, *wrong))
    again = roireg.register(flat.fixed, flat.moving, config=config, pairs=both, pairs_only=True)
    points = flat.fixed.grid.points()
    np.testing.assert_array_equal(again.map_points(points), right.map_points(points))
    assert len(again.pairs) == len(both)  # they stay in the result

    with pytest.raises(InputError, match="every ROI pair is rejected"):
        roireg.register(flat.fixed, flat.moving, pairs=replace(pairs, pairs=tuple(wrong)), pairs_only=True)


def test_pairs_of_other_images_are_refused(flat, deep):
    pairs = pairs_of(flat)
    swapped = ROIPairs(
        pairs.fixed, pairs.moving, tuple(replace(p, moving=p.fixed, fixed=p.moving) for p in pairs.pairs)
    )
    cropped = replace(flat.moving, data=flat.moving.data[:, :40], grid=flat.moving.grid.padded((0, 0), (-20, 0)))
    with pytest.raises(GeometryError, match="the ROI pairs do not fit"):
        roireg.register(flat.fixed, cropped, pairs=pairs)
    with pytest.raises(GeometryError, match="look swapped"):
        roireg.register(cropped, flat.moving, pairs=replace(swapped, moving=pairs_on(cropped, swapped.moving)))


def pairs_on(image: Image, rois: ROISet) -> ROISet:
    return ROISet(torch.ones(len(rois), *image.grid.shape, dtype=torch.bool), image.grid)


# -- the start --------------------------------------------------------------------------------------


def test_init_identity_is_exactly_that(flat):
    # Without a margin any better start would be taken, were one looked for.
    config = quick(stages=("search",), options={"search": {"least_gain": 0}})
    result = roireg.register(flat.fixed, flat.moving, config=config, init="identity")
    np.testing.assert_array_equal(result.affine.matrix, np.eye(3))
    np.testing.assert_array_equal(result.map_points(flat.fixed_points), flat.fixed_points)


def test_init_centers_puts_centres_together_and_apart_images_need_it(flat):
    away = replace(flat.moving, grid=flat.moving.grid.padded((500, 0), (-500, 0)).with_shape(flat.moving.grid.shape))
    config = quick(stages=("search",))
    with pytest.raises(GeometryError, match="init='centers', or give an initial transform with init=FILE"):
        roireg.register(flat.fixed, away, config=config)
    result = roireg.register(flat.fixed, away, config=config, init="centers")
    np.testing.assert_allclose(result.affine.map_points(flat.fixed.grid.center[None])[0], away.grid.center, atol=1e-6)


@pytest.mark.parametrize("kind", ["affine", "chain", "field"])
def test_a_given_transform_is_where_the_fit_starts(flat, kind):
    matrix = np.array([[0.96, 0.05, 2.0], [-0.05, 0.96, 3.0], [0, 0, 1]])
    start = Affine(matrix)
    if kind == "chain":
        start = Chain((Affine.translation((1.0, -1.0)), Affine(matrix @ Affine.translation((-1.0, 1.0)).matrix)))
    if kind == "field":
        start = DisplacementField(flat.fixed.grid, start.displacement_on(flat.fixed.grid))
    config = quick(stages=("search",), options={"search": {"least_gain": 0}})
    result = roireg.register(flat.fixed, flat.moving, config=config, init=start)
    np.testing.assert_allclose(result.affine.matrix, matrix, atol=1e-3)


def test_a_start_of_another_dimension_or_an_unknown_word_is_refused(flat):
    with pytest.raises(GeometryError, match="initial transform is 3D"):
        roireg.register(flat.fixed, flat.moving, init=Affine.identity(3))
    with pytest.raises(InputError, match="found 'middle'"):
        roireg.register(flat.fixed, flat.moving, init="middle")


def test_a_rotation_that_a_deformation_alone_could_not_follow_is_undone(flat):
    a = np.radians(30)
    c = flat.fixed.grid.center
    matrix = np.eye(3)
    matrix[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    matrix[:2, 2] = c - matrix[:2, :2] @ c
    truth = Affine(matrix)
    moving = warp(flat.fixed, truth.inverse(), flat.fixed.grid, fill=0)
    config = quick(options={"search": {"affine": {"iterations": 40}, "trial": {"max_voxels": 4800}}})
    result = roireg.register(flat.fixed, moving, config=config)
    body = flat.fixed_labels.data[0] > 0
    points = flat.fixed.grid.world_from_index(torch.nonzero(body).numpy())
    inside = moving.grid.contains(truth.map_points(points))
    before = np.linalg.norm(points - truth.map_points(points), axis=1)[inside]
    after = np.linalg.norm(result.map_points(points) - truth.map_points(points), axis=1)[inside]
    assert np.median(before) > 5
    assert np.median(after) < 0.5 * np.median(before)


def test_a_volume_and_itself_stay_where_they_are(deep):
    image = deep.fixed
    result = roireg.register(image, image, config=quick())
    points = image.grid.corners()
    assert np.abs(result.map_points(points) - points).max() < 0.01 * image.grid.spacing.min()
    assert result.verdict == "ok", result.reasons


# -- masks and methods ------------------------------------------------------------------------------


def test_masks_are_taken_and_a_mask_of_everything_changes_nothing_much(flat):
    everywhere = flat.fixed_labels.with_data(torch.ones_like(flat.fixed_labels.data))
    result = roireg.register(flat.fixed, flat.moving, config=quick(), fixed_mask=everywhere, moving_mask=everywhere)
    assert error(result.transform, flat) < 0.5 * error(None, flat)


def test_what_the_mask_hides_is_not_compared(flat):
    """A third of the moving image has slipped by 6 px: without masks the field follows, with them it does not."""
    data = flat.moving.data.clone()
    data[:, :, 56:] = data[:, :, 56:].roll(6, dims=1)
    spoilt = flat.moving.with_data(data)
    keep = torch.zeros_like(data)
    keep[:, :, :54] = 1
    mask = flat.fixed_labels.with_data(keep)
    slipped = (flat.fixed_labels.data[0] > 0).clone()
    slipped[:, :56] = False
    config = quick(stages=("velocity",))

    def missed(**masks) -> float:
        found = roireg.register(flat.fixed, spoilt, config=config, init="identity", **masks).transform
        points = flat.fixed.grid.world_from_index(torch.nonzero(slipped).numpy())
        return float(np.linalg.norm(found.map_points(points) - flat.transform.map_points(points), axis=1).mean())

    # Either mask hides the slip; so each is seen to arrive.
    limit = 0.6 * missed()
    assert missed(fixed_mask=mask) < limit and missed(moving_mask=mask) < limit
    assert missed(fixed_mask=mask, moving_mask=mask) < limit


def test_the_published_objective_runs_after_any_start(flat):
    result = roireg.register(flat.fixed, flat.moving, config=quick(stages=("affine", "published")))
    assert np.isfinite(result.map_points(flat.fixed_points)).all()
    assert isinstance(result.transform.transforms[0], DisplacementField)


def test_without_a_deformation_the_result_is_the_affine_map(flat):
    result = roireg.register(flat.fixed, flat.moving, config=quick(stages=("search",)))
    assert len(result.transform.transforms) == 1
    np.testing.assert_array_equal(result.map_points(flat.fixed_points), result.affine.map_points(flat.fixed_points))
    assert len(result.pairs)  # regions are paired although no stage needs them


def test_stages_go_on_from_each_other_whatever_they_return(flat):
    """Two deformations, one after the other: the second keeps the first and is smaller."""
    result = roireg.register(flat.fixed, flat.moving, config=quick(stages=("affine", "published", "velocity")))
    field, first, affine = result.transform.transforms
    assert isinstance(first, DisplacementField) and isinstance(affine, Affine)
    assert error(result.transform, flat) < error(Chain((first, affine)), flat)
    grid = flat.fixed.grid
    assert field.displacement_on(grid).norm(dim=0).mean() > 0


def test_the_published_settings_run_in_2d(flat):
    config = cheaper(preset("paper").model_copy(update={"stages": preset("samreg").stages}))
    result = roireg.register(flat.fixed, flat.moving, config=config)
    assert len(result.pairs) > 0 and (result.pairs.similarity > 0.8).all()
    areas = result.pairs.fixed.volumes / flat.fixed.grid.size
    assert areas.min() > 0.003 and areas.max() < 0.2
    assert error(result.transform, flat) < error(None, flat)


@pytest.mark.usefixtures("cheap_presets")
def test_regions_alone_register(flat):
    result = roireg.register(flat.fixed, flat.moving, preset="regions")
    assert result.provenance["preset"] == "regions" and len(result.pairs) > 10
    assert error(result.transform, flat) < 0.4 * error(None, flat)


def test_the_published_preset_matches_volumes_slice_by_slice():
    case = make_pair(3, seed=2, shape=(4, 32, 40))
    config = quick(preset("paper"), match={"slice_range": 1})
    result = roireg.register(case.fixed, case.moving, config=config)
    assert "matching slices" in result.timings
    assert len(result.pairs) > 0
    for rois in (result.pairs.moving, result.pairs.fixed):
        assert (rois.masks.flatten(2).any(2).sum(1) == 1).all()  # every region lies in one slice
    slices = [r.masks.flatten(2).any(2).int().argmax(1) for r in (result.pairs.moving, result.pairs.fixed)]
    assert all(abs(int(slices[0][p.moving]) - int(slices[1][p.fixed])) <= 1 for p in result.pairs.pairs)


def test_unknown_names_are_refused(flat):
    with pytest.raises(InputError, match="no preset 'best'"):
        roireg.register(flat.fixed, flat.moving, preset="best")
    with pytest.raises(InputError, match="device 'abacus' is unknown"):
        roireg.register(flat.fixed, flat.moving, device="abacus")
