"""Strips of two to seven lines (a line scan, a kymograph) are registered without key points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from app.scenes import run
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.match import keypoint_maps


@pytest.mark.usefixtures("cheap_presets")
@pytest.mark.parametrize("lines", [2, 5])
def test_strips_do_not_crash(tmp_path: Path, lines: int) -> None:
    noise = (np.random.default_rng(0).random((lines, 200)) * 255).astype(np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "fixed.png")
    PIL.Image.fromarray(np.roll(noise, 3, 1)).save(tmp_path / "moving.png")
    both = (tmp_path / "fixed.png", tmp_path / "moving.png")
    assert run("register", *both, "-o", tmp_path / "out", "--only", "result").exit_code in (0, 3)


@pytest.mark.parametrize("shape", [(2, 2), (3, 200), (5, 5), (7, 200), (8, 8), (9, 64), (200, 2)])
def test_key_points_of_any_size(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = Image(torch.from_numpy(rng.random((1, *shape)).astype(np.float32)), Grid.pixels(shape))
    assert isinstance(keypoint_maps(image, image, rng=rng), list)
