"""The benchmark tables follow from the results that are published with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from docs.scripts import script
from roireg_bench.prompt_tables import read_prompts, write_prompts
from roireg_bench.results import read_rows


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return script("make_benchmarks")


def test_the_pages_show_what_was_measured(maker: ModuleType) -> None:
    for page, text in maker.pages(read_rows(maker.RESULTS), read_prompts(maker.PROMPTS)).items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run python docs/make_benchmarks.py"


def test_later_results_replace_earlier_ones(maker: ModuleType, tmp_path: Path) -> None:
    rows = read_rows(maker.RESULTS)
    text = maker.RESULTS.read_text(encoding="utf-8")
    (tmp_path / "later.csv").write_text(text.replace(rows[0].session, "later"), encoding="utf-8")
    joined = maker.joined([maker.RESULTS, tmp_path / "later.csv"])
    assert len(joined) == len(rows) and {row.place for row in joined} == {row.place for row in rows}
    assert next(row for row in joined if row.place == rows[0].place).session == "later"


def test_later_prompts_replace_earlier_ones(maker: ModuleType, tmp_path: Path) -> None:
    rows = read_prompts(maker.PROMPTS)
    write_prompts(tmp_path / "later.csv", [replace(rows[0], version="later")])
    joined = maker.joined_prompts([maker.PROMPTS, tmp_path / "later.csv"])
    assert len(joined) == len(rows) and [row.version for row in joined].count("later") == 1


def test_a_page_without_markers_is_refused(maker: ModuleType) -> None:
    with pytest.raises(ValueError, match="benchmark:begin"):
        maker.with_block("# Page", "benchmark", "text")
