"""All methods on all pairs: run, score, keep."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from roireg.bench.cases import Case, CaseFolder
from roireg.bench.isolation import run_isolated
from roireg.bench.methods import Inputs, Method
from roireg.bench.results import Row, planned, read_rows, write_rows
from roireg.bench.scoring import Truth, load_transforms, read_truth, score
from roireg.core.errors import InputError, RoiregError
from roireg.core.progress import Progress, ProgressEvent, silent

__all__ = ["run_benchmark"]


def run_benchmark(
    folders: Sequence[CaseFolder],
    methods: Sequence[Method],
    results: str | Path,
    *,
    threads: int = 1,
    limit: int | None = None,
    timeout: float | None = None,
    retry_failed: bool = False,
    progress: Progress = silent,
) -> list[Row]:
    """Run methods on case sets and score them, one pair after the other.

    Each run has a process of its own and `threads` threads. Rows go to the CSV file `results` as they are measured;
    rows that it already holds for the same method version, settings, threads and file contents are not measured
    again, rows of another version are replaced, rows of other sets and methods stay. All methods of a pair run one
    after the other, so that their times are comparable.

    Parameters
    ----------
    folders : case sets, of different names.
    methods : of different names.
    limit : only the first pairs of every set; None takes all.
    timeout : seconds after which a run is stopped and counts as failed.
    retry_failed : measure rows that failed once more.
    progress : is told about every row; the fraction is that of all rows.

    Returns
    -------
    The rows asked for, by set, pair and method in the order given.

    Raises
    ------
    InputError
        When names are not unique, a case cannot be read, or `results` is another file.
    OutputError
        When `results` cannot be written.
    """
    for what, names in (("case sets", [f.content.name for f in folders]), ("methods", [m.name for m in methods])):
        if len(set(names)) != len(names) or not names:
            raise InputError(f"{what} need at least one and each name once, found {', '.join(names) or 'none'}")
    if threads < 1:
        raise InputError(f"the number of threads is 1 or more, found {threads}")
    kept = {row.place: row for row in read_rows(results)}
    session = datetime.now(UTC).isoformat(timespec="seconds")
    todo = [(folder, case) for folder in folders for case in folder.content.pairs[:limit]]
    asked: list[Row] = []
    for folder, case in todo:
        truth: tuple[Truth, dict[str, float]] | None = None
        name, digest = folder.content.name, folder.digest(case)
        for method in methods:
            row = planned(method, set=name, pair=case.id, case=digest, threads=threads, session=session)
            old = kept.get(row.place)
            if old is not None and old.same_work(row) and (old.status == "ok" or not retry_failed):
                row, detail = old, "done before"
            else:
                if truth is None:
                    truth = _truth(folder, case)
                row = _measure(row, method, folder, case, *truth, timeout=timeout)
                kept[row.place] = row
                write_rows(results, list(kept.values()))
                detail = _detail(row)
            asked.append(row)
            progress(ProgressEvent(" ".join(row.place), len(asked) / (len(todo) * len(methods)), detail))
    return asked


def _truth(folder: CaseFolder, case: Case) -> tuple[Truth, dict[str, float]]:
    truth = read_truth(folder, case)
    return truth, score(None, truth)


def _measure(
    row: Row,
    method: Method,
    folder: CaseFolder,
    case: Case,
    truth: Truth,
    before: dict[str, float],
    *,
    timeout: float | None,
) -> Row:
    inputs = Inputs((folder.path / case.fixed).resolve(), (folder.path / case.moving).resolve())
    row = replace(row, before=before, unit=truth.unit)
    with tempfile.TemporaryDirectory(prefix="roireg-bench-") as place:
        outcome = run_isolated(method, inputs, Path(place), threads=row.threads, timeout=timeout)
        if outcome.peak_mb is not None:
            row = replace(row, peak_mb=outcome.peak_mb)
        output = outcome.output
        if output is None:
            return replace(row, status="failed", reason=outcome.reason)
        row = replace(row, seconds=output.seconds, cpu_seconds=output.cpu_seconds, verdict=output.verdict)
        try:
            return replace(row, after=score(load_transforms(output.files), truth))
        except RoiregError as error:
            # Files of a method that cannot be read or used are the method's failure, not ours.
            return replace(row, status="failed", reason=str(error).replace(f"{place}{os.sep}", ""))


def _detail(row: Row) -> str:
    if row.status != "ok":
        return f"failed: {row.reason}"
    parts = []
    for name, label, style in (("dice_mean", "Dice", ".3f"), ("landmark_error_mean", "landmark error", ".2f")):
        if row.change(name) is not None:
            parts.append(f"{label} {row.before[name]:{style}} → {row.after[name]:{style}}")
    parts.append(f"{row.seconds:.1f} s")
    return ", ".join([*parts, f"verdict {row.verdict}"] if row.verdict else parts)
