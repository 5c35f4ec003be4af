"""Settings that search coarsely and leave the probability of the result out, which takes a search of its own.

For tests of everything but how well a position is found and how sure of it the verdict is: a search at full
resolution takes more seconds than the rest of a small registration. Import as `from cheaper import ...`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from roireg.fit import Search
from roireg.fit.search import SearchOptions
from roireg.pipeline import PRESETS, Config, recipe
from roireg.pipeline.config import QUICK
from roireg.pipeline.sections import VerdictConfig

UNJUDGED = VerdictConfig(probability=False)
COARSE = SearchOptions(cells=24, polish=6)


def cheaper(config: Config) -> Config:
    """The same settings, searching coarsely and judging without a probability."""
    stages = tuple(
        s.model_copy(update={"exhaustive": COARSE}) if isinstance(s, Search) and s.exhaustive is not None else s
        for s in config.stages
    )
    verdict = config.verdict.model_copy(update={"probability": False})
    return config.model_copy(update={"stages": stages, "verdict": verdict})


def cheapen(monkeypatch: pytest.MonkeyPatch, change: Callable[[Config], Config] = cheaper) -> None:
    """Change every preset, and the quick registration that guides prompts."""
    for name, make in list(PRESETS.items()):
        monkeypatch.setitem(PRESETS, name, partial(_changed, make, change))
    monkeypatch.setattr(recipe, "QUICK", change(QUICK))


def _changed(make: Callable[[], Config], change: Callable[[Config], Config]) -> Config:
    return change(make())
