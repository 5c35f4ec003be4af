"""A run in its own process: what it returns, how it fails, what it costs."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.scenes import Broken, Instant, Shift, end_at_once
from roireg.core.errors import InputError
from roireg_bench import isolation, protocol
from roireg_bench.isolation import run_isolated, warm_up
from roireg_bench.methods import Inputs, Stopwatch, make_method
from roireg_bench.results import settings_hash


@pytest.fixture
def inputs(tmp_path):
    return Inputs(tmp_path / "fixed.png", tmp_path / "moving.png")


def test_a_result_comes_back(tmp_path, inputs):
    outcome = run_isolated(Shift(), inputs, tmp_path)
    assert outcome.output.files == (tmp_path / "moved.tfm",) and outcome.output.files[0].is_file()
    assert outcome.output.verdict == "uncertain" and outcome.reason == ""


@pytest.mark.parametrize(
    "how, reason", [("raises", "ValueError: no such luck"), ("dies", "ended without a result (exit code 7)")]
)
def test_a_failure_is_a_reason(tmp_path, inputs, how, reason):
    outcome = run_isolated(Broken(how), inputs, tmp_path)
    assert outcome.output is None and reason in outcome.reason


def test_a_run_is_stopped_in_time(tmp_path, inputs):
    outcome = run_isolated(Broken("sleeps"), inputs, tmp_path, timeout=0.5)
    assert outcome.output is None and outcome.reason == "stopped after 0.5 s" and outcome.wall_seconds >= 0.5


def test_a_user_error_of_a_method_is_its_own_sentence(tmp_path, inputs):
    outcome = run_isolated(make_method("demons"), inputs, tmp_path)
    assert outcome.reason == f"{inputs.fixed}: no such file or folder; check the path"


def test_what_is_not_installed_is_no_failure(tmp_path, inputs):
    outcome = run_isolated(Broken("is not there"), inputs, tmp_path)
    assert outcome.unavailable and outcome.reason == "not installed: pip install missing"
    assert not run_isolated(Broken("raises"), inputs, tmp_path).unavailable


def test_time_outside_the_registration_is_told_apart(tmp_path, inputs):
    warm_up()
    outcome = run_isolated(Instant(), inputs, tmp_path)
    assert outcome.startup_seconds == pytest.approx(outcome.wall_seconds - 0.25)
    assert outcome.startup_seconds >= 0.25  # it sleeps for half a second and reports a quarter
    assert run_isolated(Broken("raises"), inputs, tmp_path).startup_seconds is None


HOLDS_MEMORY = "block = b'x' * 150_000_000; print('ready', flush=True); input()"
TWO_CHILDREN = f"""
import subprocess, sys
command = [sys.executable, "-c", {HOLDS_MEMORY!r}]
children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
for child in children:
    child.stdout.readline()
print("ready", flush=True)
input()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system lists its processes elsewhere")
def test_memory_of_all_processes_of_a_session_is_added_up():
    started = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", TWO_CHILDREN], **started) as process:
        assert process.stdout.readline() == b"ready\n"
        together = isolation._tree_mb(process.pid)
        process.stdin.close()
    assert 300 < together < 500


def test_the_peak_of_a_run_is_the_largest_sum_seen(tmp_path, inputs, monkeypatch):
    stop = threading.Event()
    sums = iter([70_000.0, 90_000.0, 80_000.0])

    def sampled(leader):
        value = next(sums)
        if value == 80_000:
            stop.set()
        return value

    monkeypatch.setattr(isolation, "_tree_mb", sampled)
    assert run_isolated(Broken("sleeps"), inputs, tmp_path, stop=stop).peak_mb == 90_000


def test_processes_that_cannot_start_are_told_at_once(monkeypatch):
    monkeypatch.setattr(isolation, "_nothing", end_at_once)
    with pytest.raises(InputError, match=r"ended at once \(exit code 3\); a script .* below `if __name__"):
        warm_up()


def test_another_thread_can_stop_a_run(tmp_path, inputs):
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    outcome = run_isolated(Broken("sleeps"), inputs, tmp_path, stop=stop)
    assert outcome.output is None and outcome.reason.startswith("stopped after")


def test_memory_is_that_of_the_run(tmp_path, inputs):
    small = run_isolated(Broken("returns"), inputs, tmp_path).peak_mb
    large = run_isolated(Broken("allocates"), inputs, tmp_path).peak_mb
    assert 315 < large - small < 400  # 40 million float64 are 320 MB
    # A run before does not add to the next.
    assert run_isolated(Broken("returns"), inputs, tmp_path).peak_mb == pytest.approx(small, abs=30)


def test_threads_are_given(tmp_path, inputs):
    for threads in (1, 2):
        assert run_isolated(Broken("counts threads"), inputs, tmp_path, threads=threads).output.seconds == threads


def test_methods_are_known_by_name_and_settings():
    default, samreg, demons = (make_method(name) for name in ("default", "samreg", "demons"))
    assert (default.name, samreg.name, demons.name) == ("default", "samreg", "demons")
    assert len({settings_hash(m) for m in (default, samreg, demons)}) == 3
    assert settings_hash(make_method("default")) == settings_hash(default)
    assert default.version == samreg.version != demons.version
    with pytest.raises(InputError, match=r"no method 'ants'; use one of default, regions, samreg, .*demons"):
        make_method("ants")


def test_a_stopwatch_adds_up(monkeypatch):
    wall, cpu = iter([1.0, 3.0, 10.0, 14.0]), iter([0.0, 1.0, 5.0, 5.5])
    monkeypatch.setattr(protocol.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(protocol, "_cpu_seconds", lambda: next(cpu))
    watch = Stopwatch()
    for _ in range(2):
        with watch.running():
            pass
    assert (watch.seconds, watch.cpu_seconds) == (6.0, 1.5)
