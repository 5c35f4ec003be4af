"""Methods whose outcome is known; their processes load this module, a third of what the scenes load."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from roireg.core.transforms import Affine
from roireg.io import write_transform
from roireg_bench.protocol import Inputs, Output, Unavailable


@dataclass(frozen=True)
class Shift:
    """Moves everything by `offset` along x."""

    name: str = "shift"
    version: str = "1"
    offset: float = 0.0
    ndim: int = 2

    @property
    def settings(self):
        return {"offset": self.offset}

    def run(self, inputs: Inputs, folder: Path) -> Output:
        file = folder / "moved.tfm"
        write_transform(file, Affine.translation([self.offset, *[0.0] * (self.ndim - 1)]))
        return Output((file,), 1.5, 1.0, "uncertain")


def end_at_once() -> None:
    os._exit(3)


@dataclass(frozen=True)
class Instant(Shift):
    """Takes half a second and says that a quarter of one was the registration."""

    def run(self, inputs: Inputs, folder: Path) -> Output:
        time.sleep(0.5)
        found = super().run(inputs, folder)
        return Output(found.files, 0.25, 0.0)


@dataclass(frozen=True)
class LookingAround(Shift):
    """Says what lies where its images lie."""

    name: str = "looking around"

    def run(self, inputs: Inputs, folder: Path) -> Output:
        root = inputs.fixed.parents[1]
        found = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
        raise ValueError(" ".join(found))


@dataclass(frozen=True)
class Broken:
    """Fails in the way it is told to."""

    how: str
    name: str = "broken"
    version: str = "1"

    @property
    def settings(self):
        return {"how": self.how}

    def run(self, inputs: Inputs, folder: Path) -> Output:
        if self.how == "raises":
            raise ValueError("no\n  such luck")
        if self.how == "dies":
            os._exit(7)
        if self.how == "sleeps":
            time.sleep(600)
        if self.how == "is not there":
            raise Unavailable("not installed: pip install missing")
        if self.how == "writes nonsense":
            (folder / "wrong.h5").write_text("not a transform", encoding="utf-8")
        if self.how == "allocates":
            assert float(np.ones(40_000_000).sum()) == 4e7
        if self.how == "counts threads":
            return Output((), torch.get_num_threads(), 0.0)
        return Output((folder / "wrong.h5",), 0.0, 0.0)
