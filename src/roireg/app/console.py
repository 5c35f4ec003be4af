"""What every command shares: the common options, errors as one line, progress, and one JSON document.

Imports nothing heavy, so that ``roireg --help`` is immediate.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from roireg.core.errors import InputError, RoiregError

__all__ = ["Outcome", "Session", "command"]

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.", rich_help_panel="Common")
]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Say more on stderr; -vv says all.", rich_help_panel="Common"),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Common")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Number of CPU threads; all cores by default.", rich_help_panel="Common"),
]


@dataclass(frozen=True)
class Outcome:
    """What a command hands back.

    Attributes
    ----------
    document : the answer for ``--json``.
    exit_code : 0 for success, 3 for a result that must not be used.
    """

    document: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


@dataclass(frozen=True)
class Session:
    """How one run of a command talks: text on stdout unless JSON is wanted, everything else on stderr."""

    json: bool = False
    verbose: int = 0
    debug: bool = False

    def say(self, what: RenderableType = "") -> None:
        """Print for people, on stdout; nothing with ``--json``. Text is taken as rich markup."""
        if not self.json:
            Console(highlight=False, soft_wrap=isinstance(what, str)).print(what)

    def note(self, kind: str, text: str, colour: str) -> None:
        """Print one line ``kind: text`` on stderr."""
        typer.secho(f"{kind}: ", fg=colour, bold=True, err=True, nl=False)
        typer.echo(" ".join(str(text).split()), err=True)

    def notice(self, event: Any) -> None:
        """Print what a progress event wants everybody to know."""
        self.note("note", f"{event.stage}: {event.detail}", "blue")

    @contextmanager
    def progress(self) -> Iterator[Callable[[Any], None]]:
        """Yield a listener for progress events that draws one bar per stage on a terminal.

        Elsewhere the stages are printed as lines with ``-v``; notices always.
        """
        if not sys.stderr.isatty():
            yield _StageLines(self)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=not self.verbose) as bars:
            tasks: dict[str, TaskID] = {}

            def listen(event: Any) -> None:
                if event.notice:
                    self.notice(event)
                    return
                if event.stage not in tasks:
                    tasks[event.stage] = bars.add_task(event.stage, total=1.0, detail="")
                bars.update(tasks[event.stage], completed=event.fraction, detail=event.detail)

            yield listen


class _StageLines:
    """Progress for logs: notices, and with ``-v`` one line when a stage begins."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.stage = ""

    def __call__(self, event: Any) -> None:
        if event.notice:
            self.session.notice(event)
        elif event.stage != self.stage and self.session.verbose:
            self.stage = event.stage
            self.session.note("stage", event.stage, "blue")


def command(app: typer.Typer, name: str, *, example: str, **settings: Any) -> Callable[[Callable[..., Outcome]], Any]:
    """Make a function ``f(session, ...) -> Outcome`` a command of `app`.

    Its docstring becomes the help text, followed by `example`; ``--json``, ``-v``, ``--debug`` and ``--threads`` are
    added to its options. Errors a user can cause end as one line on stderr and exit code 2.
    """

    def decorate(function: Callable[..., Outcome]) -> Any:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        common: dict[str, tuple[Any, Any]] = {
            "json_output": (JsonFlag, False),
            "verbose": (Verbose, 0),
            "debug": (Debug, False),
        }
        common["threads"] = (Threads, None)
        extra = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in common.items()
        ]

        @wraps(function)
        def run(**values: Any) -> None:
            session = Session(values.pop("json_output"), values.pop("verbose"), values.pop("debug"))
            threads = values.pop("threads")
            code = _guarded(session, threads, lambda: function(session, **values))
            if code:
                raise typer.Exit(code)

        run.__signature__ = inspect.Signature([*own, *extra])  # type: ignore[attr-defined]
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        lines = "\n".join(f"  {line}" for line in inspect.cleandoc(example).splitlines())
        # The backspace keeps the line breaks of a paragraph.
        app.command(name, help=f"{text}\n\n\b\nExample:\n{lines}", **settings)(run)
        return function

    return decorate


def _guarded(session: Session, threads: int | None, body: Callable[[], Outcome]) -> int:
    """Run a command's body; return its exit code, errors turned into one line each."""
    try:
        with _log_lines(session), _header_warnings(session):
            if threads is not None:
                _limit_threads(threads)
            outcome = body()
    except RoiregError as error:
        return _failed(session, str(error), error.exit_code)
    except MemoryError:
        return _failed(session, _OUT_OF_MEMORY, 2)
    except KeyboardInterrupt:
        session.note("stopped", "interrupted", "yellow")
        return 130
    except RuntimeError as error:
        # torch has a class of its own for a full GPU, and a plain RuntimeError for a full main memory.
        if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):
            return _failed(session, _OUT_OF_MEMORY, 2)
        raise
    except OSError as error:
        return _failed(session, f"{error.filename or 'the file system'}: {error.strerror or error}", 2)
    if session.json:
        typer.echo(json.dumps(plain(outcome.document), indent=2, allow_nan=False))
    return outcome.exit_code


_OUT_OF_MEMORY = (
    "the memory of this device is full; use a smaller or coarser image, close other programs, or choose another "
    "device with --device cpu"
)


def _failed(session: Session, text: str, code: int) -> int:
    if session.debug:
        typer.echo(traceback.format_exc(), err=True)
    session.note("error", text, "red")
    if session.json:
        typer.echo(json.dumps({"error": " ".join(text.split()), "exit_code": code}))
    return code


@contextmanager
def _header_warnings(session: Session) -> Iterator[None]:
    """Show the warnings about headers as one line each; leave all others to Python."""
    from roireg.io import HeaderWarning

    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, HeaderWarning):
            session.note("warning", str(message), "yellow")
        else:
            usual(message, category, *rest, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", HeaderWarning)
        warnings.showwarning = show
        yield


def _limit_threads(threads: int) -> None:
    import SimpleITK
    import torch

    torch.set_num_threads(threads)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


@contextmanager
def _log_lines(session: Session) -> Iterator[None]:
    """Show what the package logs on stderr, as much as ``-v`` asks for."""
    log = logging.getLogger("roireg")
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    level = log.level
    log.addHandler(handler)
    log.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(session.verbose, 2)])
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def plain(value: Any) -> Any:
    """Return plain JSON values: paths as text, tuples and arrays as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and torch
        return plain(value.tolist())
    if isinstance(value, str | int | bool) or value is None:
        return value
    raise InputError(f"a value of type {type(value).__name__} cannot be written as JSON")
