"""``python -m roireg.bench.prompts DATA``: whether prompts find the same structure in the other image.

A prompt is put at the centroid of every label of the moving image (see `label_point`), carried to the fixed image,
and what is found there is compared with the label of the fixed image. Labels are for placing and scoring alone.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from roireg.bench.cases import CaseFolder, find_folders
from roireg.core.errors import InputError, RoiregError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.core.warp import warp
from roireg.io import atomic_path, read_image, read_labels
from roireg.match.carry import Guide
from roireg.match.transfer import TransferOptions
from roireg.pipeline.prompting import PROMPT_PRESETS, PromptSession, PromptSettings

__all__ = ["METHODS", "PromptRow", "calibration", "label_point", "main", "markdown", "measure", "plot_calibration"]

SETS = ("acdc_intra", "samreg_lung_slices", "chest_xray_jsrt", "hippocampus")

DEFAULT = PROMPT_PRESETS["default"]


def _changed(**changes: object) -> PromptSettings:
    return replace(DEFAULT, transfer=replace(DEFAULT.transfer, **changes))  # type: ignore[arg-type]


METHODS: dict[str, tuple[PromptSettings, str]] = {
    "default": (DEFAULT, "auto"),
    "auxiliary on": (_changed(rounds=2), "auto"),
    "6 views": (replace(DEFAULT, views=6), "auto"),
    "first answers": (_changed(joint=False), "auto"),
    "first answers: argmax": (_changed(joint=False, place="argmax"), "auto"),
    "first answers: linearised inverse": (_changed(joint=False, place="inverse"), "auto"),
    "guide: same place": (DEFAULT, "identity"),
    "guide: none": (DEFAULT, "none"),
    "promptreg": (PROMPT_PRESETS["promptreg"], "none"),
}
"""Settings and guide that are compared; the quick registration of "auto" is computed once per pair."""


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


def label_point(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float64]:
    """(d,) world centroid of a structure; where that lies outside, the nearest point well inside.

    Well inside is at least a quarter as deep as the deepest point, so that a prompt is not put on a border.
    """
    index = np.argwhere(mask)
    centroid = index.mean(0)
    if mask[tuple(np.round(centroid).astype(int))]:
        return grid.world_from_index(centroid)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=grid.spacing)[(slice(1, -1),) * mask.ndim]
    deep = index[depth[tuple(index.T)] >= 0.25 * depth.max()]
    nearest = np.square((deep - centroid) * grid.spacing).sum(1).argmin()
    return grid.world_from_index(deep[nearest])


def measure(
    folders: Sequence[CaseFolder], methods: Sequence[str], *, limit: int | None = None, seed: int = 0
) -> Iterator[PromptRow]:
    """Run methods on every label of every pair; yields one row per prompt and method.

    Parameters
    ----------
    methods : names of `METHODS`.
    limit : only the first pairs of every set.

    Raises
    ------
    InputError
        When a method is unknown or a pair has no labels.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(f"unknown method {', '.join(unknown)}; use some of {', '.join(METHODS)}")
    for folder in folders:
        for case in folder.content.pairs[:limit]:
            files = {what: folder.file(case, what) for what in ("fixed", "moving", "fixed_labels", "moving_labels")}
            if files["fixed_labels"] is None or files["moving_labels"] is None:
                raise InputError(f"{folder.path}: pair {case.id!r} has no labels to place prompts in")
            fixed, moving = (read_image(folder.path / getattr(case, side)) for side in ("fixed", "moving"))
            labels = read_labels(files["fixed_labels"]), read_labels(files["moving_labels"])
            encoded: dict[PromptSettings, PromptSession] = {}
            quick: Guide | None = None
            for name in methods:
                settings, guide = METHODS[name]
                key = replace(settings, transfer=TransferOptions(), guide="none")
                if key not in encoded:
                    encoded[key] = PromptSession(fixed, moving, settings=key, seed=seed)
                if guide == "auto":
                    quick = quick or encoded[key].changed(guide="auto").guide
                # Everything is answered here; what would be an abstention is told by the confidence.
                session = encoded[key].changed(
                    transfer=replace(settings.transfer, least_confidence=0.0),
                    guide=None if guide == "auto" else guide,
                )
                if guide == "auto":
                    session.guide = quick
                for row in _rows(session, labels, folder.content.labels or {}):
                    yield replace(row, set=folder.content.name, pair=case.id, method=name)


def _rows(session: PromptSession, labels: tuple[Image, Image], names: Mapping[int, str]) -> Iterator[PromptRow]:
    fixed, moving = (image.data[0] for image in labels)
    shared = sorted(set(torch.unique(fixed).tolist()) & set(torch.unique(moving).tolist()) - {0})
    for label in shared:
        there, here = fixed == label, moving == label
        place = label_point(here.numpy(), session.moving.grid)
        started = time.process_time()
        result = session.answer(Prompt.at(place), side="moving")
        seconds = time.process_time() - started
        answer = result.answers[0]
        source_inside, source_dice, _ = _overlap(answer.regions, here, session.moving.grid)
        inside, overlap, centre = 0.0, 0.0, False
        if answer.pair is not None:
            inside, overlap, centre = _overlap(result.pairs.fixed, there, session.fixed.grid)
        e = answer.evidence
        point = None if answer.found is None else answer.found.points
        yield PromptRow(
            "",
            "",
            names.get(label, str(label)),
            "",
            source_inside,
            source_dice,
            answer.pair is not None,
            point is not None and len(point) > 0 and _at(there, session.fixed.grid, point[0]),
            inside,
            centre,
            overlap,
            answer.confidence,
            answer.pair is not None and answer.confidence >= DEFAULT.transfer.least_confidence,
            0.0 if e is None else e.appearance,
            0.0 if e is None else e.overlap,
            0.0 if e is None else e.returned_overlap,
            float("inf") if e is None else e.returned_distance,
            seconds,
        )


