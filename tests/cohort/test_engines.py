"""Engines on Dask: every task ends once, whatever happens to its worker, its scheduler or its batch job."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from roireg.cohort import engines, on_dask
from roireg.cohort.engines import EngineOptions
from roireg.cohort.on_dask import EngineLost
from roireg.cohort.process import Ending, Limits, Task

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


def echoes(count: int) -> Iterator[Task]:
    return (Task(f"t{i}", "roireg.cohort.child:echo", {"i": i}, memory=i % 2 * 10**6) for i in range(count))


def deed(name: str, **arguments: Any) -> Task:
    return Task(name, f"cohort.deeds:{name}", arguments)


def run(options: EngineOptions, tasks: Iterator[Task] | Sequence[Task]) -> dict[str, Ending]:
    with options.engine(Limits(1), print) as engine:
        ended = [(task.key, ending) for task, ending in engine.run(tasks)]
    assert len(dict(ended)) == len(ended), "a task ended twice"
    return dict(ended)


@pytest.fixture
def scheduler(child_path: None) -> Iterator[Any]:
    """A scheduler with two workers, which are processes of their own."""
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        host="127.0.0.1",
        memory_limit=0,
        silence_logs=50,
        scheduler_kwargs={"dashboard_address": ":0"},
    )
    with cluster:
        yield cluster


def test_every_task_ends_once_and_a_killed_one_costs_no_other(child_path):
    tasks = [*echoes(60), deed("die"), deed("refuse")]
    ended = run(EngineOptions(jobs=2), tasks)
    assert ended.keys() == {task.key for task in tasks}
    assert all(ended[f"t{i}"].value == {"i": i} for i in range(60))
    assert (ended["die"].kind, ended["refuse"].kind) == ("killed", "refused")


def test_a_task_whose_worker_is_lost_runs_on_the_next_one_and_a_lost_scheduler_is_told(
    scheduler, tmp_path, monkeypatch
):
    monkeypatch.setattr(on_dask, "PATIENCE", 3.0)
    options = EngineOptions(dask=scheduler.scheduler_address)
    ended = run(options, [deed("die_once", mark=str(tmp_path / "mark"), victim="worker"), *echoes(4)])
    assert ended["die_once"].value == {"second": True}
    assert {ended[f"t{i}"].kind for i in range(4)} == {"done"}
    # The scheduler stops in the middle: what has ended has ended, and what is left is said.
    seen = []
    with pytest.raises(EngineLost, match="goes on with the rest"), options.engine(Limits(1), print) as engine:
        for task, _ in engine.run(echoes(500)):
            seen.append(task.key)
            if len(seen) == 3:
                scheduler.close()
    assert 3 <= len(seen) < 500


def test_nobody_there_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setattr(engines, "PATIENCE", 0.2)
    with pytest.raises(engines.InputError, match=r"127\.0\.0\.1:9.*no scheduler answers"):
        run(EngineOptions(dask="tcp://127.0.0.1:9"), [])


@pytest.mark.skipif(sys.platform == "win32", reason="batch systems run on Unix")
@pytest.mark.parametrize(
    ("system", "asked"),
    [
        ("slurm", ("#SBATCH -p short", "#SBATCH -t 00:10:00", "--cpus-per-task=2")),
        ("pbs", ("#PBS -q short", "#PBS -l walltime=00:10:00", "select=1:ncpus=2:mem=1907MB")),
    ],
)
def test_batch_jobs_run_tasks_and_are_taken_back(batch_system, system, asked):
    pytest.importorskip("dask_jobqueue")
    ended = run(EngineOptions(**{system: batch_system / "slurm.yaml"}, jobs=2), list(echoes(5)))
    assert {e.value["i"] for e in ended.values()} == set(range(5))
    script = (batch_system / "jobs.txt").read_text(encoding="utf-8")
    assert script.count("#!") == 1 and all(words in script for words in asked)
    assert "--nthreads 2" in script and "MB=2000" in script, "two at once, and placed by memory"
    assert len((batch_system / "cancelled.txt").read_text(encoding="utf-8").split()) == 1, (
        "the job that is no longer needed is ended"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="batch systems run on Unix")
def test_a_batch_job_that_ends_before_its_time_is_submitted_again(batch_system, tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setattr(on_dask, "LOOK", 0.2)
    monkeypatch.setattr(on_dask, "ANSWER", 0.5)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "200ms"}):
        task = deed("die_once", mark=str(tmp_path / "mark"), victim="batch job")
        ended = run(EngineOptions(slurm=batch_system / "slurm.yaml", jobs=2), [task, *echoes(2)])
    assert ended["die_once"].value == {"second": True} and len(ended) == 3
    assert (batch_system / "jobs.txt").read_text(encoding="utf-8").count("#!") == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_slurm_does_not_take_is_said(batch_system):
    pytest.importorskip("dask_jobqueue")
    file = batch_system / "slurm.yaml"
    for text, words in (("cores: 2\n", "memory"), ("cores: 1\nmemory: 1GB\ncolour: x\n", "colour")):
        file.write_text(text)
        with pytest.raises(engines.InputError, match=words):
            run(EngineOptions(slurm=file), [])
