"""The probability of a result: high where the images agree, low elsewhere, whatever the contrast."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cheaper import UNJUDGED
from roireg.core.pair import Pair
from roireg.core.transforms import Affine
from roireg.fit import Trace
from roireg.fit import stage as stage_module
from roireg.fit.search import GlobalSearch, SearchOptions
from roireg.pipeline import Config, register
from roireg.pipeline.trust import calibration, evidence
from roireg.pipeline.verdict import judge
from support import centred, painted, turned

GRID = centred((96, 96))
TRUTH = Affine.translation((5.0, -3.0))


def about_center(degrees: float) -> Affine:
    matrix = np.eye(3)
    matrix[:2, :2] = turned(degrees)
    return Affine(TRUTH.matrix @ matrix)


@pytest.fixture(scope="module", params=["like", "unlike"])
def search(request) -> GlobalSearch:
    fixed, moving = painted(GRID), painted(GRID, truth=TRUTH)
    if request.param == "unlike":
        moving = moving.with_data((moving.data.float() - moving.data.float().mean()).abs() * -1)
    return GlobalSearch(Pair(fixed, moving, None, None), SearchOptions())


@pytest.mark.parametrize("degrees", [25, 90, 180])
def test_the_right_position_is_probable_and_a_turned_one_is_not(search, degrees):
    right, wrong = (calibration().trust(search, t, t) for t in (TRUTH, about_center(degrees)))
    assert right.probability > 0.7
    assert wrong.probability < 0.3
    box = np.ptp(search.boxes[0], axis=0)
    assert right.within == pytest.approx(0.02 * np.linalg.norm(box))
    assert set(right.evidence) == set(calibration().names)


def test_evidence_of_a_bent_transform(search):
    bent = about_center(20)
    values = evidence(search, bent, TRUTH)
    assert values["bend"] > 0.05 and values["stretch"] == pytest.approx(0, abs=1e-9)
    assert evidence(search, TRUTH, TRUTH)["bend"] == pytest.approx(0, abs=1e-9)


def test_a_wrong_position_that_was_asked_for_is_not_ok(search, monkeypatch):
    fixed, moving = search.pair.fixed, search.pair.moving
    # The search of the registration is between the same images: it is the same.
    monkeypatch.setattr(stage_module, "GlobalSearch", lambda pair, options: search)
    frozen = Config(stages=())
    result = register(fixed, moving, init=about_center(90), config=frozen)
    assert result.verdict == "failed"
    assert any("mean error" in reason for reason in result.reasons)
    assert result.metrics["probability_right"].value < 0.1
    right = register(fixed, moving, init=TRUTH, config=frozen)
    assert right.metrics["probability_right"].value > 0.7


def test_it_can_be_left_out():
    fixed = painted(GRID)
    result = register(fixed, fixed, config=Config(stages=(), verdict=UNJUDGED))
    assert "probability_right" not in result.metrics and "evidence" not in result.provenance


def test_images_that_show_nothing_are_not_right():
    noise = [
        painted(GRID).with_data(torch.as_tensor(np.random.default_rng(k).normal(size=(1, 96, 96))).float())
        for k in (0, 1)
    ]
    search = GlobalSearch(Pair(*noise, None, None), SearchOptions())
    assert calibration().trust(search, Affine.identity(2), Affine.identity(2)).probability < 0.3


def test_a_note_is_a_doubt_where_the_position_is_not_sure(search):
    fixed, moving = search.pair.fixed, search.pair.moving
    for transform, doubted in ((TRUTH, False), (about_center(90), True)):
        result = register(fixed, moving, init=transform, config=Config(stages=(), verdict=UNJUDGED))
        judged = judge(result, Trace(notes=["a note"]), search=search)
        assert ("a note" in judged.reasons) is doubted
        assert ("notes" in judged.provenance) is not doubted


@pytest.mark.parametrize("shape", [(64, 64), (20, 22, 24)])
def test_noise_is_never_called_right(shape):
    """Two images that share nothing: whatever the fit makes of them, nobody is told that it is good."""
    rng = np.random.default_rng(5)
    fixed, moving = ((rng.normal(size=shape).astype(np.float32), (1.0,) * len(shape)) for _ in range(2))
    result = register(fixed, moving)
    assert result.verdict != "ok"
    assert result.metrics["probability_right"].value < 0.25
