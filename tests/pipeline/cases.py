"""What the pipeline tests share."""

from __future__ import annotations

from cheaper import COARSE
from roireg.core.transforms import Affine, Transform
from roireg.evaluate import displacement_errors
from roireg.fit import stage_named
from roireg.pipeline import Config
from roireg.synth import SyntheticPair

FLAT = (60, 80)
DEEP = (16, 24, 30)

QUICK = {
    "search": {
        "exhaustive": COARSE.model_dump(),
        "single_pairs": 10,
        "trials": 2,
        "trial": {"max_voxels": 1200},
        "affine": {"screen_voxels": 1000, "refine_voxels": 2000, "keep": 2, "iterations": 12},
    },
    "velocity": {"levels": 2, "iterations": (20, 20), "max_voxels": 15_000},
    "published": {"iterations": 30},
}

CHEAP = {"segment": {"max_count": 20}, "verdict": {"probability": False}}


def merged(base: dict, changes: dict) -> dict:
    out = dict(base)
    for key, value in changes.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and key in out else value
    return out


def quick(base: Config | None = None, *, stages: tuple[str, ...] | None = None, options=(), **sections) -> Config:
    """Few iterations on few voxels, a coarse search, and no probability of the result, which takes another one.

    `stages` names other stages than those of `base`; `options` (stage name -> options) and `sections` change single
    settings.
    """
    settings = (base or Config()).model_dump()
    if stages is not None:
        settings["stages"] = [stage_named(name)().model_dump() for name in stages]
    changes = merged(QUICK, dict(options))
    settings["stages"] = [merged(stage, changes.get(stage["stage"], {})) for stage in settings["stages"]]
    return Config.model_validate(merged(merged(settings, CHEAP), sections))


def error(transform: Transform | None, pair: SyntheticPair) -> float:
    """Mean true displacement error (mm, px for rasters) inside the organs; None is no registration."""
    body = pair.fixed_labels.data[0] > 0
    found = transform or Affine.identity(pair.fixed.ndim)
    return displacement_errors(found, pair.transform, pair.fixed.grid, body)["displacement_error_mean"]
