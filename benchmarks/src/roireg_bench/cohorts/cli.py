"""``bench cohort``: the commands of the trials; what they do is imported when one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roireg.app.console import Outcome, Session, command

__all__ = ["cohort_app"]

cohort_app = typer.Typer(
    name="cohort",
    no_args_is_help=True,
    add_completion=False,
    help="What cohorts cost, how they scale, what survives failures, and what a template brings.",
)

Folder = Annotated[Path | None, typer.Option("--out", "-o", help="Folder that stays; a temporary one if left out.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Pairs at once.")]


@command(cohort_app, "overhead", example="    roireg bench cohort overhead --pairs 10000")
def overhead(
    session: Session,
    *,
    pairs: Annotated[int, typer.Option(min=200, help="Pairs that do nothing.")] = 10000,
    jobs: Jobs = 2,
    out: Folder = None,
) -> Outcome:
    """Measure what a pair costs beside its work: one at a time, and several at once on Dask."""
    from roireg_bench.cohorts.trials import overhead_page

    return _said(session, overhead_page(out, pairs=pairs, at_once=(1, jobs) if jobs > 1 else (1,)))


@command(cohort_app, "scaling", example="    roireg bench cohort scaling --pairs 100 --jobs 2")
def scaling(
    session: Session,
    *,
    pairs: Annotated[int, typer.Option(min=2, help="Generated pairs.")] = 60,
    jobs: Jobs = 2,
    out: Folder = None,
) -> Outcome:
    """Measure how the time of a cohort falls from one worker to several."""
    from roireg_bench.cohorts.trials import scaling_page

    return _said(session, scaling_page(out, pairs=pairs, at_once=(1, jobs)))


@command(cohort_app, "chaos", example="    roireg bench cohort chaos --pairs 200 --disk /mnt/small -o out/chaos")
def chaos(
    session: Session,
    *,
    pairs: Annotated[int, typer.Option(min=10, help="Generated pairs.")] = 200,
    jobs: Jobs = 2,
    every: Annotated[float, typer.Option(min=0.5, help="Mean seconds between two kills.")] = 8.0,
    disk: Annotated[
        Path | None,
        typer.Option(help="Folder of a small file system of its own for the results, such as a tmpfs; filled once."),
    ] = None,
    out: Folder = None,
) -> Outcome:
    """Kill workers, stop the scheduler, press Ctrl-C, fill the disk; compare with an undisturbed run. Linux only."""
    from roireg_bench.cohorts.trials import chaos_page

    def say(text: str) -> None:
        session.note("note", text, "blue")

    return _said(session, chaos_page(out, pairs=pairs, at_once=jobs, every=every, disk=disk, say=say))


@command(cohort_app, "atlas", example="    roireg bench cohort atlas subjects.csv -o out/atlas")
def atlas(
    session: Session,
    table: Annotated[Path, typer.Argument(help="Images with labels: the table that `roireg template` takes.")],
    *,
    config: Annotated[Path | None, typer.Option(help="Settings of all registrations.")] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Rounds of the template.")] = 4,
    jobs: Jobs = 1,
    out: Folder = None,
) -> Outcome:
    """Tell whether a template carries labels better than the best of its images. Hours for tens of images."""
    from roireg.app.cohort import far
    from roireg_bench.cohorts.trials import atlas_page

    with far(session) as progress:
        text = atlas_page(table, out, config=config, at_once=jobs, iterations=iterations, progress=progress)
    return _said(session, text)


def _said(session: Session, text: str) -> Outcome:
    from roireg.app.summary import escape

    session.say(escape(text))
    return Outcome({"table": text})
