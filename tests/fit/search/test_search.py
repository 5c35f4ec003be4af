"""The global map of textured scenes is found from nothing, whatever the contrast, the masks and the part shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fit.scenes import affine, error_mm
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.transforms import Affine
from roireg.fit.search import GlobalSearch, SearchOptions, global_search, refine
from roireg.fit.search.maps import mapped
from support import centred, painted, rotation, turned

FLAT = Grid.pixels((120, 128))
DEEP = centred((28, 32, 30), (3.0, 3.0, 3.0))
QUICK = SearchOptions(cells=64, max_scale=1, polish=8)


def scene(grid: Grid, truth: Affine | None = None, *, seed: int = 0, size: float = 100.0) -> Image:
    """Bumps of many sizes, bright and dark, beyond the grid on all sides: a function of the world point.

    With `truth` (fixed -> moving) the image is the moving one.
    """
    rng = np.random.default_rng(seed)
    points = grid.points() if truth is None else truth.inverse().map_points(grid.points())
    values = np.zeros(len(points))
    flat = grid.ndim == 2
    for _ in range(90 if flat else 300):
        centre = rng.uniform(-0.9, 0.9, 2) * size + size / 2 if flat else rng.uniform(-0.7, 0.7, 3) * size
        width = (rng.uniform(0.04, 0.1) if flat else rng.uniform(0.06, 0.11)) * size
        values += rng.uniform(-1, 1) * np.exp(-0.5 * (((points - centre) / width) ** 2).sum(1))
    return Image(torch.as_tensor(100 + 60 * values, dtype=torch.float32).reshape(1, *grid.shape), grid)


def about(linear: np.ndarray, grid: Grid, shift) -> Affine:
    """x -> linear (x - c) + c + shift, c the middle of the grid."""
    return affine(linear, grid.center - linear @ grid.center + np.asarray(shift, float))


def inside(grid: Grid) -> np.ndarray:
    return grid.points()[::41]


@pytest.mark.parametrize("degrees", [0, 37, 180, 305])
def test_any_angle_is_found_in_2d_with_the_contrast_inverted_and_bent(degrees):
    truth = about(turned(degrees), FLAT, (9.0, -6.0))
    moving = scene(FLAT, truth)
    bent = moving.with_data((300 - moving.data).clamp(min=1).sqrt())
    best, *_ = global_search(Pair(scene(FLAT), bent), QUICK)
    assert error_mm(best.affine, truth, inside(FLAT)) < 0.5
    assert best.rival < 0.8 and 0.5 < best.overlap <= 1


@pytest.mark.parametrize("scale", [0.6, 1.7])
def test_scales_are_found_where_pixels_have_no_size(scale):
    truth = about(scale * turned(-50), FLAT, (4.0, 5.0))
    options = SearchOptions(cells=64, turn_step=10, polish=8)
    fixed, moving = (Image(i.data, i.grid, unit="px") for i in (scene(FLAT), scene(FLAT, truth)))
    best, *_ = global_search(Pair(fixed, moving), options)
    assert error_mm(best.affine, truth, inside(FLAT)) < scale


@pytest.mark.parametrize("swapped", [False, True])
def test_a_part_is_found_in_the_whole_and_the_other_way_round(swapped):
    part = Grid(tuple(n // 2 for n in FLAT.shape), FLAT.affine)  # the upper left quarter
    truth = affine(turned(20), (17.0, 9.0))
    pair = Pair(scene(part), scene(FLAT, truth))
    expected = truth
    if swapped:
        pair, expected = pair.swapped, truth.inverse()
    best, *_ = global_search(pair, QUICK)
    probes = inside(part) if not swapped else truth.map_points(inside(part))
    assert error_mm(best.affine, expected, probes) < 0.7


def test_an_aperture_does_not_match_itself():
    truth = about(turned(15), FLAT, (14.0, 10.0))
    disc = torch.as_tensor(np.hypot(*(FLAT.points() - FLAT.center).T) < 55).reshape(1, *FLAT.shape)
    fixed, moving = (i.with_data(i.data.clamp(min=20) * disc) for i in (scene(FLAT), scene(FLAT, truth)))
    best, *_ = global_search(Pair(fixed, moving), QUICK)
    assert error_mm(best.affine, truth, inside(FLAT)) < 0.7


def test_what_masks_hide_has_no_say():
    # The lower half of both images shows another scene that did not move.
    truth, still = about(turned(30), FLAT, (3.0, 0.0)), scene(FLAT, seed=5).data * 2
    upper = torch.zeros(1, *FLAT.shape)
    upper[:, :66] = 1
    fixed, moving = (i.with_data(torch.where(upper > 0, i.data, still)) for i in (scene(FLAT), scene(FLAT, truth)))
    mask = Image(upper, FLAT)
    best, *_ = global_search(Pair(fixed, moving, mask, mask), QUICK)
    assert error_mm(best.affine, truth, inside(FLAT)) < 0.7


def test_other_maps_are_judged_on_the_same_scale():
    truth = about(turned(70), FLAT, (2.0, 3.0))
    search = GlobalSearch(Pair(scene(FLAT), scene(FLAT, truth)), QUICK)
    best = search.candidates[0]
    again = search.score_of(best.affine)
    assert (again.score, again.rival) == (best.score, best.rival)
    assert search.score_of(truth).score == pytest.approx(best.score, abs=0.02)
    wrong = search.score_of(Affine.identity(2))
    assert wrong.score < 0.5 * best.score and wrong.rival > 2
    assert [c.score for c in search.candidates] == sorted((c.score for c in search.candidates), reverse=True)


def test_mirror_images_are_told_and_not_applied():
    fixed = scene(FLAT)
    search = GlobalSearch(Pair(fixed, fixed.with_data(fixed.data.flip(-1))), QUICK)
    assert search.mirror > 1.5
    assert all(np.linalg.det(c.affine.matrix[:2, :2]) > 0 for c in search.candidates)
    assert GlobalSearch(Pair(fixed, fixed), QUICK).mirror < 0.7


def test_images_without_anything_in_common_or_in_them():
    blank = Image(torch.zeros(1, *FLAT.shape), FLAT)
    assert global_search(Pair(scene(FLAT), blank), QUICK) == ()
    best, *_ = global_search(Pair(scene(FLAT), scene(FLAT, seed=9)), QUICK)
    assert best.rival > 0.6


@pytest.mark.parametrize(("degrees", "full"), [(28, False), (120, True)])
def test_volumes_are_found(degrees, full):
    linear = turned(degrees, 3)[:, [2, 0, 1]][[2, 0, 1]]  # about another axis
    truth = about(linear, DEEP, (6.0, -5.0, 4.0))
    options = SearchOptions(cells=16, full=full, polish=6)
    best, *_ = global_search(Pair(scene(DEEP), scene(DEEP, truth)), options)
    assert error_mm(best.affine, truth, inside(DEEP)) < 1.5


def test_a_thin_oblique_slab_is_found():
    slab = centred((8, 40, 40), (3.0, 2.5, 2.5), rotation(3, 3))
    normal = slab.direction[:, 0]
    angle = np.radians(20)
    cross = np.cross(np.eye(3), normal)
    linear = np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    truth = affine(linear, slab.direction[:, 1] * 8)
    pair = Pair(scene(slab), scene(slab, truth))
    best, *_ = global_search(pair, SearchOptions(polish=6))
    assert error_mm(refine(pair, best.affine, "rigid").affine, truth, inside(slab)) < 0.3


@pytest.mark.parametrize("model", ["translation", "rigid", "similarity", "affine"])
@pytest.mark.parametrize("grid", [FLAT, DEEP], ids=["2D", "3D"])
def test_refinement_reaches_a_small_part_of_a_voxel_within_its_model(grid, model):
    d, h = grid.ndim, float(grid.spacing[0])
    linear = {
        "translation": np.eye(d),
        "rigid": turned(4, d),
        "similarity": 1.05 * turned(4, d),
        "affine": turned(4, d) @ np.diag([1.05, 0.97, 1.02][:d]),
    }[model]
    truth = about(linear, grid, h * np.array([1.3, -0.9, 0.7])[:d])
    pair = Pair(scene(grid), scene(grid, truth))
    result = refine(pair, Affine.identity(d), model)
    assert result.metric == "correlation" and result.explained > 0.95
    assert error_mm(result.affine, truth, inside(grid)) < 0.03 * h
    found = result.matrix[:d, :d]
    if model == "translation":
        np.testing.assert_array_equal(found, np.eye(d))
    elif model != "affine":
        gram = found.T @ found
        np.testing.assert_allclose(gram, gram[0, 0] * np.eye(d), atol=1e-12)
        assert model == "similarity" or abs(gram[0, 0] - 1) < 1e-12


def test_refinement_of_another_contrast_that_rises_and_falls():
    truth = about(turned(5), FLAT, (2.0, 1.5))
    moving = scene(FLAT, truth)
    folded = moving.with_data((moving.data - 110).abs())
    result = refine(Pair(folded, moving.with_data(scene(FLAT).data)).swapped, Affine.identity(2), "rigid")
    assert error_mm(result.affine, truth, inside(FLAT)) < 0.15


def test_a_homography_is_recovered_in_2d_alone():
    matrix = np.array([[1.02, 0.03, 2.0], [-0.02, 0.99, 1.0], [4e-4, -3e-4, 1.0]])

    class Perspective:
        def inverse(self):
            return self

        def map_points(self, points):
            return mapped(np.linalg.inv(matrix), points)

    pair = Pair(scene(FLAT), scene(FLAT, Perspective()))
    result = refine(pair, Affine.identity(2), "homography")
    error = mapped(result.matrix, inside(FLAT)) - mapped(matrix, inside(FLAT))
    assert np.linalg.norm(error, axis=1).mean() < 0.05
    near = mapped(result.affine.matrix, FLAT.points()) - mapped(matrix, FLAT.points())
    assert np.linalg.norm(near, axis=1).mean() < 3
    volume = scene(DEEP)
    with pytest.raises(InputError, match="homography"):
        refine(Pair(volume, volume), Affine.identity(3), "homography")


def test_settings_are_frozen_and_refuse_unknown_names():
    with pytest.raises(ValueError, match="extra"):
        SearchOptions(resolution=3)
    with pytest.raises(ValueError, match="frozen"):
        SearchOptions().full = True


def test_turned_volumes_are_told_from_a_position_unless_they_look_the_same():
    grid = centred((24, 24, 24), (2.0, 2.0, 2.0))
    image, still = painted(grid), Affine.identity(3)
    assert GlobalSearch(Pair(image, image), SearchOptions()).turned(still) < 0.6
    half = affine(np.diag([1.0, -1.0, -1.0]), np.zeros(3))
    same = image.with_data(image.data + painted(grid, truth=half).data)
    assert GlobalSearch(Pair(same, same), SearchOptions()).turned(still) > 0.95
    assert GlobalSearch(Pair(*(painted(FLAT),) * 2), SearchOptions()).turned(Affine.identity(2)) == 0
