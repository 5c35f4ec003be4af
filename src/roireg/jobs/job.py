"""What all jobs have in common: checks, provenance, atomic results, and keeping an earlier result."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import roireg
from roireg.core.devices import check_device
from roireg.core.errors import InputError
from roireg.core.files import check_file, check_folder, intact_record, mark_written, new_folder, write_json
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.jobs.files import (
    ants_files,
    check_image,
    check_input,
    check_points,
    check_transform,
    parse_transform,
)
from roireg.jobs.names import Known
from roireg.jobs.options import ASIDE, OutFolder, Resume, Words

__all__ = ["FolderJob", "Job", "JobResult", "Work", "check_words", "code_version", "plain"]

CHECKS: dict[str, Callable[[Path], None]] = {
    **dict.fromkeys(("fixed", "moving", "image", "reference", "labels", "rois", "mask"), check_image),
    **dict.fromkeys(("points", "prompts"), check_points),
    **dict.fromkeys(("transform", "truth", "init"), check_transform),
}
"""How files are looked at before torch is loaded, by the last word of the field, whatever the job."""

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
    files : names of what was written into the folder of a `FolderJob`, folders with a slash at the end.
    value : the value itself, such as a `roireg.Registration`; None where an earlier result was kept.
    resumed : True where an earlier result of the same inputs, options and code was kept.
    """

    document: Mapping[str, Any]
    files: tuple[str, ...] = ()
    value: Any = None
    resumed: bool = False


@dataclass
class Work:
    """What a job has computed, before anything is written.

    Attributes
    ----------
    document : what the record is to say.
    write : writes the file, or everything but the record into an empty folder.
    value : see `JobResult`.
    notes : what did not work out beside the result, or should be known about it; goes into the document.
    """

    document: Mapping[str, Any]
    write: Callable[[Path], None]
    value: Any = None
    notes: list[str] = field(default_factory=list)

    @property
    def remarks(self) -> dict[str, list[str]]:
        """The notes as a part of the document, if there are any."""
        return {"notes": self.notes} if self.notes else {}

    @contextmanager
    def beside(self, file: Path) -> Iterator[Path]:
        """Make a picture or page beside the result; if that fails, a note says so and the result is kept."""
        try:
            yield file
        except Exception as error:
            file.unlink(missing_ok=True)
            self.notes.append(
                f"{file.name} could not be made ({type(error).__name__}: {error}); the result itself is written"
            )


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """Paths and options of a run that writes one file; options that are not set are None."""

    if TYPE_CHECKING:
        out: Path | None
        """Where the result goes; every job declares it in its place among the options."""
        replace: bool = False
        """Whether a file of others may be replaced; declared by the jobs that write one."""

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

    def input_files(self) -> list[Path]:
        """Return the paths that are read; of the prefix of ANTs' files, which is no file of its own, those files."""
        return [file for path in self.inputs().values() for file in (ants_files(path) or [path])]

    def check(self) -> None:
        """Refuse what is visibly wrong before anything is loaded or computed.

        Raises
        ------
        InputError
            When an input is not there, or an option is malformed or means nothing without another one.
        OutputError
            When the result cannot be written, or would replace what must stay.
        """
        check_words(self)
        for name, path in self.inputs().items():
            check_input(path)
            if (look := CHECKS.get(name.split()[0].split("_")[-1])) is not None:
                look(path)
        self.check_options()
        self.check_place()

    def check_place(self) -> None:
        """Refuse a place that cannot be written, or not without losing other files."""
        if self.out is not None:
            check_file(self.out, inputs=self.input_files(), replace=self.replace)

    @abstractmethod
    def check_options(self) -> None:
        """Refuse options that are malformed, or that mean nothing without another one."""

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
        work = self._computed(progress)
        work.write(self.out or Path())
        for file in map(Path, work.document.get("written", () if self.out is None else (self.out,))):
            if file.is_file():
                mark_written(file)
        return JobResult(plain({**work.document, **work.remarks}), value=work.value)

    def _computed(self, progress: Progress) -> Work:
        progress(ProgressEvent("loading", 0.0))
        work = self.compute(progress)
        progress(ProgressEvent("writing", 0.0))
        return work


