"""Generated pairs for cohorts, and settings under which one takes a moment."""

from __future__ import annotations

from pathlib import Path

from roireg.cohort import CohortJob
from roireg.io import write_image
from roireg.synth import as_raster, make_pair

__all__ = ["QUICK", "make_table", "quick_job"]

QUICK = "segment: {max_count: 24}\nstages: [{stage: affine}]\nverdict: {probability: false}\n"
"""Settings: an affine map of region pairs alone, without search."""


def make_table(folder: Path, count: int, *, people: int = 20) -> Path:
    """Write small PNG files of `people` scenes, and a table of `count` pairs of them under different seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quick.yaml").write_text(QUICK, encoding="utf-8")
    for seed in range(people):
        pair = as_raster(make_pair(2, seed=seed, shape=(64, 80), max_displacement_mm=4, translation_mm=4))
        write_image(folder / f"fixed{seed:02}.png", pair.fixed)
        write_image(folder / f"moving{seed:02}.png", pair.moving)
    rows = [
        f'{i:04},fixed{i % people:02}.png,moving{i % people:02}.png,{i // people},"transform,inverse,warped"'
        for i in range(count)
    ]
    table = folder / "pairs.csv"
    table.write_text("\n".join(["id,fixed,moving,seed,outputs", *rows]) + "\n", encoding="utf-8")
    return table


def quick_job(table: Path, out: Path, **options: object) -> CohortJob:
    """Return the cohort of a table of `make_table`."""
    return CohortJob(files=[table], out=out, config=table.parent / "quick.yaml", **options)  # type: ignore[arg-type]
