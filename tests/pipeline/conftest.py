"""Small phantoms and settings under which a registration takes about a second; each is computed once."""

from __future__ import annotations

import pytest

import roireg
from cheaper import keep_prepared
from pipeline.cases import DEEP, FLAT, quick
from roireg.core.transforms import Affine
from roireg.synth import SyntheticPair, as_raster, make_pair


@pytest.fixture(autouse=True)
def prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_prepared(monkeypatch)


@pytest.fixture(scope="session")
def flat() -> SyntheticPair:
    """A raster pair, 8 bit, world = pixel index."""
    return as_raster(make_pair(2, seed=3, shape=FLAT))


@pytest.fixture(scope="session")
def deep() -> SyntheticPair:
    """An oblique, anisotropic volume and a moving image on a grid of its own."""
    moving = make_pair(3, shape=(20, 24, 28), seed=0).fixed.grid
    return make_pair(3, seed=3, shape=DEEP, oblique_deg=12, moving_grid=moving)


@pytest.fixture(scope="session")
def flat_result(flat) -> roireg.Registration:
    return roireg.register(flat.fixed, flat.moving, config=quick())


@pytest.fixture(scope="session")
def deep_result(deep) -> roireg.Registration:
    """From label maps as regions: class-agnostic regions of a volume take seconds."""
    return roireg.register(
        deep.fixed, deep.moving, config=quick(), fixed_rois=deep.fixed_labels, moving_rois=deep.moving_labels
    )


@pytest.fixture
def still() -> Affine:
    return Affine.identity(2)
