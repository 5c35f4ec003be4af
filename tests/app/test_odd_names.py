"""Files and folders whose names are not UTF-8 are read and written as any others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import roireg
from app.scenes import Scene, answer, run
from roireg.cohort.memory import expected_memory

ODD = os.fsdecode(b"f\xe9ldt")


@pytest.fixture(scope="module")
def odd(flat: Scene, volume: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / ODD
    folder.mkdir()
    for scene, prefix in ((flat, "flat_"), (volume, "")):
        for path in (scene.fixed, scene.moving, scene.fixed_labels, scene.fixed_points, scene.truth):
            shutil.copy(path, folder / f"{ODD}_{prefix}{path.name}")
    return folder


def test_a_registration_its_report_and_what_is_made_of_it(odd: Path, settings: Path, tmp_path: Path) -> None:
    def named(name: str) -> Path:
        return odd / f"{ODD}_{name}"

    out = tmp_path / ODD
    pair = named("flat_fixed.png"), named("flat_moving.png")
    result = answer("register", *pair, "-o", out, "--config", settings, code=None)
    assert result["provenance"]["inputs"]["fixed"]["path"] == str(pair[0])
    assert "notes" not in result
    assert "f\ufffdldt_flat_fixed.png" in (out / "report.html").read_text(encoding="utf-8")
    answer("report", out, "-o", tmp_path / f"{ODD}.html")
    assert roireg.load(out).provenance["inputs"]["moving"]["path"] == str(pair[1])
    assert answer("info", out)["files"][0]
    answer("apply", out, pair[1], "--reference", pair[0], "-o", out / "moved.png")
    answer("apply", out, named("flat_fixed_points.csv"), "-o", tmp_path / f"{ODD}.csv")
    answer("evaluate", out, "--fixed", pair[0])
    answer("register", *pair, "-o", out, "--config", settings, "--resume", code=None)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_images_of_every_format(odd: Path, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"{ODD}{ending}"
    answer("convert", odd / f"{ODD}_fixed.nii.gz", target)
    original, written = answer("info", odd / f"{ODD}_fixed.nii.gz", target)["files"]
    assert original["size"] == written["size"]
    assert expected_memory(target) > expected_memory()


def test_other_commands(odd: Path, tmp_path: Path) -> None:
    pair = odd / f"{ODD}_flat_fixed.png", odd / f"{ODD}_flat_moving.png"
    answer("match", *pair, "-o", tmp_path / f"{ODD}_pairs", code=None)
    answer("info", tmp_path / f"{ODD}_pairs/pairs")
    answer("segment", pair[0], "-o", tmp_path / f"{ODD}.png")
    answer("prompt", *pair, "--point", "20,20", "--guide", "identity", "-o", tmp_path / f"{ODD}_prompt", code=None)
    for ending in (".h5", ".tfm", ".mat"):
        target = tmp_path / f"{ODD}{ending}"
        answer("convert", odd / f"{ODD}_truth.h5", target)
        answer("info", target)
    for ending in (".nii.gz", ".mha", ".nrrd"):
        target = tmp_path / f"{ODD}_field{ending}"
        answer("convert", odd / f"{ODD}_truth.h5", target, "--reference", odd / f"{ODD}_fixed.nii.gz")
        answer("apply", target, odd / f"{ODD}_fixed_points.csv", "-o", tmp_path / f"{ODD}.csv", "--replace")


@pytest.mark.parametrize("command", ["info", "models check", "report", "convert", "cohort"])
def test_what_is_not_there_is_named(tmp_path: Path, command: str) -> None:
    missing = tmp_path / f"{ODD}.png"
    more = (tmp_path / "x.png",) if command == "convert" else ("-o", tmp_path / "x") if command == "cohort" else ()
    result = run(*command.split(), missing, *more, "--json")
    assert result.exit_code == 2, result.output
    assert "ldt.png" in json.loads(result.stdout)["error"]
