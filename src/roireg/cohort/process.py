"""Tasks in processes of their own: a crash, a full memory or a kill costs the task that it happens to.

A process is started once and takes one task after the other, so that libraries, networks and what they made of an
image that comes again are loaded once; after a crash, or when a task took too much memory, the next task gets a new
one. Tasks and answers are lines of JSON. Needs the standard library alone, so that workers stay small.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Ending", "Limits", "Processes", "Task", "memory_of_machine", "resident_memory"]

SAMPLE_SECONDS = 0.1
"""How often the memory of a task is looked at."""

EndKind = Literal["done", "refused", "broken", "killed", "memory", "lost"]


@dataclass(frozen=True)
class Task:
    """A function by name and the plain values it is called with.

    Attributes
    ----------
    key : name of the task, unique among those of a run.
    function : "module:name"; takes the arguments by name and returns plain JSON values.
    memory : bytes it is expected to take.
    """

    key: str
    function: str
    arguments: Mapping[str, Any]
    memory: int = 0


@dataclass(frozen=True)
class Limits:
    """What a task may take.

    Attributes
    ----------
    threads : of the libraries that compute.
    memory : bytes of resident memory, more ends the task; None is what the machine has.
    """

    threads: int = 1
    memory: int | None = None


@dataclass(frozen=True)
class Ending:
    """How a task ended.

    Attributes
    ----------
    kind : "done"; "refused" (unsuitable input), "broken" (an error in the program), "killed" (the process is gone),
        "memory" (it took more than its limit), "lost" (its worker is gone).
    value : what the function returned, when done.
    cause : why there is no value, one sentence.
    trace : where an error in the program happened.
    seconds : on the wall. peak_mb : largest resident memory of the process, MB; 0 where the system does not tell.
    """

    kind: EndKind
    value: Any = None
    cause: str = ""
    trace: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0


class TaskProcess:
    """A process that takes tasks; not for several threads at once."""

    def __init__(self, threads: int) -> None:
        count = str(threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
        self.said = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "roireg.cohort.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env=os.environ | dict.fromkeys(names, count),
            # Ctrl-C is for the program, which ends its tasks itself.
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.into, self.out = self.process.stdin, self.process.stdout
        self.left = b""

    def run(self, task: Task, limit: int) -> Ending:
        """Run a task to its end, whatever that is; `limit` is in bytes."""
        began = time.perf_counter()
        peak = 0.0
        line = json.dumps({"function": task.function, "arguments": task.arguments}).encode() + b"\n"
        try:
            self.into.write(line)
            self.into.flush()
        except BrokenPipeError:
            return self._death(began, peak)
        with selectors.DefaultSelector() as selector:
            selector.register(self.out, selectors.EVENT_READ)
            while b"\n" not in self.left:
                if selector.select(SAMPLE_SECONDS):
                    part = os.read(self.out.fileno(), 1 << 20)
                    if not part:
                        return self._death(began, peak)
                    self.left += part
                peak = max(peak, resident_memory(self.process.pid))
                if peak > limit:
                    self.stop()
                    cause = f"it took more than its {limit / 1e9:.1f} GB of memory; allow more with --max-memory"
                    return Ending("memory", None, cause, "", time.perf_counter() - began, peak / 1e6)
        answer, _, self.left = self.left.partition(b"\n")
        return Ending(**json.loads(answer), seconds=time.perf_counter() - began, peak_mb=peak / 1e6)

    def _death(self, began: float, peak: float) -> Ending:
        code = self.process.wait()
        self.said.seek(0)
        words = self.said.read().decode(errors="replace").strip()
        self.stop()
        if code < 0:
            name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else str(-code)
            cause = f"its process was ended by {name}"
            if -code == signal.SIGKILL:
                cause += "; somebody did, or the memory of the machine was full"
        else:
            cause = f"its process ended with exit code {code}"
        return Ending("killed", None, cause, words[-4000:], time.perf_counter() - began, peak / 1e6)

    @property
    def alive(self) -> bool:
        """Whether it takes another task."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End it now; what it has half written is removed by the next one that writes there."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # of what was not taken any more
            self.into.close()
        self.out.close()
        self.said.close()


@dataclass
class Processes:
    """As many processes as tasks run at once, kept until `stop`; for all threads of a worker."""

    idle: list[tuple[int, TaskProcess]] = field(default_factory=list)
    busy: set[TaskProcess] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False

    def run(self, task: Task, limits: Limits) -> Ending:
        """Run a task in a process that is free, or in a new one."""
        process = self._take(limits.threads)
        try:
            return process.run(task, limits.memory or int(0.9 * memory_of_machine()))
        finally:
            with self.lock:
                self.busy.discard(process)
                kept = process.alive and not self.stopped
                if kept:
                    self.idle.append((limits.threads, process))
            if not kept and process.alive:
                process.stop()

    def _take(self, threads: int) -> TaskProcess:
        with self.lock:
            for i, (count, process) in enumerate(self.idle):
                if count == threads:
                    del self.idle[i]
                    if process.alive:
                        self.busy.add(process)
                        return process
                    process.stop()
                    break
            process = TaskProcess(threads)
            self.busy.add(process)
            return process

    def stop(self) -> None:
        """End all of them."""
        with self.lock:
            self.stopped = True
            idle = [process for _, process in self.idle]
            self.idle.clear()
            # Whoever waits for the answer of one sees its end, and closes what belongs to it.
            for process in self.busy:
                process.process.kill()
        for process in idle:
            process.stop()


def resident_memory(pid: int | None = None) -> float:
    """Return the resident memory of a process, this one if None, bytes; 0 where there is no /proc."""
    try:
        pages = Path(f"/proc/{pid or os.getpid()}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0.0
    return float(int(pages) * os.sysconf("SC_PAGE_SIZE"))


def memory_of_machine() -> int:
    """Return the bytes that this machine, or the container or batch job that this runs in, may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total
