"""Rows of the measurement of prompts: files, tables and the plot of the calibration."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.figure import Figure

from roireg.core.errors import InputError
from roireg.evaluate.palette import BLUE
from roireg.evaluate.plots import rendered
from roireg.io import atomic_path

__all__ = [
    "PromptRow",
    "calibration",
    "calibration_table",
    "markdown",
    "plot_calibration",
    "read_prompts",
    "right",
    "transfer_table",
    "write_prompts",
]


@dataclass(frozen=True)
class PromptRow:
    """One prompt of one method.

    Attributes
    ----------
    set, pair, label, method : what was asked, and how.
    source_inside : share of the region at the prompt that lies in the label.
    source_dice : its Dice with the label: no counterpart can be expected to be better.
    found : whether there is a region at all, whatever its confidence.
    point_inside : whether the corresponding prompt lies in the label of the fixed image.
    inside : share of the region found that lies in the label. centroid_inside : whether its centroid does.
    dice : its Dice with the label.
    confidence : as reported. answered : whether it is high enough for an answer under default settings.
    appearance, overlap, returned_overlap, returned_distance : what the confidence is made of.
    seconds : CPU time of the answer.
    version : of this package and its sources.
    """

    set: str
    pair: str
    label: str
    method: str
    source_inside: float
    source_dice: float
    found: bool
    point_inside: bool
    inside: float
    centroid_inside: bool
    dice: float
    confidence: float
    answered: bool
    appearance: float
    overlap: float
    returned_overlap: float
    returned_distance: float
    seconds: float
    version: str


def write_prompts(path: Path, rows: Sequence[PromptRow]) -> None:
    """Write rows as CSV, one column per attribute; real numbers with six digits."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(PromptRow)])
        writer.writeheader()
        for row in rows:
            values = asdict(row).items()
            writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in values})


def read_prompts(path: str | Path) -> list[PromptRow]:
    """Read what `write_prompts` wrote.

    Raises
    ------
    InputError
        When columns are missing or a value is no number.
    """
    kinds: dict[str, Callable[[str], object]] = {"bool": lambda text: text == "True", "float": float, "str": str}
    try:
        with Path(path).open(encoding="utf-8", newline="") as stream:
            return [
                PromptRow(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(PromptRow)})  # type: ignore[arg-type]
                for line in csv.DictReader(stream)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no table of prompts as this command writes it ({error!r})") from error


# -- tables and plot ------------------------------------------------------------------------------


def right(row: PromptRow) -> bool:
    """Tell whether a counterpart is right: its Dice is at least three quarters of that of the region at the prompt.

    This judges the way across alone, whatever the segmenter makes of the prompt.
    """
    return row.dice >= 0.75 * row.source_dice


def calibration(rows: Sequence[PromptRow]) -> list[tuple[float, float, int, float, float]]:
    """Share of right counterparts by tenth of the confidence: (low, high, count, mean confidence, share right).

    Prompts whose own region has less than 0.1 Dice with the structure are left out, as are empty tenths.
    """
    usable = [r for r in rows if r.source_dice >= 0.1]
    table = []
    for k in range(10):
        own = [r for r in usable if min(int(r.confidence * 10), 9) == k]
        if own:
            share = float(np.mean([right(r) for r in own]))
            table.append((k / 10, (k + 1) / 10, len(own), float(np.mean([r.confidence for r in own])), share))
    return table


def markdown(rows: Sequence[PromptRow], *, notes: str = "") -> str:
    """Return the tables as Markdown: per set one line per method, then the calibration of the default."""
    parts = ["# Prompts that cross images\n"]
    if notes:
        parts.append(f"{notes}\n")
    for name in dict.fromkeys(r.set for r in rows):
        own = [r for r in rows if r.set == name]
        parts.append(f"## {name}\n\n{transfer_table(own)}")
    if len({r.set for r in rows}) > 1:
        parts.append(f"## All sets\n\n{transfer_table(rows)}")
    present = {r.method for r in rows}
    for method in (m for m in ("default", "guide: none") if m in present):
        parts.append(f"## Calibration: {method}\n\n{calibration_table([r for r in rows if r.method == method])}")
    return "\n".join(parts)


def calibration_table(rows: Sequence[PromptRow]) -> str:
    """Return `calibration` as a Markdown table."""
    lines = [
        (f"{low:.1f}–{high:.1f}", str(n), f"{mean:.2f}", f"{share:.2f}")
        for low, high, n, mean, share in calibration(rows)
    ]
    return _grid(("confidence", "prompts", "mean confidence", "share right"), lines)


def transfer_table(rows: Sequence[PromptRow], by: str = "method") -> str:
    """Return a Markdown table with a line per method, or per set (`by` "set")."""
    head = (
        by,
        "prompts",
        "point in structure",
        "majority in structure",
        "of those possible",
        "centroid in structure",
        "Dice",
        "Dice at the prompt",
        "not answered",
        "right",
        "right, of the answered",
        "CPU s",
    )
    lines = []
    for name in dict.fromkeys(getattr(r, by) for r in rows):
        own = [r for r in rows if getattr(r, by) == name]
        possible = [r for r in own if r.source_inside > 0.5]
        trusted = [r for r in own if r.answered]
        lines.append(
            (
                name,
                str(len(own)),
                _percent(own, lambda r: r.point_inside),
                _percent(own, lambda r: r.inside > 0.5),
                f"{_percent(possible, lambda r: r.inside > 0.5)} of {len(possible)}",
                _percent(own, lambda r: r.centroid_inside),
                f"{np.mean([r.dice for r in own]):.3f}",
                f"{np.mean([r.source_dice for r in own]):.3f}",
                _percent(own, lambda r: not r.answered),
                _percent(own, right),
                f"{_percent(trusted, right)} of {len(trusted)}",
                f"{np.mean([r.seconds for r in own]):.2f}",
            )
        )
    return _grid(head, lines)


def _percent(rows: Sequence[PromptRow], test: Callable[[PromptRow], bool]) -> str:
    return f"{100 * float(np.mean([test(r) for r in rows])):.0f} %" if rows else "–"


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)) + "\n"


def plot_calibration(rows: Sequence[PromptRow], path: Path) -> None:
    """Draw confidence against the share of right answers, one dot per tenth, as large as the count."""
    table = calibration(rows)
    figure = Figure(figsize=(4.2, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--", label="perfect")
    axes.plot([t[3] for t in table], [t[4] for t in table], color=BLUE, linewidth=1)
    axes.scatter([t[3] for t in table], [t[4] for t in table], s=[12 + 4 * t[2] for t in table], color=BLUE)
    for _, _, n, mean, share in table:
        axes.annotate(str(n), (mean, share), textcoords="offset points", xytext=(7, -11), fontsize=8)
    axes.set(xlabel="confidence", ylabel="share of right counterparts", xlim=(0, 1.02), ylim=(-0.03, 1.05))
    axes.set_title("Calibration, number of prompts beside the dots", fontsize=9)
    axes.legend(fontsize=8, loc="upper left")
    picture = rendered(figure)
    with atomic_path(path) as temporary:
        PIL.Image.fromarray(picture).save(temporary, "PNG")
