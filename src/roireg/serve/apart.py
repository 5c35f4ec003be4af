"""Long computing in a process of its own: a click that is answered meanwhile waits for nothing but the cores.

Threads of one process take turns at the interpreter, and one that stands behind the others may hold it while it waits
for a core. A process has neither problem, and one that nobody wants any more is ended at once. It is kept for the
next work, since loading the libraries takes seconds. Work and answers are pickled; both sides are this program.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

import torch

from roireg.core.errors import RoiregError
from roireg.core.progress import Progress, ProgressEvent
from roireg.serve.tasks import NICE

__all__ = ["apart", "waiting", "warm"]

T = TypeVar("T")

POLL = 0.1
"""Seconds after which a listener is asked again whether anybody still wants the answer."""


class _Process:
    """A process that takes one work after the other; for one thread at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "roireg.serve.apart"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
            # Ctrl-C is for the program, which ends its work itself.
            process_group=None if sys.platform == "win32" else 0,
        )
        self.answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="roireg apart", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            while True:
                self.answers.put(pickle.load(self.process.stdout))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # it has ended, maybe within an answer
            self.answers.put(("gone", None))

    def run(self, work: tuple[Any, ...], progress: Progress) -> Any:
        """Send a work, hand on its events, and return its answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # told below
            pickle.dump(work, self.process.stdin, protocol=5)
            self.process.stdin.flush()
        event = ProgressEvent("starting", 0.0)
        while True:
            try:
                kind, value = self.answers.get(timeout=POLL)
            except queue.Empty:
                progress(event)
                continue
            if kind == "done":
                return value
            if kind == "error":
                raise value
            if kind == "gone":
                raise RoiregError("the process that computes has ended; the memory of this computer may be full")
            event = value
            progress(event)

    def signal(self, name: str) -> None:
        """Send a signal that the system may not have."""
        if hasattr(signal, name):
            self.process.send_signal(getattr(signal, name))

    def end(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()


_IDLE: list[_Process] = []
"""At most one, so that many open pairs cost the memory of one."""
_BUSY: list[_Process] = []
_LOCK = threading.Lock()


def warm() -> None:
    """Start a process that waits for work, unless there is one."""
    with _LOCK:
        if not _IDLE:
            _IDLE.append(_Process())


def apart(function: Callable[..., T], progress: Progress, *args: Any, **kwargs: Any) -> T:
    """Call a function in another process; it is given a listener by the name `progress`.

    Parameters
    ----------
    function : of a module. progress : is told what the function tells, and every tenth of a second the last event
        again; what it raises ends the process. args, kwargs : what can be pickled.

    Raises
    ------
    RoiregError
        When the process is gone. What the function raises comes out here.
    """
    with _LOCK:
        process = _IDLE.pop() if _IDLE else None
    if process is None or process.process.poll() is not None:
        if process is not None:
            process.end()
        process = _Process()
    with _LOCK:
        _BUSY.append(process)
    try:
        answer = process.run((function, args, kwargs), progress)
    except BaseException:
        process.end()
        raise
    finally:
        with _LOCK:
            _BUSY.remove(process)
    with _LOCK:
        kept = not _IDLE
        if kept:
            _IDLE.append(process)
    if not kept:
        process.end()
    return answer


@contextmanager
def waiting() -> Iterator[None]:
    """Let what computes apart wait for what is done in a ``with`` block, where the system can."""
    with _LOCK:
        stopped = list(_BUSY)
    for process in stopped:
        process.signal("SIGSTOP")
    try:
        yield
    finally:
        for process in stopped:
            process.signal("SIGCONT")


@atexit.register
def _end() -> None:
    with _LOCK:
        for process in _IDLE:
            process.end()
        _IDLE.clear()


def main() -> None:
    """Take work until whoever sends it is gone."""
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints goes where errors go, not among the answers.
    os.dup2(2, 1)
    if hasattr(os, "nice"):
        os.nice(NICE)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, received), daemon=True).start()

    def send(kind: str, value: Any) -> None:
        answers.write(pickle.dumps((kind, value), protocol=5))
        answers.flush()

    while True:
        work = received.get()
        try:
            if isinstance(work, Exception):
                raise work
            function, args, kwargs = work
            send("done", function(*args, **kwargs, progress=lambda event: send("event", event)))
        except Exception as error:
            if not isinstance(error, RoiregError):
                error.add_note(traceback.format_exc())
            try:
                send("error", error)
            except (pickle.PicklingError, TypeError, AttributeError):
                send("error", RuntimeError(f"{type(error).__name__}: {error}"))


def _receive(source: BinaryIO, received: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            received.put(pickle.load(source))
        except EOFError:
            # Whoever asked is gone, also when that is noticed in the middle of its work.
            os._exit(0)
        except Exception as error:  # such as a class that this process cannot import
            received.put(error)
            return


if __name__ == "__main__":
    main()
