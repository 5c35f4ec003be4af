"""One self-contained HTML page that shows what a registration did and how far to trust it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError
from roireg.core.image import Image
from roireg.core.rois import ROIPairs, ROISet
from roireg.core.transforms import Chain, Transform
from roireg.evaluate.embed import data_uri
from roireg.evaluate.metrics import MetricValue, centroid_errors, metric
from roireg.evaluate.palette import distinct_colours
from roireg.evaluate.planes import Plane, best_cut, cut_profiles, display_planes, jacobian_on_plane, sample_plane
from roireg.evaluate.plots import (
    JACOBIAN_COLOURS,
    Picture,
    checkerboard,
    draw_grid,
    draw_jacobian,
    draw_regions,
    intensity_window,
    to_picture,
)

__all__ = ["ReportInput", "render_report"]

VERDICTS = ("ok", "uncertain", "failed")
DRAWN_PAIRS = 20
"""How many pairs are drawn; more would hide the image and each other."""
LISTED_PAIRS = 200
TEXT_SHARE = {"flat": 0.022, "row": 0.027, "stack": 0.04}
"""Height of region numbers per layout: planes are shown at different sizes, numbers should not be."""
GRID_LINES = {"flat": 26, "row": 24, "stack": 18}
"""About how many lines of the deformed grid cross the longest plane."""


@dataclass(frozen=True)
class ReportInput:
    """Everything the report shows.

    Parameters
    ----------
    title : heading of the page.
    fixed, moving : the images; grids of any spacing and direction, 2D or 3D, gray or colour.
    transform : fixed to moving.
    initial : the state before registration, fixed to moving; None is the identity.
    warped : the moving image on the fixed grid, if it is at hand; None samples the moving image where needed.
    pairs : corresponding regions, if any.
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
    initial: Transform | None = None
    warped: Image | None = None
    pairs: ROIPairs | None = None
    verdict: str = "ok"
    reasons: Sequence[str] = ()
    metrics: Mapping[str, MetricValue | float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError(f"a verdict is one of {', '.join(VERDICTS)}, found {self.verdict!r}")
        transforms = [t for t in (self.transform, self.initial) if t is not None]
        if len({self.fixed.ndim, self.moving.ndim, *(t.ndim for t in transforms)}) != 1:
            raise GeometryError("a report needs two images and transforms of one dimension, found 2D and 3D mixed")
        if self.warped is not None and not self.warped.grid.is_close(self.fixed.grid):
            raise GeometryError(f"the warped image lies on the fixed grid, found {self.warped.grid!r}")


def render_report(report: ReportInput) -> str:
    """Return the report as the text of one HTML file without any outside reference.

    Equal input gives equal text: how long things took is not in it.

    Only a few planes are sampled, never a whole volume.
    """
    scene = _Scene(report)
    environment = Environment(
        loader=PackageLoader("roireg.evaluate"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        title=report.title,
        verdict=report.verdict,
        reasons=list(report.reasons),
        volume=report.fixed.ndim == 3,
        layout=scene.layout(),
        unit=report.fixed.unit,
        facts=_facts(report),
        planes=scene.comparison(),
        regions=scene.regions(),
        deformation=scene.deformation(),
        pairs=_pair_rows(report, scene.drawn),
        metrics=_metric_rows(report),
        provenance=list(_flatten(report.provenance)),
    )


# -- pictures --------------------------------------------------------------------------------------


class _Scene:
    """The planes of one report and the pictures on them."""

    def __init__(self, report: ReportInput) -> None:
        self.report = report
        pairs = report.pairs
        order = [] if pairs is None else [i for i, p in enumerate(pairs.pairs) if p.status != "rejected"]
        if pairs is not None:
            order.sort(key=lambda i: -pairs.pairs[i].confidence)
        self.drawn = sorted(order[:DRAWN_PAIRS])
        bounds = {"smallest": 256, "largest": 400} if report.fixed.ndim == 3 else {"smallest": 360, "largest": 760}
        self.longest = 560 if report.fixed.ndim == 3 else 860
        point = report.fixed.grid.center
        if pairs is not None and self.drawn:
            point = best_cut(pairs.fixed, *self._members("fixed"))
        self.planes = display_planes(report.fixed.grid, point, unit=report.fixed.unit, **bounds)
        self.moving_planes = display_planes(
            report.moving.grid, self._moving_point(point), unit=report.moving.unit, **bounds
        )
        self.window = intensity_window(report.fixed)
        self.moving_window = intensity_window(report.moving)
        self.fixed_pictures = [self._picture(report.fixed, p, self.window) for p in self.planes]

    def _members(self, side: str) -> tuple[list[int], list[float]]:
        assert self.report.pairs is not None
        chosen = [self.report.pairs.pairs[i] for i in self.drawn]
        return [getattr(p, side) for p in chosen], [max(p.confidence, 1e-3) for p in chosen]

    def _moving_point(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the counterpart of a fixed point, each coordinate moved to where its plane shows paired regions."""
        report = self.report
        mapped = report.transform.map_points(point[None])[0]
        if report.pairs is None or not self.drawn:
            return mapped
        rois = report.pairs.moving
        profiles = cut_profiles(rois, *self._members("moving"))
        index = rois.grid.index_from_world(mapped)
        for axis, profile in enumerate(profiles):
            nearest = round(float(index[axis]))
            if not (0 <= nearest < len(profile) and profile[nearest] >= 0.5 * profile.max()):
                index[axis] = int(np.argmax(profile))
        return rois.grid.world_from_index(index)

    @staticmethod
    def _picture(
        image: Image, plane: Plane, window: tuple[float, float], transform: Transform | None = None
    ) -> Picture:
        channels = [0, 1, 2] if image.channels >= 3 else None
        fill = window[0]
        values = sample_plane(image.data, image.grid, plane.display, transform, fill=fill, channels=channels)
        return to_picture(values, window)

    def layout(self) -> str:
        """Return how planes are set: "flat" in 2D, "stack" where two thin planes fit beside the first, else "row"."""
        if self.report.fixed.ndim == 2:
            return "flat"
        heights = [[plane.size[1] for plane in planes] for planes in (self.planes, self.moving_planes)]
        return "stack" if all(len(h) < 3 or h[1] + h[2] <= 1.1 * h[0] for h in heights) else "row"

    def comparison(self) -> list[dict[str, Any]]:
        """Return, per fixed plane, the fixed image, the moving one before and after, and their checkerboards."""
        report = self.report
        panels = []
        for plane, fixed in zip(self.planes, self.fixed_pictures, strict=True):
            before = self._picture(report.moving, plane, self.moving_window, report.initial)
            if report.warped is None:
                after = self._picture(report.moving, plane, self.moving_window, report.transform)
            else:
                after = self._picture(report.warped, plane, self.moving_window)
            pictures = {
                "fixed": fixed,
                "before": before,
                "after": after,
                "checker_before": checkerboard(fixed, before),
                "checker_after": checkerboard(fixed, after),
            }
            panels.append({**_frame(plane), **{name: data_uri(p) for name, p in pictures.items()}})
        return panels

    def regions(self) -> dict[str, list[dict[str, Any]]] | None:
        """Return the paired regions drawn on planes of either image, or None without pairs to draw."""
        pairs = self.report.pairs
        if pairs is None or not self.drawn:
            return None
        moving = [self._picture(self.report.moving, p, self.moving_window) for p in self.moving_planes]
        return {
            "fixed": self._outlined(pairs.fixed, "fixed", self.planes, self.fixed_pictures),
            "moving": self._outlined(pairs.moving, "moving", self.moving_planes, moving),
        }

    def _outlined(
        self, rois: ROISet, side: str, planes: list[Plane], pictures: list[Picture]
    ) -> list[dict[str, Any]]:
        members, _ = self._members(side)
        colours = distinct_colours(len(self.drawn))
        numbers = [i + 1 for i in self.drawn]
        panels = []
        for plane, picture in zip(planes, pictures, strict=True):
            masks = sample_plane(rois.masks, rois.grid, plane.display, channels=members)
            drawn = draw_regions(
                picture, masks, colours, numbers, longest=self.longest, text=TEXT_SHARE[self.layout()]
            )
            panels.append({**_frame(plane), "image": data_uri(drawn)})
        return panels

    def deformation(self) -> dict[str, Any]:
        """Return grid and Jacobian pictures of every fixed plane, and the scale of the latter."""
        report = self.report
        measured = [jacobian_on_plane(report.transform, p) for p in self.planes]
        exponents = np.concatenate([np.abs(np.log2(d[d > 0])).ravel() for d, _ in measured])
        widest = float(np.percentile(exponents, 99)) if len(exponents) else 1.0
        limit = float(np.clip(np.ceil(widest * 4) / 4, 0.5, 3.0))
        step = _round_step(max(max(p.size) for p in self.planes) / GRID_LINES[self.layout()])
        grids, jacobians = [], []
        for plane, fixed, (determinant, folded) in zip(self.planes, self.fixed_pictures, measured, strict=True):
            mapped = report.transform.map_points(plane.display.points())
            index = plane.display.index_from_world(mapped)[:, -2:].reshape(*plane.display.shape[-2:], 2)
            pixels = step / float(plane.display.spacing[-1])
            lines = draw_grid(fixed, index[..., 0], index[..., 1], step=pixels, longest=self.longest)
            grids.append({**_frame(plane), "image": data_uri(lines)})
            colours = draw_jacobian(determinant, folded, fixed, limit=limit, longest=self.longest)
            jacobians.append({**_frame(plane), "image": data_uri(colours)})
        inside = np.concatenate([d.ravel() for d, _ in measured])
        stops = [to_hex(c) for c in colormaps[JACOBIAN_COLOURS](np.linspace(0, 1, 17))]
        exponent_ticks = np.linspace(-limit, limit, 5)
        return {
            "grid": grids,
            "jacobian": jacobians,
            "step": f"{step:g}",
            "stops": ", ".join(stops),
            "ticks": [f"{2.0**e:.2f}" if e else "1" for e in exponent_ticks],
            "low": f"{inside.min():.2f}",
            "high": f"{inside.max():.2f}",
            "folded": f"{100 * np.mean(np.concatenate([f.ravel() for _, f in measured])):.2g}",
        }


def _frame(plane: Plane) -> dict[str, Any]:
    """Return what the page needs to lay a plane out: its size in world units, letters and place."""
    width, height = plane.size
    return {
        "name": plane.name,
        "position": plane.position,
        "width": round(width, 3),
        "height": round(height, 3),
        "letters": dict(zip(("left", "right", "top", "bottom"), plane.letters, strict=True)),
    }


def _round_step(value: float) -> float:
    """Return the nearest of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / value))) * power)


