"""One self-contained HTML page that shows what a registration did and how far to trust it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.colors import to_rgb

from roireg.core.files import readable
from roireg.core.transforms import in_words
from roireg.evaluate import palette
from roireg.evaluate.metrics import MetricValue, centroid_errors, metric
from roireg.evaluate.palette import distinct_colours
from roireg.evaluate.report_input import ReportInput
from roireg.evaluate.scene import Scene

__all__ = ["ReportInput", "render_report"]

LISTED_PAIRS = 200


def render_report(report: ReportInput) -> str:
    """Return the report as the text of one HTML file without any outside reference.

    Equal input gives equal text: how long things took is not in it.

    Only a few planes are sampled, never a whole volume.
    """
    scene = Scene(report)
    comparison = scene.comparison()
    environment = Environment(
        loader=PackageLoader("roireg.evaluate"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        title=report.title,
        verdict=report.verdict,
        reasons=list(report.reasons),
        volume=report.fixed.ndim == 3,
        unit=report.fixed.unit,
        facts=_facts(report),
        comparison=comparison,
        worse=list(report.worse),
        regions=scene.regions(),
        deformation=scene.deformation(),
        pairs=_pair_rows(report, scene.drawn),
        metrics=_metric_rows(report),
        provenance=list(_flatten(report.provenance)),
        palette=palette,
        tints={"fixed": to_rgb(palette.FIXED), "moving": to_rgb(palette.MOVING)},
        slices=[_other_slices(plane) for plane in comparison["planes"]],
    )
    return readable(page)


def _other_slices(plane: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    """Return the slices of a plane without the one that the page begins with, which it has already."""
    return [None if i == plane["start"] else frame for i, frame in enumerate(plane["frames"])]


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
    rows.append({"label": "Motion", "name": in_words(report.transform), "text": text})
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
        "idle": report.idle,
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
