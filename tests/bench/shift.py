"""Methods that take no time, in a module that its process loads at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roireg.core.transforms import Affine
from roireg.fit import RegionAffine
from roireg.io import write_transform
from roireg.pipeline import Config
from roireg.pipeline.sections import VerdictConfig
from roireg_bench.methods import PresetMethod
from roireg_bench.protocol import Inputs, Output


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


@dataclass(frozen=True)
class Regions(PresetMethod):
    """A method of this package that fits an affine map to regions and is judged without a probability."""

    @property
    def config(self) -> Config:
        return Config(stages=(RegionAffine(),), verdict=VerdictConfig(probability=False))
