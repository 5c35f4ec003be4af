"""What a cohort costs beside its registrations: thousands of pairs whose task does nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roireg.cohort import CohortJob
from roireg.cohort.process import resident_memory
from roireg.cohort.running import register_all
from roireg.core.progress import ProgressEvent

__all__ = ["Overhead", "measure_overhead", "nothing"]

WARM = 100
"""Pairs before the clock starts: processes start and libraries load with the first."""


@dataclass(frozen=True)
class Overhead:
    """Cost of one pair beside its work.

    Attributes
    ----------
    pairs, at_once : how many, and how many of them at once; one at a time goes without Dask.
    wall_ms : from one pair to the next. cpu_ms : of this program, scheduler and worker of Dask included.
    memory : resident memory of this program after a tenth of the pairs and after all, MB.
    summary_s : reading the table and writing the summary of all pairs, once.
    """

    pairs: int
    at_once: int
    wall_ms: float
    cpu_ms: float
    memory: tuple[float, float]
    summary_s: float


def nothing(*, options: dict[str, Any], thumbnail: str | None = None) -> dict[str, Any]:
    """Answer as `roireg.cohort.pair.register_pair` does, without a registration."""
    metrics = {"ncc": {"value": 0.9, "before": 0.5, "label": "NCC", "unit": "", "better": "higher"}}
    return {"verdict": "ok", "reasons": [], "worse": [], "metrics": metrics, "seconds": 0.0, "kept": False}


def measure_overhead(folder: Path, *, pairs: int, at_once: int) -> Overhead:
    """Run `pairs` pairs of empty files that are there, with everything that a cohort does but the registration."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [f"image{i:02}.nii" for i in range(20)]
    for name in images:
        (folder / name).touch()
    rows = [f"{i:05},{images[i % 20]},{images[(i + 1) % 20]}" for i in range(pairs)]
    (folder / "pairs.csv").write_text("\n".join(["id,fixed,moving", *rows]) + "\n", encoding="utf-8")
    job = CohortJob(files=[folder / "pairs.csv"], out=folder / "out", jobs=at_once)
    clock = _Clock(pairs)
    began = time.perf_counter()
    with job.engine(job.limits(None), lambda text: None) as engine:
        jobs = [(row.id, job.job(row)) for row in job.rows()]
        result = register_all(jobs, job, job.out, clock, engine, function=f"{__name__}:nothing")
        ended = time.perf_counter()
    if result.counts != {"ok": pairs}:
        raise RuntimeError(f"expected {pairs} pairs that are ok, found {result.counts}")
    count = pairs - WARM
    return Overhead(
        pairs,
        at_once,
        (clock.last - clock.first) / count * 1e3,
        (clock.cpu_last - clock.cpu_first) / count * 1e3,
        (clock.memory[0], clock.memory[-1]),
        (ended - began) - (clock.last - clock.started),
    )


class _Clock:
    """Hears of every pair, and notes times and memory."""

    def __init__(self, total: int) -> None:
        self.total, self.heard = total, -1
        self.started = self.first = self.last = time.perf_counter()
        self.cpu_first = self.cpu_last = time.process_time()
        self.memory: list[float] = []

    def __call__(self, event: ProgressEvent) -> None:
        if event.notice:
            return
        self.heard += 1
        self.last, self.cpu_last = time.perf_counter(), time.process_time()
        if self.heard == 0:
            self.started = self.last
        if self.heard == WARM:
            self.first, self.cpu_first = self.last, self.cpu_last
        if self.heard in (self.total // 10, self.total):
            self.memory.append(resident_memory() / 1e6)