# -- tables ----------------------------------------------------------------------------------------


def _facts(report: ReportInput) -> list[dict[str, str]]:
    """Return one line per image, and one on the motion."""
    rows = []
    for side, image in (("Fixed", report.fixed), ("Moving", report.moving)):
        grid = image.grid
        shape = " × ".join(str(n) for n in grid.shape[::-1])
        parts = [f"{shape} {'pixels' if grid.ndim == 2 else 'voxels'}"]
        if image.unit != "px":
            parts.append(" × ".join(f"{s:.3g}" for s in grid.spacing[::-1]) + f" {image.unit}")
        parts.append({1: "gray", 3: "colour", 4: "colour"}.get(image.channels, f"{image.channels} channels"))
        rows.append({"label": side, "name": PurePath(image.name).name or image.name, "text": ", ".join(parts)})
    coarse = report.fixed.grid.with_shape([min(n, 24) for n in report.fixed.grid.shape]).points()
    motion = np.linalg.norm(report.transform.map_points(coarse) - coarse, axis=1)
    text = f"mean {motion.mean():.3g} {report.fixed.unit}, up to {motion.max():.3g} {report.fixed.unit}"
    steps = report.transform.transforms if isinstance(report.transform, Chain) else (report.transform,)
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(t).__name__).lower() for t in steps]
    rows.append({"label": "Motion", "name": ", then ".join(words), "text": text})
    return rows


