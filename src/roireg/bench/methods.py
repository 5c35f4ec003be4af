"""What is compared: one small protocol, our presets, and peers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import SimpleITK as sitk

import roireg
from roireg.bench.demons import DemonsOptions, demons
from roireg.core.errors import InputError
from roireg.io import read_image, write_transform
from roireg.pipeline import PRESETS, preset, register

__all__ = ["METHODS", "DemonsMethod", "Inputs", "Method", "Output", "PresetMethod", "Stopwatch", "make_method"]


@dataclass(frozen=True)
class Inputs:
    """What a method gets to see of a case: two images, no labels, no landmarks."""

    fixed: Path
    moving: Path


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
        """Changes whenever results may."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that was chosen, as JSON values."""
        ...

    def run(self, inputs: Inputs, folder: Path) -> Output:
        """Register and write the transform files into an empty folder; may raise whatever it likes."""
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
    except ImportError:  # Windows has no such count for child processes; none of the methods here starts one
        return time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@lru_cache(maxsize=1)
def source_version() -> str:
    """Return the package version and a hash of the sources that decide a registration.

    Between releases the version alone would call results of different code the same.
    """
    root = Path(roireg.__file__).parent
    total = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if place.parts[0] not in ("app", "bench", "synth"):
            total.update(f"{place.as_posix()}\0".encode() + file.read_bytes())
    return f"{roireg.__version__}+{total.hexdigest()[:8]}"


@dataclass(frozen=True)
class PresetMethod:
    """A preset of this package; timed from two images in memory to a judged result."""

    name: str
    version: str = field(default_factory=source_version)
    seed: int = 0

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"preset": preset(self.name).model_dump(mode="json"), "seed": self.seed, "device": "cpu"}

    def run(self, inputs: Inputs, folder: Path) -> Output:
        fixed, moving = read_image(inputs.fixed), read_image(inputs.moving)
        watch = Stopwatch()
        with watch.running():
            result = register(fixed, moving, preset=self.name, device="cpu", seed=self.seed)
        file = folder / "transform.h5"
        write_transform(file, result.transform)
        return Output((file,), watch.seconds, watch.cpu_seconds, result.verdict)


@dataclass(frozen=True)
class DemonsMethod:
    """SimpleITK's diffeomorphic demons; see `bench.demons`."""

    name: str = "demons"
    version: str = field(default_factory=lambda: f"SimpleITK {sitk.Version_VersionString()}")
    options: DemonsOptions = field(default_factory=DemonsOptions)

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self.options)

    def run(self, inputs: Inputs, folder: Path) -> Output:
        fixed, moving = read_image(inputs.fixed), read_image(inputs.moving)
        watch = Stopwatch()
        with watch.running():
            transform = demons(fixed, moving, self.options)
        file = folder / "transform.h5"
        write_transform(file, transform)
        return Output((file,), watch.seconds, watch.cpu_seconds)


def _presets() -> dict[str, Callable[[], Method]]:
    def maker(name: str) -> Callable[[], Method]:
        return lambda: PresetMethod(name)

    return {name: maker(name) for name in PRESETS}


METHODS: dict[str, Callable[[], Method]] = {**_presets(), "demons": DemonsMethod}
"""Name -> how to make the method."""


def make_method(name: str) -> Method:
    """Return a method by name.

    Raises
    ------
    InputError
        When there is no method of that name.
    """
    if name not in METHODS:
        raise InputError(f"there is no method {name!r}; use one of {', '.join(METHODS)}")
    return METHODS[name]()
