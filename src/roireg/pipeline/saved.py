"""A result folder, read back as a value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roireg.core.errors import InputError, warn_header
from roireg.core.files import file_digest
from roireg.core.image import Image
from roireg.core.rois import ROIPairs
from roireg.core.transforms import Transform
from roireg.evaluate import MetricValue
from roireg.evaluate.summary import metric_of, summary_html
from roireg.io import read_image, read_pairs, read_transform
from roireg.io.documents import read_json

__all__ = ["SavedRegistration", "load"]

RECORD = "result.json"


@dataclass(frozen=True, eq=False)
class SavedRegistration:
    """A registration that was written into a folder; its files are read when they are needed.

    Attributes
    ----------
    folder : where it lies.
    verdict, reasons, metrics, timings, provenance : as of the `Registration` that was saved.
    record : the whole content of result.json.
    """

    folder: Path
    verdict: str
    reasons: tuple[str, ...]
    metrics: Mapping[str, MetricValue]
    timings: Mapping[str, float]
    provenance: Mapping[str, Any]
    record: Mapping[str, Any]

    @cached_property
    def transform(self) -> Transform:
        """Fixed world -> moving world."""
        return read_transform(self._file("transform.h5"))

    @cached_property
    def inverse(self) -> Transform:
        """Moving world -> fixed world; computed where it was not saved."""
        if (self.folder / "inverse.h5").is_file():
            return read_transform(self._file("inverse.h5"))
        return self.transform.inverse()

    @cached_property
    def warped(self) -> Image:
        """The moving image on the fixed grid."""
        names = sorted(p.name for p in self.folder.glob("warped.*"))
        return read_image(self._file(names[0] if names else "warped.nii.gz"), finite=False)

    @cached_property
    def pairs(self) -> ROIPairs:
        """Corresponding regions as they are in the folder now, where pairs may have been edited."""
        if not (self.folder / "pairs").is_dir():
            raise InputError(f"{self.folder}: this result was saved without its pairs; register again with them")
        return read_pairs(self.folder / "pairs")

    def map_points(self, points: ArrayLike) -> NDArray[np.float64]:
        """Map (N, d) fixed-world points to moving-world points, mm."""
        return self.transform.map_points(points)

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            what = name.split(".")[0]
            raise InputError(f"{self.folder}: this result was saved without {name}; register again with {what}")
        digest = self.record.get("written", {}).get(name)
        if digest is not None and file_digest(path) != digest:
            warn_header(str(path), f"this file was changed since its result was saved; {RECORD} is about another one")
        return path

    def _repr_html_(self) -> str:
        said = (*self.reasons, *self.record.get("worse", ()))
        return summary_html(str(self.folder), self.verdict, said, self.metrics)

    def __repr__(self) -> str:
        return f"SavedRegistration({self.verdict}, {self.folder})"


def load(folder: str | os.PathLike[str]) -> SavedRegistration:
    """Return the result that `Registration.save` or the command ``register`` wrote into a folder.

    >>> import roireg
    >>> roireg.load("out").map_points([[10.0, 20.0, 30.0]])  # doctest: +SKIP

    Raises
    ------
    InputError
        When the folder holds no result, or a run was stopped while it wrote into it.
    """
    place = Path(folder)
    file = place / RECORD
    if not file.is_file():
        raise InputError(f"{place}: expected a folder that a registration was saved into, found no {RECORD} in it")
    content = read_json(file, names=True)
    if not isinstance(content, dict) or "verdict" not in content:
        raise InputError(f"{file}: expected the result of a registration with a verdict; register again")
    if not content.get("complete", True):
        raise InputError(f"{place}: a run was stopped while it wrote into this folder; register again")
    return SavedRegistration(
        place,
        str(content["verdict"]),
        tuple(content.get("reasons", ())),
        {name: metric_of(m) for name, m in content.get("metrics", {}).items()},
        content.get("timings", {}),
        content.get("provenance", {}),
        content,
    )
