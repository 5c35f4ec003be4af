"""All methods on all pairs: run, score, keep."""

from __future__ import annotations

import base64
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from roireg.cohort.engines import EngineOptions
from roireg.cohort.process import Limits, Task
from roireg.core.errors import GeometryError, InputError, OutputError, RoiregError
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.evaluate import Truth, score
from roireg_bench.cases import Case, CaseFolder, data_files
from roireg_bench.isolation import Outcome, run_isolated, warm_up, was_cut_short
from roireg_bench.protocol import Inputs, Method
from roireg_bench.results import Row, planned, read_rows, write_rows
from roireg_bench.scoring import load_transforms, numbers, read_truth
from roireg_bench.thumbnails import Scene, read_scene, thumbnail_path, write_thumbnail

__all__ = ["THUMBNAILS", "measure_pair", "run_benchmark"]

THUMBNAILS = "thumbnails"
"""Folder of the pictures of all runs, beside the results file."""


def run_benchmark(
    folders: Sequence[CaseFolder],
    methods: Sequence[Method],
    results: str | Path,
    *,
    threads: int = 1,
    jobs: int = 1,
    limit: int | None = None,
    timeout: float | None = None,
    retry_failed: bool = False,
    anew: bool = False,
    engine: EngineOptions | None = None,
    progress: Progress = silent,
) -> list[Row]:
    """Run methods on case sets and score them.

    Each run has a process of its own and `threads` threads. Rows go to the CSV file `results` as they are measured;
    rows that it already holds for the same method version, settings, threads and file contents are not measured
    again, rows of another version are replaced, rows of other sets and methods stay. All methods of a pair run one
    after the other, so that their times are comparable. A small picture of every run goes into the folder
    `THUMBNAILS` beside the file.

    Parameters
    ----------
    folders : case sets, of different names.
    methods : of different names.
    jobs : how many pairs are worked on at once, on Dask; with several the times say less.
    limit : only the first pairs of every set; None takes all.
    timeout : seconds after which a run is stopped and counts as failed.
    retry_failed : measure rows that failed once more; those that were unavailable, or were stopped after less than
        `timeout`, are always tried again.
    anew : measure all rows asked for, whatever `results` holds.
    engine : where pairs run: here if None, else where a cohort would (`roireg.cohort.engines`).
    progress : is told about every row, the fraction is that of all rows.

    Returns
    -------
    The rows asked for, by set, pair and method in the order given.

    Raises
    ------
    InputError
        When names are not unique, or `results` is another file; and when a case cannot be read, once all others
        have been measured.
    OutputError
        When `results` cannot be written.
    """
    for what, names in (("case sets", [f.content.name for f in folders]), ("methods", [m.name for m in methods])):
        if len(set(names)) != len(names) or not names:
            raise InputError(f"{what} need at least one and each name once, found {', '.join(names) or 'none'}")
    for what, number in (("threads", threads), ("jobs", jobs)):
        if number < 1:
            raise InputError(f"the number of {what} is 1 or more, found {number}")
    book = _Book(Path(results), {row.place: row for row in read_rows(results)}, progress)
    todo = [(folder, case) for folder in folders for case in folder.content.pairs[:limit]]
    book.total = len(todo) * len(methods)
    order = _Order(
        tuple(methods),
        session=datetime.now(UTC).isoformat(timespec="seconds"),
        threads=threads,
        jobs=min(jobs, len(todo)),
        timeout=timeout,
        retry_failed=retry_failed,
        anew=anew,
    )
    options = EngineOptions(jobs=jobs, threads=threads) if engine is None else engine
    if engine is None and order.jobs == 1:
        warm_up()
        rows = [row for folder, case in todo for row in _pair(book, order, folder, case)]
    else:
        options.check_engine()
        rows = _side_by_side(book, order, todo, options)
    if book.unreadable:
        more = f" ({len(book.unreadable)} such pairs; see `roireg bench check`)" if len(book.unreadable) > 1 else ""
        raise InputError(f"{book.unreadable[0]}{more}; all others were measured")
    return rows


@dataclass(frozen=True)
class _Order:
    """What is asked for, the same for all pairs."""

    methods: tuple[Method, ...]
    session: str
    threads: int
    jobs: int
    timeout: float | None
    retry_failed: bool
    anew: bool


