"""Settings that search coarsely and leave the probability of the result out, which takes a search of its own.

For tests of everything but how well a position is found and how sure of it the verdict is: a search at full
resolution takes more seconds than the rest of a small registration. Import as `from cheaper import ...`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from roireg.fit import Search, Velocity
from roireg.fit.search import SearchOptions
from roireg.pipeline import PRESETS, Config, recipe
from roireg.pipeline.config import QUICK
from roireg.pipeline.sections import VerdictConfig
from roireg.segment import hierarchy
from roireg.segment.kept import Kept

UNJUDGED = VerdictConfig(probability=False)
COARSE = SearchOptions(cells=24, polish=6, max_scale=1)

FEW: dict[str, Any] = {
    "exhaustive": COARSE,
    "single_pairs": 10,
    "trials": 2,
    "trial": {"max_voxels": 1200},
    "affine": {"screen_voxels": 1000, "refine_voxels": 2000, "keep": 2, "iterations": 12},
}
"""Options of a search for the start that looks at few proposals, each on few voxels."""


PREPARED: Kept[hierarchy.HierarchyImage] = Kept(24)
"""What the segmenter made of the images of tests, which is half of the time of a small registration."""


def keep_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare an equal image once for all tests that say so, as a cohort does for its template."""
    monkeypatch.setattr(hierarchy, "KEPT", PREPARED)


def cheaper(config: Config) -> Config:
    """The same settings, searching coarsely and judging without a probability."""
    stages = tuple(_coarse(s) if isinstance(s, Search) and s.exhaustive is not None else s for s in config.stages)
    verdict = config.verdict.model_copy(update={"probability": False})
    return config.model_copy(update={"stages": stages, "verdict": verdict})


def _coarse(search: Search) -> Search:
    """The same search by few voxels and proposals."""
    options = {
        name: getattr(search, name).model_copy(update=value) if isinstance(value, dict) else value
        for name, value in FEW.items()
    }
    return search.model_copy(update=options)


def shorter(config: Config) -> Config:
    """Cheaper settings with the same stages, whose deformation takes a few steps and is not looked at again."""
    few = {"levels": 1, "iterations": (10,), "max_voxels": 6000, "checked": False}
    stages = tuple(s.model_copy(update=few) if isinstance(s, Velocity) else s for s in cheaper(config).stages)
    return cheaper(config).model_copy(update={"stages": stages})


def cheapen(monkeypatch: pytest.MonkeyPatch, change: Callable[[Config], Config] = cheaper) -> None:
    """Change every preset, and the quick registration that guides prompts."""
    for name, make in list(PRESETS.items()):
        monkeypatch.setitem(PRESETS, name, partial(_changed, make, change))
    monkeypatch.setattr(recipe, "QUICK", change(QUICK))


def _changed(make: Callable[[], Config], change: Callable[[Config], Config]) -> Config:
    return change(make())
