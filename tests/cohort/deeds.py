"""What tasks of tests do in their processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from roireg.core.errors import InputError


def refuse() -> None:
    raise InputError("x.nii: there is no such file; check the path")


def stumble() -> None:
    raise KeyError("gone")


def chatter() -> dict[str, int]:
    print("a library prints")
    os.write(1, b"more of it\n")
    return {"answer": 42}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def swell() -> None:
    held = bytearray(400_000_000)
    for i in range(0, len(held), 4096):
        held[i] = 1
    time.sleep(20)


def who() -> int:
    return os.getpid()


def die_once(mark: str, victim: str) -> dict[str, bool]:
    """End the process that watches this one, at the first try."""
    first = not Path(mark).exists()
    if first:
        Path(mark).write_text("")
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(20)
    return {"second": not first}


def register_on_a_full_disk(**arguments: Any) -> dict[str, Any]:
    """Register a pair where no file can become longer than a kilobyte, as on a disk that is almost full."""
    import resource

    from roireg.cohort.pair import register_pair

    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))
    try:
        return register_pair(**arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
