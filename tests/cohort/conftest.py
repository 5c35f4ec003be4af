"""Small pairs, and settings under which one takes a moment."""

from __future__ import annotations

import os
import stat
import sys
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


SBATCH = f"""#!{sys.executable}
import subprocess, sys
script = open(sys.argv[-1]).read()
open("jobs.txt", "a").write(script)
# The file is gone as soon as this program ends; a batch system keeps a copy, too.
job = subprocess.Popen(["bash", "-c", script], stdout=open("job.log", "ab"), stderr=subprocess.STDOUT,
                       start_new_session=True)
print("Submitted batch job", job.pid)
"""

SCANCEL = f"""#!{sys.executable}
import os, signal, sys
for job in sys.argv[1:]:
    os.killpg(int(job), signal.SIGKILL)
    open("cancelled.txt", "a").write(job + "\\n")
"""


@pytest.fixture
def batch_system(tmp_path: Path, child_path: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs called as those of SLURM and PBS that run a job file here, in the background.

    Returns the folder that they note it in, with a `slurm.yaml` that asks for such jobs, of PBS too.
    """
    monkeypatch.chdir(tmp_path)
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL), ("qsub", SBATCH), ("qdel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    (tmp_path / "slurm.yaml").write_text(
        "cores: 2\nmemory: 2GB\nqueue: short\nwalltime: '00:10:00'\ninterface: lo\nnanny: false\n"
        "scheduler_options: {dashboard_address: ':0'}\n"
        f"python: {sys.executable}\nlog_directory: {tmp_path}\n"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path
