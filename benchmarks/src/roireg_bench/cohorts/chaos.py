"""A cohort among failures: workers killed at random, the scheduler stopped, Ctrl-C, a full disk; then what is there.

The cohort is given again until every pair has a result, as a person would. An undisturbed run of the same table says
what must be there. Everything that runs is started by this program and ended by it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from roireg.core.errors import InputError
from roireg_bench.cohorts.compare import differences
from roireg_bench.cohorts.pairs import make_table, quick_job

__all__ = ["Survival", "run_chaos"]

FULL_SECONDS = 6.0
"""How long a full disk stays full."""


@dataclass(frozen=True)
class Survival:
    """What happened, and what was there at the end.

    Attributes
    ----------
    calls : how often the cohort was given, the last one complete. events : what was done to it, and how often.
    told : causes that pairs without a result were told with, by their first words.
    different : what is not as after the undisturbed run, empty if nothing is.
    calm_seconds, seconds : of the undisturbed run and of all calls together.
    """

    pairs: int
    calls: int
    events: dict[str, int]
    told: dict[str, int]
    different: list[str]
    calm_seconds: float
    seconds: float


def run_chaos(
    folder: Path,
    *,
    pairs: int = 200,
    workers: int = 2,
    every: float = 8.0,
    disk: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Survival:
    """Run a cohort undisturbed and disturbed, and compare.

    Parameters
    ----------
    folder : of pairs and results.
    every : mean seconds between two kills.
    disk : folder on a small file system of its own, which results go to and which is filled once; None fills none.
    seed : of what is killed when.

    Raises
    ------
    InputError
        When `disk` is no place of its own.
    """
    if disk is not None and not os.path.ismount(disk):
        raise InputError(f"{disk}: expected a small file system of its own, such as a tmpfs, because it is filled")
    table = make_table(folder / "data", pairs)
    began = time.perf_counter()
    quick_job(table, folder / "calm", jobs=workers, threads=1).run()
    calm = time.perf_counter() - began
    say(f"undisturbed: {calm:.0f} s")
    out = (folder if disk is None else disk) / "stormy"
    with _cluster(folder, workers) as cluster:
        storm = _Storm(cluster, table, out, pairs, random.Random(seed), every, disk, say)
        began = time.perf_counter()
        storm.rage()
        seconds = time.perf_counter() - began
    different = differences(folder / "calm", out)
    return Survival(pairs, storm.calls, dict(storm.events), dict(storm.told), different, calm, seconds)


# -- what is disturbed ----------------------------------------------------------------------------


@dataclass
class _Cluster:
    """A scheduler and its workers, each a process of its own."""

    folder: Path
    count: int
    port: int
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def stand(self) -> None:
        """Start what is not there."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.scheduler = self._start(
                "scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"
            )
            _wait_for(self.port)
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < self.count:
            options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")
            self.workers.append(self._start("worker", self.address, *options, "--death-timeout", "60"))

    def _start(self, kind: str, *options: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def end(self) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            process.kill()
            process.wait()


@contextmanager
def _cluster(folder: Path, count: int) -> Iterator[_Cluster]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = _Cluster(folder, count, port)
    try:
        cluster.stand()
        yield cluster
    finally:
        cluster.end()


def _wait_for(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError("the scheduler does not listen")


# -- what disturbs --------------------------------------------------------------------------------


@dataclass
class _Storm:
    """Gives the cohort again and again, and disturbs it."""

    cluster: _Cluster
    table: Path
    out: Path
    pairs: int
    dice: random.Random
    every: float
    disk: Path | None
    say: Callable[[str], None]
    calls: int = 0
    events: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)

    def rage(self) -> None:
        """Go on until every pair has a result."""
        plans = [(0.2, self._interrupt), (0.4, self._stop_scheduler)]
        plans += [] if self.disk is None else [(0.6, self._fill)]
        while not self._complete() or plans:
            self.cluster.stand()
            self.calls += 1
            command = [sys.executable, "-m", "roireg", "cohort", str(self.table), "-o", str(self.out), "--json"]
            command += ["--config", str(self.table.parent / "quick.yaml"), "--dask", self.cluster.address]
            answer = self.table.parent / "answer.json"
            with answer.open("wb") as stream:
                # Ctrl-C must reach it also where this program was started in the background of a script.
                process = subprocess.Popen(command, stdout=stream, stderr=subprocess.DEVNULL, preexec_fn=_hear_ctrl_c)
                try:
                    self._disturb(process, plans)
                finally:
                    process.kill()
                    process.wait()
            self._tell(process.returncode, answer)
            if self.calls > 30:
                raise RuntimeError(f"after {self.calls} calls {self._done()} of {self.pairs} pairs have a result")

    def _disturb(self, process: subprocess.Popen[bytes], plans: list[tuple[float, Callable[..., None]]]) -> None:
        strike = time.monotonic() + self.every
        while process.poll() is None:
            time.sleep(0.2)
            if plans and self._done() >= plans[0][0] * self.pairs:
                plans.pop(0)[1](process)
            elif time.monotonic() > strike:
                # As long as pairs are left that a kill can cost.
                if self._done() < 0.95 * self.pairs:
                    self._kill()
                strike = time.monotonic() + self.dice.expovariate(1 / self.every)

    def _kill(self) -> None:
        """Kill a worker, or the process that a worker has a task in; a worker that is gone is replaced."""
        worker = self.dice.choice(self.cluster.workers)
        tasks = _children(worker.pid)
        if tasks and self.dice.random() < 0.5:
            self._note("a task killed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.dice.choice(tasks), signal.SIGKILL)
            return
        self._note("a worker killed")
        worker.kill()
        worker.wait()
        self.cluster.stand()

    def _interrupt(self, process: subprocess.Popen[bytes]) -> None:
        self._note("Ctrl-C")
        process.send_signal(signal.SIGINT)
        process.wait()

    def _stop_scheduler(self, process: subprocess.Popen[bytes]) -> None:
        self._note("the scheduler stopped")
        assert self.cluster.scheduler is not None
        self.cluster.scheduler.kill()
        self.cluster.scheduler.wait()
        process.wait()

    def _fill(self, process: subprocess.Popen[bytes]) -> None:
        self._note("the disk filled")
        assert self.disk is not None
        ballast = self.disk / "ballast"
        with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(1 << 14))
        time.sleep(FULL_SECONDS)
        ballast.unlink()

    def _note(self, event: str) -> None:
        self.events[event] += 1
        self.say(f"{self._done()} of {self.pairs}: {event}")

    def _tell(self, code: int, answer: Path) -> None:
        text = answer.read_text(encoding="utf-8")
        document = json.loads(text) if text.strip() else {}
        for pair in document.get("pairs", ()):
            if pair["state"] == "error":
                self.told[pair["cause"].split(";")[0].split(":")[-1].strip()] += 1
        said = document.get("left") or document.get("error") or document.get("counts")
        self.say(f"call {self.calls}: exit code {code}, {said}")

    def _done(self) -> int:
        return sum(1 for _ in self.out.glob("pairs/*/result.json"))

    def _complete(self) -> bool:
        return self._done() == self.pairs and not any(self.out.glob("failures/*.json"))


def _hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started, by Linux's /proc."""
    with contextlib.suppress(OSError):
        return [
            int(child)
            for file in Path(f"/proc/{pid}/task").glob("*/children")
            for child in file.read_text(encoding="ascii").split()
        ]
    return []
