"""Rows to tables, and tables to Markdown: a summary, the comparison with every peer, and one table per set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from roireg_bench.cases import CaseFolder
from roireg_bench.results import Row
from roireg_bench.statistics import (
    ACCURACY,
    SCORE_LABELS,
    Board,
    Spread,
    boards,
    compare,
    dsc30,
    got_worse,
    is_ours,
    main_method,
    overall,
    standings,
    tre30,
)

__all__ = ["NOTES", "Table", "as_markdown", "best_peers", "markdown", "set_tables", "summary_tables", "title_of"]

SHOWN = 6

NOTES = (
    "Means ± standard deviation over the pairs of a set. A run that failed leaves the images where they were and "
    "counts with the scores before. Worse: Dice fell by more than 0.02 or the mean landmark error grew. DSC30 and "
    "TRE30: the bound of the worst 30 % of the pairs. Differences are paired, with a 95 % bootstrap interval (BCa) "
    "and the Wilcoxon signed-rank test; better and worse are said only where the interval leaves out 0 and p is "
    "below 0.05, and not with fewer than 6 pairs. Pairs of a set that share images are not independent: its "
    "intervals are then too narrow. "
    "s and CPU s: registration alone, files in memory; start-up: the rest of the process (imports beyond torch and "
    "SimpleITK, reading and writing files); MB: largest peak."
)


@dataclass(frozen=True)
class Table:
    """Text cells in columns; the first column names a method or a set.

    Attributes
    ----------
    ours : rows (by index) that are methods of this package.
    remarks : lines below the table.
    """

    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    ours: frozenset[int] = frozenset()
    remarks: tuple[str, ...] = ()
    caption: str = ""


def markdown(rows: Sequence[Row], folders: Sequence[CaseFolder] = (), *, heading: str = "", notes: str = "") -> str:
    """Return a Markdown page: a summary over all sets, then one section per set.

    Parameters
    ----------
    rows : of any methods; methods appear in the order in which they first occur.
    folders : the case sets, for their titles; sets of the rows that are not here have their name alone.
    heading, notes : title and a paragraph such as date, machine and command.
    """
    parts = [f"# {heading}\n"] if heading else []
    parts += [f"{text}\n" for text in (notes, NOTES) if text]
    parts += [as_markdown(table) for table in summary_tables(rows)]
    for name in dict.fromkeys(row.set for row in rows):
        parts.append(f"## {name}\n")
        if title := title_of(name, folders):
            parts.append(f"{title}\n")
        parts += [as_markdown(table) for table in set_tables(name, rows)]
    return "\n".join(parts)


def title_of(name: str, folders: Sequence[CaseFolder]) -> str:
    """Return task, dimension and modality of a set in words, empty when the set is not among the folders."""
    for cases in (folder.content for folder in folders if folder.content.name == name):
        modality = cases.modality.fixed
        if cases.modality.moving != modality:
            modality = f"{modality} / {cases.modality.moving}"
        return f"{cases.task}, {cases.ndim}D, {modality}"
    return ""


# -- over all sets ---------------------------------------------------------------------------------


def summary_tables(rows: Sequence[Row]) -> list[Table]:
    """Return all methods, our main method against every other one, and the scores and times of all sets."""
    all_boards = boards(rows)
    main = main_method(rows)
    tables = [_methods(rows, all_boards)]
    if main is not None:
        others = [m for m in dict.fromkeys(row.method for row in rows) if m != main and _ran(rows, m)]
        lines = [line for other in others if (line := _overall_line(all_boards, main, other))]
        if lines:
            head = (
                "method",
                "sets",
                f"Dice, {main} minus method [95 %]",
                "sets",
                f"error, {main} / method [95 %]",
                f"sets where {main} is better",
                "worse",
                "unclear",
                "too few pairs",
            )
            ours = frozenset(i for i, line in enumerate(lines) if is_ours(line[0]))
            remark = (
                "Means over sets of the mean difference (Dice) and of the ratio of mean errors (landmarks or known "
                "field, geometric mean); every set weighs the same. Dice above 0 and ratios below 1 speak for "
                f"{main}."
            )
            tables.append(Table(head, tuple(lines), ours, (remark,), f"{main} against every method"))
    if (peers := best_peers(rows)).lines:
        tables.append(peers)
    methods = [m for m in dict.fromkeys(row.method for row in rows) if _ran(rows, m)]
    return [*tables, _score_per_set(all_boards, methods), _time_per_set(rows, methods)]


def _ran(rows: Sequence[Row], method: str) -> bool:
    return any(row.method == method and row.status != "unavailable" for row in rows)


def _methods(rows: Sequence[Row], all_boards: Sequence[Board]) -> Table:
    places = {s.method: s for s in standings(all_boards)}
    names = list(dict.fromkeys(row.method for row in rows))
    ran = [name for name in names if _ran(rows, name)]
    ran.sort(key=lambda name: places[name].rank if name in places else math.inf)
    lines = []
    for name in ran:
        own = [row for row in rows if row.method == name and row.status != "unavailable"]
        successes = [row for row in own if row.status == "ok"]
        worse = [row for row in successes if got_worse(row)]
        doubted = [row for row in worse if row.verdict in ("uncertain", "failed")]
        place = places.get(name)
        lines.append(
            (
                name,
                str(len(own)),
                str(len(own) - len(successes)),
                f"{len(worse)} ({100 * len(worse) / len(successes):.0f} %)" if successes else "–",
                str(len(worse) - len(doubted)),
                "–" if place is None else f"{place.rank:.2f} ({place.boards})",
                "–" if place is None else f"{place.wins} / {place.losses}",
                _mean([row.seconds for row in successes], ".1f"),
                _counted([row.verdict for row in successes]),
                _versions(own),
            )
        )
    remarks = [
        f"{name}: unavailable, {'; '.join(dict.fromkeys(r.reason for r in rows if r.method == name))}"
        for name in names
        if name not in ran
    ]
    if len({places[name].boards for name in ran if name in places}) > 1:
        remarks.append(
            "Methods that are on fewer boards were not run on all sets; their mean ranks are of those alone."
        )
    most = max((row.jobs for row in rows), default=1)
    if most > 1:
        remarks.append(f"Times were measured with up to {most} runs beside each other and are longer than alone.")
    if len({row.session for row in rows if row.status == "ok"}) > 1:
        remarks.append("Times come from several sessions; between sessions they compare less well.")
    head = (
        "method",
        "pairs",
        "failed",
        "worse than before",
        "of these not doubted",
        "mean rank (boards)",
        "wins / losses",
        "s",
        "verdicts",
        "version",
    )
    ours = frozenset(i for i, name in enumerate(ran) if is_ours(name))
    return Table(head, tuple(lines), ours, tuple(remarks), "All methods, all sets")


def _overall_line(all_boards: Sequence[Board], main: str, other: str) -> tuple[str, ...] | None:
    o = overall(all_boards, main, other)
    if not o.dice[3] and not o.error[3]:
        return None
    return (
        other,
        str(o.dice[3]),
        _interval(*o.dice[:3], "+.3f"),
        str(o.error[3]),
        _interval(*o.error[:3], ".2f"),
        str(o.better),
        str(o.worse),
        str(o.unclear),
        str(o.small),
    )


def best_peers(rows: Sequence[Row]) -> Table:
    """Return our main method beside the best method that is none of ours, one line per set and score."""
    main = main_method(rows)
    lines = []
    for board in boards(rows):
        peer = None if main is None or main not in board.values else board.best_peer(main)
        if main is None or peer is None:
            continue
        style = _style(board)
        comparison = compare(board, main, peer)
        before, ours, theirs = (
            _spread([values[p] for p in board.shared(main, peer)], style)
            for values in (board.before, board.values[main], board.values[peer])
        )
        difference = _interval(comparison.difference, comparison.low, comparison.high, f"+{style}")
        p = f"{comparison.p:.2g}" if math.isfinite(comparison.p) else "–"
        score = _score_name(board)
        lines.append(
            (board.set, score, str(comparison.pairs), before, ours, peer, theirs, difference, p, comparison.judgement)
        )
    head = (
        "set",
        "score",
        "pairs",
        "before",
        str(main),
        "best peer",
        "its score",
        "difference [95 %]",
        "Wilcoxon p",
        f"{main} is",
    )
    remark = "The best peer is chosen by its mean after the fact, among those that ran on the most pairs."
    return Table(head, tuple(lines), remarks=(remark,), caption=f"{main} beside the best other method on every set")


def _style(board: Board) -> str:
    return ".3f" if board.metric == "dice_mean" else ".2f"


def _score_name(board: Board) -> str:
    return SCORE_LABELS[board.metric] + (f", {board.unit}" if board.unit else "")


def _score_per_set(all_boards: Sequence[Board], methods: Sequence[str]) -> Table:
    lines = []
    for board in all_boards:
        style = _style(board)

        def cell(method: str, board: Board = board, style: str = style) -> str:
            own = board.values.get(method)
            if not own:
                return "–"
            return f"{board.mean(method):{style}}" + (f" ({len(own)})" if len(own) < len(board.before) else "")

        before = f"{np.mean(list(board.before.values())):{style}}"
        lines.append((board.set, _score_name(board), str(len(board.before)), before, *map(cell, methods)))
    head = ("set", "score", "pairs", "before", *methods)
    remark = "Means; in brackets the number of pairs where a method was not run on all of them."
    return Table(head, tuple(lines), remarks=(remark,), caption="Score on every set")


def _time_per_set(rows: Sequence[Row], methods: Sequence[str]) -> Table:
    lines = []
    for name in dict.fromkeys(row.set for row in rows):
        successes = [row for row in rows if row.set == name and row.status == "ok"]
        if successes:
            cells = (_mean([row.cpu_seconds for row in successes if row.method == m], ".1f") for m in methods)
            lines.append((name, *cells))
    return Table(("set", *methods), tuple(lines), caption="CPU seconds a pair on every set")


# -- one set ---------------------------------------------------------------------------------------


def set_tables(name: str, rows: Sequence[Row]) -> list[Table]:
    """Return the table of a set, and the comparison of our main method with the best peer on it."""
    all_rows = [row for row in rows if row.set == name]
    absent: dict[str, list[str]] = {}
    for row in all_rows:
        if row.status == "unavailable" and row.method not in absent.setdefault(row.reason, []):
            absent[row.reason].append(row.method)
    remarks = [f"{', '.join(methods)}: unavailable, {reason}" for reason, methods in absent.items()]
    own = [row for row in all_rows if row.status != "unavailable"]
    if not own:
        return [Table(("method",), (), remarks=tuple(remarks))]
    return [_scores(own, remarks), *_comparison(own)]


def _scores(rows: Sequence[Row], remarks: Sequence[str]) -> Table:
    """One line per method and one for the state before; columns that nothing was measured for are left out."""
    unit = next((row.unit for row in rows if row.unit), "")
    names = list(dict.fromkeys(row.method for row in rows))
    before = list({row.pair: row for row in rows if row.before}.values())
    columns: list[tuple[str, list[str]]] = []

    def add(title: str, first: str, cell: Callable[[list[Row], list[Row]], str]) -> None:
        cells = [first]
        for method in names:
            own = [row for row in rows if row.method == method]
            cells.append(cell(own, [row for row in own if row.status == "ok"]))
        if any(text != "–" for text in cells):
            columns.append((title, cells))

    def add_score(metric: str, title: str, style: str) -> None:
        start = _spread([row.before[metric] for row in before if metric in row.before], style)
        add(title, start, lambda own, _: _spread([r.outcome[metric] for r in own if metric in r.outcome], style))

    add("pairs", str(len(before)), lambda own, successes: _share(len(successes), len(own)))
    add_score("dice_mean", "Dice", ".3f")
    add("DSC30", _number(dsc30([_started(row) for row in before]), ".3f"), lambda own, _: _number(dsc30(own), ".3f"))
    add_score("landmark_error_mean", f"landmark error, {unit}", ".2f")
    add_score("landmark_error_median", "median", ".2f")
    add_score("landmark_error_max", "max", ".1f")
    add("TRE30", _number(tre30([_started(row) for row in before]), ".2f"), lambda own, _: _number(tre30(own), ".2f"))
    add_score("displacement_error_mean", f"field error, {unit}", ".2f")
    add_score("hd95_mean", f"HD95, {unit}", ".2f")
    add("labels lost", "–", lambda _, successes: _lost(successes))
    add("folding %, mean (max)", "–", lambda _, successes: _folding(successes))
    add("SDlogJ", "–", lambda _, successes: _mean([row.after["sdlogj"] for row in successes], ".3f"))
    add(
        "SDlogJ, Learn2Reg",
        "–",
        lambda _, successes: _mean([row.after["sdlogj_learn2reg"] for row in successes], ".3f"),
    )
    add("worse (verdict)", "–", lambda _, successes: _worse(successes))
    add("s", "–", lambda _, successes: _mean([row.seconds for row in successes], ".1f"))
    add("CPU s", "–", lambda _, successes: _mean([row.cpu_seconds for row in successes], ".1f"))
    add("start-up s", "–", lambda _, successes: _mean([row.startup_seconds for row in successes], ".1f"))
    add("MB", "–", lambda _, successes: _mean([row.peak_mb for row in successes], ".0f", np.max))
    lines = [("before", *(cells[0] for _, cells in columns))]
    lines += [(method, *(cells[i + 1] for _, cells in columns)) for i, method in enumerate(names)]
    failed = [f"{row.method}, {row.pair}: failed, {row.reason}" for row in rows if row.status == "failed"]
    ours = frozenset(i + 1 for i, method in enumerate(names) if is_ours(method))
    return Table(("method", *(title for title, _ in columns)), tuple(lines), ours, (*failed, *remarks))


def _comparison(rows: Sequence[Row]) -> list[Table]:
    main = main_method(rows)
    lines = []
    for board in boards(rows):
        peer = board.best_peer(main) if main in board.values and main is not None else None
        if peer is None or main is None:
            continue
        comparison = compare(board, main, peer)
        difference = _interval(comparison.difference, comparison.low, comparison.high, f"+{_style(board)}")
        p = f"{comparison.p:.2g}" if math.isfinite(comparison.p) else "–"
        lines.append((peer, _score_name(board), str(comparison.pairs), difference, p, comparison.judgement))
    head = ("best peer", "score", "pairs", f"{main} minus peer [95 %]", "Wilcoxon p", f"{main} is")
    return [Table(head, tuple(lines))] if lines else []


def _started(row: Row) -> Row:
    """Return the row as if nothing had been done."""
    return Row(**{**row.__dict__, "status": "ok", "after": row.before})


# -- cells -----------------------------------------------------------------------------------------


def _spread(values: Sequence[float], style: str) -> str:
    spread = Spread.of(values)
    if not spread.count:
        return "–"
    return f"{spread.mean:{style}}" + (f" ± {spread.sd:{style}}" if math.isfinite(spread.sd) else "")


def _interval(middle: float, low: float, high: float, style: str) -> str:
    if not math.isfinite(middle):
        return "–"
    return f"{middle:{style}}" + (f" [{low:{style}}, {high:{style}}]" if math.isfinite(low) else "")


def _number(value: float | None, style: str) -> str:
    return "–" if value is None else f"{value:{style}}"


def _share(part: int, whole: int) -> str:
    return str(whole) if part == whole else f"{part} of {whole}"


def _folding(rows: Sequence[Row]) -> str:
    values = [row.after["folding_percent"] for row in rows]
    return f"{np.mean(values):.2g} ({max(values):.2g})" if values else "–"


def _lost(rows: Sequence[Row]) -> str:
    total = sum(row.after.get("labels_lost", 0.0) for row in rows)
    return f"{total:.0f}" if total else "–"


def _worse(rows: Sequence[Row]) -> str:
    if not any(metric in row.after for row in rows for metric in ACCURACY):
        return "–"
    worse = [row.pair + (f" ({row.verdict})" if row.verdict else "") for row in rows if got_worse(row)]
    more = f" and {len(worse) - SHOWN} more" if len(worse) > SHOWN else ""
    return f"{len(worse)}: {', '.join(worse[:SHOWN])}{more}" if worse else "0"


def _mean(values: Sequence[float], style: str, over: Callable[[Sequence[float]], float] = np.mean) -> str:
    finite = [v for v in values if np.isfinite(v)]
    return f"{over(finite):{style}}" if finite else "–"


def _counted(words: Sequence[str]) -> str:
    return ", ".join(f"{words.count(w)} {w}" for w in ("ok", "uncertain", "failed") if w in words) or "–"


def _versions(rows: Sequence[Row]) -> str:
    threads = ", ".join(sorted({str(row.threads) for row in rows}))
    return f"{', '.join(sorted({row.version for row in rows}))}; threads {threads}"


def as_markdown(table: Table) -> str:
    """Return a table as Markdown, its remarks below; methods of this package are bold."""
    names = [f"**{line[0]}**" if i in table.ours else line[0] for i, line in enumerate(table.lines)]
    body = [(name, *line[1:]) for name, line in zip(names, table.lines, strict=True)]
    rows = [table.head, ["---"] * len(table.head), *body]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"
    caption = f"{table.caption}:\n\n" if table.caption else ""
    return caption + text + "".join(f"\n- {remark}" for remark in table.remarks) + ("\n" if table.remarks else "")
