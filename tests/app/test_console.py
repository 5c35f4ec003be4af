"""Errors as one line, warnings as one line, JSON alone on stdout, exit codes."""

from __future__ import annotations

import json
import logging
import signal
import warnings

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from roireg.app import cli
from roireg.app.console import Outcome, Session, command, plain
from roireg.core.errors import GeometryError, InputError, OptionalDependencyError
from roireg.core.progress import ProgressEvent
from roireg.io import HeaderWarning
from support import threads_kept


def invoke(body, *arguments):
    """Run a program of one command whose body is given."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.callback()
    def root() -> None:
        """Make the command a sub-command."""

    @command(app, "go", example="roireg go")
    def go(session: Session) -> Outcome:
        """Go."""
        return body(session) or Outcome()

    return CliRunner().invoke(app, ["go", *arguments])


def raising(error):
    def body(session):
        raise error

    return body


@pytest.mark.parametrize(
    "error", [InputError("a.nii: bad"), GeometryError("a.nii: bad"), OptionalDependencyError("a.nii: bad")]
)
def test_user_errors_are_one_line_without_a_traceback(error):
    result = invoke(raising(error))
    assert (result.exit_code, result.stderr, result.stdout) == (2, "error: a.nii: bad\n", "")


def test_debug_shows_the_traceback_too():
    result = invoke(raising(InputError("bad")), "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr and result.stderr.endswith("error: bad\n")


def test_an_error_of_several_lines_becomes_one():
    assert invoke(raising(InputError("first\n  second"))).stderr == "error: first second\n"


def test_with_json_the_error_is_on_stdout_as_well():
    result = invoke(raising(InputError("bad")), "--json")
    assert json.loads(result.stdout) == {"error": "bad", "exit_code": 2}
    assert result.stderr == "error: bad\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_full_memory_is_a_clear_sentence(error):
    result = invoke(raising(error))
    assert result.exit_code == 2
    assert "memory" in result.stderr and result.stderr.count("\n") == 1


def test_a_full_disk_names_the_file():
    result = invoke(raising(OSError(28, "No space left on device", "out.nii")))
    assert (result.exit_code, result.stderr) == (2, "error: out.nii: No space left on device\n")


def test_interruption_exits_with_130():
    assert invoke(raising(KeyboardInterrupt())).exit_code == 130


def test_a_program_that_is_told_to_end_cleans_up(monkeypatch):
    cleaned = []

    def working(**options):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "app", working)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143 and cleaned


def test_a_bug_is_not_hidden():
    result = invoke(raising(ZeroDivisionError("bug")))
    assert isinstance(result.exception, ZeroDivisionError)


def test_header_warnings_are_one_line_and_others_stay():
    def body(session):
        warnings.warn("a.nii: odd header", HeaderWarning, stacklevel=1)

    result = invoke(body)
    assert (result.exit_code, result.stderr) == (0, "warning: a.nii: odd header\n")

    def other(session):
        warnings.warn("something else", RuntimeWarning, stacklevel=1)

    with pytest.warns(RuntimeWarning, match="something else"):
        invoke(other)


def test_json_is_the_only_thing_on_stdout():
    def body(session):
        session.say("for people")
        return Outcome({"value": float("nan"), "array": np.arange(2), "tensor": torch.ones(1)}, exit_code=3)

    result = invoke(body, "--json")
    assert json.loads(result.stdout) == {"value": None, "array": [0, 1], "tensor": [1.0]}
    assert result.exit_code == 3
    assert invoke(body).stdout == "for people\n"


def test_values_that_json_does_not_know_are_refused():
    with pytest.raises(TypeError, match="object"):
        plain(object())


def test_stages_are_lines_when_verbose_and_silent_otherwise():
    def body(session):
        with session.progress() as progress:
            for fraction in (0.0, 0.5, 1.0):
                progress(ProgressEvent("matching regions", fraction))

    assert invoke(body).stderr == ""
    assert invoke(body, "-v").stderr == "stage: matching regions\n"


def test_verbose_shows_the_log_and_leaves_the_logger_as_it_was():
    log = logging.getLogger("roireg")
    before = (log.level, list(log.handlers))

    def body(session):
        log.info("details")

    assert "details" not in invoke(body).stderr
    assert "details" in invoke(body, "-v").stderr
    assert (log.level, list(log.handlers)) == before


def test_threads_are_limited():
    seen = []
    with threads_kept():
        assert invoke(lambda session: seen.append(torch.get_num_threads()), "--threads", "2").exit_code == 0
    assert seen == [2]
    assert invoke(lambda session: None, "--threads", "0").exit_code == 2
