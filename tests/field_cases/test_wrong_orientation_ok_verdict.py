"""A head that lies upside down in space, as wrong headers put it, is found."""

from __future__ import annotations

from pathlib import Path

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
