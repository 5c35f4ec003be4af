"""Scenes written once for all tests of the app; nothing may write into their folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.scenes import Scene, make_scene, volume_grid
from cheaper import keep_prepared
from roireg.core.grid import Grid


@pytest.fixture(autouse=True)
def prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_prepared(monkeypatch)


@pytest.fixture(scope="session")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("flat"), Grid.pixels((48, 56)), (3, -4))


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("volume"), volume_grid(), (1, 2, -1))


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings under which the small scenes take about a second: an affine from region pairs alone."""
    path = tmp_path_factory.mktemp("settings") / "quick.yaml"
    path.write_text("segment: {max_count: 24}\nstages: [{stage: affine}]\nverdict: {probability: false}\n")
    return path


@pytest.fixture
def quick(settings: Path) -> tuple[object, ...]:
    """Options of a fast registration that writes the transform alone."""
    return ("--config", settings, "--only", "transform")
