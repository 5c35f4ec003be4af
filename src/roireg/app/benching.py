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

import numpy as np
import SimpleITK as sitk
import torch
import typer
from rich.table import Table as RichTable

from roireg import __version__
from roireg.app.console import Outcome, Session
from roireg.app.outputs import check_folder
from roireg.app.summary import escape
from roireg.bench import (
    METHODS,
    CaseFolder,
    Row,
    choose_cases,
    find_folders,
    make_method,
    markdown,
    quick_cases,
    read_rows,
    render_page,
    run_benchmark,
    schema_text,
    write_set,
)
from roireg.bench import schema as case_schema
from roireg.bench.cases import check_folders
from roireg.bench.quick import QUICK_METHODS
from roireg.bench.run import THUMBNAILS
from roireg.bench.table import Table, summary_tables
from roireg.core.errors import InputError
from roireg.core.progress import Progress, ProgressEvent
from roireg.io import atomic_path

__all__ = ["BenchJob", "adapt", "check", "page", "run"]

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
                progress=listen,
            )
    except InputError:
        # Pairs that cannot be read do not take the table of the others with them.
        if results.is_file() and (rows := read_rows(results)):
            _written(session, rows, folders, job.out, _notes(job, threads))
        raise
    return _written(session, read_rows(results), folders, job.out, _notes(job, threads))


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
    for found in check_folders(data):
        for problem in found.problems:
            session.note("error", problem, "red")
        if not found.problems:
            session.say(f"{escape(found.name)}: {found.pairs} pairs, all files fit")
        document.append({"set": found.name, "pairs": found.pairs, "problems": found.problems})
    return Outcome({"sets": document}, 2 if any(entry["problems"] for entry in document) else 0)


def adapt(session: Session, layout: str, source: Path, out: Path, *, absolute: bool) -> Outcome:
    """Write a case set for a public layout; see the command's help."""
    check_folder(out)
    folder = write_set(layout, source, out, absolute=absolute)
    count = len(folder.content.pairs)
    session.say(f"{escape(str(out / 'pairs.json'))}: {count} pairs; check them with `roireg bench check`")
    return Outcome({"set": folder.content.name, "pairs": count, "file": out / "pairs.json"})


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
    kept = [i for i, title in enumerate(table.head) if title != "version"]
    for i in kept:
        shown.add_column(escape(table.head[i]))
    for i, line in enumerate(table.lines):
        shown.add_row(*(escape(line[k]) for k in kept), style="bold" if i in table.ours else "")
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
    versions = (
        f"roireg {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, SimpleITK {sitk.Version_VersionString()}"
    )
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {threads} threads a run, {job.jobs} at once\n\n{versions}\n\n"
        f"`{shlex.join([*command, '-o', str(job.out)])}`"
    )
