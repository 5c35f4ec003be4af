"""One thread per worker, repeatable property tests, and the evaluation data where there is some."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# The same examples on every run: a failure in CI is a failure at the desk.
settings.register_profile("roireg", deadline=None, derandomize=True, max_examples=40, database=None)
settings.load_profile("roireg")

# Modules and collected tests stay until the end: looking for garbage among them takes a fifth of the collection, and
# again and again some of the tests.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture
def cheap_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets that search coarsely and are judged without a probability, see `cheaper`."""
    from cheaper import cheapen

    cheapen(monkeypatch)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The evaluation data beside the repository; skips the test where it is absent."""
    path = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the evaluation data in ../shared/data")
    return path
