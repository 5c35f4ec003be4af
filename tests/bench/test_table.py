"""What the tables say, cell by cell, and that Markdown and HTML say the same."""

import re
from dataclasses import replace

import numpy as np
import pytest

from bench.test_statistics import many, row
from roireg_bench.figures import accuracy_against_time, box_plot, pair_scatter
from roireg_bench.page import render_page
from roireg_bench.statistics import boards
from roireg_bench.table import markdown, set_tables, summary_tables


def columns(table, name):
    (line,) = [line for line in table.lines if line[0] == name]
    return dict(zip(table.head, line, strict=True))


def test_the_table_of_a_set_counts_and_names_the_worse():
    rows = [
        replace(r, verdict=v)
        for r, v in zip(many("default", [0.75, 0.6, 0.4]), ("ok", "failed", "uncertain"), strict=True)
    ]
    rows += [replace(r, seconds=2.0) for r in many("demons", [0.7, 0.7, 0.7])]
    rows[-1] = replace(rows[-1], status="failed", reason="too few", after={}, seconds=float("nan"))
    rows.append(replace(row("sift", "p0", dice=0.5), status="unavailable", reason="not installed", after={}))
    scores, comparison = set_tables("s", rows)
    ours, peer = columns(scores, "default"), columns(scores, "demons")
    assert columns(scores, "before")["Dice"] == "0.500 ± 0.000"
    assert ours["Dice"] == f"{np.mean([0.75, 0.6, 0.4]):.3f} ± {np.std([0.75, 0.6, 0.4], ddof=1):.3f}"
    assert ours["worse (verdict)"] == "1: p2 (uncertain)" and peer["worse (verdict)"] == "0"
    assert (peer["pairs"], peer["Dice"], peer["s"]) == ("2 of 3", "0.633 ± 0.115", "2.0")
    assert "landmark error, mm" not in scores.head and "HD95, mm" not in scores.head
    assert scores.remarks == ("demons, p2: failed, too few", "sift: unavailable, not installed")
    assert [scores.lines[i][0] for i in scores.ours] == ["default"]
    assert comparison.lines == (("demons", "Dice", "3", "-0.050", "–", "too few pairs"),)


def test_the_summary_says_who_is_ahead_and_who_is_missing():
    generator = np.random.default_rng(0)
    base = generator.uniform(0.6, 0.8, 10)
    rows = many("demons", base) + many("default", base + 0.05 + generator.normal(0, 0.01, 10), verdict="ok")
    rows += [
        replace(r, jobs=2, session="then") for r in many("default", base * 0 + 0.4, name="t", verdict="uncertain")
    ]
    rows += [replace(r, status="unavailable", reason="not installed", after={}) for r in many("greedy", base)]
    methods, against, *_ = summary_tables(rows)
    assert [line[0] for line in methods.lines] == ["default", "demons"]
    ours = columns(methods, "default")
    assert (ours["pairs"], ours["failed"], ours["worse than before"]) == ("20", "0", "10 (50 %)")
    assert ours["of these not doubted"] == "0" and ours["verdicts"] == "10 ok, 10 uncertain"
    assert ours["wins / losses"] == "1 / 0" and columns(methods, "demons")["wins / losses"] == "0 / 1"
    unavailable, boards_differ, jobs, sessions = methods.remarks
    assert unavailable == "greedy: unavailable, not installed" and "fewer boards" in boards_differ
    assert "up to 2 runs" in jobs and "several sessions" in sessions
    versus = columns(against, "demons")
    assert versus["sets where default is better"] == "1" and versus["worse"] == "0"
    assert versus["Dice, default minus method [95 %]"].startswith("+0.0")
    assert [t.caption for t in summary_tables(many("demons", base))][1:] == [
        "Score on every set",
        "CPU seconds a pair on every set",
    ]


def test_scores_and_times_of_every_set_stand_side_by_side():
    rows = many("default", [0.7, 0.8], name="a") + many("demons", [0.6], name="a") + many("demons", [0.5], name="b")
    *_, scores, times = summary_tables(rows)
    assert scores.head == ("set", "score", "pairs", "before", "default", "demons")
    assert [(line[0], *line[4:]) for line in scores.lines] == [("a", "0.750", "0.600 (1)"), ("b", "–", "0.500")]
    assert [line[0] for line in times.lines] == ["a", "b"] and times.lines[1][1] == "–"


def test_markdown_keeps_its_columns():
    rows = many("default", [0.7] * 6) + many("demons", [0.6] * 6)
    rows[0] = replace(rows[0], status="failed", reason="a | b")
    page = markdown(rows, heading="Title", notes="today")
    assert page.startswith("# Title\n\ntoday\n") and "**default**" in page
    for block in re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


def picture(data):
    assert data.startswith(b"\x89PNG")
    return len(data)


def test_figures_are_drawn_for_every_kind_of_board():
    generator = np.random.default_rng(1)
    for score, values in (("dice", generator.uniform(0, 1, 8)), ("error", 10 ** generator.uniform(-1, 2, 8))):
        for count in (1, 2, 8):
            rows = many("default", values[:count], score=score) + many("demons", values[:count][::-1], score=score)
            (board,) = boards(rows)
            assert picture(box_plot(board)) > 1000 and picture(pair_scatter(board, "default", "demons")) > 1000
            drawn, left = accuracy_against_time([board], {"default": 1.0, "demons": 20.0}, title="all")
            assert picture(drawn) > 1000 and left == []
    (equal,) = boards(many("default", [0.0, 0.0], score="error") + many("demons", [0.0, 0.0], score="error"))
    assert picture(box_plot(equal)) and picture(pair_scatter(equal, "default", "demons"))


def test_time_is_drawn_only_for_methods_on_all_pairs():
    (board,) = boards(many("default", [0.7, 0.8]) + many("sift", [0.9]))
    drawn, left = accuracy_against_time([board], {"default": 1.0, "sift": 0.1}, title="all")
    assert picture(drawn) and left == ["sift"]
    assert accuracy_against_time([board], {"sift": 0.1}, title="all") == (None, ["default", "sift"])


@pytest.mark.parametrize("rows", [[], many("demons", [0.6]), many("default", [0.6])], ids=["none", "peer", "ours"])
def test_the_page_needs_no_company(rows):
    html = render_page(rows, heading="A <title>", notes="one\n\n`two`")
    assert "A &lt;title&gt;" in html and "<code>two</code>" in html
    assert html.count("<img") == (2 if rows else 0)


def test_the_page_escapes_and_lists_the_worst_first():
    rows = many("demons", [0.9, 0.2, 0.6, 0.7, 0.5, 0.8, 0.95])
    rows[0] = replace(rows[0], pair="<b>")
    html = render_page(rows)
    assert "<b><" not in html.replace("<b>s,", "") and html.count("(no picture was kept)") == 5
    order = re.findall(r"<figcaption><b>s, (\S+)</b>", html)
    assert order == ["p1", "p4", "p2", "p3", "p5"]
