"""The verdict: results that cannot be trusted say so, and why."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import roireg
from fit.scenes import single
from pipeline.cases import quick
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPairs, ROISet
from roireg.core.transforms import Affine, Chain, DisplacementField, Transform
from roireg.fit import Trace
from roireg.fit.perspective import perspective_flow
from roireg.pipeline import Config, Registration, verdict
from roireg.pipeline.verdict import judge
from support import centred, disc, painted

GRID = centred((48, 48))


def finished(fixed: Image, moving: Image, transform: Transform, *, pairs: ROIPairs | None = None) -> Registration:
    return Registration(
        fixed=fixed,
        moving=moving,
        transform=Chain((transform,)),
        pairs=pairs or ROIPairs(ROISet.empty(moving.grid), ROISet.empty(fixed.grid)),
        config=Config(),
        timings={},
        provenance={},
    )


def start(*rivals: float, loss: float = 0.2) -> Trace:
    return Trace("test", loss, tuple((Affine.translation((30.0, 0.0)), r) for r in rivals))


def wave(grid: Grid, size: float) -> DisplacementField:
    """A sideways wave; folds where its slope falls below -1, that is for sizes above about 1.3 mm."""
    index = np.arange(grid.shape[-1])
    u = torch.zeros(grid.ndim, *grid.shape)
    u[0] = torch.as_tensor(size * np.sin(2 * np.pi * index / 8), dtype=torch.float32)
    return DisplacementField(grid, u)


def test_a_perfect_result_is_ok():
    truth = Affine.translation((6.0, -4.0))
    fixed, moving = painted(GRID), painted(GRID, truth=truth)
    found = judge(finished(fixed, moving, truth), start())
    assert found.verdict == "ok" and found.reasons == ()
    assert found.metrics["lncc2"].value > found.metrics["lncc2"].before
    assert found.metrics["folding_percent"].value == 0
    assert found.metrics["jacobian_min"].value == pytest.approx(1, abs=1e-3)
    assert "pair_agreement" not in found.metrics


def test_a_folding_transform_fails():
    image = painted(GRID)
    found = judge(finished(image, image, wave(GRID, 4.0)), start())
    assert found.verdict == "failed"
    assert "folds at" in found.reasons[0]
    assert found.metrics["folding_percent"].value > 1


def test_a_little_folding_is_a_doubt():
    image = painted(GRID)
    field = wave(GRID, 4.0)
    only = torch.zeros_like(field.displacement)
    only[:, 20:24, 20:28] = field.displacement[:, 20:24, 20:28]
    found = judge(finished(image, image, DisplacementField(GRID, only)), start())
    rules = found.config.verdict
    assert rules.folding_uncertain < found.metrics["folding_percent"].value < rules.folding_failed
    assert any("folds at" in r for r in found.reasons)


def test_a_deformation_stronger_than_bodies_differ_is_a_doubt():
    image = painted(GRID)
    found = judge(finished(image, image, wave(GRID, 1.1)), start())
    assert found.metrics["folding_percent"].value == 0
    assert found.metrics["sdlogj"].value > found.config.verdict.stretch_uncertain
    assert any("stretches and squeezes much" in r for r in found.reasons)
    found = judge(finished(image, image, wave(GRID, 0.3)), start())
    assert not any("stretches" in r for r in found.reasons)


def test_what_a_perspective_stretches_is_no_doubt():
    tilt = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.03, 0.0, 1.0]])
    flow = perspective_flow(tilt, Affine.identity(2), GRID)
    image = painted(GRID)
    result = finished(image, image, flow)
    found = judge(result, start())
    assert found.metrics["sdlogj"].value > found.config.verdict.stretch_uncertain
    assert any("stretches" in r for r in found.reasons)
    assert not any("stretches" in r for r in judge(result, replace(start(), perspective=flow)).reasons)


def test_images_that_agree_less_than_before_fail():
    fixed = painted(GRID)
    found = judge(finished(fixed, fixed, Affine.translation((15.0, 9.0))), start())
    assert found.verdict == "failed"
    assert "agree less than before by every measure" in found.reasons[0]


def test_unrelated_noise_is_never_ok():
    rng = np.random.default_rng(0)
    a, b = (
        Image(torch.as_tensor(rng.random((1, 40, 40)), dtype=torch.float32), GRID.with_shape((40, 40))) for _ in "ab"
    )
    found = roireg.register(a, b, config=quick())
    assert found.verdict != "ok"
    assert found.reasons


def test_an_inverse_that_does_not_invert_is_a_doubt():
    image = painted(GRID)

    class Lopsided(DisplacementField):
        def inverse(self, **_):
            return Affine.translation((5.0, 0.0))

    field = Lopsided(GRID, torch.zeros(2, *GRID.shape))
    found = judge(finished(image, image, field), start())
    assert found.verdict == "uncertain"
    assert "the inverse misses by 5 mm" in found.reasons[0]


def test_regions_that_end_up_apart_are_a_doubt():
    image = painted(GRID)
    here, there = disc(GRID, (-10, 0), 5), disc(GRID, (10, 0), 5)
    apart = judge(finished(image, image, Affine.identity(2), pairs=single(here, GRID, there, GRID)), start())
    assert apart.metrics["pair_agreement"].value == 0
    assert apart.verdict == "uncertain" and "only 0% of the region pairs" in apart.reasons[0]
    together = judge(finished(image, image, Affine.identity(2), pairs=single(here, GRID, here, GRID)), start())
    assert together.metrics["pair_agreement"].value == 1 and together.verdict == "ok"


@pytest.mark.parametrize(
    "status, source, doubted",
    [("accepted", "prompt", True), ("accepted", "labels", False), ("proposed", "regions", False)],
)
def test_a_kept_pair_that_is_not_brought_together_is_a_doubt(status, source, doubted):
    image = painted(GRID)
    pairs = single(disc(GRID, (-2, 0), 5), GRID, disc(GRID, (4, 0), 5), GRID)
    pairs = replace(pairs, pairs=(replace(pairs.pairs[0], status=status, source=source),))
    reasons = judge(finished(image, image, Affine.identity(2), pairs=pairs), start()).reasons
    assert any("1 of 1 accepted pairs overlap by less than 50%" in r for r in reasons) == doubted


@pytest.mark.parametrize("rivals, expected", [((), "ok"), ((0.4,), "ok"), ((0.2001, 0.5), "uncertain")])
def test_a_rival_start_is_a_doubt_only_when_it_explains_the_images_as_well(rivals, expected):
    image = painted(GRID)
    found = judge(finished(image, image, Affine.identity(2)), start(*rivals))
    assert found.verdict == expected
    assert any("start elsewhere" in r for r in found.reasons) == (expected == "uncertain")


@pytest.mark.parametrize(
    "probability, contrast, local, elsewhere",
    [(0.9, 0.2, False, False), (0.9, 0.9, False, True), (0.6, 0.2, True, True)],
)
def test_a_sure_position_outweighs_local_likeness_and_between_unlike_images_a_rival(
    monkeypatch, probability, contrast, local, elsewhere
):
    trust = SimpleNamespace(probability=probability, within=1.0, evidence={"contrast": contrast})
    monkeypatch.setattr(verdict, "calibration", lambda: SimpleNamespace(trust=lambda *_: trust))
    less = iter([({"lncc2": 0.5, "ncc": 0.5}, {"lncc2": 0.4, "ncc": 0.6})])
    monkeypatch.setattr(verdict, "_similarity", lambda *_: next(less))
    image = painted(GRID)
    search = SimpleNamespace(turned=lambda affine: 0.0)
    reasons = judge(finished(image, image, Affine.identity(2)), start(0.2), search=search).reasons
    assert any("agree locally less" in r for r in reasons) == local
    assert any("start elsewhere" in r for r in reasons) == elsewhere


def test_every_reason_is_kept_the_failures_first():
    fixed, moving = painted(GRID, seed=1), painted(GRID, seed=2)
    found = judge(finished(fixed, moving, wave(GRID, 4.0)), start(0.2))
    assert found.verdict == "failed" and len(found.reasons) >= 3
    assert "folds" in found.reasons[0] and "start elsewhere" in found.reasons[-1]


def test_a_mask_says_where_similarity_counts():
    fixed = painted(GRID)
    data = fixed.data.clone()
    data[:, :, 24:] = painted(GRID, seed=9).data[:, :, 24:]
    moving = fixed.with_data(data)
    mask = torch.zeros_like(data)
    mask[:, :, :20] = 1
    result = finished(fixed, moving, Affine.identity(2))
    inside = judge(result, start(), fixed_mask=fixed.with_data(mask)).metrics["lncc2"].value
    assert inside > 0.99 > judge(result, start()).metrics["lncc2"].value


def test_a_result_that_leaves_the_moving_image_fails_instead_of_stopping():
    image = painted(GRID)
    found = judge(finished(image, image, Affine.translation((500.0, 0.0))), start())
    assert found.verdict == "failed"
    assert not any("nan" in reason for reason in found.reasons)


def test_images_that_lay_apart_have_no_state_before():
    away = Affine.translation((500.0, 0.0))
    moving = replace(painted(GRID), grid=Grid(GRID.shape, away.matrix @ GRID.affine))
    found = judge(finished(painted(GRID), moving, away), start())
    assert found.verdict == "ok"
    assert found.metrics["lncc2"].before is None
    assert found.metrics["lncc2"].value == pytest.approx(1, abs=1e-3)
