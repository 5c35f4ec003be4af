"""The global map judged and refined on the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fit.scenes import affine, error_mm
from roireg.core.pair import Pair
from roireg.core.transforms import Affine
from roireg.fit import Candidate
from roireg.fit.dense_affine import AffineOptions, choose_affine, plausible, refine_affine
from support import centred, painted, rotation, turned

FLAT = centred((64, 72), (1.5, 1.25))
DEEP = centred((16, 30, 32), (6.0, 3.0, 3.0), rotation(3, 2))
QUICK = AffineOptions(model="rigid", screen_voxels=1500, refine_voxels=6000, iterations=60, keep=3)


def test_a_rigid_map_is_recovered_to_half_a_voxel_in_2d():
    truth = affine(turned(6), (5.0, -4.0))
    fixed, moving = painted(FLAT), painted(FLAT, truth=truth)
    found = refine_affine(Pair(fixed, moving), Affine.identity(2), options=QUICK)
    assert error_mm(found.affine, truth, FLAT.points()) < 0.5 * FLAT.spacing.min()
    np.testing.assert_allclose(np.linalg.det(found.affine.matrix[:2, :2]), 1, atol=1e-4)


def test_a_rigid_map_is_recovered_on_an_oblique_anisotropic_grid_with_another_moving_grid():
    truth = affine(turned(5, 3), (4.0, -3.0, 5.0))
    other = centred((30, 34, 20), (3.5, 3.0, 5.0))
    fixed, moving = painted(DEEP, count=60), painted(other, count=60, truth=truth)
    found = refine_affine(Pair(fixed, moving), Affine.identity(3), options=QUICK)
    assert error_mm(found.affine, truth, DEEP.points()) < 0.5 * DEEP.spacing.min()
    linear = found.affine.matrix[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-4)


@pytest.mark.parametrize("model", ["translation", "similarity", "affine"])
def test_models_keep_their_constraints(model):
    truth = affine(0.93 * turned(5) @ np.diag([1.02, 0.97]), (1.0, -1.0))  # stays inside the moving image
    fixed, moving = painted(FLAT), painted(FLAT, truth=truth)
    options = QUICK.model_copy(update={"model": model})
    linear = refine_affine(Pair(fixed, moving), Affine.identity(2), options=options).affine.matrix[:2, :2]
    gram = linear.T @ linear
    if model == "translation":
        np.testing.assert_allclose(linear, np.eye(2), atol=1e-6)
    elif model == "similarity":
        assert gram[0, 1] == pytest.approx(0, abs=1e-4) and gram[0, 0] == pytest.approx(gram[1, 1], abs=1e-4)
        assert np.linalg.det(linear) == pytest.approx(np.linalg.det(truth.matrix[:2, :2]), rel=0.03)
    else:
        np.testing.assert_allclose(linear, truth.matrix[:2, :2], atol=0.02)


@pytest.mark.parametrize("grid", [FLAT, DEEP], ids=["2D", "3D"])
def test_equal_images_stay_where_they_are(grid):
    image = painted(grid)
    found = refine_affine(Pair(image, image), Affine.identity(grid.ndim), options=QUICK)
    assert error_mm(found.affine, Affine.identity(grid.ndim), grid.points()) < 0.02 * grid.spacing.min()
    assert found.score > 0.9


def test_the_result_is_never_worse_than_the_start():
    fixed, moving = painted(FLAT, seed=1), painted(FLAT, seed=2)  # nothing in common
    start = affine(turned(20), (3.0, 9.0))
    nothing = refine_affine(Pair(fixed, moving), start, options=QUICK.model_copy(update={"iterations": 0}))
    np.testing.assert_array_equal(nothing.affine.matrix, start.matrix)
    assert nothing.source == "start"
    assert refine_affine(Pair(fixed, moving), start, options=QUICK).score >= nothing.score


def test_the_right_candidate_wins_and_implausible_ones_are_left_out():
    truth = affine(turned(40), (8.0, 3.0))
    fixed, moving = painted(FLAT), painted(FLAT, truth=truth)
    mirror = affine(np.diag([-1.0, 1.0]), (0, 0))
    tiny = affine(0.1 * np.eye(2), (0, 0))
    candidates = [
        Candidate(Affine.identity(2), "identity"),
        Candidate(mirror, "mirror"),
        Candidate(tiny, "tiny"),
        Candidate(affine(turned(37), (7.0, 2.0)), "planted"),
        Candidate(affine(turned(-70), (0.0, 0.0)), "elsewhere"),
    ]
    found = choose_affine(Pair(fixed, moving), candidates, options=QUICK)
    assert found[0].source == "planted"
    assert error_mm(found[0].affine, truth, FLAT.points()) < FLAT.spacing.min()
    assert not {c.source for c in found} & {"mirror", "tiny"}
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    assert len(found) <= QUICK.keep
    assert choose_affine(Pair(fixed, moving), candidates[1:3], options=QUICK) == []


def test_near_copies_count_once_and_the_earlier_wins_a_tie():
    image = painted(FLAT)
    same = [Candidate(Affine.identity(2), name) for name in ("first", "second")]
    near = Candidate(Affine.translation((0.1, 0.0)), "third")
    assert [c.source for c in choose_affine(Pair(image, image), [*same, near], options=QUICK)] == ["first"]


def test_contrast_does_not_matter():
    truth = affine(turned(4), (3.0, -2.0))
    fixed, moving = painted(FLAT), painted(FLAT, truth=truth)
    inverted = moving.with_data(200 - 50 * moving.data)
    found = refine_affine(Pair(fixed, inverted), Affine.identity(2), options=QUICK)
    assert error_mm(found.affine, truth, FLAT.points()) < 0.5 * FLAT.spacing.min()


def test_what_a_mask_hides_has_no_say():
    # The left half moves by +6 mm, the right half by -6 mm; the mask says which one counts.
    left, right = Affine.translation((6.0, 0.0)), Affine.translation((-6.0, 0.0))
    fixed = painted(FLAT, count=80)
    half = FLAT.shape[1] // 2
    data = painted(FLAT, count=80, truth=left).data.clone()
    data[..., half:] = painted(FLAT, count=80, truth=right).data[..., half:]
    moving = fixed.with_data(data)
    for part, truth in ((slice(0, half - 4), left), (slice(half + 4, None), right)):
        mask = torch.zeros_like(data)
        mask[..., part] = 1
        found = refine_affine(
            Pair(fixed, moving, fixed_mask=fixed.with_data(mask)),
            Affine.identity(2),
            options=QUICK.model_copy(update={"model": "translation"}),
        )
        np.testing.assert_allclose(found.affine.matrix[:2, 2], truth.matrix[:2, 2], atol=0.7)


@given(st.floats(0.2, 5), st.sampled_from([2, 3]), st.integers(0, 99), st.booleans())
def test_plausible_maps_keep_orientation_and_stretch_within_limits(scale, d, seed, mirrored):
    linear = rotation(d, seed) * scale
    if mirrored:
        linear[:, 0] *= -1
    expected = not mirrored and 1 / 2.0001 < scale < 2.0001
    assert plausible(affine(linear, np.zeros(d)), max_scale=2.0001) == expected