@dataclass(frozen=True, kw_only=True)
class FolderJob(Job):
    """A job that writes a folder with a record, by which the result is recognised later.

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

    def arguments(self) -> dict[str, Any]:
        """Return the options that were given, without input paths and what does not affect the result."""
        names = [name for name, marks in _declared(type(self)).items() if ASIDE not in marks]
        values = {name: getattr(self, name) for name in names}
        return {name: v for name, v in values.items() if v not in (None, False, []) and not isinstance(v, Path)}

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Return path and checksum of every input, and the options."""
        from roireg.io import sha256_of

        inputs = {}
        for name, path in self.inputs().items():
            digest = " ".join(sha256_of(file) for file in ants_files(path) or [path])
            inputs[name] = {"path": str(path), "sha256": digest}
        return {"inputs": inputs, "arguments": self.arguments()}

    def network(self) -> str | None:
        """Return the name or path of the network that has a part in the result."""
        return None

    def stage_weights(self) -> list[str]:
        """Return the files of trained networks that stages of the settings use."""
        return []

    def stamp(self) -> str:
        """Return a checksum of what decides the result: contents of inputs, options, code; not where files lie."""
        sums = {name: entry["sha256"] for name, entry in self.provenance["inputs"].items()}
        content = [type(self).__name__, code_version(), sums, self.provenance["arguments"], _weights(self.network())]
        if files := self.stage_weights():
            content.append([_dated(Path(file)) for file in files])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def check_place(self) -> None:
        check_folder(self.folder, names=self.names, inputs=self.input_files(), record=self.record)

    def run(self, progress: Progress = silent) -> JobResult:
        self.check()
        stamp = self.stamp()
        earlier = intact_record(self.folder, record=self.record) if self.resume else None
        if earlier is not None and earlier.get("stamp") == stamp:
            paths = _listed(earlier.pop("written"), self.record)
            del earlier["complete"]
            return JobResult(earlier, paths, resumed=True)
        return self.store(self._computed(progress), stamp)

    def store(self, work: Work, stamp: str | None = None) -> JobResult:
        """Write what was computed into the folder; without a stamp `resume` does not recognise it."""
        document = {**work.document, "provenance": {**work.document.get("provenance", {}), **self.provenance}}
        with new_folder(self.folder, record=self.record) as folder:
            work.write(folder)
            stamped = {} if stamp is None else {"stamp": stamp}
            document = plain({**document, **work.remarks, **stamped})
            write_json(folder / self.record, document)
            files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        return JobResult(document, _listed(files, self.record), work.value)


def _listed(files: Any, record: str) -> tuple[str, ...]:
    """Return the top level of relative names, folders with a slash."""
    return tuple(sorted({f"{name.split('/')[0]}/" if "/" in name else name for name in (*files, record)}))


@cache
def _declared(job: Any) -> dict[str, tuple[Any, ...]]:
    """Return the type of every field and what is noted beside it."""
    hints = get_type_hints(job, include_extras=True)
    return {f.name: get_args(hints[f.name]) for f in fields(job)}


def check_words(options: Any) -> None:
    """Refuse what is none of the words that a field of a dataclass takes.

    Raises
    ------
    InputError
        When one is not.
    """
    kind: Any = type(options)
    check_device(getattr(options, "device", "auto"))
    for name, declared in _declared(kind).items():
        _check_words(name, getattr(options, name), *declared)


def _check_words(name: str, value: Any, kind: Any, *marks: Any) -> None:
    """Refuse what is none of the words that a field takes; the command line knows some of them, Python does not."""
    # What `typer` takes first is the name of an option.
    names = [mark.default for mark in marks if str(getattr(mark, "default", "")).startswith("--")]
    option = names[0] if names else f"--{name.replace('_', '-')}"
    for known in (mark for mark in marks if isinstance(mark, Known) and value is not None):
        known.check(value)
    literals = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    if literals and value is not None and value not in get_args(literals[0]):
        raise InputError(f"{option} is {' or '.join(get_args(literals[0]))}, found {value!r}")
    for words in (mark.words for mark in marks if isinstance(mark, Words)):
        if value is None or value in words or Path(value).exists() or Path(value).suffix or Path(value).name != value:
            continue
        raise InputError(f"{option} is {', '.join(words)} or the file of a transform, found {value!r}")


def _weights(model: str | None) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of the files of a network; a checksum would take longer than many runs."""
    if model is None:
        return []
    from roireg.io.weights import weight_files
    from roireg.models import resolve

    _, place = resolve(model)
    files = [] if place is None else [*weight_files(place), *sorted(place.glob("*.json"))]
    return [_dated(file) for file in files]


def _dated(file: Path) -> tuple[str, int, int]:
    """Return name, size and time of change of a file; 0 where there is none, which reading it will say."""
    known = file.stat() if file.is_file() else None
    return (file.name, known.st_size, known.st_mtime_ns) if known else (file.name, 0, 0)


@cache
def code_version() -> str:
    """Return the version of the package with a checksum of its sources, which change between releases."""
    root = Path(roireg.__file__).parent
    total = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if place.parts[0] not in ("app", "cohort", "serve", "synth"):
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
