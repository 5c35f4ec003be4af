"""How far a command is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from app.scenes import run
from cheaper import cheapen, shorter
from roireg.app import cohort
from roireg.app import progress as module
from roireg.app.console import Session
from roireg.app.progress import Position, bar
from roireg.core.progress import ProgressEvent
from roireg.jobs.job import STAGES


def test_stages_share_the_run_and_it_never_goes_back():
    position = Position({"reading": 1, "fitting": 3})
    events = [("reading", 0.5), ("reading", 1), ("fitting", 0), ("unheard of", 0.9), ("fitting", 0.5), ("reading", 0)]
    assert [position.at(ProgressEvent(*e)) for e in events] == pytest.approx([0.125, 0.25, 0.25, 0.25, 0.625, 0.625])
    assert position.at(ProgressEvent("fitting", 1)) == pytest.approx(1)
    assert Position({}).at(ProgressEvent("anything", 0.4)) == 0.4


def test_one_bar_shows_the_clock_and_what_is_left(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(
        module, "Console", lambda **options: Console(file=shown, force_terminal=True, width=120, color_system=None)
    )
    notices = []
    with bar({"a": 1, "b": 1}, seconds=lambda: 30.0, notice=notices.append, keep=True) as listen:
        listen(ProgressEvent("a", 1.0, "loss 3"))
        listen(ProgressEvent("a", 1.0, "slow", notice=True))
    text = shown.getvalue()
    assert "50%" in text and "30 s, about 30 s left" in text and "loss 3" in text
    assert [event.detail for event in notices] == ["slow"]


def test_every_stage_of_a_run_has_its_share(flat, tmp_path, monkeypatch):
    cheapen(monkeypatch, shorter)
    result = run("register", flat.fixed, flat.moving, "-o", tmp_path / "a", "--prompt", "34,29", "-v")
    asked = run("prompt", flat.fixed, flat.moving, "-o", tmp_path / "b", "--point", "34,29", "-v")
    stages = [line.partition(": ")[2] for line in (result.stderr + asked.stderr).splitlines() if line[:5] == "stage"]
    assert {"loading", "writing"} < set(stages) <= set(STAGES)


def test_the_seconds_are_those_since_the_program_was_started(monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: 12.5)
    assert Session(started=10.0).seconds == 2.5


def test_a_log_of_many_registrations_says_how_long_they_go_on(monkeypatch, capsys):
    monkeypatch.setattr(cohort, "EVERY", -1.0)
    monkeypatch.setattr(Session, "seconds", 60.0)
    with cohort.far(Session()) as listen:
        listen(ProgressEvent("registering", 0.0, "4 to go"))
        listen(ProgressEvent("registering", 0.75, "3 ok, 1 to go"))
    assert capsys.readouterr().err == "note: 4 to go\nnote: 3 ok, 1 to go, about 20 s left\n"
