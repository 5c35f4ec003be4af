"""Run a study, keep its rows, and make its table and its plot."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.figure import Figure

from roireg.core.errors import InputError
from roireg.evaluate.palette import distinct_colours
from roireg.evaluate.plots import rendered
from roireg.io import atomic_path
from roireg.jobs.job import code_version
from roireg_bench.cases import CaseFolder
from roireg_bench.studies.study import Column, Scene, Study

__all__ = ["BEFORE", "StudyRow", "read_rows", "run_study", "study_page", "write_rows", "write_study"]

BEFORE = "before"
"""What the state of a pair before anything is done to it is called among the variants."""

FIXED = ("set", "pair", "variant", "work")


@dataclass(frozen=True)
class StudyRow:
    """One variant on one pair.

    Attributes
    ----------
    work : digest of the files, the settings of the variant and this code: equal work need not be done again.
    values : what was measured.
    """

    set: str
    pair: str
    variant: str
    work: str
    values: Mapping[str, float]


def run_study(
    study: Study,
    folders: Sequence[CaseFolder],
    *,
    limit: int | None = None,
    known: Sequence[StudyRow] = (),
) -> Iterator[StudyRow]:
    """Measure every variant on every pair, one row at a time.

    Parameters
    ----------
    folders : case sets.
    limit : only the first pairs of every set.
    known : rows of earlier runs; those of the same files, settings and code are handed back as they are.
    """
    done = {row.work: row for row in known}
    for folder in folders:
        for case in folder.content.pairs[:limit]:
            scene = Scene(folder, case)
            digest = folder.digest(case)
            for variant, settings in {BEFORE: {}, **study.variants}.items():
                work = _digest(study.name, folder.content.name, case.id, digest, variant, settings, code_version())
                if work not in done:
                    values = study.before(scene) if variant == BEFORE else study.measure(variant, scene)
                    yield StudyRow(folder.content.name, case.id, variant, work, dict(values))
                else:
                    yield done[work]


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


# -- files ----------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[StudyRow]:
    """Read what `write_study` wrote; none where there is no file.

    Raises
    ------
    InputError
        When the file is something else.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [
                StudyRow(
                    **{k: line[k] for k in FIXED},
                    values={k: float(v) for k, v in line.items() if k not in FIXED and v},
                )
                for line in csv.DictReader(stream)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no rows of a study as this command writes them ({error!r})") from error


def write_rows(path: Path, rows: Sequence[StudyRow]) -> None:
    """Write rows as CSV, a column per number that any of them has."""
    keys = list(dict.fromkeys(k for row in rows for k in row.values))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*FIXED, *keys])
        for row in rows:
            values = [f"{row.values[k]:.6g}" if k in row.values else "" for k in keys]
            writer.writerow([row.set, row.pair, row.variant, row.work, *values])


def write_study(study: Study, rows: Sequence[StudyRow], out: Path, *, notes: str = "") -> list[Path]:
    """Write NAME.csv, NAME.md and NAME.png into a folder; returns their paths."""
    files = [out / f"{study.name}.{ending}" for ending in ("csv", "md", "png")]
    write_rows(files[0], rows)
    with atomic_path(files[1]) as temporary:
        temporary.write_text(study_page(study, rows, notes=notes), encoding="utf-8")
    with atomic_path(files[2]) as temporary:
        PIL.Image.fromarray(_plot(study, rows)).save(temporary, "PNG")
    return files


# -- table and plot -------------------------------------------------------------------------------


def study_page(study: Study, rows: Sequence[StudyRow], *, notes: str = "") -> str:
    """Return the tables as Markdown: one per set, a line per variant, means ± standard deviations over the pairs."""
    parts = [f"# {study.title[:1].upper()}{study.title[1:]}\n"]
    parts += [f"{text}\n" for text in (study.source, notes) if text]
    for name in dict.fromkeys(row.set for row in rows):
        own = [row for row in rows if row.set == name]
        columns = [c for c in study.columns if any(c.key in row.values for row in own)]
        lines = [("variant", "pairs of images", *(c.title for c in columns))]
        lines.append(("---",) * len(lines[0]))
        for variant in _variants(own):
            chosen = [row for row in own if row.variant == variant]
            lines.append((variant, str(len(chosen)), *(_cell(chosen, c) for c in columns)))
        parts.append(f"## {name}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    return "\n".join(parts)


def _variants(rows: Sequence[StudyRow]) -> list[str]:
    """Variants in the order of the study; without the state before where nothing was measured of it."""
    return [v for v in dict.fromkeys(r.variant for r in rows) if any(r.values for r in rows if r.variant == v)]


def _cell(rows: Sequence[StudyRow], column: Column) -> str:
    values = [row.values[column.key] for row in rows if column.key in row.values]
    if not values:
        return "–"
    spread = f" ± {np.std(values):.{column.digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{column.digits}f}{spread}"


def _plot(study: Study, rows: Sequence[StudyRow]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Draw the two most important numbers: lines over the values of a sweep, else a mark per variant."""
    shown = [c for c in study.columns if any(c.key in row.values for row in rows)][:2]
    sets = list(dict.fromkeys(row.set for row in rows))
    names = [v for v in _variants(rows) if v != BEFORE]
    numeric = study.axis is not None and all(_is_number(v) for v in names)
    height = 3.4 if numeric else 1.6 + 0.3 * len(names)
    figure = Figure(figsize=(4.6 * len(shown), height), dpi=130, layout="constrained")
    for axes, column in zip(np.atleast_1d(figure.subplots(1, len(shown), sharey=not numeric)), shown, strict=True):
        for name, colour in zip(sets, distinct_colours(len(sets)), strict=True):
            means = {v: _mean(rows, name, v, column.key) for v in [BEFORE, *names]}
            values = [means[v] for v in names]
            if numeric:
                axes.plot([float(v) for v in names], values, "o-", color=colour, markersize=4, label=name)
                axes.axhline(means[BEFORE], color=colour, linestyle=":", linewidth=1)
            else:
                axes.plot(values, range(len(names)), "o", color=colour, label=name)
                axes.axvline(means[BEFORE], color=colour, linestyle=":", linewidth=1)
        if numeric:
            axes.set(xlabel=study.axis, ylabel=column.title)
        else:
            axes.set_yticks(range(len(names)), names)
            axes.set(xlabel=column.title, ylim=(len(names) - 0.5, -0.5))
        axes.grid(color="0.92")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(sets), fontsize=8, frameon=False
    )
    figure.suptitle(f"{study.title}; dotted: before", fontsize=9)
    return rendered(figure)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _mean(rows: Sequence[StudyRow], name: str, variant: str, key: str) -> float:
    values = [r.values[key] for r in rows if r.set == name and r.variant == variant and key in r.values]
    return float(np.mean(values)) if values else float("nan")
