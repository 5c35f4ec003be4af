"""Differences between two variants of a study with bootstrap intervals, from its rows.

``python -m roireg_bench.studies.intervals FILE.csv BETTER THAN``
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roireg_bench.statistics import bootstrap_interval
from roireg_bench.studies.work import StudyRow, read_rows

__all__ = ["interval_table"]


def interval_table(rows: Sequence[StudyRow], *, better: str, than: str) -> str:
    """Return Markdown: per set, and over the means of sets, two variants and their difference with its interval."""
    lines = ["| set | pairs | measure | " + f"{than} | {better} | difference [95 %] |", "|---|---|---|---|---|---|"]
    for key in dict.fromkeys(k for row in rows for k in row.values):
        means: list[tuple[float, float]] = []
        for name in dict.fromkeys(row.set for row in rows):
            values = {
                v: {r.pair: r.values[key] for r in rows if (r.set, r.variant) == (name, v) and key in r.values}
                for v in (than, better)
            }
            pairs = [(values[than][pair], values[better][pair]) for pair in values[than] if pair in values[better]]
            if pairs:
                lines.append(_line(name, key, pairs))
                means.append((float(np.mean([p[0] for p in pairs])), float(np.mean([p[1] for p in pairs]))))
        if len(means) > 1:
            lines.append(_line("**all sets**", key, means))
    return "\n".join(lines) + "\n"


def _line(name: str, key: str, pairs: Sequence[tuple[float, float]]) -> str:
    a, b = np.array(pairs).T
    interval = ""
    if len(pairs) > 2:
        low, high = bootstrap_interval(b - a)
        interval = f" [{low:+.2f}, {high:+.2f}]"
    return f"| {name} | {len(pairs)} | {key} | {a.mean():.2f} | {b.mean():.2f} | {(b - a).mean():+.2f}{interval} |"


if __name__ == "__main__":
    print(interval_table(read_rows(Path(sys.argv[1])), better=sys.argv[2], than=sys.argv[3]))
