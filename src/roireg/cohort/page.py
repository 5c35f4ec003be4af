"""One page of a cohort: every pair a line, worst first, sortable, with links to the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from roireg.cohort.cohort import STATES
from roireg.core.files import readable
from roireg.evaluate.summary import key_metrics, metric_of, number

__all__ = ["render", "worst_first"]

RANKED = (("dice_mean", 1), ("landmark_error_mean", -1), ("lncc2", 1), ("ncc", 1))
"""What pairs of one state are ordered by: the first that they have, and whether more is better."""


def worst_first(pairs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return pairs by state, and in one state by what tells most about it."""
    return sorted(pairs, key=_rank)


def _rank(pair: Mapping[str, Any]) -> tuple[int, bool, float, str]:
    metrics = pair.get("metrics", {})
    quality = next(
        (sign * metrics[n]["value"] for n, sign in RANKED if n in metrics and metrics[n]["value"] is not None), 0.0
    )
    return STATES.index(pair["state"]), not pair.get("worse"), quality, pair["id"]


def _short(value: float) -> str:
    """Return a number as it fits into a cell: what is next to nothing is said to be."""
    return "<0.001" if 0 < abs(value) < 1e-3 else number(value)


def _link(path: str) -> str:
    return quote(path, errors="surrogateescape")


def render(title: str, pairs: Sequence[Mapping[str, Any]], out: Path) -> str:
    """Return the page; links and pictures are relative to `out`, where it will lie."""
    metrics = [key_metrics({n: metric_of(m) for n, m in pair.get("metrics", {}).items()}) for pair in pairs]
    known = {name: value for each in metrics for name, value in each.items()}
    columns = key_metrics(known)
    by_id = {pair["id"]: each for pair, each in zip(pairs, metrics, strict=True)}
    lines = []
    for pair in worst_first(pairs):
        values = by_id[pair["id"]]
        folder = pair["folder"]
        report = f"{folder}/report.html"
        own = f"{folder}/thumbnail.jpg"
        picture = own if (out / own).is_file() else f"thumbnails/{pair['id']}.jpg"
        lines.append(
            {
                "id": pair["id"],
                "state": pair["state"],
                "rank": STATES.index(pair["state"]),
                "why": [pair["cause"]] if pair.get("cause") else [*pair.get("worse", ()), *pair.get("reasons", ())],
                "link": _link(report if (out / report).is_file() else f"{folder}/"),
                "linked": (out / folder).is_dir(),
                "picture": _link(picture) if (out / picture).is_file() else "",
                "fixed": pair["fixed"],
                "moving": pair["moving"],
                "cells": [(_short(values[n].value), values[n].value) if n in values else ("–", "") for n in columns],
                "seconds": pair.get("seconds"),
            }
        )
    environment = Environment(
        loader=PackageLoader("roireg.cohort"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    states = [pair["state"] for pair in pairs]
    page = environment.get_template("cohort.html.j2").render(
        title=title,
        counts=[(state, states.count(state)) for state in STATES if state in states],
        columns=[(m.label or n, m.unit) for n, m in columns.items()],
        lines=lines,
    )
    return readable(page)
