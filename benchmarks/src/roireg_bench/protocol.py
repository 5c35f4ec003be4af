"""What every method has in common: what it gets to see, what it hands back, how it is timed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from roireg.core.errors import RoiregError

__all__ = ["Inputs", "Method", "Modality", "Output", "Stopwatch", "Unavailable"]

Modality = Literal["mono", "multi"]


class Unavailable(RoiregError):
    """A method cannot run here: a package or program is not installed, or it is not made for such images."""


@dataclass(frozen=True)
class Inputs:
    """What a method gets to see of a case: two images, no labels, no landmarks.

    Attributes
    ----------
    fixed, moving : image files.
    modality : "mono" where equal tissue has about equal intensity in both images, "multi" where it has not; methods
        with settings for each choose by it.
    """

    fixed: Path
    moving: Path
    modality: Modality = "mono"


@dataclass(frozen=True)
class Output:
    """What a method hands back.

    Attributes
    ----------
    files : transform files that `io.read_transform` reads, fixed to moving, the first one applied first.
    seconds, cpu_seconds : of the registration alone, without reading and writing files where the method can
        separate them; CPU time is that of all threads and child processes.
    verdict : "ok", "uncertain" or "failed" from methods that judge their result, else empty.
    """

    files: tuple[Path, ...]
    seconds: float
    cpu_seconds: float
    verdict: str = ""


class Method(Protocol):
    """A registration method; must be picklable, as it runs in a process of its own."""

    @property
    def name(self) -> str:
        """Short name for the table."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever results may; known also where the method cannot run."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that was chosen, as JSON values."""
        ...

    def run(self, inputs: Inputs, folder: Path) -> Output:
        """Register and write the transform files into an empty folder; may raise whatever it likes.

        Raises
        ------
        Unavailable
            When the method cannot run here, which is not its failure.
        """
        ...


@dataclass
class Stopwatch:
    """Wall seconds and CPU seconds (all threads, finished child processes included) of a block."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the block."""
        wall, cpu = time.perf_counter(), _cpu_seconds()
        yield
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    try:
        import resource
    except ImportError:  # Windows has no such count for child processes
        return time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
