"""What every command shares: the common options, errors as one line, progress, and one JSON document.

Imports nothing heavy, so that ``roireg --help`` is immediate.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from typer.core import TyperGroup

from roireg.app.progress import bar
from roireg.app.streams import Terminal, silence
from roireg.core.errors import HeaderWarning, InputError, OutputError, RoiregError
from roireg.core.files import extension_of
from roireg.jobs.files import FILES, check_input
from roireg.jobs.job import STAGES, FolderJob, Job, JobResult, plain

__all__ = ["Outcome", "Session", "command", "plain"]

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.", rich_help_panel="Common")
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="Say more on stderr; -vv says all.",
        rich_help_panel="Common",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Common")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors and warnings alone.", rich_help_panel="Common")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Number of CPU threads; all cores by default.", rich_help_panel="Common"),
]
AllowRemote = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HOST",
        help="Another computer that the --model may send images to; repeatable.",
        rich_help_panel="Network",
    ),
]


@dataclass(frozen=True)
class Outcome:
    """What a command hands back.

    Attributes
    ----------
    document : the answer for ``--json``.
    exit_code : 0 for success, 3 for a result that must not be used.
    printed : the result is what is printed; there is no file of it.
    """

    document: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0
    printed: bool = False


@dataclass(frozen=True)
class Session:
    """How one run of a command talks: text on stdout unless JSON is wanted, everything else on stderr."""

    json: bool = False
    verbose: int = 0
    debug: bool = False
    quiet: bool = False
    started: float = field(default_factory=time.perf_counter)
    unheard: list[OSError] = field(default_factory=list)
    """Why stdout cannot be written, if so."""

    @property
    def seconds(self) -> float:
        """Seconds for which the command has run, wall-clock time."""
        return time.perf_counter() - self.started

    def run(self, job: Job) -> JobResult:
        """Run a job, show its progress, and report what failed beside its result."""
        with self.progress(STAGES) as progress:
            result = job.run(progress)
        if result.resumed:
            self.note("note", f"{job.out}: kept the result of the same inputs, options and version", "blue")
        for note in result.document.get("notes", ()):
            self.note("warning", note, "yellow")
        return result

    def say(self, what: RenderableType = "") -> None:
        """Print for people, on stdout; nothing with ``--json`` or ``-q``. Text is taken as rich markup."""
        if not self.json and not self.quiet:
            self._print(lambda: Terminal(highlight=False, soft_wrap=isinstance(what, str)).print(what))

    def say_json(self, document: Any) -> None:
        """Print a document for programs, on stdout."""
        self._print(lambda: typer.echo(json.dumps(plain(document), indent=2, allow_nan=False)))

    def _print(self, action: Callable[[], None]) -> None:
        if self.unheard:
            return
        try:
            action()
        except OSError as error:
            self.unheard.append(error)
            silence(sys.stdout)

    def note(self, kind: str, text: str, colour: str) -> None:
        """Print one line ``kind: text`` on stderr."""
        try:
            typer.secho(f"{kind}: ", fg=colour, bold=True, err=True, nl=False)
            typer.echo(_one_line(text), err=True)
        except OSError:
            # There is nobody left to tell.
            silence(sys.stderr)

    def notice(self, event: Any) -> None:
        """Print the notice of a progress event."""
        if not self.quiet:
            self.note("note", f"{event.stage}: {event.detail}", "blue")

    @contextmanager
    def progress(self, shares: Mapping[str, float] | None = None) -> Iterator[Callable[[Any], None]]:
        """Yield a listener for progress events that draws one bar on a terminal.

        Elsewhere the stages are printed as lines with ``-v``; notices unless ``-q`` is given.

        Parameters
        ----------
        shares : see `roireg.app.progress.Position`.
        """
        if self.quiet or not sys.stderr.isatty():
            yield _StageLines(self)
            return
        with bar(shares or {}, seconds=lambda: self.seconds, notice=self.notice, keep=bool(self.verbose)) as listen:
            yield listen


def _one_line(text: object) -> str:
    """Return a text on one line, what somebody repeated in it for pages cut to its ends."""
    words = str(text).split()
    return " ".join(w if len(w) <= _LONGEST_WORD else f"{w[:200]}...{w[-100:]}" for w in words)


_LONGEST_WORD = 600
"""Paths are shorter."""


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

    Its docstring becomes the help text, followed by `example`. Its options are its parameters, or the fields of a
    dataclass that is its only parameter: each a type with what `typer` needs to know. Such a dataclass has a method
    `check`, which is called first. ``--json``, ``-v``, ``-q``, ``--debug`` and ``--threads`` are added, and
    ``--allow-remote`` where there is a ``--model``. Errors a user can cause end as one line on stderr and exit code
    2.
    """

    def decorate(function: Callable[..., Outcome]) -> Any:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        options = own[0].annotation if len(own) == 1 and is_dataclass(own[0].annotation) else None
        common: dict[str, tuple[Any, Any]] = {
            "json_output": (JsonFlag, False),
            "verbose": (Verbose, 0),
            "quiet": (Quiet, False),
            "debug": (Debug, False),
            "threads": (Threads, None),
        }
        parameters = (
            [_parameter(p.name, p.annotation, p.default) for p in own] if options is None else _parameters(options)
        )
        taken = {parameter.name for parameter in parameters}
        common = {key: value for key, value in common.items() if key not in taken}
        if "model" in taken:
            common["allow_remote"] = (AllowRemote, None)
        extra = [_parameter(key, kind, default) for key, (kind, default) in common.items()]

        @wraps(function)
        def run(**values: Any) -> None:
            general = {key: values.pop(key) for key in common}
            started = values.pop("context").obj or time.perf_counter()
            session = Session(general["json_output"], general["verbose"], general["debug"], general["quiet"], started)

            def body() -> Outcome:
                filled: Any = None if options is None else _filled(options, values)
                if options is not None:
                    # Before the function imports what takes a second to load.
                    if isinstance(filled, FolderJob) and filled.folder == filled.out:
                        _check_folder_name(filled.out)
                    filled.check()
                for host in general.get("allow_remote") or ():
                    from roireg.models import allow_remote

                    allow_remote(host)
                return function(session, **values) if options is None else function(session, filled)

            code = _guarded(session, general.get("threads"), body)
            if code:
                raise typer.Exit(code)

        extra.append(_parameter("context", typer.Context, inspect.Parameter.empty))
        run.__signature__ = inspect.Signature([*parameters, *extra])  # type: ignore[attr-defined]
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        lines = "\n".join(f"  {line}" for line in inspect.cleandoc(example).splitlines())
        # The backspace keeps the line breaks of a paragraph.
        app.command(name, help=f"{text}\n\n\b\nExample:\n{lines}", **settings)(run)
        return function

    return decorate


