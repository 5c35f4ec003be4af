"""What is compared: our presets, the published objective, and peers; see `protocol` for what a method is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roireg.core.errors import InputError
from roireg.io import read_image, write_transform
from roireg.jobs.job import code_version
from roireg.pipeline import PRESETS, Config, preset, register
from roireg_bench.peers import PEERS
from roireg_bench.protocol import Inputs, Method, Modality, Output, Stopwatch, Unavailable

__all__ = [
    "METHODS",
    "Inputs",
    "Method",
    "Modality",
    "Output",
    "PresetMethod",
    "Stopwatch",
    "Unavailable",
    "make_method",
]


@dataclass(frozen=True)
class PresetMethod:
    """A preset of this package; timed from two images in memory to a judged result."""

    name: str
    version: str = field(default_factory=code_version)
    seed: int = 0

    @property
    def config(self) -> Config:
        """The settings of the registration."""
        return preset(self.name)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"preset": self.config.model_dump(mode="json"), "seed": self.seed, "device": "cpu"}

    def run(self, inputs: Inputs, folder: Path) -> Output:
        fixed, moving = read_image(inputs.fixed), read_image(inputs.moving)
        watch = Stopwatch()
        with watch.running():
            result = register(fixed, moving, config=self.config, device="cpu", seed=self.seed)
        file = folder / "transform.h5"
        write_transform(file, result.transform)
        return Output((file,), watch.seconds, watch.cpu_seconds, result.verdict)


def _presets() -> dict[str, Callable[[], Method]]:
    def maker(name: str) -> Callable[[], Method]:
        return lambda: PresetMethod(name)

    return {name: maker(name) for name in PRESETS}


METHODS: dict[str, Callable[[], Method]] = {**_presets(), **PEERS}
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
