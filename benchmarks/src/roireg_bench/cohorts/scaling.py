"""How the time of a cohort falls with the number of workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roireg_bench.cohorts.pairs import make_table, quick_job

__all__ = ["Scaling", "measure_scaling"]


@dataclass(frozen=True)
class Scaling:
    """Time of all pairs with a number of them at once.

    Attributes
    ----------
    seconds : on the wall, libraries loaded in every process.
    busy : seconds that registrations say they took, summed.
    load : of the machine at the end, its mean of a minute; above its cores others were computing, too.
    """

    at_once: int
    pairs: int
    seconds: float
    busy: float
    load: float


def measure_scaling(folder: Path, *, pairs: int, workers: tuple[int, ...] = (1, 2)) -> Iterator[Scaling]:
    """Register `pairs` generated pairs anew with each number of workers, one thread each."""
    table = make_table(folder / "data", pairs)
    for at_once in workers:
        began = time.perf_counter()
        result = quick_job(table, folder / f"out{at_once}", jobs=at_once, threads=1).run()
        seconds = time.perf_counter() - began
        if len(result.pairs) != pairs or not result.counts.keys() <= {"ok", "uncertain", "failed"}:
            raise RuntimeError(f"expected a result of all {pairs} pairs, found {result.counts}")
        busy = sum(float(pair["seconds"]) for pair in result.pairs)
        yield Scaling(at_once, pairs, seconds, busy, os.getloadavg()[0])
