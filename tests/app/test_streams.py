"""The program from a shell: streams that cannot be written, no home folder, and what is not loaded too early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.scenes import files_in

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def shell(line: str, folder: Path, *, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which "roireg" is the program, after some Python."""
    program = f"import sys; sys.argv[0] = 'roireg'; {before}; from roireg.__main__ import main; main()"
    environment = os.environ | {"PROGRAM": program, "PYTHON": sys.executable}
    script = f'roireg() {{ "$PYTHON" -c "$PROGRAM" "$@"; }}\n{line}'
    return subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def convert(flat, tmp_path):
    """A command that writes a file and takes a moment."""
    return f"roireg convert {flat.fixed_points} {tmp_path / 'p.csv'}"


@FULL
def test_what_is_written_is_a_success_when_the_summary_cannot_be_printed(convert, tmp_path):
    done = shell(f"{convert} >/dev/full", tmp_path)
    assert done.returncode == 0 and (tmp_path / "p.csv").is_file()
    assert done.stderr.splitlines() == [
        "warning: standard output cannot be written (No space left on device); the result itself is complete"
    ]
    assert shell(f"{convert} --json >/dev/full 2>&1", tmp_path).returncode == 0


@FULL
def test_what_is_only_printed_is_lost_and_that_is_said(flat, tmp_path):
    done = shell(f"roireg info {flat.fixed} >/dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output cannot be written") and done.stderr.count("\n") == 1
    assert shell("roireg --help >/dev/full", tmp_path).returncode == 2


def test_a_reader_that_has_had_enough_is_no_error(flat, tmp_path):
    # The reader is gone before the first line.
    done = shell(f"{{ roireg info {flat.fixed} --json; echo $? >&2; }} | true", tmp_path)
    assert done.stderr == "0\n"


def test_closed_streams(convert, flat, tmp_path):
    done = shell(f"{convert} >&- 2>&- <&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # Nothing that was to be printed is in the file that was opened first.
    assert (tmp_path / "p.csv").read_text() == flat.fixed_points.read_text()
    assert shell(f"roireg info {tmp_path / 'none.png'} 2>&-", tmp_path).returncode == 2


def test_no_home_folder_and_an_unknown_user(flat, tmp_path):
    unknown = "import os, pwd; os.environ.pop('HOME', None); pwd.getpwuid = lambda uid: {}[uid]"
    done = shell("roireg models list --json", tmp_path, before=unknown)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        "register missing.nii.gz x -o out",
        "register {fixed} {moving} -o out --preset best",
        "register {fixed} {moving} -o out --prompt a,b",
        "register {fixed} {moving} -o out --threads 2 --frame x",
        "register {fixed} {moving} -o {fixed}/below",
        "prompt {fixed} {moving} -o out",
        "segment {fixed} -o out.txt",
        "report missing",
        "--help",
    ],
)
def test_mistakes_are_told_before_anything_heavy_is_loaded(flat, tmp_path, arguments):
    heavy = "('torch', 'numpy', 'SimpleITK', 'scipy', 'matplotlib')"
    watch = f"import atexit; atexit.register(lambda: print([m for m in {heavy} if m in sys.modules]))"
    done = shell(f"roireg {arguments.format(fixed=flat.fixed, moving=flat.moving)}", tmp_path, before=watch)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
    if arguments != "--help":
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert files_in(tmp_path) == set()


def test_the_entry_point_lets_an_interruption_end_it_while_modules_are_loaded():
    # A shell starts what runs in the background with the signal ignored, and that stays.
    for usual, expected in (("default_int_handler", "SIG_DFL"), ("SIG_IGN", "SIG_IGN")):
        code = (
            f"import signal; signal.signal(signal.SIGINT, signal.{usual}); import roireg.__main__; "
            f"print(signal.getsignal(signal.SIGINT) is signal.{expected})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"
