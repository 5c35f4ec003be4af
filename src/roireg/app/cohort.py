"""What is printed about many registrations: their progress, and how they ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.markup import escape

from roireg.app.console import Outcome, Session
from roireg.app.progress import time_left
from roireg.cohort import CohortResult, TemplateJob

__all__ = ["EXIT_NOT_ALL", "far", "say_cohort", "say_template"]

EXIT_NOT_ALL = 3

COLOURS = {"ok": "green", "uncertain": "yellow"}

EVERY = 60.0
"""Seconds between two lines of a log."""


@contextmanager
def far(session: Session) -> Iterator[Callable[[Any], None]]:
    """Yield a listener that draws a bar on a terminal, and writes a line a minute into a log."""
    said = time.monotonic()
    with session.progress() as listen:

        def hear(event: Any) -> None:
            nonlocal said
            listen(event)
            if not event.notice and not sys.stderr.isatty() and time.monotonic() - said > EVERY:
                said = time.monotonic()
                if not session.quiet:
                    session.note("note", event.detail + time_left(session.seconds, event.fraction), "blue")

        yield hear


def say_cohort(session: Session, result: CohortResult, *, strict: bool, page: str | None) -> Outcome:
    """Print how many pairs ended in which way, and where to look: the page, or without one the only pair."""
    counts = ", ".join(
        f"[bold {COLOURS.get(state, 'red')}]{count} {state}[/]" for state, count in reversed(result.counts.items())
    )
    session.say(f"{len(result.pairs)} pairs: {counts}, {session.seconds:.1f} s")
    if result.left:
        session.note("stopped", result.left, "red")
    for pair in result.pairs if page is None else ():
        for why in [pair["cause"]] if pair.get("cause") else pair.get("reasons", ()):
            session.say(f"  - {escape(why)}")
    where = result.pairs[0]["folder"] if page is None else page
    session.say(f"written: {escape(str(result.out / where))}")
    well = result.went_well(strict=strict)
    document = {"out": result.out, "counts": result.counts, "left": result.left, "pairs": result.pairs}
    return Outcome(document, 0 if well else EXIT_NOT_ALL)


def say_template(session: Session, job: TemplateJob, result: CohortResult) -> Outcome:
    """Print how far the mean moved from round to round, and where it is."""
    from roireg.cohort.template_running import movement

    outcome = say_cohort(session, result, strict=job.strict, page=f"rounds/{job.iterations}/index.html")
    moved = movement(job.out, job.iterations)
    session.say(f"the mean moved by {', '.join(f'{mm:.2f}' for mm in moved)} mm from round to round")
    session.say(f"written: {escape(str(job.out / 'template.nii.gz'))}")
    # A template without some of its images is one.
    code = 0 if not result.left and not job.strict else outcome.exit_code
    return Outcome({**outcome.document, "moved_mm": moved}, code)
