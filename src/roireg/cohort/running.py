"""The pairs of a cohort as tasks: which run, what is said meanwhile, what is written at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from roireg.cohort.book import Book
from roireg.cohort.cohort import STATES, CohortResult, RowOptions
from roireg.cohort.engines import Engine
from roireg.cohort.memory import expected_memory
from roireg.cohort.on_dask import EngineLost
from roireg.cohort.process import Task
from roireg.core.errors import InputError
from roireg.core.progress import Progress, ProgressEvent
from roireg.jobs import RegisterJob
from roireg.jobs.job import plain
from roireg.jobs.options import parse_size

__all__ = ["check_settings", "register_all", "run_rows"]

STAGE = "registering"

KEPT_SHARE = 0.02
"""What a pair whose result is kept takes of the time of one that is registered, for the time that is left."""


PAIR = "roireg.cohort.pair:register_pair"

SETTLED = "roireg.cohort.pair:check_settings"

SETTINGS = ("config", "model", "features", "segmenter", "segmenter_command")
"""Options that are read with torch loaded, in the process of a task."""


def run_rows(
    jobs: Sequence[tuple[str, RegisterJob]],
    options: RowOptions,
    out: Path,
    progress: Progress,
    *,
    alone: str | None = None,
    title: str | None = None,
) -> CohortResult:
    """Register pairs, each in a process of its own, and write the summary.

    Parameters
    ----------
    jobs : (id, registration) of every pair; their folders are ``out/pairs/ID``.
    options : which of them are run, and where.
    alone : run this pair alone and write no summary: others may be running at the same time.
    title : of the page; the name of the folder if None.

    Raises
    ------
    RoiregError
        When the engine cannot be started, the settings of all pairs are none, or the summary cannot be written.
    """
    memory = None if options.max_memory is None else parse_size(options.max_memory)
    with options.engine(options.limits(memory), _notes(progress)) as engine:
        check_settings(options, out, engine)
        return register_all(jobs, options, out, progress, engine, alone=alone, title=title)


def check_settings(options: RowOptions, out: Path, engine: Engine) -> None:
    """Refuse settings of all pairs at once, where each would be refused for itself.

    Raises
    ------
    InputError
        When the settings file or what names a network is wrong.
    """
    if options.settings.keys().isdisjoint(SETTINGS):
        return
    job = RegisterJob(fixed=out, moving=out, out=out, **options.settings)
    for _, ending in engine.run([Task("settings", SETTLED, {"options": plain(_given(job))})]):
        if ending.kind == "refused":
            raise InputError(ending.cause)


def register_all(
    jobs: Sequence[tuple[str, RegisterJob]],
    options: RowOptions,
    out: Path,
    progress: Progress,
    engine: Engine,
    *,
    alone: str | None = None,
    title: str | None = None,
    function: str = PAIR,
) -> CohortResult:
    """Register pairs on an engine; see `run_rows`.

    Parameters
    ----------
    function : what is done with a pair, with the arguments and the answer of `PAIR`.
    """
    book = Book(out, jobs)
    chosen = [id for id, _ in jobs] if alone is None else [alone]
    if options.states is not None:
        chosen = [id for id in chosen if book.state(id) in options.states]
    meter = _Meter(len(chosen), progress)
    left = ""
    try:
        meter.say()
        for task, ending in engine.run(_tasks(book, chosen, function, anew=options.states is not None)):
            entry = book.enter(task.key, ending)
            meter.count(task.key, entry["state"], entry.get("cause", ""), kept=bool(entry.get("kept")))
    except EngineLost as error:
        left = str(error)
    finally:
        if alone is None:
            book.write(title or out.resolve().name)
    return CohortResult(out, [pair for pair in book.pairs() if alone in (None, pair["id"])], left)


def _notes(progress: Progress) -> Callable[[str], None]:
    return lambda text: progress(ProgressEvent(STAGE, 0.0, text, notice=True))


def _tasks(book: Book, chosen: Sequence[str], function: str, *, anew: bool) -> Iterator[Task]:
    for id in chosen:
        job = replace(book.jobs[id], resume=not anew)
        arguments = {"options": plain(_given(job)), "thumbnail": str(book.thumbnail(id).absolute())}
        yield Task(id, function, arguments, expected_memory(job.fixed, job.moving))


def _given(job: RegisterJob) -> dict[str, object]:
    """Return the fields of a job; paths are absolute, because workers run elsewhere."""
    values = {name: value for name, value in asdict(job).items() if value is not None}
    return {name: value.absolute() if isinstance(value, Path) else value for name, value in values.items()}


class _Meter:
    """How far a cohort is, in counts of states."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.progress = total, progress
        self.states: Counter[str] = Counter()
        self.kept = 0

    def count(self, id: str, state: str, cause: str, *, kept: bool) -> None:
        self.states[state] += 1
        self.kept += kept
        if state == "error":
            _notes(self.progress)(f"{id}: {cause}")
        self.say()

    def say(self) -> None:
        ended = self.states.total()
        worked = ended - self.kept + KEPT_SHARE * self.kept
        counts = [f"{self.states[s]} {s}" for s in reversed(STATES) if self.states[s]]
        detail = ", ".join([*counts, f"{self.total - ended} to go"])
        self.progress(ProgressEvent(STAGE, worked / max(worked + self.total - ended, 1e-9), detail))
