"""What is registered on thumbnails is applied to the full images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from app.scenes import answer, run
from roireg.io import read_image

SETTINGS = """
stages:
  - {stage: search, exhaustive: {cells: 48, polish: 6, max_scale: 1}, trials: 2, trial: {max_voxels: 3000}}
  - {stage: velocity, levels: 2, iterations: [20, 10], checked: false}
verdict: {probability: false}
"""
"""The stages of the default preset with a coarse search and few steps, judged without a probability."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pattern of 600 x 450 pixels, the same turned by 8 degrees, and thumbnails of a fifth."""
    place = tmp_path_factory.mktemp("full")
    rng = np.random.default_rng(0)
    noise = sum(ndimage.gaussian_filter(rng.standard_normal((450, 600)), s) * s for s in (6, 12, 25))
    rows, columns = np.mgrid[:450, :600]
    body = ((rows - 225) / 190) ** 2 + ((columns - 300) / 260) ** 2 < 1
    full = np.where(body, 120 + 90 * np.tanh(noise / noise.std()), 255).clip(0, 255).astype(np.uint8)
    fixed = PIL.Image.fromarray(full)
    for name, picture in (("fixed", fixed), ("moving", fixed.rotate(8, fillcolor=255, resample=PIL.Image.BILINEAR))):
        picture.save(place / f"{name}_full.png")
        picture.resize((120, 90), PIL.Image.LANCZOS).save(place / f"{name}_thumb.png")
    (place / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    answer(
        *("register", place / "fixed_thumb.png", place / "moving_thumb.png", "--config", place / "settings.yaml"),
        *("-o", place / "out", "--only", "transform"),
    )
    return place


def _correlation(folder: Path, out: Path) -> float:
    pictures = [read_image(p).data.numpy().ravel() for p in (folder / "fixed_full.png", out)]
    return float(np.corrcoef(*pictures)[0, 1])


def test_scales_bring_the_full_images_together(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    done = run(
        *("apply", folder / "out", folder / "moving_full.png", "--reference", folder / "fixed_full.png", "-o", out),
        *("--fixed-scale", "5", "--moving-scale", "5"),
    )
    assert done.exit_code == 0, done.output
    assert _correlation(folder, folder / "moving_full.png") < 0.8
    assert _correlation(folder, out) > 0.96


def test_without_scales_it_is_told(folder: Path, tmp_path: Path) -> None:
    done = run(
        *("apply", folder / "out", folder / "moving_full.png", "--reference", folder / "fixed_full.png"),
        *("-o", tmp_path / "x.png"),
    )
    assert "times as large as what the transform was made for" in " ".join(done.output.split())
    assert "--fixed-scale" in done.output
