"""What a study is: variants, and what is measured of each on a pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from roireg.core.image import Image
from roireg.evaluate import Truth
from roireg.io import read_image
from roireg_bench.cases import Case, CaseFolder
from roireg_bench.scoring import read_truth

__all__ = ["Column", "Scene", "Study"]


@dataclass(frozen=True)
class Column:
    """A number that is measured: its key, its title in tables, and how many digits after the point it has."""

    key: str
    title: str
    digits: int = 3


@dataclass(frozen=True, eq=False)
class Scene:
    """A pair of images with what is known about it; files are read when they are first asked for."""

    folder: CaseFolder
    case: Case

    @cached_property
    def fixed(self) -> Image:
        """The image that stays."""
        return read_image(self.folder.path / self.case.fixed)

    @cached_property
    def moving(self) -> Image:
        """The image that is brought onto it."""
        return read_image(self.folder.path / self.case.moving)

    @cached_property
    def truth(self) -> Truth:
        """Labels, landmarks and true transform: for scores, and for variants that say that they use them."""
        return read_truth(self.folder, self.case)


class Study(ABC):
    """A comparison of variants.

    Attributes
    ----------
    name : what the command calls it.
    title : what is compared, in a few words.
    source : the paper and its table, or where the question comes from; may be empty.
    sets : case sets that it runs on by default.
    columns : what is measured, the most important first.
    axis : what the values of a sweep are called; None where variants are no numbers.
    """

    name: str
    title: str
    source: str
    sets: Sequence[str]
    columns: Sequence[Column]
    axis: str | None = None

    @property
    @abstractmethod
    def variants(self) -> Mapping[str, Mapping[str, object]]:
        """Name -> all that decides what a variant does, as plain values: rows are measured anew when it changes."""

    @abstractmethod
    def measure(self, variant: str, scene: Scene) -> Mapping[str, float]:
        """Measure one variant on one pair; by the keys of `columns`, those that do not apply are left out."""

    def before(self, scene: Scene) -> Mapping[str, float]:
        """Return the same numbers for images that nothing was done to; by default there are none."""
        del scene
        return {}
