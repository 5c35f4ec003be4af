"""Rewrite the benchmark tables of the pages from docs/benchmarks.csv and docs/prompts.csv.

Results of ``roireg bench`` that are named replace docs/benchmarks.csv; those of ``roireg bench prompts``,
after ``--prompts``, replace docs/prompts.csv. Of rows for the same set, pair, method (and prompt) the one of the last
file counts. Without names the tables follow from the rows as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from roireg_bench import prompts
from roireg_bench.calibrate import UNSOUND
from roireg_bench.methods import METHODS
from roireg_bench.prompt_tables import PromptRow, calibration_table, read_prompts, transfer_table, write_prompts
from roireg_bench.results import Row, read_rows, write_rows
from roireg_bench.statistics import got_worse, main_method
from roireg_bench.table import NOTES, as_markdown, best_peers, set_tables, summary_tables

DOCS = Path(__file__).parent
RESULTS = DOCS / "benchmarks.csv"
PROMPTS = DOCS / "prompts.csv"


def main() -> None:
    """Write results and pages anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="*", help="results.csv of roireg bench")
    parser.add_argument("--prompts", nargs="+", default=[], help="prompts.csv of roireg bench prompts")
    options = parser.parse_args()
    if options.results:
        write_rows(RESULTS, joined(options.results))
    if options.prompts:
        write_prompts(PROMPTS, joined_prompts(options.prompts))
    for page, text in pages(read_rows(RESULTS), read_prompts(PROMPTS)).items():
        page.write_text(text, encoding="utf-8")


def joined(files: Sequence[str | Path]) -> list[Row]:
    """Return the rows of several runs in the order of the methods; a later file replaces an earlier one."""
    rows = {row.place: row for file in files for row in read_rows(file)}
    order = list(METHODS)
    return sorted(rows.values(), key=lambda row: (order.index(row.method), row.set))


def joined_prompts(files: Sequence[str | Path]) -> list[PromptRow]:
    """Return the prompts of several runs in the order of the methods; a later file replaces an earlier one."""
    rows = {(row.set, row.pair, row.label, row.method): row for file in files for row in read_prompts(file)}
    order = list(prompts.METHODS)
    return sorted(rows.values(), key=lambda row: (order.index(row.method), row.set))


def pages(rows: Sequence[Row], asked: Sequence[PromptRow]) -> dict[Path, str]:
    """Return the text of every page that shows benchmarks."""
    main_page, sets, readme = DOCS / "benchmarks.md", DOCS / "benchmark-sets.md", DOCS.parent / "README.md"
    text = main_page.read_text(encoding="utf-8")
    tables = "\n".join(as_markdown(t) for t in summary_tables(rows))
    for name, block in {"benchmark": f"{tables}\n{told(rows)}", **prompt_blocks(asked)}.items():
        text = with_block(text, name, block)
    return {
        main_page: text,
        readme: with_block(readme.read_text(encoding="utf-8"), "benchmark", summary(rows)),
        sets: all_sets(rows),
    }


def with_block(text: str, name: str, block: str) -> str:
    """Return a text with what is between the markers of a name replaced.

    Raises
    ------
    ValueError
        When there are no such markers.
    """
    before, begin, rest = text.partition(f"<!-- {name}:begin -->\n")
    _, end, after = rest.partition(f"<!-- {name}:end -->")
    if not (begin and end):
        raise ValueError(f"there are no markers {name}:begin and {name}:end")
    return f"{before}{begin}{block}{end}{after}"


def prompt_blocks(rows: Sequence[PromptRow]) -> dict[str, str]:
    """Return the tables of prompts: the sets that the confidence was fitted on, and the others."""
    fitted = [row for row in rows if row.set in prompts.SETS]
    others = [row for row in rows if row.set not in prompts.SETS]

    def of(kept: Sequence[PromptRow], method: str) -> list[PromptRow]:
        return [row for row in kept if row.method == method]

    return {
        "prompts": transfer_table(fitted),
        "prompts-sets": transfer_table(of(fitted, "default"), by="set"),
        "prompts-calibration": calibration_table(of(fitted, "default")),
        "prompts-calibration-unguided": calibration_table(of(fitted, "guide: none")),
        "prompts-others": transfer_table(of(others, "default"), by="set"),
        "prompts-calibration-others": calibration_table(of(others, "default")),
    }


def summary(rows: Sequence[Row]) -> str:
    """Return our main method beside the best peer of every set, without spreads."""
    table = best_peers(rows)
    kept = [table.head.index(name) for name in table.head if name != "Wilcoxon p"]
    lines = [[line[i].partition(" ±")[0] for i in kept] for line in table.lines]
    head = [table.head[i] for i in kept]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))
    done = [row for row in rows if row.set == "acdc_intra" and row.status == "ok"]
    seconds = {
        m: np.mean([r.cpu_seconds for r in done if r.method == m]) for m in dict.fromkeys(r.method for r in done)
    }
    times = ", ".join(f"{name} {value:.0f}" for name, value in sorted(seconds.items(), key=lambda item: item[1]))
    return f"{text}\n\nCPU seconds a pair on acdc_intra (3D, cardiac MR): {times}.\n{told(rows)}"


def told(rows: Sequence[Row]) -> str:
    """Return in words how many pairs ended worse than they began."""
    name = main_method(rows)
    own = [row for row in rows if row.method == name]
    worse = [row for row in own if got_worse(row)]
    unsound = [row for row in worse if any(fnmatchcase(f"{row.set}/{row.pair}", pattern) for pattern in UNSOUND)]
    sure = sum(row.verdict == "ok" for row in worse)
    listed = ", ".join(f"{row.set} {row.pair} ({row.verdict})" for row in worse)
    folding = max(row.after.get("folding_percent", 0.0) for row in own)
    memory = max(row.peak_mb for row in own) / 1000
    return (
        f"Of all {len(own)} pairs of {len({row.set for row in own})} sets, `{name}` left {len(worse)} worse than "
        f"before ({listed}); {sure} of these had the verdict `ok`, and the truth of {len(unsound)} belongs to other "
        f"images, see the cautions. Largest folding {folding:.3f} %, largest memory {memory:.1f} GB.\n"
    )


def all_sets(rows: Sequence[Row]) -> str:
    """Return the page with everything that was measured, set by set."""
    parts = [
        "# Benchmarks, set by set\n",
        "Made by `python docs/make_benchmarks.py` from [benchmarks.csv](benchmarks.csv), see "
        "[benchmarks](benchmarks.md).\n",
        f"{NOTES}\n",
    ]
    for name in dict.fromkeys(sorted(row.set for row in rows)):
        parts += [f"## {name}\n", *(as_markdown(table) for table in set_tables(name, rows))]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
