"""Regions of volumes that no network found are paired and shown, and images alone decide."""

import numpy as np
import pytest

import roireg
from pipeline.cases import quick
from roireg.fit import Search, Velocity
from roireg.pipeline.config import Config, preset
from roireg.pipeline.recipe import without_weak_regions


def test_only_what_settings_leave_open_is_left_out():
    search, velocity = without_weak_regions(Config()).stages
    assert isinstance(search, Search) and search.regions is False
    assert isinstance(velocity, Velocity) and velocity.region_weight == 0
    # What a person says counts as before.
    assert velocity.own_weight == Velocity().own_weight > 0
    asked = Config(stages=(Search(regions=True), Velocity(region_weight=0.3)))
    assert without_weak_regions(asked) == asked
    alone = Config(stages=(Search(exhaustive=None),))
    assert without_weak_regions(alone) == alone
    assert without_weak_regions(preset("regions")) == preset("regions")


@pytest.mark.parametrize(("case", "weight"), [("flat", None), ("deep", 0.0)])
def test_regions_of_volumes_are_found_and_have_no_weight(case, weight, request):
    scene = request.getfixturevalue(case)
    result = roireg.register(scene.fixed, scene.moving, config=quick())
    assert len(result.pairs.active)
    assert result.config.stages[-1].region_weight == weight
    page = result.report_html()
    assert ("no region took part" in page) == (weight == 0) and ("in use" in page) == (weight is None)


def test_a_weight_that_is_asked_for_counts_in_volumes(deep):
    points = deep.fixed.grid.points()
    still, pulled = (roireg.register(deep.fixed, deep.moving, config=quick(), roi_weight=w) for w in (0.0, 2.0))
    assert np.abs(still.map_points(points) - pulled.map_points(points)).max() > 0.01
    assert still.idle_pairs and not pulled.idle_pairs
