"""Short texts and tables for people: verdicts, numbers before and after, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.markup import escape
from rich.table import Table

from roireg.core.grid import Grid
from roireg.evaluate import MetricValue
from roireg.evaluate.summary import key_metrics, metric_of, number

__all__ = ["COLOURS", "escape", "key_metrics", "metric_of", "metric_table", "number", "rows_table", "size_of"]

COLOURS = {"ok": "green", "uncertain": "yellow", "failed": "red"}


def rows_table(rows: Iterable[tuple[str, object]]) -> Table:
    """Return a table of labels and what belongs to them, which is wrapped where it is long."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, escape(str(text)))
    return table


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
