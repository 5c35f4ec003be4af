"""The presets of SAME++ as whole registrations."""

from __future__ import annotations

import numpy as np
import pytest

import roireg
from pipeline.cases import error
from roireg.core.transforms import Affine
from roireg.synth import make_pair

pytestmark = pytest.mark.usefixtures("cheap_presets")


@pytest.mark.parametrize("name", ["same", "same-convex"])
def test_the_presets_of_same_find_a_known_deformation(name):
    pair = make_pair(2, seed=3, shape=(72, 80))
    result = roireg.register(pair.fixed, pair.moving, preset=name)
    assert error(result.transform, pair) < 0.6 * error(None, pair)
    assert result.provenance["preset"] == name


def test_a_start_that_was_asked_for_stays_a_part_of_the_result():
    pair = make_pair(2, seed=3, shape=(48, 56))
    start = Affine.translation([1.5, -2.0])
    result = roireg.register(pair.fixed, pair.moving, preset="same-convex", init=start)
    np.testing.assert_array_equal(result.transform.transforms[-1].matrix, start.matrix)