def _check_folder_name(out: Path) -> None:
    """Refuse the name of a file for a new folder: whoever writes one expects that file, as of other programs."""
    ending = extension_of(out)
    if ending in FILES and not out.exists():
        raise OutputError(
            f"{out}: --out names a folder, which several files are written into; leave out {ending}, as in "
            f"-o {out.name[: -len(ending)]}"
        )


BY_NAME = "_by_name"
"""Ending of the parameter for an argument that may be given by name as well."""


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """Return a parameter; arguments are called by their names in capitals, and flags have no value to name."""
    if get_args(kind) and isinstance(mark := get_args(kind)[-1], typer.models.ParameterInfo) and mark.metavar is None:
        argument = isinstance(mark, typer.models.ArgumentInfo)
        mark.metavar = (
            name.upper() if argument else "" if get_args(kind)[0] is bool or getattr(mark, "count", False) else None
        )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _parameters(options: Any) -> list[inspect.Parameter]:
    """Return a parameter for every field of a dataclass; two for an argument that is an option, too."""
    hints = get_type_hints(options, include_extras=True)
    parameters = []
    for each in fields(options):
        kind, *marks = get_args(hints[each.name])
        argument = [m for m in marks if isinstance(m, typer.models.ArgumentInfo)]
        option = [m for m in marks if isinstance(m, typer.models.OptionInfo)]
        default = inspect.Parameter.empty if each.default is MISSING else each.default
        if argument and option:
            parameters.append(_parameter(each.name, Annotated[kind | None, argument[0]], None))
            parameters.append(_parameter(each.name + BY_NAME, Annotated[kind | None, option[0]], None))
        else:
            parameters.append(_parameter(each.name, Annotated[kind, (argument + option)[0]], default))
    return parameters


