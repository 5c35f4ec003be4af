"""Atomic files and folders, and checksums."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from roireg.core.errors import InputError, OutputError
from roireg.io import atomic_path, new_folder, sha256_of


def test_file_appears_only_on_success(tmp_path: Path) -> None:
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


def test_dots_in_names_are_kept(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "sub-01.run.2.mha") as temporary:
        assert temporary.suffix == ".mha"
        temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["sub-01.run.2.mha"]


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nothing was written"), atomic_path(tmp_path / "a.txt"):
        pass


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a folder has this name"), atomic_path(tmp_path):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="a file has this name"), new_folder(tmp_path / "file"):
        pass
    for use in (atomic_path, new_folder):
        with pytest.raises(OutputError, match="cannot write here"), use(tmp_path / "file" / "inside"):
            pass


def test_folder_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as temporary:
        (temporary / "a").write_text("1")
        (temporary / "sub").mkdir()
        (temporary / "sub" / "old").write_text("1")
        assert not (tmp_path / "out").exists()
    with pytest.raises(RuntimeError, match="stop"), new_folder(tmp_path / "out") as temporary:
        (temporary / "a").write_text("2")
        raise RuntimeError("stop")
    assert (tmp_path / "out" / "a").read_text(encoding="utf-8") == "1"
    with new_folder(tmp_path / "out") as temporary:
        (temporary / "b").write_text("2")
        (temporary / "sub").mkdir()
        (temporary / "sub" / "new").write_text("2")
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
    assert found == ["out", "out/a", "out/b", "out/sub", "out/sub/new"]


def test_checksums(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.dcm").write_bytes(b"bb")
    (tmp_path / "d" / "a.dcm").write_bytes(b"aa")
    assert sha256_of(tmp_path / "d" / "a.dcm") == hashlib.sha256(b"aa").hexdigest()
    whole = sha256_of(tmp_path / "d")
    assert sha256_of(f"{tmp_path / 'd'}::1.2.3") == whole
    (tmp_path / "d").rename(tmp_path / "e")
    assert sha256_of(tmp_path / "e") == whole
    (tmp_path / "e" / "a.dcm").write_bytes(b"ab")
    assert sha256_of(tmp_path / "e") != whole
    with pytest.raises(InputError, match="no such file or folder"):
        sha256_of(tmp_path / "missing")
