"""Coded regions: the loss is a weighted mean of 1 - Dice, whatever the number of regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fit.scenes import problem
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine
from roireg.core.warp import warp
from roireg.evaluate import deformation_summary, score_moved_labels
from roireg.fit.level import VelocityOptions, build_levels
from roireg.fit.region_codes import CodedAgreement, RegionCodes
from roireg.fit.region_pairs import RegionPairs
from roireg.fit.velocity import fit_levels, fit_velocity
from support import centred, disc

GRID = centred((60, 64))


def pairs_of(fixed: list[torch.Tensor], moving: list[torch.Tensor], links=None, source="labels") -> ROIPairs:
    links = links or [(k, k) for k in range(len(fixed))]
    return ROIPairs(
        ROISet(torch.cat(moving), GRID),
        ROISet(torch.cat(fixed), GRID),
        tuple(ROIPair(m, f, 1.0, 1.0, source=source) for m, f in links),
    )


def loss_at_rest(pairs: ROIPairs, weights) -> float:
    codes = RegionCodes.of(pairs, torch.as_tensor(weights, dtype=torch.float32))
    return float(CodedAgreement(codes, Affine.identity(2), GRID)(torch.zeros(2, *GRID.shape)))


def test_one_region_counts_by_its_dice_and_its_weight():
    a, b = disc(GRID, (0, 0), 12), disc(GRID, (6, 0), 10)
    dice = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
    assert loss_at_rest(pairs_of([a], [b]), [1.0]) == pytest.approx(1 - dice, rel=0.05)
    assert loss_at_rest(pairs_of([a], [b]), [2.5]) == pytest.approx(2.5 * (1 - dice), rel=0.05)
    assert loss_at_rest(pairs_of([a], [a]), [1.0]) == pytest.approx(0, abs=1e-9)


def test_pairs_that_share_a_region_are_one_region():
    whole = disc(GRID, (0, 0), 14)
    left, right = whole.clone(), whole.clone()
    left[:, :, 32:], right[:, :, :32] = False, False
    assert loss_at_rest(pairs_of([whole], [left, right], [(0, 0), (1, 0)]), [0.5, 0.5]) == pytest.approx(0, abs=1e-9)
    assert loss_at_rest(pairs_of([whole], [left]), [1.0]) > 0.2


def test_many_labels_are_aligned_without_folds_at_the_cost_of_a_few():
    """Thirty labels, more than there are channels, moved by a smooth map: Dice rises to where labels end."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(-28, 28, size=(30, 2))
    nearest = np.linalg.norm(GRID.points()[:, None] - centres, axis=2).argmin(1).reshape(GRID.shape) + 1
    body = disc(GRID, (0, 0), 26)[0].numpy()
    fixed = Image(torch.as_tensor(np.where(body, nearest, 0))[None], GRID)
    points = GRID.points()
    bent = points + 3.0 * np.exp(-(points**2).sum(1) / 300)[:, None] * np.array([1.0, -0.7])
    moving = fixed.with_data(
        torch.as_tensor(np.where(body.ravel(), nearest.ravel(), 0)[_nearest_index(bent)].reshape(1, *GRID.shape))
    )
    regions = [ROISet.from_labels(image.data[0], GRID) for image in (moving, fixed)]
    moving_of = {name: k for k, name in enumerate(regions[0].names)}
    links = [(moving_of[name], k) for k, name in enumerate(regions[1].names) if name in moving_of]
    assert len(links) > 20
    pairs = ROIPairs(*regions, tuple(ROIPair(m, f, 1.0, 1.0, source="labels") for m, f in links))
    blank = Image(torch.zeros(1, *GRID.shape), GRID)
    options = VelocityOptions(correlation_weight=0, features=None, levels=3, iterations=(40, 40, 40), smoothness=0.02)
    found = fit_velocity(problem(blank, blank, pairs=pairs), Affine.identity(2), options=options).transform
    before, after = (score_moved_labels(fixed, moving, t).means()["dice_mean"] for t in (None, found))
    assert before < 0.8 and after > 0.93
    assert deformation_summary(found, GRID)["folded_voxels"] == 0


def _nearest_index(points: np.ndarray) -> np.ndarray:
    index = np.clip(np.round(GRID.index_from_world(points)), 0, np.array(GRID.shape) - 1).astype(int)
    return np.ravel_multi_index(tuple(index.T), GRID.shape)


def test_regions_on_another_grid_of_the_same_box_are_the_same_regions():
    fine = ROISet(torch.cat([disc(GRID, (0, 0), 12), disc(GRID, (20.5, 20.5), 0.9)]), GRID)
    coarse = fine.on(Grid(GRID.shape, GRID.affine).with_shape((15, 16)))
    assert coarse.volumes[0] == pytest.approx(fine.volumes[0], rel=0.15)
    assert coarse.masks[1].sum() >= 1  # the smallest one does not vanish
    back = warp(Image(coarse.masks.float(), coarse.grid), None, GRID).data > 0.5
    assert float((back[0] & fine.masks[0]).sum()) > 0.85 * float(fine.masks[0].sum())


def test_borders_are_settled_on_a_level_of_their_own_and_nothing_else_moves():
    """Fine teeth along a border that coarse levels cannot follow; the image elsewhere has had its say."""
    y, x = (GRID.points()[:, k].reshape(GRID.shape) for k in (1, 0))
    masks = [torch.as_tensor((np.abs(x + 8) < 8 + a * np.sin(y)) & (np.abs(y) < 22))[None] for a in (0.0, 3.0)]
    pairs = pairs_of([masks[1]], [masks[0]])
    texture = torch.rand(1, *GRID.shape, generator=torch.Generator().manual_seed(0))
    image = Image(texture, GRID)
    options = VelocityOptions(features=None, levels=2, iterations=(15, 5), label_weight=3)
    regions = RegionPairs.of(pairs, options)
    fields, overlaps = [], []
    for bordered in (False, True):
        levels = build_levels(problem(image, image).pair, options=options, bordered=bordered)
        found = fit_levels(levels, affine=Affine.identity(2), regions=regions).transform
        moved = warp(Image(masks[0].float(), GRID), found, GRID).data > 0.5
        overlaps.append(2 * float((moved & masks[1]).sum()) / float(moved.sum() + masks[1].sum()))
        fields.append(found.map_points(GRID.points()).reshape(*GRID.shape, 2))
        assert deformation_summary(found, GRID)["folded_voxels"] == 0
    assert overlaps[1] > overlaps[0] + 0.01
    change = np.linalg.norm(fields[1] - fields[0], axis=-1)
    assert change[x > 20].mean() < 0.1 * change.max()
