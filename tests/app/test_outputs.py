"""Where results go: probed before the work, whole or not at all."""

from __future__ import annotations

import pytest

from app.scenes import files_in
from roireg.app.outputs import check_file, check_folder, extension_of, filled_folder, stem_of
from roireg.core.errors import OutputError


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


def test_a_failure_leaves_neither_files_nor_new_parents(tmp_path):
    with pytest.raises(RuntimeError), filled_folder(tmp_path / "a" / "b" / "out") as folder:
        (folder / "x").touch()
        raise RuntimeError
    assert files_in(tmp_path) == set()


def test_foreign_files_stay_and_own_ones_are_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "result.json").write_text("old")
    with filled_folder(out) as folder:
        (folder / "result.json").write_text("new")
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert (out / "result.json").read_text(encoding="utf-8") == "new"
    assert files_in(tmp_path) == {"out", "out/notes.txt", "out/result.json"}
