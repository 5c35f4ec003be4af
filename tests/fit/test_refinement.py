"""Maps of one type, and the evidence that decides whether a deformation is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import roireg
from fit.scenes import affine, error_mm, problem
from roireg.core.pair import Pair
from roireg.core.transforms import Affine, DisplacementField
from roireg.fit import Refine, Search, Velocity
from roireg.fit.search import GlobalSearch, SearchOptions, evidence_of
from support import centred, painted, turned

GRID = centred((96, 104))


def test_a_rigid_map_is_rigid_to_rounding_and_found_from_a_start_that_was_given():
    truth = affine(turned(14), (7.0, -5.0))
    asked = replace(problem(painted(GRID, count=150), painted(GRID, count=150, truth=truth)), searchable=False)
    found = Refine(type="rigid")(asked, affine(turned(10), (5.0, -4.0)))
    assert isinstance(found, Affine)
    linear = found.matrix[:2, :2]
    np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=1e-9)
    assert error_mm(found, truth, GRID.points()) < 0.1


def test_settings_of_one_type_end_with_that_map():
    stages = roireg.Config().with_type("similarity", "full").stages
    assert [type(s) for s in stages] == [Search, Refine]
    assert stages[0].affine.model == "similarity" and stages[0].exhaustive.full and stages[1].type == "similarity"
    assert roireg.Config().with_type("deformable") == roireg.Config()


def test_structure_has_no_sign_and_contrast_any_curve():
    image = painted(GRID, count=150)
    other = image.with_data(-image.data.sqrt())
    search = GlobalSearch(Pair(image, other), SearchOptions(auto_mask=False))
    here = evidence_of(search, Affine.identity(2))
    there = evidence_of(search, Affine.translation((9.0, 5.0)))
    assert here.structure > 0.9 and here.contrast > 0.95
    assert there.structure < here.structure - 0.3 and there.contrast < here.contrast - 0.3


@pytest.mark.parametrize("bent", [False, True])
def test_a_deformation_stays_only_where_structure_confirms_it(bent):
    """Unrelated images can be bent onto each other, but structure at large does not agree better for it."""
    fixed = painted(GRID, count=150)
    points = GRID.points()
    wave = 4.0 * np.sin(points[:, 1:] / 9) * np.array([1.0, 0.0])
    truth = DisplacementField(GRID, torch.as_tensor(wave.T.reshape(2, *GRID.shape), dtype=torch.float32))
    moving = painted(GRID, count=150, truth=truth) if bent else fixed.with_data(fixed.data * 2 + 1)
    stage = Velocity(levels=2, iterations=(30, 30), max_voxels=20_000, features=None)
    found = stage(problem(fixed, moving), Affine.identity(2))
    moved = float(found.displacement_on(GRID).norm(dim=0).mean())
    assert moved > 1.0 if bent else moved < 0.01
