"""What a report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError
from roireg.core.image import Image
from roireg.core.rois import ROIPairs
from roireg.core.transforms import Transform
from roireg.evaluate.metrics import MetricValue

__all__ = ["ReportInput"]

VERDICTS = ("ok", "uncertain", "failed")

Points = NDArray[np.float64]


@dataclass(frozen=True)
class ReportInput:
    """Everything the report shows.

    Parameters
    ----------
    title : heading of the page.
    fixed, moving : the images; grids of any spacing and direction, 2D or 3D, gray or colour.
    transform : fixed to moving.
    start : the state before registration, fixed to moving; None is the identity.
    warped : the moving image on the fixed grid, if it is at hand; None samples the moving image where needed.
    inverse : moving to fixed, if it is at hand; moving landmarks are drawn where it brings them.
    pairs : corresponding regions, if any.
    idle : whether the pairs are shown alone and took no part in the registration.
    labels : label maps of the fixed and of the moving image, each on a grid along the axes of its image.
    points : landmarks of the fixed and of the moving image, each (N, d) world points; equal rows correspond.
    worse : sentences on given labels and landmarks that agree less than before.
    verdict : "ok", "uncertain" or "failed".
    reasons : sentences that explain the verdict.
    metrics : name -> `MetricValue` or plain number; names in `metrics.CATALOGUE` get a label and a unit.
    provenance : versions, seed, arguments, hashes; nested mappings are shown with dotted names.

    Raises
    ------
    InputError
        When the verdict is another word.
    GeometryError
        When images and transforms mix 2D and 3D, or the warped image is not on the fixed grid.
    """

    title: str
    fixed: Image
    moving: Image
    transform: Transform
    start: Transform | None = None
    warped: Image | None = None
    inverse: Transform | None = None
    pairs: ROIPairs | None = None
    idle: bool = False
    labels: tuple[Image | None, Image | None] = (None, None)
    points: tuple[Points | None, Points | None] = (None, None)
    worse: Sequence[str] = ()
    verdict: str = "ok"
    reasons: Sequence[str] = ()
    metrics: Mapping[str, MetricValue | float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError(f"a verdict is one of {', '.join(VERDICTS)}, found {self.verdict!r}")
        transforms = [t for t in (self.transform, self.start) if t is not None]
        if len({self.fixed.ndim, self.moving.ndim, *(t.ndim for t in transforms)}) != 1:
            raise GeometryError("a report needs two images and transforms of one dimension, found 2D and 3D mixed")
        if self.warped is not None and not self.warped.grid.is_close(self.fixed.grid):
            raise GeometryError(f"the warped image lies on the fixed grid, found {self.warped.grid!r}")
        counts = {len(p) for p in self.points if p is not None}
        if len(counts) > 1:
            raise InputError(f"landmarks of both images correspond row by row, found {sorted(counts)} of them")
