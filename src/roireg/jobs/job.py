"""What all jobs have in common: checks, provenance, an atomic result, and keeping one that is there already."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import roireg
from roireg.core.errors import InputError
from roireg.core.files import check_folder, intact_record, new_folder, write_json
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.jobs.files import check_input, parse_transform
from roireg.jobs.options import ASIDE, OutFolder, Resume, Words

__all__ = ["Job", "JobResult", "Work", "code_version", "plain"]


STAGES = {
    "loading": 3.0,
    "reading the files": 1.0,
    "encoding the images": 2.0,
    "finding regions": 3.0,
    "matching regions": 2.0,
    "matching slices": 1.0,
    "finding the start": 8.0,
    "pairing regions": 0.5,
    "finding where things lie": 4.0,
    "carrying prompts": 1.0,
    "fitting the deformation": 7.0,
    "judging the result": 1.0,
    "writing": 3.0,
}
"""Stages of the jobs in their order, with the seconds they take for a small pair: how far a run is."""


@dataclass(frozen=True)
class JobResult:
    """What a job hands back.

    Attributes
    ----------
    document : what the record in the result folder says, as plain JSON values.
    files : names of what was written, folders with a slash at the end.
    value : the value itself, such as a `roireg.Registration`; None where an earlier result was kept.
    resumed : True where an earlier result of the same inputs, options and code was kept.
    """

    document: Mapping[str, Any]
    files: tuple[str, ...]
    value: Any = None
    resumed: bool = False


@dataclass
class Work:
    """What a job has computed, before anything is written.

    Attributes
    ----------
    document : what the record is to say.
    write : writes everything but the record into an empty folder.
    value : see `JobResult`.
    notes : what did not work out beside the result; goes into the record.
    """

    document: Mapping[str, Any]
    write: Callable[[Path], None]
    value: Any = None
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def beside(self, file: Path) -> Iterator[Path]:
        """Make a picture or page beside the result: when that fails it is told, and the result is kept."""
        try:
            yield file
        except Exception as error:
            file.unlink(missing_ok=True)
            self.notes.append(f"{file.name} could not be made ({type(error).__name__}: {error})")


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """Paths and options of one run; fields without a value are None.

    Attributes
    ----------
    out : where the result goes.
    resume : keep a result of the same inputs, options and code that is there already.
    """

    record: ClassVar[str] = "result.json"
    names: ClassVar[tuple[str, ...]] = ()
    """Patterns of everything the job may write into its folder."""

    out: OutFolder
    resume: Resume = False

    @property
    def folder(self) -> Path:
        """The folder that the result goes into."""
        return self.out

    def inputs(self) -> dict[str, Path]:
        """Return the paths that are read, by field."""
        files = {}
        for name, (_, *marks) in _declared(type(self)).items():
            value = getattr(self, name)
            words = next((mark.words for mark in marks if isinstance(mark, Words)), None)
            if words is not None and value is not None and value not in words:
                value = parse_transform(value)[2]
            if isinstance(value, Path) and ASIDE not in marks:
                files[name] = value
        return files

    def arguments(self) -> dict[str, Any]:
        """Return the options, without what is not chosen, paths that are read, and what has no part in the result."""
        names = [name for name, marks in _declared(type(self)).items() if ASIDE not in marks]
        values = {name: getattr(self, name) for name in names}
        return {name: v for name, v in values.items() if v not in (None, False, []) and not isinstance(v, Path)}

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Return path and checksum of every input, and the options."""
        from roireg.io import sha256_of

        inputs: dict[str, dict[str, Any]] = {}
        for name, path in self.inputs().items():
            inputs[name] = {"path": str(path)}
            # The prefix of ANTs' files is no file of its own.
            if path.exists() or "::" in path.name:
                inputs[name]["sha256"] = sha256_of(path)
        return {"inputs": inputs, "arguments": self.arguments()}

    def check(self) -> None:
        """Refuse what can be seen to be wrong before anything is loaded or computed.

        Raises
        ------
        InputError
            When an input is not there, or an option is malformed or means nothing without another one.
        OutputError
            When the result cannot be written, or would replace what must stay.
        """
        for name, declared in _declared(type(self)).items():
            _check_words(name, getattr(self, name), *declared)
        for path in self.inputs().values():
            check_input(path)
        self.check_options()
        check_folder(self.folder, names=self.names, inputs=self.inputs().values(), record=self.record)

    @abstractmethod
    def check_options(self) -> None:
        """Refuse options that are malformed, or mean nothing without another one."""

    @abstractmethod
    def compute(self, progress: Progress) -> Work:
        """Read and compute everything; write nothing."""

    def run(self, progress: Progress = silent) -> JobResult:
        """Check, read, compute and write; nothing is written unless all of it succeeds.

        Raises
        ------
        RoiregError
            When an input is unsuitable or the output cannot be written.
        """
        self.check()
        stamp = _stamp(self)
        earlier = intact_record(self.folder, record=self.record) if self.resume else None
        if earlier is not None and earlier.get("stamp") == stamp:
            paths = _listed(earlier.pop("written"), self.record)
            del earlier["complete"]
            return JobResult(earlier, paths, resumed=True)
        progress(ProgressEvent("loading", 0.0))
        work = self.compute(progress)
        progress(ProgressEvent("writing", 0.0))
        document = {**work.document, "provenance": {**work.document.get("provenance", {}), **self.provenance}}
        with new_folder(self.folder, record=self.record) as folder:
            work.write(folder)
            if work.notes:
                document["notes"] = work.notes
            document = plain(document | {"stamp": stamp})
            write_json(folder / self.record, document)
            files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        return JobResult(document, _listed(files, self.record), work.value)


