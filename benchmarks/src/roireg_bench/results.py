"""One row per method and pair, kept in a CSV file that a later run goes on with."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from roireg.core.errors import InputError
from roireg.io import atomic_path
from roireg_bench.protocol import Method
from roireg_bench.scoring import SCORES, SCORING

__all__ = ["BEFORE", "Row", "read_rows", "settings_hash", "write_rows"]

BEFORE = tuple(name for name in SCORES if name not in ("folding_percent", "sdlogj", "sdlogj_learn2reg"))
"""Scores that are also worth a column for the state before registration."""


@dataclass(frozen=True)
class Row:
    """What one method did on one pair.

    Attributes
    ----------
    set, pair, method : where the row belongs; there is one row for each combination.
    version, settings, case, scoring, threads : what the result depends on; the row is done while all are equal.
    session : when the run that measured it began; timings of one session are comparable.
    ndim : 2 or 3, of the images.
    jobs : how many runs went on beside each other when its times were measured.
    status : "ok", or "failed" or "unavailable" (a package or program is missing) with a `reason`.
    verdict : of the method about its own result, may be empty.
    unit : "mm" or "px".
    seconds, cpu_seconds : of the registration, without reading and writing files.
    startup_seconds : of its process outside the registration, see `isolation.Outcome.startup_seconds`.
    peak_mb : largest resident memory of its processes.
    dice_labels : label id -> Dice after.
    before, after : scores by the names of `scoring.SCORES`.
    """

    set: str
    pair: str
    method: str
    version: str
    settings: str
    case: str
    scoring: int
    threads: int
    session: str
    ndim: int = 3
    jobs: int = 1
    status: str = "ok"
    reason: str = ""
    verdict: str = ""
    unit: str = ""
    seconds: float = math.nan
    cpu_seconds: float = math.nan
    startup_seconds: float = math.nan
    peak_mb: float = math.nan
    dice_labels: dict[int, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str, str]:
        """Set, pair and method."""
        return self.set, self.pair, self.method

    def same_work(self, other: Row) -> bool:
        """Tell whether both rows are the same method, settings, threads and scoring on the same files."""
        names = ("set", "pair", "method", "version", "settings", "case", "scoring", "threads")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    @property
    def outcome(self) -> dict[str, float]:
        """Scores that the pair ended with: a run that failed leaves the images where they were."""
        return self.after if self.status == "ok" else self.before

    def change(self, name: str) -> float | None:
        """Return after - before of a score, None where either is not there."""
        if name not in self.after or name not in self.before:
            return None
        return self.after[name] - self.before[name]


def settings_hash(method: Method) -> str:
    """Return a short hash of the settings of a method."""
    text = json.dumps(method.settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def planned(
    method: Method, *, set: str, pair: str, case: str, ndim: int, threads: int, session: str, jobs: int = 1
) -> Row:
    """Return the row of a run that is still to be done."""
    return Row(
        set=set,
        pair=pair,
        method=method.name,
        version=method.version,
        settings=settings_hash(method),
        case=case,
        scoring=SCORING,
        threads=threads,
        session=session,
        ndim=ndim,
        jobs=jobs,
    )


PLAIN = tuple(f.name for f in fields(Row) if f.name not in ("before", "after", "dice_labels"))
_COLUMNS = (*PLAIN, *(f"{name}_before" for name in BEFORE), *SCORES, "dice_labels")
_WHOLE = ("scoring", "threads", "ndim", "jobs")
_NUMBERS = ("seconds", "cpu_seconds", "startup_seconds", "peak_mb")


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write all rows, sorted by set, pair and method, in place of what was there.

    Raises
    ------
    OutputError
        When the place cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda r: r.place):
        cells: dict[str, Any] = {name: getattr(row, name) for name in PLAIN}
        cells |= {f"{name}_before": row.before.get(name) for name in BEFORE}
        cells |= {name: row.after.get(name) for name in SCORES}
        cells["dice_labels"] = " ".join(f"{label}:{value:.4f}" for label, value in row.dice_labels.items())
        writer.writerow({name: _cell(value) for name, value in cells.items()})
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_rows(path: str | Path) -> list[Row]:
    """Read the rows of an earlier run; none when there is no such file.

    Raises
    ------
    InputError
        When the file is no results file of this version, or a cell has no number where one is expected.
    """
    place = Path(path)
    if not place.exists():
        return []
    with place.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise InputError(f"{place}: not a results file of this version; choose another folder or remove the file")
        try:
            return [_row(cells) for cells in reader]
        except (TypeError, ValueError) as error:
            raise InputError(f"{place}: line {reader.line_num}: {error}; correct or remove the file") from error


def _row(cells: dict[str, str]) -> Row:
    values: dict[str, Any] = {name: cells[name] for name in PLAIN}
    for name in _WHOLE:
        values[name] = int(values[name])
    for name in _NUMBERS:
        values[name] = float(values[name]) if values[name] else math.nan
    before = {name: float(cells[f"{name}_before"]) for name in BEFORE if cells[f"{name}_before"]}
    after = {name: float(cells[name]) for name in SCORES if cells[name]}
    pairs = [item.split(":") for item in cells["dice_labels"].split()]
    labels = {int(label): float(value) for label, value in pairs}
    return Row(**values, before=before, after=after, dice_labels=labels)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
