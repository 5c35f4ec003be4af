"""One browser for all tests of the viewer, generated pairs, and a server for each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from browsing import chromium, missing

from roireg.fit import RegionAffine, Velocity
from roireg.io import write_image
from roireg.pipeline import Config
from roireg.serve import fitting, session
from roireg.synth import SyntheticPair, as_raster, make_pair

MOTION = {"max_displacement_mm": 8, "rotation_deg": 1, "translation_mm": 8, "scale": 0.01, "noise": 2}
QUICKLY = Velocity(levels=2, max_voxels=20_000, iterations=(30, 20), checked=False)


@pytest.fixture(autouse=True, scope="session")
def moderate() -> Iterator[None]:
    """Registrations without a search for far starts, which these pairs do not need: the viewer is tested here."""
    settings = Config(stages=(RegionAffine(), QUICKLY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "QUICK", settings)
        patch.setattr(fitting, "with_settings", lambda job: settings)
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
