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

from roireg.bench.methods import Method
from roireg.bench.scoring import SCORES, SCORING
from roireg.core.errors import InputError
from roireg.io import atomic_path

__all__ = ["BEFORE", "Row", "read_rows", "settings_hash", "write_rows"]

BEFORE = tuple(name for name in SCORES if name not in ("folding_percent", "sdlogj"))
"""Scores that are also worth a column for the state before registration."""


@dataclass(frozen=True)
class Row:
    """What one method did on one pair.

    Attributes
    ----------
    set, pair, method : where the row belongs; there is one row for each combination.
    version, settings, case, scoring, threads : what the result depends on; the row is done while all are equal.
    session : when the run that measured it began; timings of one session are comparable.
    status : "ok" or "failed", then with a `reason`.
    verdict : of the method about its own result, may be empty.
    unit : "mm" or "px".
    seconds, cpu_seconds : of the registration, without reading and writing files.
    peak_mb : largest resident memory of its process.
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
    status: str = "ok"
    reason: str = ""
    verdict: str = ""
    unit: str = ""
    seconds: float = math.nan
    cpu_seconds: float = math.nan
    peak_mb: float = math.nan
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

    def change(self, name: str) -> float | None:
        """Return after - before of a score, None where either is not there."""
        if name not in self.after or name not in self.before:
            return None
        return self.after[name] - self.before[name]


def settings_hash(method: Method) -> str:
    """Return a short hash of the settings of a method."""
    text = json.dumps(method.settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def planned(method: Method, *, set: str, pair: str, case: str, threads: int, session: str) -> Row:
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
    )


PLAIN = tuple(f.name for f in fields(Row) if f.name not in ("before", "after"))
_COLUMNS = (*PLAIN, *(f"{name}_before" for name in BEFORE), *SCORES)


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
    for name in ("scoring", "threads"):
        values[name] = int(values[name])
    for name in ("seconds", "cpu_seconds", "peak_mb"):
        values[name] = float(values[name]) if values[name] else math.nan
    before = {name: float(cells[f"{name}_before"]) for name in BEFORE if cells[f"{name}_before"]}
    after = {name: float(cells[name]) for name in SCORES if cells[name]}
    return Row(**values, before=before, after=after)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
