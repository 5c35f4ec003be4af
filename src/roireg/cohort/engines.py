"""Where tasks run: one after the other here, or on Dask: on this machine, at a scheduler, as batch jobs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

from roireg.cohort.on_dask import PATIENCE, RESOURCE, OnDask
from roireg.cohort.process import Ending, Limits, Processes, Task, memory_of_machine
from roireg.core.errors import InputError, OptionalDependencyError
from roireg.jobs.options import option

__all__ = ["Engine", "EngineOptions", "Here", "needs"]


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
            on_dask = OnDask(client, limits, note, limit=self.jobs if self.dask else None, staff=staff)
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
                scheduler_kwargs={"dashboard_address": ":0"},  # several cohorts of one machine do not want one port
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