def _filled(options: Any, values: dict[str, Any]) -> Any:
    """Make the dataclass; what is given by its place goes to those arguments, in order, that are not named."""
    both = [name.removesuffix(BY_NAME) for name in values if name.endswith(BY_NAME)]
    placed = [values.pop(name) for name in both]
    placed = [value for value in placed if value is not None]
    for name in both:
        value = values.pop(name + BY_NAME)
        if value is None and not placed:
            raise InputError(f"{name.upper()} is missing; give it in its place or with --{name}")
        values[name] = placed.pop(0) if value is None else value
    if placed:
        raise InputError(f"{placed[0]}: there is no place for this argument, {' and '.join(both)} are named already")
    return options(**values)


class Program(TyperGroup):
    """The program as a whole: mistakes in its usage are one line like all others."""

    def main(self, args: Any = None, prog_name: Any = None, *, standalone_mode: bool = True, **more: Any) -> Any:  # type: ignore[override]
        try:
            code = super().main(args, prog_name, standalone_mode=False, **more)
        except UsageError as error:
            if type(error).__name__ != "NoArgsIsHelpError":  # which has printed the help
                Session().note("error", _mistake(error), "red")
            code = error.exit_code
        except typer.Abort:
            code = 130
        except OSError as error:  # of the help
            session = Session()
            session.note("error", f"standard output cannot be written ({error.strerror})", "red")
            silence(sys.stdout)
            code = 2
        if standalone_mode:
            sys.exit(code)
        return code


def _mistake(error: Any) -> str:
    """Return a mistake in the usage in one line."""
    program = error.ctx.command_path if error.ctx else "roireg"
    if type(error).__name__ == "MissingParameter" and error.ctx:
        return _missing(error.ctx)
    text = error.format_message().rstrip(".").replace("Value error, ", "")
    text = re.sub("^Invalid value for '([^']*)'", r"\1", text)
    return f"{text}{'' if text.endswith('?') else ';'} `{program} --help` lists all options"


def _missing(context: Any) -> str:
    """Return that a named file is not there, or else what must be named, and how."""
    params, values = context.command.params, context.params
    both = [p.name.removesuffix(BY_NAME) for p in params if p.name.endswith(BY_NAME)]
    for each in params:
        path = values.get(each.name)
        read = each.name != "out" and (each.param_type_name == "argument" or each.name.endswith(BY_NAME))
        if read and isinstance(path, Path):
            try:
                check_input(path)
            except InputError as error:
                return str(error)
    placed = sum(values.get(name) is not None for name in both)
    missing = [name.upper() for name in both if values.get(name + BY_NAME) is None][placed:]
    missing += [p.metavar or p.opts[0] for p in params if p.required and values.get(p.name) is None]
    example = context.command.help.partition("Example:\n")[2].splitlines()[0].strip()
    return f"missing: {', '.join(missing)}; write it as in `{example}`; `{context.command_path} --help` says more"


UsageError: Any = typer.BadParameter.__base__


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
        session.say_json(outcome.document)
    if session.unheard and not isinstance(session.unheard[0], BrokenPipeError):
        reason = f"standard output cannot be written ({session.unheard[0].strerror})"
        if outcome.printed:
            return _failed(session, f"{reason}; direct it to another place", 2)
        session.note("warning", f"{reason}; the result itself is complete", "yellow")
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
        session.say_json({"error": _one_line(text), "exit_code": code})
    return code


@contextmanager
def _header_warnings(session: Session) -> Iterator[None]:
    """Show the warnings about headers as one line each; leave all others to Python."""
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
    """Limit the threads of the libraries that compute: they read these variables when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    os.environ.update(dict.fromkeys(names, str(threads)))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    if itk := sys.modules.get("SimpleITK"):
        itk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


@contextmanager
def _log_lines(session: Session) -> Iterator[None]:
    """Show what the package logs on stderr, as much as ``-v`` asks for."""
    # Where there is no home folder matplotlib keeps its list of fonts elsewhere, and says so in three lines.
    logging.getLogger("matplotlib").setLevel(logging.WARNING if session.verbose else logging.ERROR)
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
