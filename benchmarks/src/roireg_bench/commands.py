"""What the commands of ``bench`` do."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import SimpleITK as sitk
import torch
import typer
from rich.table import Table as RichTable

from roireg import __version__
from roireg.app.console import Outcome, Session
from roireg.app.summary import escape
from roireg.cohort.engines import EngineOptions
from roireg.core.errors import InputError
from roireg.core.files import check_file, check_folder
from roireg.core.progress import Progress, ProgressEvent
from roireg.io import atomic_path
from roireg_bench.adapters import write_set
from roireg_bench.calibrate import calibrate as calibrated
from roireg_bench.cases import CaseFolder, choose_cases, find_folders
from roireg_bench.checks import check_folders
from roireg_bench.methods import METHODS, make_method
from roireg_bench.page import render_page
from roireg_bench.prompt_tables import PromptRow, plot_calibration, write_prompts
from roireg_bench.prompt_tables import markdown as prompts_page
from roireg_bench.prompts import METHODS as METHODS_OF_PROMPTS
from roireg_bench.prompts import SETS as SETS_OF_PROMPTS
from roireg_bench.prompts import measure as measure_prompts
from roireg_bench.quick import QUICK_METHODS, quick_cases
from roireg_bench.results import Row, read_rows
from roireg_bench.run import THUMBNAILS, run_benchmark
from roireg_bench.schema import schema as case_schema
from roireg_bench.schema import schema_text
from roireg_bench.speed import speed_page
from roireg_bench.studies import StudyRow, find_study, run_study, studies, write_study
from roireg_bench.studies.work import read_rows as read_study
from roireg_bench.studies.work import write_rows as write_rows_of_study
from roireg_bench.table import Table, markdown, summary_tables

__all__ = ["BenchJob", "adapt", "calibrate", "check", "page", "prompts", "run", "speed", "study"]

RESULTS = "results.csv"

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class BenchJob:
    """What to run; see the command's help."""

    data: Path
    methods: Sequence[str] | None
    patterns: Sequence[str] | None
    quick: bool
    limit: int | None
    out: Path
    jobs: int
    dask: str | None
    slurm: Path | None
    timeout: float | None
    retry_failed: bool
    resume: bool


def run(session: Session, job: BenchJob) -> Outcome:
    """Run the benchmark and write its results; see the command's help."""
    for option, names in (("--methods", job.methods), ("--filter", job.patterns)):
        if names is not None and not names:
            raise InputError(f"{option} expects names separated by commas, found none")
    if job.timeout is not None and not job.timeout > 0:
        raise InputError(f"--timeout is a number of seconds above 0, found {job.timeout:g}")
    folders = find_folders(job.data)
    if job.patterns:
        folders = choose_cases(folders, job.patterns)
    if job.quick:
        folders = quick_cases(folders)
    methods = [make_method(name) for name in job.methods or (QUICK_METHODS if job.quick else METHODS)]
    check_folder(job.out)
    threads = torch.get_num_threads()
    if (cores := os.cpu_count()) and job.jobs * threads > cores:
        session.note("note", f"{job.jobs} jobs of {threads} threads share {cores} cores; times will be long", "blue")
    # The processes of the methods inherit this; numpy's libraries look at it when they are loaded there.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    results = job.out / RESULTS
    try:
        with _listener(session) as listen:
            run_benchmark(
                folders,
                methods,
                results,
                threads=threads,
                jobs=job.jobs,
                limit=job.limit,
                timeout=job.timeout,
                retry_failed=job.retry_failed,
                anew=not job.resume,
                engine=_engine(job, threads),
                progress=listen,
            )
    except InputError:
        # Pairs that cannot be read do not take the table of the others with them.
        if results.is_file() and (rows := read_rows(results)):
            _written(session, rows, folders, job.out, _notes(job, threads))
        raise
    return _written(session, read_rows(results), folders, job.out, _notes(job, threads))


def _engine(job: BenchJob, threads: int) -> EngineOptions | None:
    """Return where pairs run that do not run here."""
    if job.dask is None and job.slurm is None:
        return None
    return EngineOptions(jobs=job.jobs if job.jobs > 1 else None, threads=threads, dask=job.dask, slurm=job.slurm)


def page(session: Session, out: Path, data: Path | None) -> Outcome:
    """Write table and page of earlier results; see the command's help."""
    results = out / RESULTS
    if not results.is_file():
        raise InputError(f"{out}: expected the folder of a benchmark, found no {RESULTS} in it")
    rows = read_rows(results)
    if not rows:
        raise InputError(f"{results}: the file holds no results yet; run `roireg bench DATA -o {out}`")
    notes = f"{datetime.now(UTC):%Y-%m-%d}, from {results.name}; rows of {', '.join(_days(rows))}"
    return _written(session, rows, [] if data is None else find_folders(data), out, notes)


