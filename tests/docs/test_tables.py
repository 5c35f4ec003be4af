"""The tables of the reference and of the verdict page say what the code does."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
from PIL import Image as Picture

from docs.scripts import DOCS, script
from roireg.pipeline.sections import VerdictConfig


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return script("make_tables")


def test_the_reference_is_up_to_date(tables: ModuleType) -> None:
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert page == tables.with_tables(page), "run: python docs/make_tables.py"


def test_a_page_without_markers_is_refused(tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="settings:begin"):
        tables.with_tables("# Reference\n")


def test_every_setting_has_a_meaning(tables: ModuleType) -> None:
    without = [line for line in tables.settings_table().splitlines() if re.search(r"\|\s*\|$", line)]
    assert not without


def test_the_verdict_page_names_every_threshold() -> None:
    page = (DOCS / "verdict.md").read_text(encoding="utf-8")
    for name, field in VerdictConfig.model_fields.items():
        assert re.search(rf"`verdict\.{name}` = {re.escape(f'{field.default:g}')}\b", page), name
    assert len(re.findall(r"`verdict\.\w+` = ", page)) == len(VerdictConfig.model_fields)


def test_pictures_are_small_enough_for_a_page() -> None:
    pictures = sorted((DOCS / "images").glob("*"))
    assert pictures
    for file in pictures:
        assert file.stat().st_size <= 300_000, file.name
        with Picture.open(file) as picture:
            assert picture.format == "PNG"


def test_every_row_of_the_odd_files_has_its_test() -> None:
    page = (DOCS / "odd-files.md").read_text(encoding="utf-8")
    tests = {file.stem.removeprefix("test_") for file in (DOCS.parent / "tests" / "field_cases").glob("test_*.py")}
    rows = re.findall(r"\| `(\w+)` \|$", page, re.MULTILINE)
    assert len(rows) >= 15 and set(rows) <= tests
