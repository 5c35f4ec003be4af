"""Paths of tiny saved networks, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from models.tiny import saved


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`place(kind)` is where the tiny network of a kind, of seed 0, is saved."""
    root = tmp_path_factory.mktemp("models")
    return cache(lambda kind: saved(kind, root))


@pytest.fixture(autouse=True)
def _no_weights_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "ROIREG_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
