"""Each run in a process of its own: its memory can be told, it can be stopped, and its crash is only its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from pathlib import Path

import SimpleITK as sitk
import torch

from roireg.core.errors import InputError, RoiregError
from roireg_bench.protocol import Inputs, Method, Output, Unavailable

__all__ = ["Outcome", "run_isolated", "warm_up", "was_cut_short"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    output : what the method returned, None when it did not.
    reason : why there is no output, one line; empty otherwise.
    peak_mb : largest resident memory of the process with everything it started, MB, the libraries it imports
        included; None where the system does not tell. Of several processes at once the sum is sampled, pages that
        they share counted in each.
    wall_seconds : from asking for the process to its answer.
    unavailable : the method cannot run on this machine, because a package or program is missing.
    """

    output: Output | None
    reason: str = ""
    peak_mb: float | None = None
    wall_seconds: float = 0.0
    unavailable: bool = False

    @property
    def startup_seconds(self) -> float | None:
        """Wall seconds outside the registration: start of the process, imports, reading and writing files.

        torch, SimpleITK and this package are loaded once for all processes and not part of it.
        """
        return None if self.output is None else max(0.0, self.wall_seconds - self.output.seconds)


def run_isolated(
    method: Method,
    inputs: Inputs,
    folder: Path,
    *,
    threads: int = 1,
    timeout: float | None = None,
    stop: threading.Event | None = None,
) -> Outcome:
    """Run a method in a fresh process; whatever happens to it becomes an `Outcome`.

    Parameters
    ----------
    folder : empty, for the files of the method.
    threads : given to torch and ITK. What numpy uses follows OMP_NUM_THREADS at the first call in this process.
    timeout : seconds after which the process and its children are stopped; None waits for ever.
    stop : ends the run early when another thread sets it.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, method, inputs, folder, threads))  # type: ignore[attr-defined]
    began = time.perf_counter()
    process.start()
    sender.close()
    try:
        # A large answer must be taken before the process can end, an answerless end closes the pipe.
        ready, sampled = _watched(receiver, process, timeout, stop)
        wall = time.perf_counter() - began
        if not ready:
            return Outcome(None, f"{CUT_SHORT} {wall if timeout is None else timeout:g} s", sampled, wall)
        try:
            outcome = receiver.recv() if receiver.poll() else None
        except EOFError:
            outcome = None
        # A library may leave threads behind that never end; what counts has been said.
        process.join(END_SECONDS)
        if isinstance(outcome, Outcome):
            return replace(outcome, peak_mb=_largest(outcome.peak_mb, sampled), wall_seconds=wall)
        return Outcome(None, f"the process ended without a result (exit code {process.exitcode})", sampled, wall)
    finally:
        _stop(process)
        receiver.close()


def was_cut_short(reason: str, timeout: float | None) -> bool:
    """Tell whether a run ended because it was stopped after less time than it would have now."""
    if not reason.startswith(CUT_SHORT):
        return False
    return timeout is None or float(reason.removeprefix(CUT_SHORT).removesuffix(" s")) < timeout


CUT_SHORT = "stopped after"

END_SECONDS = 10.0

SAMPLE_SECONDS = 0.1
"""How often the memory of a run with child processes is looked at."""


def _watched(
    receiver: Connection,
    process: multiprocessing.process.BaseProcess,
    timeout: float | None,
    stop: threading.Event | None,
) -> tuple[bool, float | None]:
    """Wait for an answer or an end; return whether there was one in time, and the peak of the memory seen, MB."""
    deadline = None if timeout is None else time.monotonic() + timeout
    peak: float | None = None
    while True:
        left = SAMPLE_SECONDS if deadline is None else min(SAMPLE_SECONDS, deadline - time.monotonic())
        if wait([receiver, process.sentinel], max(0.0, left)):
            return True, peak
        if (deadline is not None and time.monotonic() >= deadline) or (stop is not None and stop.is_set()):
            return False, peak
        peak = _largest(peak, _tree_mb(process.pid))


def _largest(*values: float | None) -> float | None:
    return max((v for v in values if v is not None), default=None)


def _tree_mb(leader: int | None) -> float | None:
    """Resident memory of the processes of a session, MB; None where there is no /proc.

    The child leads a session (see `_child`), which programs that it starts stay in.
    """
    system = Path("/proc")
    if leader is None or not (system / "self" / "stat").exists():
        return None
    pages = 0
    for entry in system.iterdir():
        if not entry.name.isdigit():
            continue
        # A process may end between being listed and being read.
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything; behind it come state, parent, group, session ...
            values = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(values[3]) == leader:
                pages += int(values[21])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages else None


def warm_up() -> None:
    """Start the server that processes fork from, so that the first run does not pay for loading its libraries.

    Raises
    ------
    InputError
        When processes cannot be started, which would make every run fail.
    """
    process = _context().Process(target=_nothing)  # type: ignore[attr-defined]
    process.start()
    process.join()
    if process.exitcode:
        raise InputError(
            f"a process for a method ended at once (exit code {process.exitcode}); a script that runs the benchmark "
            'does so below `if __name__ == "__main__":`'
        )


def _nothing() -> None:
    """Do nothing, in a process of its own."""


def _context() -> BaseContext:
    """Processes that fork from a server with the libraries loaded start at once; elsewhere they are spawned."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _stop(process: multiprocessing.process.BaseProcess) -> None:
    if not process.is_alive():
        return
    assert process.pid is not None
    if hasattr(os, "killpg"):
        # The child leads a group of its own (see `_child`), so programs that it started end with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _child(sender: Connection, method: Method, inputs: Inputs, folder: Path, threads: int) -> None:
    if hasattr(os, "setsid"):
        os.setsid()
        threading.Thread(target=_outlive_nobody, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    try:
        output = method.run(inputs, folder)
    except Unavailable as error:
        outcome = Outcome(None, _line(str(error)), _peak_mb(), unavailable=True)
    except RoiregError as error:
        outcome = Outcome(None, _line(str(error)), _peak_mb())
    except Exception as error:
        outcome = Outcome(None, _line(f"{type(error).__name__}: {error}"), _peak_mb())
    else:
        outcome = Outcome(output, "", _peak_mb())
    sender.send(outcome)
    sender.close()


def _outlive_nobody(parent: int) -> None:
    """End this process, and what it has started, when whoever asked for it is gone without having stopped it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def _peak_mb() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024  # bytes, or KiB on Linux
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / unit
