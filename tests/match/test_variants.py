"""Views of an image and the average over them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.match.variants import View, average_answers, draw_views, refined_region, view_of, visible
from roireg.segment.promptable import NetworkAnswers
from support import grids, make_grid


@given(grids(min_side=2), st.floats(0, 360), st.floats(0.5, 2.5))
def test_a_view_keeps_the_centre_and_scales_a_plane(grid, angle, scale):
    seen = View((0,), angle, scale).grid(grid)
    np.testing.assert_allclose(seen.center, grid.center, atol=1e-6)
    assert seen.shape == grid.shape
    sizes = [abs(np.linalg.det(g.affine[:-1, :-1])) for g in (seen, grid)]
    assert sizes[0] / sizes[1] == pytest.approx(scale**-2)


@given(grids(min_side=2))
def test_flips_alone_reverse_the_axes(grid):
    image = Image(torch.rand((1, *grid.shape), generator=torch.Generator().manual_seed(0)), grid)
    flipped = view_of(image, View((0, grid.ndim - 1)))
    expected = torch.flip(image.data, (1, grid.ndim))
    torch.testing.assert_close(flipped.data, expected, atol=1e-4, rtol=0)


def test_a_quarter_turn_of_an_anisotropic_plane_shears_nothing():
    grid = make_grid((31, 41), (2.0, 1.0))
    seen = View(angle=90.0).grid(grid)
    a, b = seen.affine[:-1, 0], seen.affine[:-1, 1]
    assert abs(a @ b) < 1e-9
    assert sorted(np.round(seen.spacing, 6)) == [1.0, 2.0]
    assert np.linalg.norm(a) == pytest.approx(2.0)


def test_what_lies_outside_a_view_is_dark_and_gamma_keeps_the_ends():
    image = Image(torch.linspace(2.0, 6.0, 400).reshape(1, 20, 20), Grid.pixels((20, 20)))
    small = view_of(image, View(scale=0.5))
    assert float(small.data[0, 0, 0]) == 2.0
    bent = view_of(image, View(gamma=2.0))
    assert float(bent.data.min()) == pytest.approx(2.0, abs=1e-5)
    assert float(bent.data.max()) == pytest.approx(6.0, abs=1e-5)
    assert float(bent.data.mean()) < float(image.data.mean())


def test_views_are_drawn_within_their_ranges_and_repeatably():
    a = draw_views(8, 2, rng=np.random.default_rng(1), scales=(0.5, 2.5), gammas=(1.0, 1.0))
    b = draw_views(8, 2, rng=np.random.default_rng(1), scales=(0.5, 2.5), gammas=(1.0, 1.0))
    assert a == b
    assert all(0.5 <= v.scale <= 2.5 and v.gamma == 1.0 for v in a)
    assert sum(v.angle == 0 for v in a) == 4
    assert draw_views(0, 3, rng=np.random.default_rng(0)) == ()
    with pytest.raises(InputError, match="at least 0"):
        draw_views(-1, 2, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="ascending"):
        draw_views(1, 2, rng=np.random.default_rng(0), scales=(2.0, 0.5))


def test_a_prompt_is_visible_where_the_view_shows_all_of_it():
    grid = Grid.pixels((50, 50))
    corner, box = Prompt.at((2.0, 2.0)), Prompt(np.zeros((0, 2)), np.zeros(0), np.array([[20.0, 20], [30, 30]]))
    assert visible(corner, View(), grid)
    assert not visible(corner, View(scale=2.0), grid)
    assert visible(box, View((0,), 0.0, 1.5), grid)
    assert not visible(box, View(angle=30.0), grid)


def square(low: int, high: int) -> torch.Tensor:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[low:high, low:high] = True
    return mask


def test_a_region_is_refined_by_the_answers_that_agree():
    grid = Grid.pixels((20, 20))
    base = square(5, 15)
    wider = base.clone()
    wider[5:15, 15] = True
    other = square(0, 4)
    answers = [ROISet(torch.stack([other, wider]), grid), ROISet(other[None], grid), ROISet.empty(grid)]
    mean = refined_region(ROISet(base[None], grid), answers)
    assert float(mean[10, 15]) == 0.5
    assert float(mean[10, 10]) == 1.0
    assert float(mean[1, 1]) == 0.0
    turned = View((0,), 90.0).grid(grid)
    same = ROISet(torch.rot90(torch.flip(base, (0,))).contiguous()[None], turned)
    assert torch.equal(refined_region(ROISet(base[None], grid), [same]) > 0.5, base)


def test_the_published_average_is_that_of_the_first_answers_of_all_views():
    grid = Grid.pixels((20, 20))
    here, there = square(3, 9), square(11, 17)
    views = [ROISet(torch.stack([there, here]), grid), ROISet(there[None], grid), ROISet.empty(grid)]
    mean = average_answers(views, grid)
    assert float(mean[13, 13]) == pytest.approx(2 / 3) and float(mean[5, 5]) == 0.0
    turned = ROISet(torch.flip(there, (0,))[None], View((0,)).grid(grid))
    assert torch.equal(average_answers([turned], grid) > 0.5, there)


def test_probabilities_are_averaged_where_a_segmenter_tells_them():
    """Two sure views outvote three that are nearly undecided, which masks alone would not show."""
    grid = Grid.pixels((20, 20))
    here, there = square(3, 9), square(11, 17)

    def view(mask: torch.Tensor, inside: float, outside: float) -> NetworkAnswers:
        soft = torch.where(mask, inside, outside)
        return NetworkAnswers(mask[None], grid, soft=(255 * soft).round().to(torch.uint8)[None])

    views = [view(here, 1.0, 0.0)] * 2 + [view(there, 0.55, 0.45)] * 3
    mean = average_answers(views, grid)
    assert float(mean[5, 5]) == pytest.approx((2 + 3 * 0.45) / 5, abs=0.01)
    assert torch.equal(mean > 0.5, here)
    masks = [ROISet(v.masks, grid) for v in views]
    assert torch.equal(average_answers(masks, grid) > 0.5, there)
    mean = refined_region(view(here, 0.6, 0.0), [view(here, 1.0, 0.0), view(there, 1.0, 0.0)])
    assert float(mean[5, 5]) == pytest.approx(0.8, abs=0.01)