@dataclass
class _Book:
    """The rows so far."""

    path: Path
    rows: dict[tuple[str, str, str], Row]
    progress: Progress
    total: int = 0
    done: int = 0
    unreadable: list[str] = field(default_factory=list)

    def enter(self, row: Row, detail: str, *, new: bool) -> None:
        if new:
            self.rows[row.place] = row
            write_rows(self.path, list(self.rows.values()))
        self.done += 1
        self.progress(ProgressEvent(" ".join(row.place), self.done / self.total, detail))

    def leave_out(self, folder: CaseFolder, case: Case, error: RoiregError, count: int) -> None:
        self.unreadable.append(f"{folder.content.name} {case.id}: {error}")
        self.done += count
        self.progress(ProgressEvent(f"{folder.content.name} {case.id}", self.done / self.total, f"left out: {error}"))

    @property
    def thumbnails(self) -> Path:
        return self.path.parent / THUMBNAILS


def _side_by_side(
    book: _Book, order: _Order, todo: Sequence[tuple[CaseFolder, Case]], options: EngineOptions
) -> list[Row]:
    """Measure pairs as tasks of the engine of cohorts; a pair whose process is lost is left out and told."""
    pairs = {f"{folder.content.name}/{case.id}": (folder, case) for folder, case in todo}
    found: dict[str, list[Row]] = {}
    with options.engine(Limits(order.threads), _told(book)) as engine:
        for task, ending in engine.run(_tasks(book, order, pairs)):
            folder, case = pairs[task.key]
            if ending.kind != "done":
                book.leave_out(folder, case, InputError(ending.cause), len(order.methods))
                continue
            rows, entries, left_out = _unpacked(ending.value)
            found[task.key] = rows
            for row, detail, new in entries:
                book.enter(row, detail, new=new)
            if left_out is not None:
                book.leave_out(folder, case, InputError(left_out), len(order.methods) - len(rows))
    return [row for key in pairs for row in found.get(key, ())]


def _tasks(book: _Book, order: _Order, pairs: Mapping[str, tuple[CaseFolder, Case]]) -> Iterator[Task]:
    for key, (folder, case) in pairs.items():
        known = [row for row in book.rows.values() if (row.set, row.pair) == (folder.content.name, case.id)]
        place = replace(folder, path=folder.path.absolute())
        work = _packed((book.path.absolute(), order, place, case, known))
        yield Task(key, f"{__name__}:measure_pair", {"work": work})


def _told(book: _Book) -> Callable[[str], None]:
    return lambda text: book.progress(ProgressEvent("benchmark", book.done / book.total, text, notice=True))


def measure_pair(*, work: str) -> str:
    """Run all methods on one pair: a task, in the process of a worker.

    Parameters
    ----------
    work : of `_tasks`: the results file, the order, the pair, and the rows that are known of it.

    Returns
    -------
    Its rows, what is told of each, and why the pair was left out, packed.
    """
    results, order, folder, case, known = _unpacked(work)
    warm_up()
    notes = _Notes(results, {row.place: row for row in known}, silent, total=len(order.methods))
    rows = _pair(notes, order, folder, case)
    return _packed((rows, notes.entries, notes.left_out))