def _listed(files: Any, record: str) -> tuple[str, ...]:
    """Return the top level of relative names, folders with a slash."""
    return tuple(sorted({f"{name.split('/')[0]}/" if "/" in name else name for name in (*files, record)}))


@cache
def _declared(job: type[Job]) -> dict[str, tuple[Any, ...]]:
    """Return the type of every field and what is noted beside it."""
    hints = get_type_hints(job, include_extras=True)
    return {f.name: get_args(hints[f.name]) for f in fields(job)}


def _check_words(name: str, value: Any, kind: Any, *marks: Any) -> None:
    """Refuse what is none of the words that a field takes; the command line knows some of them, Python does not."""
    # What `typer` takes first is the name of an option.
    names = [mark.default for mark in marks if str(getattr(mark, "default", "")).startswith("--")]
    option = names[0] if names else f"--{name.replace('_', '-')}"
    literals = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    if literals and value is not None and value not in get_args(literals[0]):
        raise InputError(f"{option} is {' or '.join(get_args(literals[0]))}, found {value!r}")
    for words in (mark.words for mark in marks if isinstance(mark, Words)):
        if value is None or value in words or Path(value).exists() or Path(value).suffix or Path(value).name != value:
            continue
        raise InputError(f"{option} is {', '.join(words)} or the file of a transform, found {value!r}")


def _stamp(job: Job) -> str:
    """Return a checksum of all that decides a result: contents of inputs, options, and code; not where files lie."""
    sums = {name: entry.get("sha256", entry["path"]) for name, entry in job.provenance["inputs"].items()}
    content = [type(job).__name__, code_version(), sums, job.provenance["arguments"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def code_version() -> str:
    """Return the version of the package with a checksum of its sources, which change between releases."""
    root = Path(roireg.__file__).parent
    total = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if place.parts[0] not in ("app", "synth"):
            total.update(f"{place.as_posix()}\0".encode() + file.read_bytes())
    return f"{roireg.__version__}+{total.hexdigest()[:8]}"


def plain(value: Any) -> Any:
    """Return plain JSON values: paths as text, tuples and arrays as lists, numbers that are not finite as None.

    Raises
    ------
    TypeError
        When a value has no such form.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and torch
        return plain(value.tolist())
    if isinstance(value, str | int | bool) or value is None:
        return value
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")
