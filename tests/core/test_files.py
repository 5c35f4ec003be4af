"""Where results go: probed before the work, whole or not at all, and nothing of others lost."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from roireg.core.errors import OutputError
from roireg.core.files import (
    RECORD,
    atomic_path,
    check_file,
    check_folder,
    extension_of,
    intact_record,
    is_complete,
    new_folder,
    stem_of,
    write_json,
)


def files_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.mark.parametrize(
    ("name", "stem", "extension"),
    [
        ("a.nii.gz", "a", ".nii.gz"),
        ("A.B.NII.GZ", "A.B", ".nii.gz"),
        ("p.mrk.json", "p", ".mrk.json"),
        ("r.png", "r", ".png"),
        ("plain", "plain", ""),
    ],
)
def test_names(name, stem, extension):
    assert (stem_of(name), extension_of(name)) == (stem, extension)


def test_checks_leave_nothing_behind(tmp_path):
    check_file(tmp_path / "a" / "b" / "c.nii")
    check_folder(tmp_path / "a" / "out")
    check_folder(tmp_path)
    assert files_in(tmp_path) == set()


def test_checks_refuse_what_is_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file has this name"):
        check_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="a folder has this name"):
        check_file(tmp_path)
    with pytest.raises(OutputError, match="cannot write here"):
        check_file(tmp_path / "file" / "below" / "x.nii")


def test_file_appears_only_on_success(tmp_path):
    target = tmp_path / "new" / "a.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == target.parent
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "one"
    with pytest.raises(RuntimeError, match="stop"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert target.read_text(encoding="utf-8") == "one"
    assert [p.name for p in target.parent.iterdir()] == ["a.nii.gz"]


def test_dots_in_names_are_kept(tmp_path):
    with atomic_path(tmp_path / "sub-01.run.2.mha") as temporary:
        assert temporary.suffix == ".mha"
        temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["sub-01.run.2.mha"]


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="nothing was written"), atomic_path(tmp_path / "a.txt"):
        pass


def test_a_folder_in_the_way(tmp_path):
    with pytest.raises(OutputError, match="a folder has this name"), atomic_path(tmp_path):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="a file has this name"), new_folder(tmp_path / "file"):
        pass
    for use in (atomic_path, new_folder):
        with pytest.raises(OutputError, match="cannot write here"), use(tmp_path / "file" / "inside"):
            pass


def fill(folder, record=RECORD, keep=False, **files):
    """Write a result of some files into a folder; "__" in a name stands for a slash."""
    with new_folder(folder, record=record, keep=keep) as temporary:
        for name, text in files.items():
            path = temporary / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def test_an_earlier_result_is_replaced_whole_and_other_files_stay(tmp_path):
    out = tmp_path / "out"
    fill(out, a="1", sub__old="1")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="stop"), new_folder(out) as temporary:
        (temporary / "a").write_text("2")
        raise RuntimeError("stop")
    assert (out / "a").read_text(encoding="utf-8") == "1"
    fill(out, b="2", other__new="2")
    assert files_in(out) == {RECORD, "notes.txt", "b", "other", "other/new"}
    fill(out, c="3", keep=True)
    assert files_in(out) == {RECORD, "notes.txt", "b", "c", "other", "other/new"}
    assert set(intact_record(out)["written"]) == {"b", "c", "other/new"}


def test_a_failure_leaves_neither_files_nor_new_parents(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a" / "b" / "out") as folder:
        (folder / "x").touch()
        raise RuntimeError
    assert files_in(tmp_path) == set()


def test_files_of_other_people_are_not_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("mine")
    for attempt in (lambda: check_folder(out, names=("a",)), lambda: fill(out, a="2")):
        with pytest.raises(OutputError, match="was not written by roireg"):
            attempt()
    assert files_in(out) == {"a"} and (out / "a").read_text(encoding="utf-8") == "mine"
    (out / "a").unlink()
    (out / RECORD).write_text("{}")
    with pytest.raises(OutputError, match="was not written by roireg"):
        check_folder(out)


def test_edited_files_and_links_are_not_replaced(tmp_path):
    out = tmp_path / "out"
    fill(out, pairs__edited="1", b="1")
    (out / "pairs" / "edited").write_text("by hand")
    for attempt in (lambda: check_folder(out), lambda: fill(out, b="2")):
        with pytest.raises(OutputError, match=r"edited: .* was changed since it was written"):
            attempt()
    (tmp_path / "precious").write_text("1")
    (out / "pairs" / "edited").unlink()
    (out / "b").unlink()
    (out / "b").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match="b: this file was changed"):
        fill(out, b="2")
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "1"


def test_inputs_are_not_replaced(tmp_path):
    out = tmp_path / "out"
    fill(out, a="1", pairs__p="1")
    for item in (out / "a", out / "pairs", out, out / "pairs" / "p"):
        with pytest.raises(OutputError, match="is an input and would be replaced"):
            check_folder(out, names=("a",), inputs=(item,))
    check_folder(out, names=("a",), inputs=(tmp_path, tmp_path / "else"))
    (tmp_path / "link").symlink_to(out / "a")
    with pytest.raises(OutputError, match="is an input and would be replaced"):
        check_file(tmp_path / "link", inputs=(out / "a",))


def test_devices_and_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OutputError, match="device or pipe"):
            check_file(place)
        with pytest.raises(OutputError, match="device or pipe"), atomic_path(place):
            pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_link_stays_and_what_it_points_at_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "there")
    (tmp_path / "file").symlink_to(tmp_path / "there" / "a.txt")
    fill(tmp_path / "folder", b="1")
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("2")
    assert (tmp_path / "folder").is_symlink() and (tmp_path / "file").is_symlink()
    assert files_in(tmp_path / "there") == {RECORD, "a.txt", "b"}


def test_temporaries_lie_in_the_folder_and_nested_folders_need_none(tmp_path):
    with new_folder(tmp_path / "out") as outer, new_folder(outer / "pairs") as inner:
        assert outer.parent == tmp_path / "out"
        assert inner == outer / "pairs"
        (inner / "a").touch()
    assert files_in(tmp_path / "out") == {RECORD, "pairs", "pairs/a"}


def test_what_dead_runs_left_is_removed_and_what_others_use_is_not(tmp_path):
    with new_folder(tmp_path) as temporary:
        mine = temporary.name
    number = str(os.getpid())
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / mine.replace(number, dead.stdout.strip()) / "x").mkdir(parents=True)
    (tmp_path / f"{mine.replace(number, dead.stdout.strip())}.nii.gz").touch()
    others = {mine, mine.replace(mine.split("-")[1], "00000000")}
    for name in others:
        (tmp_path / name).mkdir()
    fill(tmp_path, a="1")
    assert files_in(tmp_path) == {RECORD, "a", *others}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_between_renames_leaves_one_result_or_says_so(tmp_path, number):
    fill(tmp_path / "out", a="old", b="old")
    script = (
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom roireg.core.files import new_folder\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))\n"
        "usual = Path.replace\n"
        "def slow(self, target):\n"
        "    done = usual(self, target)\n"
        f"    if Path(target).name == 'a': os.kill(os.getpid(), {int(number)})\n"
        "    return done\n"
        "Path.replace = slow\n"
        "with new_folder(sys.argv[1]) as folder:\n"
        "    for name in 'ab': (folder / name).write_text('new')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], timeout=60, check=False)
    texts = {name: (tmp_path / "out" / name).read_text(encoding="utf-8") for name in "ab"}
    if number == signal.SIGTERM:
        assert done.returncode == 143
        assert texts == {"a": "new", "b": "new"} and intact_record(tmp_path / "out")
    else:
        assert texts == {"a": "new", "b": "old"}
        assert not is_complete(tmp_path / "out") and intact_record(tmp_path / "out") is None
    fill(tmp_path / "out", a="next", b="next")
    assert is_complete(tmp_path / "out") and files_in(tmp_path / "out") == {RECORD, "a", "b"}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_disk_that_is_full_at_the_end_leaves_what_was_there(tmp_path, monkeypatch, failing):
    fill(tmp_path / "out", a="old")
    usual, calls = Path.write_text, []

    def write_text(self: Path, *arguments: object, **options: object) -> int:
        calls.append(self)
        if self.suffix == ".json" and len(calls) > failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return usual(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(OutputError, match=r"No space left"):
        fill(tmp_path / "out", a="new")
    assert (tmp_path / "out" / "a").read_text(encoding="utf-8") == "old" and intact_record(tmp_path / "out")


@pytest.mark.parametrize("named", [False, True])
def test_errors_of_writing_name_the_output(tmp_path, named):
    with pytest.raises(OutputError) as caught, new_folder(tmp_path / "out") as folder:
        raise OSError(errno.ENOSPC, "No space left on device", *([str(folder / "a")] if named else []))
    assert str(caught.value).startswith(f"{tmp_path / 'out' / 'a' if named else tmp_path / 'out'}: cannot write here")
    with pytest.raises(OutputError, match=r"^[^ ]*out/b: "), new_folder(tmp_path / "out") as folder:
        raise OutputError(f"{folder / 'b'}: full")
    with pytest.raises(OSError, match="No space"), atomic_path(tmp_path / "c") as file:
        raise OSError(errno.ENOSPC, "No space left on device", "elsewhere")
    assert not isinstance(caught.value, OSError) and not file.exists()


def test_a_record_of_another_name_keeps_what_the_caller_says(tmp_path):
    with new_folder(tmp_path, record="result.json") as folder:
        write_json(folder / "result.json", {"verdict": "ok"})
        (folder / "a").touch()
    found = intact_record(tmp_path, record="result.json")
    assert found["verdict"] == "ok" and set(found["written"]) == {"a"}
    (tmp_path / "a").write_text("changed")
    assert intact_record(tmp_path, record="result.json") is None


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_another_file_system_behind_a_link(tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as there:
        (tmp_path / "out").symlink_to(there)
        fill(tmp_path / "out", a="1")
        fill(tmp_path / "out", a="2")
        (tmp_path / "b").symlink_to(Path(there) / "b")
        with atomic_path(tmp_path / "b") as temporary:
            temporary.write_text("3")
        assert files_in(Path(there)) == {RECORD, "a", "b"}
