"""Tasks on the workers of a scheduler of Dask."""

from __future__ import annotations

import contextlib
import math
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import groupby, islice
from typing import Any

from roireg.cohort.process import Ending, Limits, Task
from roireg.core.errors import RoiregError

__all__ = ["PATIENCE", "RESOURCE", "EngineLost", "OnDask"]

RESOURCE = "MB"
"""What workers call the memory that tasks are placed by; start others with ``dask worker --resources MB=16000``."""

WAITING = 60.0
"""Seconds without any worker after which that is told."""

LOOK = 5.0
"""Seconds after which workers are counted again."""

ANSWER = 5.0
"""Seconds to wait for the answers of tasks that have ended: a worker that is gone never sends them."""

PATIENCE = 30.0
"""Seconds that a scheduler may be out of reach."""

AHEAD = 24
"""Tasks that a scheduler is told of beyond twice those that run at once."""


class EngineLost(RoiregError):
    """What tasks run on is gone; those that are missing run when the same command is given again."""

    exit_code = 3


class OnDask:
    """Tasks on the workers of a scheduler, which is told of a few more than run at once: its memory stays small.

    Parameters
    ----------
    limit : how many run at once at most; None takes all that the workers take.
    staff : called now and then; sees to it that there are workers.
    """

    def __init__(
        self,
        client: Any,
        limits: Limits,
        note: Callable[[str], None],
        *,
        limit: int | None,
        staff: Callable[[], None] | None,
    ) -> None:
        self.client, self.limits, self.note = client, limits, note
        self.limit, self.staff = limit, staff
        self.name = uuid.uuid4().hex[:12]
        self.workers: Mapping[str, Any] = {}
        self.looked = 0.0
        self.count = 0

    @property
    def slots(self) -> int:
        threads = sum(worker["nthreads"] for worker in self._known().values())
        return max(1, min(threads, self.limit or threads))

    def _known(self) -> Mapping[str, Any]:
        """Return the workers, looked up now and then: what is told of a thousand is long."""
        if time.monotonic() - self.looked > (LOOK if self.workers else 1.0):
            self.workers = self.client.scheduler_info(n_workers=-1)["workers"]
            self.looked = time.monotonic()
            if self.staff is not None:
                self.staff()
        return self.workers

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Ending]]:
        running: dict[str, tuple[Task, Any]] = {}
        try:
            yield from self._run(iter(tasks), running)
        finally:
            with contextlib.suppress(Exception):
                self.client.cancel([future for _, future in running.values()])

    def _run(self, rest: Iterator[Task], running: dict[str, tuple[Task, Any]]) -> Iterator[tuple[Task, Ending]]:
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        unanswered: list[Any] = []
        alone = out_of_reach = time.monotonic()
        while True:
            self._fill(rest, running, ended)
            if not running:
                return
            try:
                futures = [ended.get(timeout=1.0)]
            except queue.Empty:
                out_of_reach = self._reached(out_of_reach)
                alone = self._staffed(alone)
                while unanswered:
                    ended.put(unanswered.pop())
                continue
            with contextlib.suppress(queue.Empty):
                while True:
                    futures.append(ended.get_nowait())
            # Asked for together: every question is a way to the scheduler and back.
            for future, ending in zip(futures, self._endings(futures), strict=True):
                if ending is None:
                    unanswered.append(future)
                    continue
                alone = out_of_reach = time.monotonic()
                task, _ = running.pop(future.key)
                future.release()
                yield task, ending

    def _fill(
        self, rest: Iterator[Task], running: dict[str, tuple[Task, Any]], ended: queue.SimpleQueue[Any]
    ) -> None:
        """Submit tasks until there are enough to keep all workers busy."""
        from roireg.cohort.worker import run_task

        ahead = self.slots if self.limit else 2 * self.slots + AHEAD
        tasks = list(islice(rest, max(0, ahead - len(running))))
        largest = max((w["resources"].get(RESOURCE, 0) for w in self._known().values()), default=0)
        for needs, group in groupby(tasks, key=lambda task: min(task.memory / 1e6, largest)):
            same = list(group)
            # Dask keeps something of every name before a number, for ever: one name for all.
            keys = [f"roireg-{self.name}-{self.count + i}" for i in range(len(same))]
            self.count += len(same)
            futures = self.client.map(
                partial(run_task, self.name, limits=self.limits),
                same,
                key=keys,
                pure=False,
                resources={RESOURCE: needs} if needs else None,
            )
            for task, future in zip(same, futures, strict=True):
                running[future.key] = (task, future)
                future.add_done_callback(ended.put)

    def _endings(self, futures: Sequence[Any]) -> list[Ending | None]:
        """Return how tasks have ended; None where the answer was lost with its worker, and the task runs again."""
        if len(futures) > 1 and all(future.status == "finished" for future in futures):
            with contextlib.suppress(Exception):  # what is wrong with which of them is found below
                endings: list[Ending | None] = self.client.sync(
                    self.client._gather, list(futures), callback_timeout=ANSWER
                )
                return endings
        return [self._ending(future) for future in futures]

    def _ending(self, future: Any) -> Ending | None:
        if future.status == "finished":
            with contextlib.suppress(TimeoutError, OSError, CancelledError):  # what was lost, the status tells
                ending: Ending = future.result(timeout=ANSWER)
                return ending
        if future.status == "cancelled":
            # Nobody here cancels what is awaited: the connection is lost, and with it what the scheduler knew.
            raise EngineLost(_LOST)
        if future.status != "error":
            return None
        error = future.exception()
        if type(error).__name__ == "KilledWorker":
            return Ending("lost", None, "its worker was lost, and so were those that tried it again")
        return Ending("lost", None, " ".join(f"its worker gave it up: {type(error).__name__} {error}".split())[:500])

    def _reached(self, since: float) -> float:
        if self.client.status == "running":
            return time.monotonic()
        if self.client.status == "closed" or time.monotonic() - since > PATIENCE:
            raise EngineLost(_LOST)
        return since

    def _staffed(self, since: float) -> float:
        if self._known():
            return time.monotonic()
        if time.monotonic() - since > WAITING:
            self.note("no worker is there yet; batch jobs may wait for their turn")
            return math.inf
        return since

    def close(self) -> None:
        """End what this run has started on the workers."""
        from roireg.cohort.worker import stop_processes

        with contextlib.suppress(Exception):
            if self.client.status == "running":
                self.client.run(stop_processes, self.name, on_error="ignore")


_LOST = "the scheduler is gone; what is finished is kept, and the same command goes on with the rest"