def _pair_rows(report: ReportInput, drawn: list[int]) -> dict[str, Any] | None:
    """Return the table of pairs with its notes, or None without any region."""
    pairs = report.pairs
    if pairs is None:
        return None
    colours = dict(zip(drawn, distinct_colours(len(drawn)), strict=True))
    active = [i for i, p in enumerate(pairs.pairs) if p.status != "rejected"]
    errors = dict(zip(active, centroid_errors(report.transform, pairs), strict=True))
    volumes = {side: getattr(pairs, side).volumes for side in ("fixed", "moving")} if len(pairs) else {}
    rows = [
        {
            "number": i + 1,
            "colour": colours.get(i),
            "name": p.name or pairs.fixed.names[p.fixed] or "–",
            "similarity": f"{p.similarity:.2f}",
            "confidence": f"{p.confidence:.2f}",
            "share": round(100 * min(max(p.confidence, 0.0), 1.0)),
            "source": p.source,
            "status": p.status,
            "fixed_size": _significant(volumes["fixed"][p.fixed]),
            "moving_size": _significant(volumes["moving"][p.moving]),
            "error": _significant(errors[i]) if i in errors else "–",
        }
        for i, p in enumerate(pairs.pairs[:LISTED_PAIRS])
    ]
    return {
        "rows": rows,
        "total": len(pairs),
        "drawn": len(drawn),
        "active": len(active),
        "power": "²" if report.fixed.ndim == 2 else "³",
        "unmatched_fixed": len(pairs.unmatched_fixed),
        "unmatched_moving": len(pairs.unmatched_moving),
        "fixed_count": len(pairs.fixed),
        "moving_count": len(pairs.moving),
    }


def _metric_rows(report: ReportInput) -> list[dict[str, str]]:
    rows = []
    for name, given in report.metrics.items():
        item = given if isinstance(given, MetricValue) else metric(name, given)
        change = {True: "better", False: "worse", None: ""}[item.improved]
        rows.append(
            {
                "label": item.label or metric(name, 0).label or name.replace("_", " "),
                "before": "–" if item.before is None else _significant(item.before),
                "after": _significant(item.value),
                "unit": report.fixed.unit if item.unit == "mm" else item.unit,
                "change": change,
                "better": item.better,
            }
        )
    return rows


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows.extend(_flatten(value, f"{prefix}{key}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
            rows.append((f"{prefix}{key}", text))
    return rows


def _significant(value: float) -> str:
    """Return a number for reading: three to four digits, no exponent for everyday sizes."""
    if not math.isfinite(value):
        return "not measurable"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    if 1e-3 <= abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.1f}"