class _Notes(_Book):
    """The rows of one pair; they are written by the program that asked for them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.entries: list[tuple[Row, str, bool]] = []
        self.left_out: str | None = None

    def enter(self, row: Row, detail: str, *, new: bool) -> None:
        self.entries.append((row, detail, new))

    def leave_out(self, folder: CaseFolder, case: Case, error: RoiregError, count: int) -> None:
        self.left_out = str(error)


def _packed(value: Any) -> str:
    """Return a value as text; tasks and their answers are JSON, and both ends are this program."""
    return base64.b64encode(pickle.dumps(value)).decode("ascii")


def _unpacked(text: str) -> Any:
    return pickle.loads(base64.b64decode(text))


def _pair(book: _Book, order: _Order, folder: CaseFolder, case: Case) -> list[Row]:
    """Run all methods on one pair, one after the other."""
    rows: list[Row] = []
    try:
        digest = folder.digest(case)
        data: _PairData | None = None
        with tempfile.TemporaryDirectory(prefix="roireg-bench-") as shown:
            for method in order.methods:
                row = planned(
                    method,
                    set=folder.content.name,
                    pair=case.id,
                    case=digest,
                    ndim=folder.content.ndim,
                    threads=order.threads,
                    session=order.session,
                    jobs=order.jobs,
                )
                old = book.rows.get(row.place)
                if old is not None and old.same_work(row) and _stands(old, order):
                    rows.append(old)
                    book.enter(old, "done before", new=False)
                    continue
                data = data or _read(folder, case, Path(shown))
                row = _measure(row, method, data, order, thumbnail_path(book.thumbnails, row.place))
                rows.append(row)
                book.enter(row, _detail(row), new=True)
    except (InputError, GeometryError) as error:
        # Runs turn what goes wrong in them into rows: this is about the case itself.
        book.leave_out(folder, case, error, len(order.methods) - len(rows))
    return rows


def _stands(row: Row, order: _Order) -> bool:
    """Tell whether an earlier row of the same work need not be measured again."""
    if order.anew or row.status == "unavailable":
        return False
    if row.status == "ok":
        return True
    return not order.retry_failed and not was_cut_short(row.reason, order.timeout)


@dataclass(frozen=True)
class _PairData:
    """What is read once per pair."""

    inputs: Inputs
    truth: Truth
    scene: Scene


def _read(folder: CaseFolder, case: Case, shown: Path) -> _PairData:
    fixed, moving = (
        _copied((folder.path / name).resolve(), shown / side)
        for side, name in (("fixed", case.fixed), ("moving", case.moving))
    )
    inputs = Inputs(fixed, moving, folder.modality)
    return _PairData(inputs, read_truth(folder, case), read_scene(folder, case))


def _copied(image: Path, folder: Path) -> Path:
    """Copy an image into a folder that holds nothing else: what lies beside it is not for methods to see."""
    if not image.exists():
        raise InputError(f"{image}: there is no such file")
    if image.is_dir():
        shutil.copytree(image, folder)
        return folder
    for file in (image, *data_files(image)):
        # What a header names by an absolute path is found from anywhere.
        if file.is_relative_to(image.parent):
            copy = folder / file.relative_to(image.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    return folder / image.name


def _measure(row: Row, method: Method, data: _PairData, order: _Order, picture: Path) -> Row:
    row = replace(row, before=numbers(data.truth.baseline), unit=data.truth.unit)
    with tempfile.TemporaryDirectory(prefix="roireg-bench-") as place:
        outcome = run_isolated(method, data.inputs, Path(place), threads=row.threads, timeout=order.timeout)
        row = _scored(row, outcome, data, Path(place), picture)
    if row.status != "ok":
        # A picture of an earlier version would show what this one did not do.
        picture.unlink(missing_ok=True)
    return row


def _scored(row: Row, outcome: Outcome, data: _PairData, place: Path, picture: Path) -> Row:
    if outcome.peak_mb is not None:
        row = replace(row, peak_mb=outcome.peak_mb)
    output = outcome.output
    if output is None:
        return replace(row, status="unavailable" if outcome.unavailable else "failed", reason=outcome.reason)
    assert outcome.startup_seconds is not None
    row = replace(
        row,
        seconds=output.seconds,
        cpu_seconds=output.cpu_seconds,
        startup_seconds=outcome.startup_seconds,
        verdict=output.verdict,
    )
    try:
        transform = load_transforms(output.files)
        scores = score(transform, data.truth)
    except RoiregError as error:
        # Files of a method that cannot be read or used are the method's failure, not ours.
        return replace(row, status="failed", reason=str(error).replace(f"{place}{os.sep}", ""))
    try:
        write_thumbnail(picture, data.scene.strip(transform))
    except OutputError:
        raise
    except RoiregError:
        # A transform can be scored and still lead too far for a picture.
        picture.unlink(missing_ok=True)
    dice = {} if scores.labels is None else dict(sorted(scores.labels.dice.items()))
    return replace(row, after=numbers(scores), dice_labels=dice)


def _detail(row: Row) -> str:
    if row.status != "ok":
        return f"{row.status}: {row.reason}"
    parts = []
    for name, label, style in (("dice_mean", "Dice", ".3f"), ("landmark_error_mean", "landmark error", ".2f")):
        if row.change(name) is not None:
            parts.append(f"{label} {row.before[name]:{style}} → {row.after[name]:{style}}")
    parts.append(f"{row.seconds:.1f} s")
    return ", ".join([*parts, f"verdict {row.verdict}"] if row.verdict else parts)
