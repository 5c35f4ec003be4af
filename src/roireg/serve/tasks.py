"""Work that takes seconds: in a thread of its own, with progress, and stopped when nobody wants it any more."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from roireg.core.errors import RoiregError
from roireg.core.progress import Position, Progress, ProgressEvent

__all__ = ["NICE", "Stopped", "Task", "stand_behind"]

log = logging.getLogger(__name__)


NICE = 10
"""How far work stands behind answers to clicks, where both want the same core."""

_RUNNING: set[Task] = set()
"""What is at work in this process."""


def stand_behind() -> None:
    """Let the thread that says so stand behind all others, where the system ranks threads one by one."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + NICE)


class Stopped(Exception):
    """Somebody stopped the task; raised inside it at its next step."""


class Task:
    """One piece of work in a thread.

    Parameters
    ----------
    kind : what it is: "prepare", "fit", "refit", "export".
    work : is given a listener for progress events; runs in the thread.
    shares : see `roireg.core.progress.Position`.
    changed : is called whenever there is something new to show.
    behind : whether it stands behind answers to clicks from the start.
    """

    def __init__(
        self,
        kind: str,
        work: Callable[[Progress], object],
        *,
        shares: Mapping[str, float],
        changed: Callable[[], None],
        behind: bool = True,
    ) -> None:
        self.kind, self._work, self._changed, self.behind = kind, work, changed, behind
        self._position = Position(shares)
        self.stage, self.fraction, self.error = "starting", 0.0, ""
        self.state = "running"
        self.started = time.perf_counter()
        self.seconds = 0.0
        self._stop = threading.Event()
        self._told = 0.0
        self._thread = threading.Thread(target=self._run, name=f"roireg {kind}", daemon=True)

    def start(self) -> Task:
        """Begin; return the task itself."""
        _RUNNING.add(self)
        self._thread.start()
        return self

    @property
    def running(self) -> bool:
        """Whether it is at work."""
        return self.state == "running"

    def stop(self, *, wait: float = 0.0) -> None:
        """Ask the task to end at its next step, and wait for that for some seconds."""
        self._stop.set()
        if wait and self._thread is not threading.current_thread():
            self._thread.join(wait)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the task has ended."""
        self._thread.join(timeout)

    def document(self) -> dict[str, Any]:
        """Return what people are told of it."""
        seconds = time.perf_counter() - self.started if self.running else self.seconds
        return {
            "kind": self.kind,
            "state": self.state,
            "stage": self.stage,
            "fraction": round(self.fraction, 3),
            "seconds": round(seconds, 2),
            "error": self.error,
        }

    def _listen(self, event: ProgressEvent) -> None:
        if self._stop.is_set():
            raise Stopped
        self.stage, self.fraction = event.stage, self._position.at(event)
        now = time.perf_counter()
        if now - self._told > 0.2:
            self._told = now
            self._changed()

    def _run(self) -> None:
        if self.behind:
            stand_behind()
        try:
            self._work(self._listen)
            state = "done"
            self.fraction = 1.0
        except Stopped:
            state = "stopped"
        except RoiregError as error:
            state, self.error = "failed", str(error)
        except Exception as error:
            log.exception("%s failed", self.kind)
            state, self.error = "failed", f"{self.kind} failed unexpectedly ({type(error).__name__}: {error})"
        self.seconds = time.perf_counter() - self.started
        self.state = state
        try:
            self._changed()
        finally:
            _RUNNING.discard(self)


@atexit.register
def _end() -> None:
    """Let work come to its next step before the interpreter goes: a thread that is inside of torch then aborts it."""
    tasks = list(_RUNNING)
    for task in tasks:
        task.stop()
    for task in tasks:
        task.join()
