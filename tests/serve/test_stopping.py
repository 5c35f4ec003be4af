"""How a server ends: at once, with nothing on stderr, and with what was computed told to stop first."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from roireg.serve.hub import Hub
from roireg.serve.running import Server
from roireg.serve.tasks import Task

WORK = """
import sys, threading
from roireg.core.progress import ProgressEvent
from roireg.serve.tasks import Task

begun = threading.Event()

def work(progress):
    try:
        while True:
            progress(ProgressEvent("fit", 0.5))
            begun.set()
    finally:
        print("came to its end", flush=True)

Task("fit", work, shares={"fit": 1.0}, changed=lambda: None).start()
begun.wait()
"""


def test_work_comes_to_its_end_before_the_interpreter_goes() -> None:
    # A thread that is left inside of torch aborts the process: "terminate called without an active exception".
    ended = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "came to its end\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="threads have ranks of their own on Linux alone")
def test_work_stands_behind_answers() -> None:
    ranks = []

    def work(_: object) -> None:
        ranks.append(os.getpriority(os.PRIO_PROCESS, 0))

    Task("fit", work, shares={}, changed=lambda: None).start().join()
    assert ranks == [min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)]


def test_a_server_stopped_while_it_computes_says_nothing(folder: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "roireg", "serve", "--root", str(folder), "-o", str(tmp_path / "results")]
    with subprocess.Popen(
        [*program, "--no-keep"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            told = dict(process.stdout.readline().split() for _ in ("server", "token"))
            request = urllib.request.Request(
                told["server:"] + "/api/sessions",
                data=json.dumps({"fixed": "fixed.png", "moving": "moving.png"}).encode(),
                headers={"authorization": f"Bearer {told['token:']}", "content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=300) as answer:
                assert json.load(answer)["preparing"]["state"] == "running"
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=300)
        finally:
            process.kill()
    assert (process.returncode, complaints) == (128 + signal.SIGTERM, "")


def test_work_of_a_closed_session_is_waited_for(tmp_path: Path) -> None:
    hub = Hub(out=tmp_path)

    class Closed:
        store = None

        def __init__(self, task: Task) -> None:
            self.tasks = [task]

        def close(self) -> None:
            self.tasks[0].stop()

    def work(progress) -> None:
        while not released:
            pass

    released: list[bool] = []
    task = Task("fit", work, shares={"fit": 1.0}, changed=lambda: None).start()
    hub.sessions["pair1"] = Closed(task)
    hub.close("pair1")
    assert not hub.end(), "it has not come to its next step"
    released.append(True)
    assert hub.end(wait=60)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
def test_a_server_stopped_by_a_signal_ends_before_its_socket(tmp_path: Path) -> None:
    server = Server(Hub([], tmp_path, None)).start()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    faults: list[object] = []
    before, hook = signal.signal(signal.SIGALRM, stop), threading.excepthook
    threading.excepthook = faults.append
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            server.wait()
        assert server.close()
        time.sleep(0.5)  # a thread that still answers would find its socket closed
    finally:
        signal.signal(signal.SIGALRM, before)
        threading.excepthook = hook
    assert not faults


def test_requests_that_the_end_cuts_off_are_no_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Server(Hub([], tmp_path, None)).close()
    log = logging.getLogger("uvicorn.error")
    for error in (asyncio.CancelledError(), ValueError("a fault")):
        log.error("in a request", exc_info=error)
    said = capsys.readouterr().err
    assert said.count("in a request") == 1 and "a fault" in said