def check(session: Session, data: Path | None, *, schema: bool) -> Outcome:
    """Validate case sets, or print the schema; see the command's help."""
    if schema:
        if not session.json:
            typer.echo(schema_text(), nl=False)
        return Outcome(case_schema())
    if data is None:
        raise InputError("name a case set or a folder of case sets, or ask for --schema")
    document = []
    for case_set in check_folders(data):
        for problem in case_set.problems:
            session.note("error", problem, "red")
        if not case_set.problems:
            session.say(f"{escape(case_set.name)}: {case_set.pairs} pairs, all files fit")
        document.append({"set": case_set.name, "pairs": case_set.pairs, "problems": case_set.problems})
    return Outcome({"sets": document}, 2 if any(entry["problems"] for entry in document) else 0)


def adapt(session: Session, layout: str, source: Path, out: Path, *, absolute: bool) -> Outcome:
    """Write a case set for a public layout; see the command's help."""
    check_folder(out)
    folder = write_set(layout, source, out, absolute=absolute)
    count = len(folder.content.pairs)
    session.say(f"{escape(str(out / 'pairs.json'))}: {count} pairs; check them with `roireg bench check`")
    return Outcome({"set": folder.content.name, "pairs": count, "file": out / "pairs.json"})


def calibrate(
    session: Session, data: Path, *, patterns: Sequence[str] | None, limit: int | None, out: Path
) -> Outcome:
    """Fit the probability of the verdict and write model and figures; see the command's help."""
    folders = find_folders(data)
    if patterns:
        folders = choose_cases(folders, patterns)
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    cases = [(folder, case) for folder in folders for case in folder.content.pairs[:limit]]
    model, figures = calibrated(cases, out, lambda text: session.say(escape(text)))
    for name, value in figures.items():
        session.say(f"{escape(name)}: {value:.3f}")
    files = [out / name for name in ("results.csv", "calibration.json", "calibration.png")]
    session.say("written: " + ", ".join(escape(str(file)) for file in files))
    return Outcome(
        {"figures": figures, "weights": dict(zip(model.names, model.weights, strict=True)), "files": files}
    )


def prompts(
    session: Session,
    data: Path,
    *,
    sets: Sequence[str] | None,
    methods: Sequence[str] | None,
    limit: int | None,
    out: Path,
    seed: int,
) -> Outcome:
    """Measure prompts and write their rows, tables and calibration; see the command's help."""
    names = list(METHODS_OF_PROMPTS if methods is None else methods)
    folders = find_folders(data, None if sets == ["all"] else sets or SETS_OF_PROMPTS)
    check_folder(out)
    rows: list[PromptRow] = []
    for folder in folders:
        for row in measure_prompts([folder], names, limit=limit, seed=seed):
            rows.append(row)
            session.say(escape(f"{row.set} {row.pair} {row.method}: {row.label}, Dice {row.dice:.2f}"))
        # After every set, so that a long run that is stopped has something to show.
        _write_prompts(rows, out)
    files = [out / name for name in ("prompts.csv", "prompts.md")]
    session.say("written: " + ", ".join(escape(str(file)) for file in files))
    return Outcome({"prompts": len(rows), "files": files})


def _write_prompts(rows: Sequence[PromptRow], out: Path) -> None:
    write_prompts(out / "prompts.csv", rows)
    notes = f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}, {torch.get_num_threads()} thread(s)\n\n{_versions()}"
    with atomic_path(out / "prompts.md") as temporary:
        temporary.write_text(prompts_page(rows, notes=notes), encoding="utf-8")
    if default := [row for row in rows if row.method == "default"]:
        plot_calibration(default, out / "calibration.png")


