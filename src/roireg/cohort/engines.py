"""Where tasks run: one after the other here, or on Dask: on this machine, at a scheduler, as batch jobs."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any, Protocol

from roireg.cohort.process import Ending, Limits, Processes, Task, memory_of_machine
from roireg.core.errors import InputError, OptionalDependencyError, RoiregError
from roireg.jobs.options import option

__all__ = ["Engine", "EngineLost", "EngineOptions", "Here", "needs"]

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


class Engine(Protocol):
    """Runs tasks."""

    @property
    def slots(self) -> int:
        """How many tasks run at once."""

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Ending]]:
        """Yield every task as it ends.

        Raises
        ------
        EngineLost
            When no more tasks can be run.
        """


PANEL = "Where it runs"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where many registrations run."""

    jobs: Annotated[
        int | None,
        option(
            "--jobs",
            "-j",
            min=1,
            metavar="N",
            help="How many at once.",
            show_default="1; with --dask all that the workers take",
            panel=PANEL,
        ),
    ] = None
    threads: Annotated[
        int | None,
        option(min=1, max=1024, metavar="N", help="CPU threads of each; the cores shared by all.", panel=PANEL),
    ] = None
    dask: Annotated[
        str | None, option(metavar="ADDRESS", help="A running scheduler, such as tcp://10.0.0.5:8786.", panel=PANEL)
    ] = None
    slurm: Annotated[
        Path | None,
        option(metavar="FILE", help="YAML: what dask-jobqueue's SLURMCluster takes.", panel=PANEL),
    ] = None
    pbs: Annotated[Path | None, option(metavar="FILE", help="The same for PBSCluster.", panel=PANEL)] = None

    def check_engine(self) -> None:
        """Refuse two places to run at, and what is not installed.

        Raises
        ------
        InputError
            When two are named, or a file is not there.
        OptionalDependencyError
            When Dask is needed and not installed.
        """
        named = [f"--{n}" for n in ("dask", "slurm", "pbs") if getattr(self, n) is not None]
        if len(named) > 1:
            raise InputError(f"{' and '.join(named)} are places to run at; name one of them")
        for file in (self.slurm, self.pbs):
            if file is not None and not file.is_file():
                raise InputError(f"{file}: there is no such file; write the settings of the batch system into it")
        if named or self.at_once > 1:
            needs("distributed")
        if self.slurm or self.pbs:
            needs("dask_jobqueue")

    @property
    def at_once(self) -> int:
        """How many tasks run at once where this program starts the workers."""
        return self.jobs or 1

    @property
    def threads_each(self) -> int:
        """CPU threads of one task."""
        if self.threads is not None:
            return self.threads
        return 1 if self.dask or self.slurm or self.pbs else max(1, _cores() // self.at_once)

    def limits(self, memory: int | None) -> Limits:
        """Return what a task may take; `memory` in bytes, None for what its machine has."""
        return Limits(self.threads_each, memory)

    @contextmanager
    def engine(self, limits: Limits, note: Callable[[str], None]) -> Iterator[Engine]:
        """Yield the engine; at the end everything that it started ends.

        Raises
        ------
        InputError
            When no scheduler answers, or the settings of a batch system do not fit.
        """
        if self.dask is None and self.slurm is None and self.pbs is None and self.at_once == 1:
            here = Here(limits, Processes())
            try:
                yield here
            finally:
                here.processes.stop()
            return
        _configure()
        with self._client() as client:
            staff = partial(_replace_lost, client.cluster) if self.slurm or self.pbs else None
            on_dask = _OnDask(client, limits, note, limit=self.jobs if self.dask else None, staff=staff)
            try:
                yield on_dask
            finally:
                on_dask.close()

    @contextmanager
    def _client(self) -> Iterator[Any]:
        from distributed import Client, LocalCluster

        if self.dask is not None:
            try:
                client = Client(self.dask, timeout=PATIENCE, set_as_default=False)
            except (OSError, ValueError, TypeError) as error:
                raise InputError(
                    f"--dask {self.dask}: no scheduler answers there ({error}); check the address"
                ) from None
            _same_code(client, self.dask)
            with client:
                yield client
            return
        if self.slurm is None and self.pbs is None:
            # One worker watches all tasks of a machine: they share its memory, whatever each of them needs.
            cluster = LocalCluster(
                processes=False,
                n_workers=1,
                threads_per_worker=self.at_once,
                memory_limit=0,
                dashboard_address=None,
                resources={RESOURCE: memory_of_machine() // 10**6},
                silence_logs=50,
            )
        else:
            cluster = self._batch()
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client

    def _batch(self) -> Any:
        """Return a cluster whose workers are jobs of a batch system."""
        import dask_jobqueue
        from dask.utils import parse_bytes

        from roireg.io.documents import read_yaml

        file = self.slurm or self.pbs
        assert file is not None
        settings = read_yaml(file)
        if not isinstance(settings, dict) or not {"cores", "memory"} <= settings.keys():
            raise InputError(f"{file}: expected `cores:` and `memory:` of one batch job, as dask-jobqueue takes them")
        cores, memory = int(settings["cores"]), parse_bytes(settings["memory"])
        slots = max(1, cores // self.threads_each)
        place = ["--resources", f"{RESOURCE}={memory // 10**6}"]
        settings |= {
            "cores": slots,
            "processes": 1,
            "worker_extra_args": [*settings.get("worker_extra_args", []), *place],
        }
        # A worker has as many threads as pairs run at once; of the batch system all cores are asked for.
        kind: Any = dask_jobqueue.SLURMCluster if self.slurm else dask_jobqueue.PBSCluster
        of_pbs = {"resource_spec": f"select=1:ncpus={cores}:mem={memory >> 20}MB"}
        asked: dict[str, Any] = {"job_cpu": cores} if self.slurm else of_pbs
        settings = asked | settings
        try:
            cluster = kind(**settings)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{file}: {kind.__name__} does not take these settings: {error}") from None
        cluster.scale(jobs=math.ceil(self.at_once / slots))
        return cluster


def needs(module: str) -> None:
    """Refuse to go on without a library of the extra ``cohort``; it is not loaded.

    Raises
    ------
    OptionalDependencyError
        When it is not installed.
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise OptionalDependencyError(
            f"this needs {_PACKAGES.get(module, module)}, which is not installed; install it with pip install "
            "'roireg[cohort]'"
        )


_PACKAGES = {"bids": "pybids", "dask_jobqueue": "dask-jobqueue"}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _configure() -> None:
    import logging

    import dask

    # Tasks are watched in processes of their own; the workers do little and take little.
    dask.config.set(
        {
            "distributed.worker.memory.terminate": False,
            "distributed.worker.memory.pause": False,
            "distributed.scheduler.work-stealing": False,
            "distributed.scheduler.allowed-failures": 3,
            "distributed.scheduler.active-memory-manager.start": False,
            "distributed.worker.profile.enabled": False,
            "distributed.admin.system-monitor.gil.enabled": False,
        }
    )
    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _replace_lost(cluster: Any) -> None:
    """Submit those batch jobs anew whose worker was there and is gone: the time of a job ends, nodes are lost."""
    cluster.scale(jobs=len(cluster.worker_spec))


def _same_code(client: Any, address: str) -> None:
    """Refuse workers that compute with other code: their results would never be kept."""
    from roireg.jobs.job import code_version

    others = {version for version in client.run(code_version).values() if version != code_version()}
    if others:
        raise InputError(
            f"--dask {address}: workers have roireg {', '.join(sorted(others))}, this is {code_version()}; install "
            "one version everywhere"
        )


# -- here -------------------------------------------------------------------------------------------


class Here:
    """One task after the other, each in the same process as the one before as long as that lives."""

    slots = 1

    def __init__(self, limits: Limits, processes: Processes) -> None:
        self.limits, self.processes = limits, processes

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Ending]]:
        for task in tasks:
            yield task, self.processes.run(task, self.limits)


# -- on Dask ----------------------------------------------------------------------------------------


class _OnDask:
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
