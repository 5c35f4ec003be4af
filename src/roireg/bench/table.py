"""Rows to Markdown: per set one table, before and after, and who got worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from roireg.bench.cases import CaseFolder
from roireg.bench.results import Row

__all__ = ["DICE_DROP", "got_worse", "markdown"]

DICE_DROP = 0.02
"""A pair got worse when its Dice fell by more than this, or its mean landmark error grew at all."""

REFERENCE = "demons"
"""The peer that seconds are put in relation to."""

SHOWN = 6

_HEAD = (
    "method",
    "pairs",
    "Dice",
    "landmark error",
    "HD95",
    "folding %, mean (max)",
    "SDlogJ",
    "worst change",
    "worse (verdict)",
    "s",
    f"x {REFERENCE}",
    "CPU s",
    "MB",
)


def got_worse(row: Row) -> bool:
    """Tell whether a pair is worse off than before: Dice down by more than `DICE_DROP`, or landmark error up."""
    overlap, distance = row.change("dice_mean"), row.change("landmark_error_mean")
    # Scores are stored to six digits.
    return (overlap is not None and overlap < -DICE_DROP) or (
        distance is not None and distance > 1e-5 * max(1.0, row.before["landmark_error_mean"])
    )


def markdown(rows: Sequence[Row], folders: Sequence[CaseFolder], *, heading: str = "", notes: str = "") -> str:
    """Return a Markdown page: a summary over all sets, then one table per set.

    Parameters
    ----------
    rows : of any methods; methods appear in the order in which they first occur.
    folders : the case sets, in the order of the tables.
    heading, notes : title and a paragraph such as date, machine and command.

    Means are over the pairs that a method finished; the others are counted and their reasons listed. Times are
    marked with * where the rows of the reference were measured in another session.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    parts = [f"# {heading}\n"] if heading else []
    if notes:
        parts.append(f"{notes}\n")
    parts.append(_summary(rows, methods))
    for folder in folders:
        parts.append(_set(folder, [row for row in rows if row.set == folder.content.name], methods))
    return "\n".join(parts)


def _summary(rows: Sequence[Row], methods: Sequence[str]) -> str:
    lines = []
    for method in methods:
        own = [row for row in rows if row.method == method]
        done = [row for row in own if row.status == "ok"]
        worse = [row for row in done if got_worse(row)]
        trusted = [row for row in worse if row.verdict in ("ok", "")]
        verdicts = _counted([row.verdict for row in done])
        cells = (method, len(own), len(own) - len(done), len(worse), len(trusted), verdicts, _versions(own))
        lines.append([str(cell) for cell in cells])
    head = ("method", "pairs", "failed", "worse than before", "of these not doubted", "verdicts", "version")
    return _table(head, lines)


def _set(folder: CaseFolder, rows: Sequence[Row], methods: Sequence[str]) -> str:
    cases = folder.content
    modality = cases.modality.fixed
    if cases.modality.moving != modality:
        modality = f"{modality} / {cases.modality.moving}"
    title = f"## {cases.name}\n\n{cases.task}, {cases.ndim}D, {modality}\n"
    reference = {row.pair: row for row in rows if row.method == REFERENCE and row.status == "ok"}
    lines, failures = [], []
    for method in methods:
        own = [row for row in rows if row.method == method]
        done = [row for row in own if row.status == "ok"]
        failures += [f"- {method}, {row.pair}: {row.reason}" for row in own if row.status != "ok"]
        if own:
            lines.append(_line(method, own, done, reference))
    text = f"{title}\n{_table(_HEAD, lines)}"
    return text + ("\nFailed:\n\n" + "\n".join(failures) + "\n" if failures else "")


def _line(method: str, own: Sequence[Row], done: Sequence[Row], reference: dict[str, Row]) -> list[str]:
    unit = next((row.unit for row in done), "")
    folding = [row.after["folding_percent"] for row in done]
    worse = [f"{row.pair} ({row.verdict or 'none'})" for row in done if got_worse(row)]
    more = f" and {len(worse) - SHOWN} more" if len(worse) > SHOWN else ""
    return [
        method,
        str(len(own)) if len(done) == len(own) else f"{len(done)} of {len(own)}",
        _before_after(done, "dice_mean", ".3f"),
        _before_after(done, "landmark_error_mean", ".2f", unit),
        _before_after(done, "hd95_mean", ".2f", unit),
        f"{np.mean(folding):.2g} ({max(folding):.2g})" if folding else "–",
        _mean([row.after["sdlogj"] for row in done], ".3f"),
        _worst(done, unit),
        f"{len(worse)}: {', '.join(worse[:SHOWN])}{more}" if worse else "0" if done else "–",
        _mean([row.seconds for row in done], ".1f"),
        _ratio(done, reference),
        _mean([row.cpu_seconds for row in done], ".1f"),
        _mean([row.peak_mb for row in done], ".0f", np.max),
    ]


def _before_after(rows: Sequence[Row], name: str, style: str, unit: str = "") -> str:
    both = [(row.before[name], row.after[name]) for row in rows if row.change(name) is not None]
    if not both:
        return "–"
    before, after = np.mean(both, axis=0)
    return f"{before:{style}} → {after:{style}}" + (f" {unit}" if unit else "")


def _worst(rows: Sequence[Row], unit: str) -> str:
    found = []
    for name, style, sign, suffix in (
        ("dice_mean", "+.3f", 1, " Dice"),
        ("landmark_error_mean", "+.2f", -1, f" {unit}"),
    ):
        changes = [(sign * change, row.pair) for row in rows if (change := row.change(name)) is not None]
        if changes:
            change, pair = min(changes)
            found.append(f"{sign * change:{style}}{suffix} ({pair})")
    return ", ".join(found) or "–"


def _ratio(rows: Sequence[Row], reference: dict[str, Row]) -> str:
    """Sum of seconds over that of the reference, on the pairs that both finished."""
    both = [(row, reference[row.pair]) for row in rows if row.pair in reference]
    if not both:
        return "–"
    own, other = (sum(pair[side].seconds for pair in both) for side in (0, 1))
    mark = "" if all(a.session == b.session for a, b in both) else "*"
    return f"{own / other:.2f}{mark}" if other > 0 else "–"


def _mean(values: Sequence[float], style: str, over: Callable[[Sequence[float]], float] = np.mean) -> str:
    known = [v for v in values if np.isfinite(v)]
    return f"{over(known):{style}}" if known else "–"


def _counted(words: Sequence[str]) -> str:
    return ", ".join(f"{words.count(w)} {w}" for w in ("ok", "uncertain", "failed") if w in words) or "–"


def _versions(rows: Sequence[Row]) -> str:
    threads = ", ".join(sorted({str(row.threads) for row in rows}))
    return f"{', '.join(sorted({row.version for row in rows}))}; threads {threads}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"
