"""What lies upside down in space, as wrong headers put it, is found or doubted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

import roireg
from app.scenes import answer
from field_cases.heads import SETTINGS, head, landmarks, turned, write_points
from roireg.io import write_image


def test_a_head_upside_down_is_found(tmp_path: Path) -> None:
    truth = turned("x", 180)
    write_image(tmp_path / "fixed.nii.gz", head())
    write_image(tmp_path / "moving.nii.gz", head(truth))
    write_points(tmp_path / "fixed.csv", landmarks())
    write_points(tmp_path / "moving.csv", truth.map_points(landmarks()))
    both = ("--fixed-points", tmp_path / "fixed.csv", "--moving-points", tmp_path / "moving.csv")
    images = (tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz")
    settings = tmp_path / "settings.yaml"
    settings.write_text(SETTINGS, encoding="utf-8")
    result = answer("register", *images, "-o", tmp_path / "out", *both, "--config", settings, "--only", "result")
    assert result["metrics"]["landmark_error_mean"]["value"] < 1
    assert result["verdict"] != "failed"


def test_a_shell_that_looks_the_same_upside_down_is_never_ok() -> None:
    z, y, x = np.mgrid[-15.5:16, -15.5:16, -15.5:16]
    radius = np.sqrt((x / 10) ** 2 + (y / 12) ** 2 + (z / 9) ** 2)
    shell = 100.0 * ((radius < 1) & (radius > 0.8)) + 30.0 * (radius <= 0.8)
    rng = np.random.default_rng(0)
    for centre in rng.uniform(-4, 4, (4, 3)):
        shell += 40 * (((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) < 4)
    shell = gaussian_filter(shell, 0.7)
    fixed, moving = (v + rng.normal(0, 2, v.shape) for v in (shell, shell[::-1, ::-1]))
    result = roireg.register((fixed, (4, 4, 4)), (moving, (4, 4, 4)))
    # Without the marks both positions are right, and nothing but the marks says which.
    assert result.verdict != "ok"
    assert any("check the orientation" in reason for reason in result.reasons)
