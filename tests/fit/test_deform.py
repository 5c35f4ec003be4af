"""The stage `deform`: a trained network before any start."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.transforms import Affine, DisplacementField, VelocityField
from roireg.fit import Deform, Problem
from roireg.models.deformers import build_deformer, load_deformer
from roireg.pipeline import Config, preset, register


def shifting(path, *voxels: float, squarings: int = 7, steps: int = 5, size: int = 32, spacing: float | None = None):
    """Write a network that moves everything by voxels, storage order."""
    network = build_deformer("voxelmorph", {"ndim": len(voxels), "squarings": squarings, "width": 2})
    with torch.no_grad():
        network.backbone.net[1].final_conv_out.conv.bias.copy_(torch.tensor(voxels))
    save_file(network.state_dict(), path)
    path.with_suffix(".json").write_text(
        json.dumps({"steps": steps, "squarings": squarings, "size": size, "spacing": spacing})
    )
    return str(path)


def problem(grid: Grid, *, constant: bool = False) -> Problem:
    rng = np.random.default_rng(0)
    fixed, moving = (
        Image(torch.as_tensor((np.full(grid.shape, 3.0) if constant else rng.random(grid.shape))[None]).float(), grid)
        for _ in range(2)
    )
    return Problem(Pair(fixed, moving))


START = Affine(np.array([[0.9, 0.1, 3.0], [-0.1, 1.1, -2.0], [0, 0, 1.0]]))


@pytest.mark.parametrize("squarings", (0, 7))
def test_the_field_comes_before_the_start(tmp_path, squarings):
    grid = Grid((32, 32), np.array([[0, 0.5, 10.0], [0.5, 0, 20.0], [0, 0, 1]]))
    stage = Deform(weights=shifting(tmp_path / "a.safetensors", 1.0, -2.0, squarings=squarings))
    found = stage(problem(grid), START)
    assert isinstance(found.transforms[0], VelocityField if squarings else DisplacementField)
    points = grid.world_from_index(np.array([[15.0, 15.0], [12.0, 20.0]]))
    # Storage order (y, x) of 0.5 mm voxels; world (x, y).
    assert np.allclose(found.map_points(points), START.map_points(points + [-1.0, 0.5]), atol=1e-3)


def test_axes_of_the_network_are_those_of_the_world_whatever_the_storage(tmp_path):
    weights = shifting(tmp_path / "a.safetensors", 1.0, -2.0)
    # First storage axis: minus x; second: y.
    turned = Grid((32, 24), np.array([[-1.0, 0, 40.0], [0, 1.0, 0], [0, 0, 1]]))
    found = Deform(weights=weights)(problem(turned), Affine.identity(2))
    points = turned.world_from_index(np.array([[15.0, 12.0]]))
    assert np.allclose(found.map_points(points) - points, [[-2.0, 1.0]], atol=1e-3)


def test_voxels_are_those_of_the_training(tmp_path):
    grid = Grid.pixels((64, 48))
    points = np.array([[24.0, 30.0]])
    for size, spacing, option, step in ((32, None, None, 2.0), (32, 4.0, None, 4.0), (32, 4.0, 64, 1.0)):
        weights = shifting(tmp_path / "a.safetensors", 1.0, 0.0, size=size, spacing=spacing)
        found = Deform(weights=weights, size=option)(problem(grid), Affine.identity(2))
        assert np.allclose(found.map_points(points) - points, [[0.0, step]], atol=1e-2)


def test_rounds_look_again_at_what_is_left(tmp_path):
    grid = Grid.pixels((32, 32))
    weights = shifting(tmp_path / "a.safetensors", 1.0, 0.0)
    found = Deform(weights=weights, rounds=3)(problem(grid), Affine.identity(2))
    points = np.array([[16.0, 16.0]])
    assert np.allclose(found.map_points(points) - points, [[0.0, 3.0]], atol=1e-3)


def test_volumes_of_one_slice_stay_in_their_plane(tmp_path):
    grid = Grid((1, 20, 32), np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]]))
    assert grid.spacing[0] == 5.0
    weights = shifting(tmp_path / "a.safetensors", 3.0, 0.0, 2.0)
    found = Deform(weights=weights)(problem(grid), Affine.identity(3))
    points = grid.world_from_index(np.array([[0.0, 10.0, 16.0]]))
    assert np.allclose(found.map_points(points) - points, [[2.0, 0.0, 0.0]], atol=1e-3)


def test_constant_images_are_no_trouble(tmp_path):
    grid = Grid.pixels((20, 31))
    weights = shifting(tmp_path / "a.safetensors", 0.0, 0.0)
    found = Deform(weights=weights)(problem(grid, constant=True), START)
    points = np.array([[10.0, 11.0]])
    assert np.allclose(found.map_points(points), START.map_points(points))


def test_the_network_sees_the_moving_image_through_the_start(tmp_path, monkeypatch):
    grid = Grid.pixels((32, 32))
    both = problem(grid)
    both = Problem(Pair(both.pair.fixed, both.pair.fixed.with_data(both.pair.fixed.data.roll(4, 2))))
    weights = shifting(tmp_path / "a.safetensors", 0.0, 0.0)
    seen = []
    field = type(load_deformer(weights)).field

    def watched(self, fixed, moving):
        seen.append((fixed, moving))
        return field(self, fixed, moving)

    monkeypatch.setattr(type(load_deformer(weights)), "field", watched)
    Deform(weights=weights)(both, Affine.translation([4.0, 0.0]))
    fixed, moving = seen[0]
    assert torch.allclose(fixed[..., :27], moving[..., :27], atol=1e-4) and not torch.equal(fixed, moving)


def test_a_stage_without_weights_is_left_out_and_one_with_bad_ones_refused_at_once(tmp_path):
    assert next(s for s in preset("same").stages if s.stage == "deform").idle
    with pytest.raises(InputError, match=r"stages\.deform\.weights' is missing"):
        Config.of({"stages": [{"stage": "deform"}]})
    image = np.random.default_rng(0).random((24, 24)).astype(np.float32)
    settings = Config.of({"stages": [{"stage": "deform", "weights": None}], "verdict": {"probability": False}})
    result = register(Image.from_numpy(image), Image.from_numpy(image), config=settings)
    assert Deform.title not in result.timings
    weights = shifting(tmp_path / "a.safetensors", 0.0, 0.0, steps=0)
    steps: list[object] = []
    with pytest.raises(InputError, match="was never trained"):
        register(
            Image.from_numpy(image),
            Image.from_numpy(image),
            config=Config.of({"preset": "same", "stages": {"deform": {"weights": weights}}}),
            progress=steps.append,
        )
    assert not steps


def test_a_registration_ends_with_the_network(tmp_path):
    image = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    weights = shifting(tmp_path / "a.safetensors", 0.0, 1.0)
    stages = [{"stage": "deform", "weights": weights}]
    settings = Config.of({"stages": stages, "verdict": {"probability": False}})
    fixed, moving = Image.from_numpy(image), Image.from_numpy(np.roll(image, 1, 1))
    result = register(fixed, moving, config=settings)
    points = np.array([[15.0, 15.0]])
    assert np.allclose(result.transform.map_points(points) - points, [[1.0, 0.0]], atol=1e-3)
    assert result.timings[Deform.title] >= 0
