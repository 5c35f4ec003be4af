"""Tasks in processes of their own: whatever happens to one is told and costs that one alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from roireg.cohort.process import Ending, Limits, Processes, Task


@pytest.fixture
def processes(child_path: None) -> Iterator[Processes]:
    pool = Processes()
    yield pool
    pool.stop()


def run(pool: Processes, deed: str, memory: int | None = None, **arguments: object) -> Ending:
    return pool.run(Task("t", f"cohort.deeds:{deed}", arguments), Limits(1, memory))


def test_every_end_is_told_with_its_cause_and_the_next_task_runs(processes):
    first = run(processes, "who")
    assert first.kind == "done" and run(processes, "who").value == first.value, "one process takes many tasks"
    refused = run(processes, "refuse")
    assert (refused.kind, refused.cause) == ("refused", "x.nii: there is no such file; check the path")
    broken = run(processes, "stumble")
    assert broken.kind == "broken" and "KeyError" in broken.cause and "deeds.py" in broken.trace
    assert run(processes, "chatter").value == {"answer": 42}, "what a library prints is no answer"
    assert run(processes, "who").value == first.value, "errors end no process"
    killed = run(processes, "die")
    assert killed.kind == "killed" and "SIGKILL" in killed.cause
    assert run(processes, "who").value != first.value
    greedy = run(processes, "swell", memory=200_000_000)
    assert greedy.kind == "memory" and "0.2 GB" in greedy.cause and greedy.peak_mb > 200
    assert run(processes, "who").kind == "done"
