"""Small pairs, and settings under which one takes a moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.conftest import flat, settings  # noqa: F401
from app.scenes import make_scene
from roireg.cohort import engines
from roireg.cohort.process import Processes
from roireg.core.grid import Grid

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three scenes, a, b and c, and a table of their pairs."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, shift in (("a", (3, -4)), ("b", (2, 2)), ("c", (-3, 1))):
        (folder / name).mkdir()
        make_scene(folder / name, Grid.pixels((48, 56)), shift)
    rows = [f"{name},{name}/fixed.png,{name}/moving.png" for name in "abc"]
    (folder / "pairs.csv").write_text("\n".join(["id,fixed,moving", *rows]) + "\n")
    return folder


@pytest.fixture(scope="session")
def child_path() -> Iterator[None]:
    """Let processes of tasks import what tests define."""
    paths = [str(TESTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(p for p in paths if p))
        yield


class Kept(Processes):
    """Processes that outlive the cohort that they are of: the libraries load once for all tests."""

    def stop(self) -> None:
        pass


@pytest.fixture(scope="session")
def kept_processes(child_path: None) -> Iterator[Kept]:
    pool = Kept()
    yield pool
    Processes.stop(pool)


@pytest.fixture
def warm(kept_processes: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tasks one by one in a process that is there already."""
    monkeypatch.setattr(engines, "Processes", lambda: kept_processes)