def _overlap(region: ROISet, truth: torch.Tensor, grid: Grid) -> tuple[float, float, bool]:
    """Share of the first region inside a label, Dice, and whether its centroid is in the label."""
    mask = warp(Image(region.masks[:1].float(), region.grid), None, grid, fill=0.0).data[0] >= 0.5
    shared, size = float((mask & truth).sum()), float(mask.sum())
    overlap = 2 * shared / max(1.0, size + float(truth.sum()))
    return shared / max(1.0, size), overlap, _at(truth, grid, region.centroids[0])


def _at(truth: torch.Tensor, grid: Grid, point: NDArray[np.float64]) -> bool:
    index = np.round(grid.index_from_world(point)).astype(int)
    if (index < 0).any() or (index >= np.array(grid.shape)).any():
        return False
    return bool(truth[tuple(index)])


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
    known = [r for r in rows if r.source_dice >= 0.1]
    table = []
    for k in range(10):
        own = [r for r in known if min(int(r.confidence * 10), 9) == k]
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
        parts.append(f"## {name}\n\n{_table(own)}")
    if len({r.set for r in rows}) > 1:
        parts.append(f"## All sets\n\n{_table(rows)}")
    present = {r.method for r in rows}
    for method in (m for m in ("default", "guide: none") if m in present):
        lines = [
            (f"{low:.1f}–{high:.1f}", str(n), f"{mean:.2f}", f"{share:.2f}")
            for low, high, n, mean, share in calibration([r for r in rows if r.method == method])
        ]
        parts.append(f"## Calibration: {method}\n")
        parts.append(_grid(("confidence", "prompts", "mean confidence", "share right"), lines))
    return "\n".join(parts)


def _table(rows: Sequence[PromptRow]) -> str:
    head = (
        "method",
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
    for method in dict.fromkeys(r.method for r in rows):
        own = [r for r in rows if r.method == method]
        possible = [r for r in own if r.source_inside > 0.5]
        trusted = [r for r in own if r.answered]
        lines.append(
            (
                method,
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
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--", label="perfect")
    axes.plot([t[3] for t in table], [t[4] for t in table], color="#0072b2", linewidth=1)
    axes.scatter([t[3] for t in table], [t[4] for t in table], s=[12 + 4 * t[2] for t in table], color="#0072b2")
    for _, _, n, mean, share in table:
        axes.annotate(str(n), (mean, share), textcoords="offset points", xytext=(7, -11), fontsize=8)
    axes.set(xlabel="confidence", ylabel="share of right counterparts", xlim=(0, 1.02), ylim=(-0.03, 1.05))
    axes.set_title("Calibration, number of prompts beside the dots", fontsize=9)
    axes.legend(fontsize=8, loc="upper left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


# -- command --------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m roireg.bench.prompts", description=__doc__)
    parser.add_argument("data", type=Path, help="a case set (a folder with pairs.json) or a folder of case sets")
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated folder names; all: every set")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"comma-separated, of: {', '.join(METHODS)}")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/prompts"), help="folder of the results")
    parser.add_argument("--limit", type=int, help="only the first pairs of every set")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="of guide and views")
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    methods = [m.strip() for m in options.methods.split(",")]
    try:
        names = None if options.sets == "all" else [s.strip() for s in options.sets.split(",")]
        rows: list[PromptRow] = []
        for folder in find_folders(options.data, names):
            for row in measure([folder], methods, limit=options.limit, seed=options.seed):
                rows.append(row)
                print(f"{row.set} {row.pair} {row.method}: {row.label}, Dice {row.dice:.2f}", flush=True)
            # After every set, so that a long run that is stopped has something to show.
            _write(rows, options.out, given)
        print(f"written: {options.out / 'prompts.csv'}, {options.out / 'prompts.md'}")
    except RoiregError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _write(rows: Sequence[PromptRow], out: Path, given: Sequence[str]) -> None:
    with atomic_path(out / "prompts.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(PromptRow)])
        writer.writeheader()
        writer.writerows(asdict(r) for r in rows)
    notes = (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s).\n\n"
        f"    {shlex.join(['python', '-m', 'roireg.bench.prompts', *given])}"
    )
    page = markdown(rows, notes=notes)
    with atomic_path(out / "prompts.md") as temporary:
        temporary.write_text(page, encoding="utf-8")
    default = [r for r in rows if r.method == "default"]
    if default:
        plot_calibration(default, out / "calibration.png")


if __name__ == "__main__":
    sys.exit(main())
