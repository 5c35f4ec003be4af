"""What a worker of Dask does: it watches over the processes of its tasks. Imports nothing heavy."""

from __future__ import annotations

import threading

from roireg.cohort.process import Ending, Limits, Processes, Task

__all__ = ["run_task", "stop_processes"]

_OF_RUN: dict[str, Processes] = {}
_LOCK = threading.Lock()


def run_task(run: str, task: Task, limits: Limits) -> Ending:
    """Run a task of a run, whose processes are its own; called in a thread of a worker."""
    with _LOCK:
        processes = _OF_RUN.setdefault(run, Processes())
    return processes.run(task, limits)


def stop_processes(run: str) -> None:
    """End the processes of a run on this worker, also in the middle of a task."""
    with _LOCK:
        processes = _OF_RUN.pop(run, None)
    if processes is not None:
        processes.stop()
