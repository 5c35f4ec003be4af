"""A point of Slicer that was never placed (Slicer issue 6661), and the same names in another order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.scenes import run


def _markups(path: Path, points: list[tuple[str, list[float], str]]) -> Path:
    controls = [{"label": n, "position": p, "positionStatus": s} for n, p, s in points]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": controls}
    path.write_text(json.dumps({"markups": [markup]}))
    return path


def _mean_error(fixed: Path, moving: Path) -> tuple[float, str]:
    done = run("evaluate", "--fixed-points", fixed, "--moving-points", moving, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["metrics"]["landmark_error_mean"]["value"], done.stderr


@pytest.mark.parametrize("status", ["undefined", "preview"])
def test_a_point_that_is_not_placed_is_left_out_and_told(tmp_path: Path, status: str) -> None:
    a, c = ("A", [10.0, 20, 30], "defined"), ("C", [15.0, 5, 40], "defined")
    fixed = _markups(tmp_path / "fixed.mrk.json", [a, ("B", [0.0, 0, 0], status), c])
    moving = _markups(tmp_path / "moving.mrk.json", [a, ("B", [60.0, 50, 40], "defined"), c])
    error, told = _mean_error(fixed, moving)
    assert error == 0
    assert "not placed are left out: B" in told and "without a partner" in told


def test_equal_names_in_another_order_are_one_point(tmp_path: Path) -> None:
    (tmp_path / "fixed.csv").write_text("x,y,z,name\n0,0,0,A\n10,0,0,B\n0,20,0,C\n")
    (tmp_path / "moving.csv").write_text("x,y,z,name\n0,20,0,C\n0,0,0,A\n10,0,0,B\n")
    error, told = _mean_error(tmp_path / "fixed.csv", tmp_path / "moving.csv")
    assert error == 0
    assert "paired by name" in told
