"""JSON and YAML of other people: one sentence for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from roireg.core.errors import InputError
from roireg.io.documents import parse_json, parse_yaml, read_json

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_ordinary_documents() -> None:
    assert parse_json('{"a": [1, 2.5, "\\u00e9"]}', "f") == {"a": [1, 2.5, "é"]}
    assert parse_yaml("a: [1, 2.5]\nb: {c: no}\n", "f") == {"a": [1, 2.5], "b": {"c": False}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1, column 2 is not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "too many digits"),
        ('["\\ud800"]', "lone surrogate"),
    ],
)
def test_unusable_json(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse_json(text, "f.json")
    assert str(error.value).startswith("f.json: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"line \d is not valid YAML"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("a: 2020-99-99", "cannot be read"),
        ("a: !!int abc", "cannot be read"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        (BOMB, r"there is an alias \(\*a\)"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_unusable_yaml(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse_yaml(text, "f.yaml")
    assert str(error.value).startswith("f.yaml: ") and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="check its path"):
        read_json(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    with pytest.raises(InputError, match="not UTF-8"):
        read_json(tmp_path / "latin.json")
