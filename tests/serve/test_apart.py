"""Work in a process of its own: answers, events, errors, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from roireg.core.errors import InputError, RoiregError
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.serve import apart as module
from roireg.serve.apart import apart, waiting, warm


def doubled(values: torch.Tensor, *, progress: Progress) -> tuple[int, torch.Tensor]:
    progress(ProgressEvent("doubling", 0.5, "half"))
    print("a library that prints")
    return os.getpid(), 2 * values


def refused(*, progress: Progress) -> None:
    raise InputError("this cannot be done")


class Odd(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.fine = lambda: None  # cannot be pickled


class Unreadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def broken(*, progress: Progress) -> None:
    raise Odd(1, 2)


def killed(*, progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def idle(*, progress: Progress) -> None:
    time.sleep(1000)


def slowly(*, progress: Progress) -> int:
    progress(ProgressEvent("doubling", 0.5))
    time.sleep(1)
    return 1


def setup(*, progress: Progress) -> dict[str, Any]:
    return {"nice": os.nice(0), "threads": torch.get_num_threads(), "interrupt": os.getpgrp()}


@pytest.fixture(autouse=True, scope="module")
def importable() -> Iterator[None]:
    """Functions of this file can be called in the process, which is a new one for the file, not for every test."""
    module._end()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
        yield


def test_the_answer_and_the_events_come_back_and_the_process_stays() -> None:
    events: list[ProgressEvent] = []
    first, values = apart(doubled, events.append, torch.arange(3.0))
    assert values.tolist() == [0, 2, 4]
    assert ProgressEvent("doubling", 0.5, "half") in events
    second, _ = apart(doubled, silent, torch.arange(3.0))
    assert first == second != os.getpid()


def test_it_stands_behind_with_as_many_threads_and_without_ctrl_c() -> None:
    known = apart(setup, silent)
    assert known["nice"] == min(19, os.nice(0) + module.NICE)
    assert known["threads"] == torch.get_num_threads()
    assert known["interrupt"] != os.getpgrp()


def test_errors_come_out_as_what_they_are_and_the_next_work_is_done() -> None:
    with pytest.raises(InputError, match="this cannot be done"):
        apart(refused, silent)
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        apart(broken, silent)
    assert apart(doubled, silent, torch.ones(1))[1] == 2


def test_work_that_the_process_cannot_load_is_told() -> None:
    with pytest.raises(ValueError, match="no number"):
        apart(doubled, silent, Unreadable())


def test_a_process_that_is_gone_is_told_and_replaced() -> None:
    with pytest.raises(RoiregError, match="has ended"):
        apart(killed, silent)
    pid, _ = apart(doubled, silent, torch.ones(1))
    os.kill(pid, signal.SIGKILL)  # while it waits
    module._IDLE[0].process.wait()
    assert apart(doubled, silent, torch.ones(1))[0] != pid


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system how the process is")
def test_it_waits_while_something_else_is_first() -> None:
    paused: list[str] = []

    def state() -> str:
        return (
            Path(f"/proc/{module._BUSY[0].process.pid}/stat")
            .read_text(encoding="utf-8")
            .rpartition(")")[2]
            .split()[0]
        )

    def listen(event: ProgressEvent) -> None:
        if event.stage == "doubling":
            with waiting():
                time.sleep(0.1)
                paused.append(state())
            time.sleep(0.1)
            paused.append(state())

    assert apart(slowly, listen) == 1
    assert paused[0] == "T" and paused[1] != "T"
    with waiting():
        assert not module._BUSY  # nothing is computed, nothing waits


def test_who_does_not_want_the_answer_any_more_ends_the_process() -> None:
    warm()
    process = module._IDLE[0].process
    began = time.monotonic()

    def impatient(event: ProgressEvent) -> None:
        if time.monotonic() - began > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apart(idle, impatient)
    assert process.poll() is not None
    assert time.monotonic() - began < 20


def test_it_ends_with_the_program_even_when_that_is_killed() -> None:
    code = (
        "import time; from roireg.serve.apart import warm, _IDLE; warm(); "
        "print(_IDLE[0].process.pid, flush=True); time.sleep(100)"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    program.kill()
    program.wait()
    program.stdout.close()
    for _ in range(600):
        try:
            os.kill(pid, 0)
            if (
                Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
            ):  # nobody waits for it here
                break
        except (ProcessLookupError, FileNotFoundError):
            break
        time.sleep(0.05)
    else:
        pytest.fail("it is still there")
