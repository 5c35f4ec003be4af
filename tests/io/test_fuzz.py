"""Damaged files of every kind: read or refused with one sentence, in bounded time and memory, without a crash.

``ROIREG_FUZZ=300`` tries that many copies of every kind instead of a few.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import fuzzing

COPIES = int(os.environ.get("ROIREG_FUZZ", "8"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited through /proc")


@pytest.fixture(scope="module")
def wrongs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What went wrong with each kind; a child process that ends is started again behind the copy it ended over."""
    place = tmp_path_factory.mktemp("fuzz")
    found: dict[str, list[str]] = defaultdict(list)
    paths = os.pathsep.join(p for p in sys.path if p)
    first = 0
    while True:
        command = [sys.executable, fuzzing.__file__, str(place), str(COPIES), str(first)]
        # Through a file: what a pipe holds is lost when the child is stopped.
        with (place / "lines").open("w+", encoding="utf-8") as lines:
            done = subprocess.run(
                command,
                stdout=lines,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
                timeout=COPIES * len(fuzzing.KINDS) * fuzzing.SECONDS,
                check=False,
            )
        last = None
        for line in (place / "lines").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)  # libraries print nothing between
            if "wrong" in entry:
                found[entry["kind"]].append(f"copy {entry['copy']}: {entry['wrong']}")
            else:
                last = entry
        if done.returncode == 0:
            assert last is not None
            assert last["number"] == COPIES * len(fuzzing.KINDS)
            return found
        told = done.stderr.decode("utf-8", "replace")[-2000:]
        assert last is not None, told
        found[last["kind"]].append(f"copy {last['copy']}: the process ended with {done.returncode}: {told}")
        first = last["number"]


@pytest.mark.parametrize("kind", list(fuzzing.KINDS))
def test_damaged_files(kind: str, wrongs: dict[str, list[str]]) -> None:
    assert wrongs[kind] == []


def test_a_fault_is_seen(tmp_path: Path) -> None:
    # What the corpus proves depends on it telling a traceback and a vague message from a refusal.
    def crash(path: Path) -> None:
        raise KeyError(path)

    def vague(path: Path) -> None:
        from roireg.core.errors import InputError

        raise InputError("something is wrong")

    file = tmp_path / "a.txt"
    assert "KeyError" in fuzzing.try_one(fuzzing.Kind("a.txt", Path.touch, crash), file)
    assert "unclear" in fuzzing.try_one(fuzzing.Kind("a.txt", Path.touch, vague), file)
    assert fuzzing.try_one(fuzzing.Kind("a.txt", Path.touch, Path.touch), file) == ""
