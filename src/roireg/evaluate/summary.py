"""The few numbers of a result that tell most, and how a result looks in a notebook."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from roireg.evaluate.metrics import MetricValue
from roireg.evaluate.palette import BLUE, GREEN, NEUTRAL, VERMILION

__all__ = ["key_metrics", "metric_of", "number", "summary_html"]

KEY = (
    "probability_right",
    "right_within",
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

_BADGES = {"ok": GREEN, "uncertain": "#b36b00", "failed": VERMILION}


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


def summary_html(
    title: str,
    verdict: str,
    reasons: Sequence[str],
    metrics: Mapping[str, MetricValue],
    *,
    picture: bytes | None = None,
) -> str:
    """Return verdict, reasons, key metrics before and after, and a PNG picture as a piece of HTML."""
    rows = []
    for name, m in key_metrics(metrics).items():
        colour = {True: GREEN, False: VERMILION, None: "inherit"}[m.improved]
        before = "" if m.before is None else number(m.before)
        rows.append(
            f"<tr><td style='text-align:left'>{escape(m.label or name)}</td><td>{before}</td>"
            f"<td style='color:{colour}'>{number(m.value)}</td><td style='text-align:left'>{escape(m.unit)}</td></tr>"
        )
    table = "<table><tr><th></th><th>before</th><th>after</th><th></th></tr>" + "".join(rows) + "</table>"
    badge = (
        f"<b style='background:{_BADGES.get(verdict, NEUTRAL)};color:white;padding:1px 8px;border-radius:8px'>"
        f"{escape(verdict)}</b>"
    )
    doubts = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    shown = ""
    if picture is not None:
        encoded = base64.b64encode(picture).decode("ascii")
        shown = (
            f"<img src='data:image/png;base64,{encoded}' style='max-width:100%' alt='fixed image in "
            "orange and moving image in blue, before and after'>"
        )
    return (
        f"<div style='border-left:3px solid {BLUE};padding-left:10px'>{badge} {escape(title)}"
        f"{f'<ul>{doubts}</ul>' if doubts else ''}{table if rows else ''}{shown}</div>"
    )
