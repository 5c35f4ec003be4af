"""The trials as commands run them: what is measured, and the lines of a table that say so."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from roireg.core.errors import InputError
from roireg.core.progress import Progress
from roireg_bench.cohorts.atlas import measure_atlas
from roireg_bench.cohorts.chaos import run_chaos
from roireg_bench.cohorts.overhead import measure_overhead
from roireg_bench.cohorts.scaling import measure_scaling

__all__ = ["atlas_page", "chaos_page", "overhead_page", "scaling_page"]


def overhead_page(folder: Path | None, *, pairs: int, at_once: Sequence[int]) -> str:
    """Measure what a pair costs beside its work; return a table."""
    rows = []
    for count in at_once:
        with _place(folder) as place:
            cost = measure_overhead(place / f"overhead{count}", pairs=pairs, at_once=count)
        rows.append(
            f"| {'on Dask, ' if count > 1 else ''}{count} at once | {cost.pairs} | {cost.wall_ms:.2f} ms | "
            f"{cost.cpu_ms:.2f} ms | {cost.memory[0]:.0f} MB, {cost.memory[1]:.0f} MB | {cost.summary_s:.1f} s |"
        )
    head = "| | pairs | wall per pair | CPU per pair, here | memory at a tenth, at the end | table and summary |"
    return _table(head, rows)


def scaling_page(folder: Path | None, *, pairs: int, at_once: Sequence[int]) -> str:
    """Measure how time falls with workers; return a table."""
    with _place(folder) as place:
        rows = [
            f"| {s.at_once} | {s.pairs} | {s.seconds:.1f} s | {s.busy:.1f} s | {s.load:.1f} |"
            for s in measure_scaling(place, pairs=pairs, workers=tuple(at_once))
        ]
    return _table("| at once | pairs | wall | sum of the registrations | load of the machine |", rows)


def chaos_page(
    folder: Path | None, *, pairs: int, at_once: int, every: float, disk: Path | None, say: Callable[[str], None]
) -> str:
    """Run a cohort among failures; return what happened and what was left.

    Raises
    ------
    RoiregError
        When something is not as after an undisturbed run.
    """
    with _place(folder) as place:
        found = run_chaos(place, pairs=pairs, workers=at_once, every=every, disk=disk, say=say)
    if found.different:
        raise InputError(
            f"{len(found.different)} differences to an undisturbed run, the first is {found.different[0]}"
        )
    lines = [
        f"{found.pairs} pairs, {at_once} workers; undisturbed {found.calm_seconds:.0f} s, disturbed "
        f"{found.seconds:.0f} s in {found.calls} calls. At the end every pair was there once, and all files were "
        "those of the undisturbed run byte by byte, times aside.",
        "",
        *(f"- {event}: {count}" for event, count in found.events.items()),
        *(f"- told of a pair: {cause} ({count})" for cause, count in found.told.items()),
    ]
    return "\n".join(lines) + "\n"


def atlas_page(
    table: Path, folder: Path | None, *, config: Path | None, at_once: int, iterations: int, progress: Progress
) -> str:
    """Measure whether a template carries labels better than any of its images; return a table."""
    with _place(folder) as place:
        a = measure_atlas(table, place, config=config, jobs=at_once, iterations=iterations, progress=progress)
    mean = sum(a.single.values()) / len(a.single)
    rows = [
        f"| labels carried to an image that had no vote | {a.template:.4f} | {a.single[a.best]:.4f} ({a.best}) | "
        f"{mean:.4f} |",
        f"| the same, the others voting for the labels of the single image, too | {a.template:.4f} | "
        f"{max(a.fused.values()):.4f} | {sum(a.fused.values()) / len(a.fused):.4f} |",
        f"| labels of two images, carried onto it | {a.agreeing:.4f} | {max(a.agreeing_single.values()):.4f} | "
        f"{sum(a.agreeing_single.values()) / len(a.agreeing_single):.4f} |",
    ]
    return _table("| mean Dice | template | best single image | mean single image |", rows)


def _table(head: str, rows: Sequence[str]) -> str:
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows]) + "\n"


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    """Yield a folder that stays, or one that goes."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="roireg-bench-") as temporary:
        yield Path(temporary)
