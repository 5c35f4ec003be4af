"""Short texts and tables for people: verdicts, numbers before and after, sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from roireg.core.grid import Grid
from roireg.evaluate import MetricValue

__all__ = ["COLOURS", "escape", "key_metrics", "metric_of", "metric_table", "number", "size_of"]

COLOURS = {"ok": "green", "uncertain": "yellow", "failed": "red"}

KEY = (
    "dice_mean",
    "hd95_mean",
    "assd_mean",
    "landmark_error_mean",
    "landmark_error_max",
    "displacement_error_mean",
    "displacement_error_p95",
    "centroid_error_mean",
    "ncc",
    "lncc2",
    "nmi",
    "folding_percent",
    "sdlogj",
    "inverse_consistency_mean",
)
"""The metrics a short summary shows, in this order."""


def number(value: float | None) -> str:
    """Return a number with three or four significant digits, a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if 0.0995 <= abs(value) < 10 else f"{value:.3g}"


def key_metrics(metrics: Mapping[str, MetricValue]) -> dict[str, MetricValue]:
    """Return the metrics of a short summary, most telling first."""
    return {name: metrics[name] for name in KEY if name in metrics}


def metric_of(stored: Mapping[str, Any]) -> MetricValue:
    """Return a metric as it was before `MetricValue.as_dict`."""
    value = float("nan") if stored["value"] is None else stored["value"]
    return MetricValue(value, stored["before"], stored["label"], stored["unit"], stored["better"])


def metric_table(metrics: Mapping[str, MetricValue]) -> Table:
    """Return a table of metrics, before and after, better values in green and worse ones in red."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for name, m in metrics.items():
        after = number(m.value)
        if m.improved is not None:
            after = f"[{'green' if m.improved else 'red'}]{after}[/]"
        before = "" if m.before is None else number(m.before)
        table.add_row(escape(m.label or name), before, after, escape(m.unit))
    return table


def size_of(grid: Grid, unit: str = "mm") -> str:
    """Return the size of a grid in words, x first: ``64 x 48 x 20 voxels of 1 x 1 x 3 mm``."""
    shape = " x ".join(map(str, grid.shape[::-1]))
    if unit == "px":
        return f"{shape} pixels"
    spacing = " x ".join(f"{s:.4g}" for s in grid.spacing[::-1])
    return f"{shape} {'pixels' if grid.ndim == 2 else 'voxels'} of {spacing} {unit}"


def listed(items: Iterable[object], *, most: int = 12) -> str:
    """Return items separated by commas, shortened when there are many."""
    texts = [str(i) for i in items]
    return ", ".join(texts) if len(texts) <= most else f"{', '.join(texts[:most])} and {len(texts) - most} more"
