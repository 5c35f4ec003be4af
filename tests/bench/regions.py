"""A quick method of this package, in a module that its process loads."""

from __future__ import annotations

from dataclasses import dataclass

from roireg.fit import RegionAffine
from roireg.pipeline import Config
from roireg.pipeline.sections import VerdictConfig
from roireg_bench.methods import PresetMethod


@dataclass(frozen=True)
class Regions(PresetMethod):
    """A method of this package that fits an affine map to regions and is judged without a probability."""

    @property
    def config(self) -> Config:
        return Config(stages=(RegionAffine(),), verdict=VerdictConfig(probability=False))
