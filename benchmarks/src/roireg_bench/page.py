"""One self-contained HTML page of a benchmark: tables, figures, and the worst pairs of every method."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from roireg_bench.cases import CaseFolder
from roireg_bench.figures import OURS, PEER, accuracy_against_time, box_plot, pair_scatter
from roireg_bench.results import Row
from roireg_bench.statistics import SCORE_LABELS, Board, boards, is_ours, main_method, remaining_error
from roireg_bench.table import NOTES, set_tables, summary_tables, title_of
from roireg_bench.thumbnails import PANELS, thumbnail_path

__all__ = ["WORST", "render_page"]

WORST = 5
"""How many pairs of every method are shown."""


FEWEST_FOR_SCATTER = 3


@dataclass(frozen=True)
class _Picture:
    uri: str
    alt: str
    note: str = ""


@dataclass(frozen=True)
class _Strip:
    """One run that went badly."""

    set: str
    pair: str
    scores: str
    verdict: str
    uri: str


def render_page(
    rows: Sequence[Row],
    folders: Sequence[CaseFolder] = (),
    *,
    thumbnails: Path | None = None,
    heading: str = "Benchmark",
    notes: str = "",
) -> str:
    """Return the page as the text of one HTML file without any outside reference.

    Parameters
    ----------
    rows : of any methods.
    folders : the case sets, for their titles.
    thumbnails : folder of the pictures of the runs; None, or a run without one, shows numbers alone.
    heading, notes : title and lines such as date, machine and command.
    """
    all_boards = boards(rows)
    main = main_method(rows)
    environment = Environment(
        loader=PackageLoader("roireg_bench"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        heading=heading,
        notes=[line.strip("` ") for line in notes.splitlines() if line.strip()],
        method_notes=NOTES,
        main=main,
        summary=summary_tables(rows),
        times=list(_times(rows, all_boards)),
        sets=[_section(name, rows, all_boards, main, folders) for name in dict.fromkeys(row.set for row in rows)],
        panels=PANELS,
        worst=_worst(rows, thumbnails),
        count=WORST,
        ours=OURS,
        peer=PEER,
    )


def _times(rows: Sequence[Row], all_boards: Sequence[Board]) -> Iterator[_Picture]:
    """Accuracy against time for every score, 3D and 2D apart: their times have little in common."""
    for metric, label in SCORE_LABELS.items():
        for ndim in (3, 2):
            group = [board for board in all_boards if board.metric == metric and board.ndim == ndim]
            names = {board.set for board in group}
            successes = [row for row in rows if row.status == "ok" and row.set in names and np.isfinite(row.seconds)]
            methods = {row.method for row in successes}
            seconds = {m: float(np.mean([r.seconds for r in successes if r.method == m])) for m in methods}
            title = f"{ndim}D, {label}, {len(group)} set{'s' if len(group) > 1 else ''}"
            if not group or not seconds:
                continue
            picture, left_out = accuracy_against_time(group, seconds, title=title)
            if picture is not None:
                note = f"Not run on all of these pairs: {', '.join(left_out)}." if left_out else ""
                yield _Picture(_uri(picture, "png"), f"Accuracy against time: {title}", note)


def _section(
    name: str, rows: Sequence[Row], all_boards: Sequence[Board], main: str | None, folders: Sequence[CaseFolder]
) -> dict[str, object]:
    figures = []
    for board in (b for b in all_boards if b.set == name):
        label = SCORE_LABELS[board.metric]
        figures.append(_Picture(_uri(box_plot(board), "png"), f"{name}: {label} of all methods"))
        peer = board.best_peer(main) if main is not None and main in board.values else None
        if main is not None and peer is not None and len(board.shared(main, peer)) >= FEWEST_FOR_SCATTER:
            picture = pair_scatter(board, main, peer)
            figures.append(_Picture(_uri(picture, "png"), f"{name}: {label} of {main} against {peer}, per pair"))
    return {
        "name": name,
        "title": title_of(name, folders),
        "tables": set_tables(name, rows),
        "figures": figures,
    }


def _worst(rows: Sequence[Row], thumbnails: Path | None) -> list[dict[str, object]]:
    """Return for every method its failed runs, then its pairs with the largest share of the initial error left."""
    pictures = []
    methods = sorted(dict.fromkeys(row.method for row in rows), key=lambda m: not is_ours(m))
    for method in methods:
        ran = [row for row in rows if row.method == method and row.status != "unavailable"]
        scored = [row for row in ran if np.isfinite(remaining_error(row))]
        scored.sort(key=lambda row: (row.status == "failed", remaining_error(row)), reverse=True)
        strips = [_strip(row, thumbnails) for row in scored[:WORST]]
        if strips:
            pictures.append({"method": method, "ours": is_ours(method), "strips": strips})
    return pictures


def _strip(row: Row, thumbnails: Path | None) -> _Strip:
    path = None if thumbnails is None else thumbnail_path(thumbnails, row.place)
    uri = _uri(path.read_bytes(), "jpeg") if path is not None and path.is_file() else ""
    if row.status == "failed":
        return _Strip(row.set, row.pair, row.reason, "no result", uri)
    parts = []
    for metric, label in SCORE_LABELS.items():
        if row.change(metric) is not None:
            overlap = metric == "dice_mean"
            style, unit = (".3f", "") if overlap else (".2f", f" {row.unit}")
            parts.append(f"{label} {row.before[metric]:{style}} → {row.after[metric]:{style}}{unit}")
    parts.append(f"{100 * remaining_error(row):.0f} % of the error left")
    return _Strip(row.set, row.pair, ", ".join(parts), row.verdict, uri)


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
