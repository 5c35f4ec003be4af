"""Key points of textured images: known maps of any angle, no maps from nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from match.scenes import about
from roireg.core.filters import gaussian_smooth
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.seeds import generator
from roireg.core.transforms import Affine
from roireg.core.warp import warp
from roireg.match import keypoint_maps
from roireg.match.moments import fit_projective, map_projective
from support import Homography, turned

GRID = Grid(
    (200, 220), np.array([[0.0, 0.7, -60.0], [0.9, 0.0, 12.0], [0.0, 0.0, 1.0]])
)  # world x along rows, spacing 0.9 and 0.7 mm


def texture(seed=0, grid=GRID):
    """Blobs of many sizes."""
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, *grid.shape)).astype(np.float32))
    parts = [gaussian_smooth(n[None], s) * s for n, s in zip(noise, (2.0, 4.0, 8.0), strict=True)]
    return Image(sum(parts), grid, name=f"texture {seed}")


def find(fixed, moving, **masks):
    return keypoint_maps(fixed, moving, rng=generator(0, stream="test"), **masks)


def error(found, truth):
    points = 0.5 * (GRID.corners() + GRID.center)
    return np.linalg.norm(found.map_points(points) - truth.map_points(points), axis=1).max()


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (70, 1.0), (180, 0.8), (-120, 1.25)])
def test_similarities_of_any_angle_are_found_decisively(degrees, scale):
    fixed = texture()
    truth = about(GRID, scale * turned(degrees), (9.0, -14.0))
    moving = warp(fixed, truth.inverse(), GRID.padded((40, 40), (40, 40)))
    similarity, affine = find(fixed, moving)
    assert error(similarity.affine, truth) < 0.7
    assert error(affine.affine, truth) < 0.7
    assert similarity.decisive and affine.decisive
    assert similarity.agreeing <= similarity.matched


def test_an_affine_is_found_better_by_the_affine_map():
    fixed = texture(1)
    truth = about(GRID, turned(20) @ np.array([[1.1, 0.1], [0.0, 0.95]]), (5.0, 5.0))
    moving = warp(fixed, truth.inverse(), GRID.padded((30, 30), (30, 30)))
    similarity, affine = find(fixed, moving)
    assert error(affine.affine, truth) < 0.7 < error(similarity.affine, truth)


def test_a_perspective_is_found_where_an_affine_map_does_not_do():
    fixed = texture(4)
    tilt = np.array([[0.9, 0.05, 14.0], [-0.1, 1.0, -16.0], [9e-4, -6e-4, 1.0]])
    grid = GRID.padded((40, 40), (40, 40))
    moving = warp(fixed, Homography(tilt).inverse(), grid)
    *_, affine, tilted = find(fixed, moving)
    assert affine.perspective is None and tilted.perspective is not None and tilted.decisive
    points = 0.5 * (GRID.corners() + GRID.center)
    truth = map_projective(tilt, points)
    off = np.linalg.norm(map_projective(tilted.perspective, points) - truth, axis=1).max()
    assert off < 0.7 < np.linalg.norm(affine.affine.map_points(points) - truth, axis=1).max()
    assert tilted.spread < 0.7 < affine.spread
    # An affine map needs no perspective.
    flat = about(GRID, turned(20) @ np.array([[1.1, 0.1], [0.0, 0.95]]), (5.0, 5.0))
    assert len(find(fixed, warp(fixed, flat.inverse(), grid))) == 2


def test_a_homography_goes_through_four_points():
    corners = GRID.corners()
    target = corners + np.array([[3.0, 1.0], [-2.0, 5.0], [0.0, 9.0], [4.0, -4.0]])
    matrix = fit_projective(corners, target)
    np.testing.assert_allclose(map_projective(matrix, corners), target, atol=1e-6)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_images_that_share_nothing_or_show_nothing_propose_nothing_decisive():
    assert not any(k.decisive for k in find(texture(3), texture(2)))
    blank = texture().with_data(torch.zeros(1, *GRID.shape))
    assert find(texture(), blank) == find(blank, texture()) == []


def test_what_lies_still_is_never_decisive():
    # A frame and marks of the scanner would be matched like this, whatever the anatomy between them does.
    maps = find(texture(), texture())
    assert len(maps) == 2 and not any(k.decisive for k in maps)
    assert error(maps[1].affine, Affine.identity(2)) < 0.1


def test_only_key_points_inside_both_masks_count():
    fixed = texture()
    truth = about(GRID, np.eye(2), (20.0, 0.0))
    # The left half moves, the right half stays: the masks decide which of the two is found.
    left = torch.zeros(1, *GRID.shape)
    left[..., : GRID.shape[1] // 2] = 1
    moved = warp(fixed, truth.inverse(), GRID)
    moving = fixed.with_data(torch.where(left > 0, moved.data, fixed.data))
    mask = fixed.with_data(left)
    found = find(fixed, moving, fixed_mask=mask, moving_mask=mask)
    assert error(found[0].affine, truth) < 0.7
    other = fixed.with_data(1 - left)
    still = find(fixed, moving, fixed_mask=other, moving_mask=other)
    assert error(still[0].affine, Affine.identity(2)) < 0.7
    assert find(fixed, moving, fixed_mask=fixed.with_data(torch.zeros_like(left))) == []


def test_volumes_have_none():
    volume = Image(torch.rand(1, 8, 30, 30), Grid((8, 30, 30), np.eye(4)))
    assert find(volume, volume) == []


def test_equal_seeds_give_equal_maps():
    a, b = (find(texture(1), texture(1)) for _ in range(2))
    np.testing.assert_array_equal(a[0].affine.matrix, b[0].affine.matrix)
