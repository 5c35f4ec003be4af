"""One browser for all tests of the viewer, generated pairs, and a server for each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from browsing import MOTION, chromium, missing, without_search

from roireg.io import write_image
from roireg.synth import SyntheticPair, as_raster, make_pair


@pytest.fixture(autouse=True, scope="session")
def moderate() -> Iterator[None]:
    """Registrations without a search for far starts, which these pairs do not need: the viewer is tested here."""
    with without_search():
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = missing()
    if why is not None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="session")
def photos() -> SyntheticPair:
    return as_raster(make_pair(2, shape=(144, 192), **MOTION))


@pytest.fixture(scope="session")
def volumes() -> SyntheticPair:
    return make_pair(3, shape=(24, 40, 52), oblique_deg=8, **MOTION)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: SyntheticPair, volumes: SyntheticPair) -> Path:
    place = tmp_path_factory.mktemp("scans")
    for pair, kind in ((photos, ".png"), (volumes, ".nii.gz")):
        for side in ("fixed", "moving"):
            write_image(place / f"{side}{kind}", getattr(pair, side))
    return place
