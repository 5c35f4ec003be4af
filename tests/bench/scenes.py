"""Two tiny case sets with known truth, and the commands of the benchmark."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from app.scenes import RUNNER
from bench.shift import Broken, Instant, LookingAround, Shift, end_at_once
from roireg.io import PointSet, write_image, write_labels, write_points
from roireg.synth import SyntheticPair, as_raster, make_pair, trunk_grid
from roireg_bench.cases import CaseFolder, load_folder
from roireg_bench.cli import bench_app

__all__ = [
    "Broken",
    "Instant",
    "LookingAround",
    "Shift",
    "bench",
    "change_json",
    "deep_pair",
    "document",
    "end_at_once",
    "flat_pair",
    "rewrite",
    "write_both",
    "write_set",
]


@cache
def flat_pair() -> SyntheticPair:
    return as_raster(make_pair(2, seed=1, shape=(60, 80), max_displacement_mm=10, translation_mm=6))


@cache
def deep_pair() -> SyntheticPair:
    """Anisotropic and oblique, the moving image on a grid of its own."""
    other = trunk_grid(3, shape=(20, 28, 36))
    return make_pair(3, seed=5, shape=(16, 30, 40), oblique_deg=15, moving_grid=other, max_displacement_mm=10)


def document(pair: SyntheticPair, *, name: str, ending: str) -> dict:
    files = {"fixed": f"fixed{ending}", "moving": f"moving{ending}"}
    files |= {f"{side}_labels": f"{side}_labels{ending}" for side in ("fixed", "moving")}
    files |= {f"{side}_points": f"{side}_points.csv" for side in ("fixed", "moving")}
    return {
        "name": name,
        "ndim": pair.fixed.ndim,
        "task": "synthetic",
        "modality": {"fixed": "phantom", "moving": "phantom"},
        "terms": "none",
        "source": "generated",
        "labels": {str(k): v for k, v in pair.label_names.items()},
        "spacing_known": ending != ".png",
        "pairs": [{"id": "one", **files, "true_affine": None, "notes": ""}],
    }


def write_set(folder: Path, *, ndim: int) -> Path:
    pair, ending = (flat_pair(), ".png") if ndim == 2 else (deep_pair(), ".nii.gz")
    folder.mkdir(parents=True)
    for side in ("fixed", "moving"):
        write_image(folder / f"{side}{ending}", getattr(pair, side))
        write_labels(folder / f"{side}_labels{ending}", getattr(pair, f"{side}_labels"))
        write_points(folder / f"{side}_points.csv", PointSet(getattr(pair, f"{side}_points")))
    rewrite(folder, document(pair, name=folder.name, ending=ending))
    return folder


def rewrite(folder: Path, content: dict) -> None:
    (folder / "pairs.json").write_text(json.dumps(content), encoding="utf-8")


def change_json(folder: Path, **values: object) -> None:
    """Set keys of the document, or of its first pair where they are those of a pair."""
    content = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    for key, value in values.items():
        target = content["pairs"][0] if key in content["pairs"][0] else content
        target[key] = value
    rewrite(folder, content)


def write_both(root: Path) -> list[CaseFolder]:
    return [load_folder(write_set(root / name, ndim=ndim)) for name, ndim in (("deep", 3), ("flat", 2))]


def bench(*arguments):
    """Run ``roireg bench ARGUMENTS``."""
    return RUNNER.invoke(bench_app, [str(a) for a in arguments], catch_exceptions=False)