def study(
    session: Session,
    name: str | None,
    data: Path | None,
    *,
    sets: Sequence[str] | None,
    limit: int | None,
    out: Path,
    listed: bool,
) -> Outcome:
    """Run a study and write its rows, tables and plot, or list all; see the command's help."""
    if listed:
        known = {key: make() for key, make in studies().items()}
        for key, one in known.items():
            session.say(escape(f"{key}: {one.title}" + (f" ({one.source})" if one.source else "")))
        return Outcome({"studies": {key: one.title for key, one in known.items()}})
    if name is None or data is None:
        raise InputError("name a study and a folder of case sets, or ask for --list")
    chosen = find_study(name)
    folders = find_folders(data, sets)
    if sets is None and chosen.sets:
        own = [folder for folder in folders if folder.content.name in chosen.sets]
        if not own:
            there = ", ".join(folder.content.name for folder in folders)
            raise InputError(
                f"{data}: the study {chosen.name} runs on {', '.join(chosen.sets)}, found {there}; choose with --sets"
            )
        folders = own
    check_folder(out)
    kept = out / f"{chosen.name}.csv"
    known_rows = read_study(kept)
    rows: list[StudyRow] = []
    for row in run_study(chosen, folders, limit=limit, known=known_rows):
        rows.append(row)
        first = next((c for c in chosen.columns if c.key in row.values), None)
        shown = "" if first is None else f": {first.title} {row.values[first.key]:.{first.digits}f}"
        session.say(escape(f"{row.set} {row.pair} {row.variant}{shown}"))
        # After every row, with what earlier runs left: a long study that is stopped goes on where it was.
        done = {r.work for r in rows}
        write_rows_of_study(kept, [*rows, *(r for r in known_rows if r.work not in done)])
    files = write_study(chosen, rows, out, notes=_study_notes())
    session.say("written: " + ", ".join(escape(str(file)) for file in files))
    return Outcome({"rows": len(rows), "files": files})


def _study_notes() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}, {torch.get_num_threads()} thread(s)\n\n{_versions()}"


def speed(
    session: Session,
    out: Path | None,
    *,
    device: str,
    reference_size: int,
    reference_points: int,
    cpu_time: bool,
    whole_pair: bool,
) -> Outcome:
    """Measure networks, print the tables and write them; see the command's help."""
    if out is not None:
        check_file(out)
    text = speed_page(
        device=device,
        reference_size=reference_size,
        reference_points=reference_points,
        whole_pair=whole_pair,
        clock=process_time if cpu_time else perf_counter,
    )
    session.say(escape(text))
    if out is not None:
        with atomic_path(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return Outcome({"tables": text, "file": out})


# -- telling --------------------------------------------------------------------------------------


@contextmanager
def _listener(session: Session) -> Iterator[Progress]:
    """One bar on a terminal; elsewhere, and in logs, a line per row: a full run takes hours."""
    if sys.stderr.isatty():
        with session.progress() as listen:
            yield lambda e: listen(ProgressEvent("benchmark", e.fraction, f"{e.stage}: {e.detail}"))
    else:
        yield lambda e: session.say(escape(f"[{e.fraction:4.0%}] {e.stage}: {e.detail}"))


def _written(session: Session, rows: list[Row], folders: list[CaseFolder], out: Path, notes: str) -> Outcome:
    texts = {
        "table.md": markdown(rows, folders, heading="Benchmark", notes=notes),
        "index.html": render_page(rows, folders, thumbnails=out / THUMBNAILS, notes=notes),
    }
    for name, text in texts.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    tables = summary_tables(rows)
    for table in tables:
        session.say(_shown(table))
        for remark in table.remarks:
            session.say(escape(remark))
        session.say()
    files = [out / name for name in (RESULTS, *texts)]
    session.say("written: " + ", ".join(escape(str(file)) for file in files))
    statuses = [row.status for row in rows]
    counts = {status: statuses.count(status) for status in ("ok", "failed", "unavailable")}
    summary = [dict(zip(table.head, line, strict=False)) for table in tables[:1] for line in table.lines]
    return Outcome({"rows": counts, "methods": summary, "files": files})


def _shown(table: Table) -> RichTable:
    shown = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=table.caption, title_justify="left")
    # A terminal is narrow: versions are in the files.
    columns = [i for i, title in enumerate(table.head) if title != "version"]
    for i in columns:
        shown.add_column(escape(table.head[i]))
    for i, line in enumerate(table.lines):
        shown.add_row(*(escape(line[k]) for k in columns), style="bold" if i in table.ours else "")
    return shown


def _days(rows: Sequence[Row]) -> list[str]:
    return sorted({row.session[:10] for row in rows})


def _notes(job: BenchJob, threads: int) -> str:
    """Date, machine, versions and the command, as four lines."""
    options: list[str] = []
    for name, names in (("--methods", job.methods), ("--filter", job.patterns)):
        options += [name, ",".join(names)] if names is not None else []
    options += ["--quick"] if job.quick else []
    options += ["--limit", str(job.limit)] if job.limit is not None else []
    options += ["--timeout", f"{job.timeout:g}"] if job.timeout is not None else []
    command = ["roireg", "bench", str(job.data), *options, "--jobs", str(job.jobs), "--threads", str(threads)]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}, {threads} threads a run, {job.jobs} at once\n\n"
        f"{_versions()}\n\n"
        f"`{shlex.join([*command, '-o', str(job.out)])}`"
    )


def _versions() -> str:
    return (
        f"roireg {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, SimpleITK {sitk.Version_VersionString()}"
    )


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
