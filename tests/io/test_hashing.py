"""Checksums."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from roireg.core.errors import InputError
from roireg.io import sha256_of


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
