"""Each run in a process of its own: its memory can be told, it can be stopped, and its crash is only its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from pathlib import Path

import SimpleITK as sitk
import torch

from roireg.bench.methods import Inputs, Method, Output
from roireg.core.errors import RoiregError

__all__ = ["Outcome", "run_isolated"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    output : what the method returned, None when it did not.
    reason : why there is no output, one line; empty otherwise.
    peak_mb : largest resident memory of the process (the libraries it imports included) or of one of its children,
        MB; None where the system does not tell or the process died.
    """

    output: Output | None
    reason: str = ""
    peak_mb: float | None = None


def run_isolated(
    method: Method, inputs: Inputs, folder: Path, *, threads: int = 1, timeout: float | None = None
) -> Outcome:
    """Run a method in a fresh process; whatever happens to it becomes an `Outcome`.

    Parameters
    ----------
    folder : empty, for the files of the method.
    threads : given to torch and ITK. What numpy uses follows OMP_NUM_THREADS at the first call in this process.
    timeout : seconds after which the process and its children are stopped; None waits for ever.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, method, inputs, folder, threads))  # type: ignore[attr-defined]
    process.start()
    sender.close()
    try:
        # A large answer must be taken before the process can end, an answerless end closes the pipe.
        if not wait([receiver, process.sentinel], timeout):
            return Outcome(None, f"stopped after {timeout:g} s")
        try:
            outcome = receiver.recv() if receiver.poll() else None
        except EOFError:
            outcome = None
        process.join()
        if isinstance(outcome, Outcome):
            return outcome
        return Outcome(None, f"the process ended without a result (exit code {process.exitcode})")
    finally:
        _stop(process)
        receiver.close()


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
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    try:
        output = method.run(inputs, folder)
    except RoiregError as error:
        outcome = Outcome(None, _line(str(error)), _peak_mb())
    except Exception as error:
        outcome = Outcome(None, _line(f"{type(error).__name__}: {error}"), _peak_mb())
    else:
        outcome = Outcome(output, "", _peak_mb())
    sender.send(outcome)
    sender.close()


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def _peak_mb() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024  # bytes, or KiB on Linux
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / unit
