"""What is wrong with a prompt, and random ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt
from roireg.pipeline.prompts import check_prompt, check_prompts, random_prompts

FLAT = Image(torch.rand(1, 20, 30, generator=torch.Generator().manual_seed(0)), Grid.pixels((20, 30)), name="a.png")
DEEP = Image(torch.rand(1, 4, 9, 8), Grid.from_itk((8, 9, 4), (1, 1, 5), (0, 0, 50), np.eye(3)), name="b.nii")
NO_POINTS = np.zeros((0, 2)), np.zeros(0)


@pytest.mark.parametrize(
    ("prompt", "image", "words"),
    [
        (Prompt.at((30.0, 2.0)), FLAT, ("a.png", r"\(30, 2\)", "outside the image", r"\(29.5, 19.5\)")),
        (Prompt([[3, 3], [3.2, 3.1]], [1, 0]), FLAT, (r"\(3, 3\)", "inside", "outside", "remove")),
        (Prompt(*NO_POINTS, [[2, 2], [2, 9]]), FLAT, ("no area", "corners")),
        (Prompt(*NO_POINTS, [[40, 2], [50, 9]]), FLAT, ("box", "outside the image")),
        (Prompt(*NO_POINTS, [[29.5, 2], [50, 9]]), FLAT, ("box", "outside the image")),
        (Prompt.at((float("nan"), 2.0)), FLAT, (r"point \(nan, 2\) is no finite number",)),
        (Prompt(*NO_POINTS, [[2, 2], [float("inf"), 9]]), FLAT, (r"box \(inf, 9\) is no finite number",)),
        (
            Prompt([[6, 10]], [1], [[15, 15], [18, 18]]),
            FLAT,
            (r"\(6, 10\)", "label 1", r"outside the prompt box from \(15, 15\) to \(18, 18\)", "move one"),
        ),
        (Prompt(np.zeros((0, 3)), [], [[0, 0, 50], [4, 4, 50]]), DEEP, ("no volume",)),
        (Prompt.at((3.0, 3.0, 70.0)), DEEP, ("b.nii", "mm", "outside")),
    ],
)
def test_what_cannot_be_asked(prompt, image, words):
    with pytest.raises(InputError) as caught:
        check_prompt(prompt, image)
    for word in words:
        caught.match(word)


def test_dimensions_must_agree():
    for prompt in (Prompt.at((1.0, 2.0, 3.0)), Prompt(*NO_POINTS, np.ones((2, 3)))):
        with pytest.raises(GeometryError, match="is 3D but the image is 2D"):
            check_prompt(prompt, FLAT)


def test_good_prompts_pass():
    for prompt in (
        Prompt.at((0, 0), (29, 19)),
        Prompt([[3, 3], [5, 5]], [1, 0]),
        Prompt(*NO_POINTS, [[9, 9], [3, 2]]),
        Prompt([[4, 4], [25, 15]], [1, 0], [[3, 2], [9, 9]]),
        # The corners of a box are voxels of it.
        Prompt([[9.4, 1.6]], [1], [[3, 2], [9, 9]]),
    ):
        assert check_prompt(prompt, FLAT) is prompt
    flat_axis = Image(torch.rand(1, 1, 9, 8), Grid.from_itk((8, 9, 1), (1, 1, 5), (0, 0, 0), np.eye(3)))
    for no_points in (np.zeros((0, 3)), []):
        check_prompt(Prompt(no_points, [], [[0, 0, 0], [4, 4, 0]]), flat_axis)


def test_a_box_is_cut_off_at_the_border():
    over = Prompt([[26, 18]], [1], [[24, 14], [50, 60]])
    asked = check_prompt(over, FLAT)
    np.testing.assert_allclose(asked.box, [[24, 14], [29.5, 19.5]])
    np.testing.assert_array_equal(asked.points, over.points)
    (listed,) = check_prompts(over, FLAT)
    np.testing.assert_array_equal(listed.box, asked.box)
    deep = Prompt(np.zeros((0, 3)), [], DEEP.grid.world_from_index(np.array([[-4.0, 2, 2], [1, 5, 30]])))
    index = DEEP.grid.index_from_world(check_prompt(deep, DEEP).box)
    np.testing.assert_allclose(index, [[-0.5, 2, 2], [1, 5, 7.5]], atol=1e-9)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_random_prompts_respect_the_mask_and_the_seed(where):
    mask = torch.zeros(1, 20, 30, dtype=torch.int32)
    mask[:, 5:12, 8:20] = 4
    region = Image(mask, FLAT.grid)
    drawn = random_prompts(FLAT, 12, mask=region, where=where, seed=5)
    again = random_prompts(FLAT, 12, mask=region, where=where, seed=5)
    for a, b in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(a.points, b.points)
        x, y = a.points[0].astype(int)
        assert bool(mask[0, y, x] > 0) == (where == "inside")
    points = np.concatenate([p.points for p in drawn])
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(12)
    # Spread out: uniform draws of 12 among 84 pixels nearly always repeat or touch.
    assert apart.min() > 1.0


def test_without_a_mask_the_foreground_is_asked():
    values = torch.full((1, 30, 30), 10.0)
    values[:, 8:20, 8:20] = 200
    for p in random_prompts(Image(values, Grid.pixels((30, 30))), 6):
        assert ((p.points[0] >= 8) & (p.points[0] < 20)).all()


def test_random_prompts_that_cannot_be_drawn():
    full = Image(torch.ones(1, 20, 30, dtype=torch.int32), FLAT.grid)
    with pytest.raises(InputError, match="no voxel lies outside"):
        random_prompts(FLAT, 2, mask=full, where="outside")
    with pytest.raises(InputError, match="at least one"):
        random_prompts(FLAT, 0)
    with pytest.raises(InputError, match="inside or outside"):
        random_prompts(FLAT, 1, where="near")
