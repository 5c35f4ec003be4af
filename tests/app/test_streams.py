"""The program from a shell: streams that cannot be written, no home folder, and what is not loaded too early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.scenes import files_in

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")

LIGHT = """
from pathlib import Path
from roireg.app.cli import app
from roireg.app.console import Outcome, Session, command
from roireg.core.errors import InputError

@command(app, "write", example="roireg write FILE")
def write(session: Session, file: Path) -> Outcome:
    '''Write a file and print a summary.'''
    file.write_text("written\\n")
    session.say(f"written: {file}")
    return Outcome({"written": file})

@command(app, "show", example="roireg show")
def show(session: Session, wrong: bool = False) -> Outcome:
    '''Print what there is no file of.'''
    if wrong:
        raise InputError("nothing to show")
    session.say("shown")
    return Outcome({"shown": True}, printed=True)
"""
"""Two commands that load nothing heavy; what happens to their streams is the same for all."""


def shell(line: str, folder: Path, *, before: str = LIGHT) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which "roireg" is the program, after some Python."""
    program = f"import sys; sys.argv[0] = 'roireg'\n{before}\nfrom roireg.__main__ import main; main()"
    script = f'roireg() {{ "$PYTHON" -c "$PROGRAM" "$@"; }}\n{line}'
    return subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=folder,
        env=os.environ | {"PROGRAM": program, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@FULL
def test_what_is_written_is_a_success_when_the_summary_cannot_be_printed(tmp_path):
    done = shell("roireg write p.csv >/dev/full", tmp_path)
    assert done.returncode == 0 and files_in(tmp_path) == {"p.csv"}
    assert done.stderr.splitlines() == [
        "warning: standard output cannot be written (No space left on device); the result itself is complete"
    ]
    assert shell("roireg write p.csv --json >/dev/full 2>&1", tmp_path).returncode == 0


@FULL
def test_what_is_only_printed_is_lost_and_that_is_said(tmp_path):
    done = shell("roireg show >/dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output cannot be written") and done.stderr.count("\n") == 1
    assert shell("roireg --help >/dev/full", tmp_path).returncode == 2


def test_a_reader_that_has_had_enough_is_no_error(tmp_path):
    # The reader is gone before the first line.
    done = shell("{ roireg show --json; echo $? >&2; } | true", tmp_path)
    assert done.stderr == "0\n"


def test_closed_streams(tmp_path):
    done = shell("roireg write p.csv >&- 2>&- <&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # Nothing that was to be printed is in the file that was opened first.
    assert (tmp_path / "p.csv").read_text(encoding="utf-8") == "written\n"
    assert shell("roireg show --wrong 2>&-", tmp_path).returncode == 2


def test_no_home_folder_and_an_unknown_user(tmp_path):
    unknown = "import os, pwd; os.environ.pop('HOME', None); pwd.getpwuid = lambda uid: {}[uid]"
    done = shell("roireg models list --json", tmp_path, before=unknown)
    assert (done.returncode, done.stderr) == (0, "")


MISTAKES = """
    register missing.nii.gz x -o out
    register missing.nii.gz x
    register {fixed} {moving} -o out --preset best
    register {fixed} {moving} -o out --prompt a,b
    register {fixed} {moving} -o out --threads 2 --frame x
    register {fixed} {moving} -o out --device gpu
    register {fixed} {moving} -o out --model sam-vit-bas
    register {fixed} {moving} -o out --features mnid
    segment {fixed} -o out.png --segmenter meshnet
    segment {fixed} -o out.png --model missing/weights.pt
    register {fixed} {moving} -o {fixed}/below
    apply missing.h5 {moving} -o w.png
    apply {truth} {moving} -o w.png
    apply {truth} {moving} --reference {fixed} -o {moving}
    apply {truth} {moving} --reference {fixed} -o w.png --fill sky
    convert {fixed} {fixed}
    convert {fixed} s.png --slice 7
    prompt {fixed} {moving} -o out
    segment {fixed} -o out.txt
    evaluate {truth} --fixed missing.png
    report missing
    info missing.png
    info
    --help
"""

WATCH = """
import json, sys
from roireg.app.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv[1:] = line.split()
    try:
        main()
    except SystemExit as end:
        heavy = [name for name in ("torch", "numpy", "SimpleITK", "scipy", "matplotlib") if name in sys.modules]
        print(json.dumps([end.code, heavy]))
        print("---", file=sys.stderr)
"""


def test_mistakes_are_told_before_anything_heavy_is_loaded(flat, tmp_path):
    lines = MISTAKES.format(fixed=flat.fixed, moving=flat.moving, truth=flat.truth).strip()
    child = [sys.executable, "-c", WATCH]
    done = subprocess.run(child, input=lines, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    count = len(lines.splitlines())
    assert found == [[2, []]] * (count - 1) + [[0, []]]
    *errors, usual, rest = done.stderr.split("---\n")
    assert (usual, rest) == ("", "")
    assert len(errors) == count - 1
    assert [e for e in errors if not e.startswith("error: ") or e.count("\n") != 1] == []
    assert "missing.nii.gz: no such file" in errors[0] and "missing.nii.gz: no such file" in errors[1]
    assert files_in(tmp_path) == set()


def test_nothing_is_searched_for_at_the_end():
    code = (
        "import atexit, gc, roireg.__main__, roireg.app.cli as cli; cli.main = lambda started: None; "
        "roireg.__main__.main(); atexit._run_exitfuncs(); print(gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_the_entry_point_lets_an_interruption_end_it_while_modules_are_loaded():
    # A shell starts what runs in the background with the signal ignored, and that stays.
    for usual, expected in (("default_int_handler", "SIG_DFL"), ("SIG_IGN", "SIG_IGN")):
        code = (
            f"import signal; signal.signal(signal.SIGINT, signal.{usual}); import roireg.__main__; "
            f"print(signal.getsignal(signal.SIGINT) is signal.{expected})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"
