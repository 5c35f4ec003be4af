"""The result of a registration, what can be computed from it, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roireg.core.ambient import own_settings
from roireg.core.background import background
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPairs
from roireg.core.transforms import Affine, Chain, Transform
from roireg.core.warp import halved, warp
from roireg.core.words import OUTPUTS
from roireg.evaluate import MetricValue, ReportInput, Truth, render_report, score, worsened
from roireg.evaluate.figure import ShownFigure, fusion_figure
from roireg.evaluate.planes import best_cut
from roireg.evaluate.summary import summary_html
from roireg.fit import Search, Velocity
from roireg.fit.region_affine import affine_part
from roireg.fit.region_pairs import CLASSED
from roireg.io import LabelsLike, as_labels, atomic_path, new_folder, write_image, write_pairs, write_transform
from roireg.io.images import stored_values
from roireg.io.tiff_writing import BAND, write_tiff_bands
from roireg.pipeline.config import Config

__all__ = ["Registration", "warped_in_bands"]

LARGEST_PNG = 100_000_000
"""Pixels beyond which a warped picture is TIFF: few programs open such a PNG, and it takes minutes to write."""


def warped_in_bands(moving: Image, grid: Grid) -> bool:
    """Tell whether the moving picture on a fixed grid is written part by part and never held as a whole."""
    stored = moving.ndim == 2 and moving.dtype in ("uint8", "uint16") and moving.channels in (1, 3, 4)
    return stored and grid.size > LARGEST_PNG


@dataclass(frozen=True, eq=False)
class Registration:
    """A finished registration.

    Attributes
    ----------
    fixed, moving : the images as the user has them.
    transform : fixed world -> moving world, the deformation first, then the affine.
    pairs : corresponding regions, unmatched ones included.
    verdict : "ok", "uncertain" or "failed", with `reasons` in words.
    metrics : what was measured, by name; `before` is the state without registration.
    timings : seconds per stage and "total".
    provenance : versions, device, seed, settings, inputs.
    worse : sentences on given labels and landmarks that agree less than before.
    fill : value of `warped` outside the moving image; None lets its kind decide.
    """

    fixed: Image
    moving: Image
    transform: Chain
    pairs: ROIPairs
    config: Config
    timings: dict[str, float]
    provenance: dict[str, Any]
    verdict: str = "ok"
    reasons: tuple[str, ...] = ()
    metrics: dict[str, MetricValue] = field(default_factory=dict)
    worse: tuple[str, ...] = ()
    fill: float | None = None

    @cached_property
    def affine(self) -> Affine:
        """The global part alone, see `affine_part`."""
        return affine_part(self.transform, self.fixed.grid)

    @cached_property
    @own_settings()
    def inverse(self) -> Transform:
        """Moving world -> fixed world."""
        return self.transform.inverse()

    @cached_property
    @own_settings()
    def warped(self) -> Image:
        """The moving image on the fixed grid; where it has no data `fill`, or its `background`."""
        return warp(self.moving, self.transform, self.fixed.grid, fill=self._outside)

    @property
    def _outside(self) -> float | tuple[float, ...]:
        return background(self.moving) if self.fill is None else self.fill

    @own_settings()
    def move_labels(self, labels: LabelsLike) -> Image:
        """Bring a label map of the moving image onto the fixed grid, nearest neighbour, 0 outside.

        It may have any form that `roireg.io.as_labels` knows, or be an array in the shape of the moving image.
        """
        return warp(as_labels(labels, self.moving), self.transform, self.fixed.grid, mode="nearest", fill=0)

    def map_points(self, points: ArrayLike) -> NDArray[np.float64]:
        """Map (N, d) fixed-world points to moving-world points, mm."""
        return self.transform.map_points(points)

    @own_settings()
    def scored(self, truth: Truth) -> Registration:
        """Return the result with what `evaluate.score` measures against a truth added to its metrics.

        Raises
        ------
        InputError
            When the points of both sides differ in number.
        GeometryError
            When the truth has another dimension than the images.
        """
        scores = score(self.transform, truth)
        return replace(self, metrics={**self.metrics, **scores.metrics}, worse=worsened(scores, truth.baseline))

    def doubted(self, doubts: Sequence[str]) -> Registration:
        """Return the result with further reasons, any of which makes an ok result uncertain."""
        if not doubts:
            return self
        verdict = "uncertain" if self.verdict == "ok" else self.verdict
        return replace(self, verdict=verdict, reasons=(*self.reasons, *doubts))

    @property
    def idle_pairs(self) -> bool:
        """Whether the pairs took no part: none is certain, no map was proposed by them and none pulled."""
        certain = any(p.status == "accepted" or p.source in CLASSED for p in self.pairs.active.pairs)
        proposing = any(isinstance(s, Search) and s.regions is not False for s in self.config.stages)
        pulling = any(not isinstance(s, Velocity) or s.proposed_weight for s in self.config.stages if s.uses_pairs)
        return not (certain or proposing or pulling)

    def result_json(self) -> dict[str, Any]:
        """Return verdict, metrics, timings and provenance as plain JSON values."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "worse": list(self.worse),
            "pairs": len(self.pairs.active),
            "metrics": {name: value.as_dict() for name, value in self.metrics.items()},
            "timings": {name: round(seconds, 3) for name, seconds in self.timings.items()},
            "provenance": _plain(self.provenance),
        }

    @own_settings()
    def plot(self, point: ArrayLike | None = None) -> ShownFigure:
        """Return a figure of both images overlaid, before (above) and after (below).

        Orange is bright in the fixed image only, blue in the moving image only, gray in both.

        Parameters
        ----------
        point : (d,) fixed world point, mm, that the planes of a volume pass through; None goes through the most
            confident regions.
        """
        pairs = self.pairs.active
        if point is None and len(pairs):
            point = best_cut(
                pairs.fixed, [p.fixed for p in pairs.pairs], [max(p.confidence, 1e-3) for p in pairs.pairs]
            )
        return fusion_figure(
            halved(self.fixed, most=2_000_000),
            halved(self.moving, most=2_000_000),
            self.transform,
            point=point,
            title=f"{self.title}: {self.verdict}",
        )

    def _repr_html_(self) -> str:
        said = (*self.reasons, *self.worse)
        return summary_html(self.title, self.verdict, said, self.metrics, picture=self.plot()._repr_png_())

    @property
    def title(self) -> str:
        """Which image was registered onto which, in words."""
        return f"{Path(self.moving.name).name} onto {Path(self.fixed.name).name}"

    @own_settings()
    def report_html(
        self,
        *,
        labels: tuple[Image | None, Image | None] = (None, None),
        points: tuple[NDArray[np.float64] | None, NDArray[np.float64] | None] = (None, None),
    ) -> str:
        """Return the self-contained report page.

        Parameters
        ----------
        labels : label maps of the fixed and of the moving image, whose outlines are drawn.
        points : landmarks of the fixed and of the moving image, (N, d) world points; equal rows correspond.
        """
        return render_report(
            ReportInput(
                title=self.title,
                fixed=halved(self.fixed, most=2_000_000),
                moving=halved(self.moving, most=2_000_000),
                transform=self.transform,
                inverse=self.inverse,
                pairs=self.pairs,
                idle=self.idle_pairs,
                labels=labels,
                points=points,
                worse=self.worse,
                verdict=self.verdict,
                reasons=self.reasons,
                metrics=self.metrics,
                provenance=self.provenance,
            )
        )

    @own_settings()
    def save(self, folder: str | Path, *, only: Collection[str] | None = None) -> None:
        """Write the result into a folder, all of it or nothing.

        Parameters
        ----------
        folder : transform.h5, inverse.h5 (ITK composites, LPS mm), warped.nii.gz (warped.png for raster images),
            pairs/, result.json and report.html go there; other files in it stay.
        only : names out of `OUTPUTS`; None writes all. result.json is always written, `roireg.load` reads it.

        Raises
        ------
        InputError
            When `only` has an unknown name.
        OutputError
            When the folder cannot be written.
        """
        outputs = set(OUTPUTS if only is None else only)
        if unknown := outputs - set(OUTPUTS):
            raise InputError(f"unknown output {', '.join(sorted(unknown))}; choose from {', '.join(OUTPUTS)}")
        with new_folder(folder, record="result.json") as out:
            if "transform" in outputs:
                write_transform(out / "transform.h5", self.transform)
            if "inverse" in outputs:
                write_transform(out / "inverse.h5", self.inverse)
            if "warped" in outputs:
                self._write_warped(out / self.warped_name)
            if "pairs" in outputs:
                write_pairs(out / "pairs", self.pairs)
            with atomic_path(out / "result.json") as path:
                path.write_text(json.dumps(self.result_json(), indent=1) + "\n", encoding="utf-8")
            if "report" in outputs:
                with atomic_path(out / "report.html") as path:
                    path.write_text(self.report_html(), encoding="utf-8")

    @own_settings()
    def _write_warped(self, path: Path) -> None:
        if path.suffix != ".tif":
            write_image(path, self.warped)
            return
        moving, grid = self.moving, self.fixed.grid
        fill, rows = self._outside, grid.shape[0]

        def bands() -> Iterator[NDArray[np.generic]]:
            for first in range(0, rows, BAND):
                band = grid.padded((-first, 0), (min(BAND, rows - first) - (rows - first), 0))
                yield stored_values(warp(moving, self.transform, band, fill=fill))

        write_tiff_bands(path, bands(), grid, self.fixed.unit, channels=moving.channels, dtype=moving.dtype)

    @property
    def warped_name(self) -> str:
        """File name of the warped image: PNG for 2D raster images, TIFF for very large ones, NIfTI otherwise."""
        if self.moving.ndim != 2 or self.moving.dtype not in ("uint8", "uint16"):
            return "warped.nii.gz"
        if warped_in_bands(self.moving, self.fixed.grid):
            return "warped.tif"
        return "warped.png" if self.moving.unit == "px" else "warped.nii.gz"

    def __repr__(self) -> str:
        return f"Registration({self.verdict}, {len(self.pairs.active)} pairs, {self.transform!r})"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
