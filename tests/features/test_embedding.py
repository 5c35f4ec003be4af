"""The embedding as features: on any grid, in any storage order, alone and fused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.features import make_extractor
from roireg.features.embedding import world_ordered
from roireg.synth import make_pair


@pytest.fixture(scope="module")
def embedding():
    return make_extractor("embedding")


@pytest.fixture(scope="module")
def phantom():
    return make_pair(2, seed=1, shape=(96, 128), rotation_deg=15, max_displacement_mm=6, scale=0.1)


def cosines(a: Image, b: Image) -> torch.Tensor:
    return (a.data * b.data).sum(0)


@pytest.mark.parametrize("name", ("embedding", "fused"))
def test_unit_vectors_on_the_grid_that_was_named(name, phantom):
    grid = phantom.fixed.grid.with_shape((24, 32))
    features = make_extractor(name)(phantom.fixed, grid)
    assert features.grid == grid and features.data.shape[1:] == (24, 32)
    assert torch.allclose(features.data.norm(dim=0), torch.ones(1), atol=1e-4)


def test_counterparts_are_more_alike_than_other_places(embedding, phantom):
    points = phantom.fixed_points
    fixed = embedding(phantom.fixed, phantom.fixed.grid)
    moving = embedding(phantom.moving, phantom.moving.grid)

    def at(features: Image, where: np.ndarray) -> torch.Tensor:
        index = features.grid.index_from_world(where).round().astype(int).clip(0, np.array(features.grid.shape) - 1)
        return features.data[(slice(None), *index.T)]

    own = (at(fixed, points) * at(moving, phantom.moving_points)).sum(0)
    order = np.roll(np.arange(len(points)), 7)
    other = (at(fixed, points) * at(moving, phantom.moving_points[order])).sum(0)
    assert float(own.mean()) > float(other.mean()) + 0.2


def test_maps_lie_where_their_image_lies(embedding):
    grid = Grid.of_array((50, 70), spacing=(2.0, 1.0), origin=(10, -4))
    rng = np.random.default_rng(0)
    maps = embedding.maps(Image(torch.as_tensor(rng.random((1, 50, 70)), dtype=torch.float32), grid))
    assert [m.channels for m in maps] == [32, 32, 32]
    for stride, m in zip((2, 4, 8), maps, strict=True):
        assert np.allclose(m.grid.corners().min(0), grid.corners().min(0), atol=1e-6)
        # The last cells may reach beyond the image.
        assert (m.grid.corners().max(0) >= grid.corners().max(0) - 1e-6).all()
        assert np.allclose(m.grid.spacing, stride * 100 / 128, rtol=0.02)


def test_storage_order_does_not_matter(embedding):
    pair = make_pair(3, seed=0, shape=(20, 24, 32))
    image = pair.fixed
    turned = Grid(
        tuple(image.grid.shape[a] for a in (2, 0, 1)),
        image.grid.affine @ np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float),
    )
    other = Image(image.data.permute(0, 3, 1, 2).flip(1).contiguous(), _backward(turned, 0))
    assert np.allclose(world_ordered(other.grid).affine, world_ordered(image.grid).affine)
    here, there = embedding(image, image.grid), embedding(other, image.grid)
    assert float(cosines(here, there).min()) > 0.999


def _backward(grid: Grid, axis: int) -> Grid:
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, grid.shape[axis] - 1
    return Grid(grid.shape, grid.affine @ flip)


def test_the_contrast_of_the_whole_image_does_not_matter(embedding, phantom):
    brighter = phantom.fixed.with_data(phantom.fixed.data * 3.5 + 100)
    same = cosines(embedding(phantom.fixed, phantom.fixed.grid), embedding(brighter, phantom.fixed.grid))
    assert float(same.min()) > 0.999


@pytest.mark.parametrize("name", ("embedding", "fused"))
@pytest.mark.parametrize("shape", [(31, 17), (1, 24, 20), (9, 1, 13), (1, 1)])
def test_odd_sizes_and_single_slices(name, shape):
    image = Image.from_numpy(np.random.default_rng(0).random(shape).astype(np.float32), spacing=1.5)
    features = make_extractor(name)(image, image.grid)
    assert features.data.shape[1:] == shape and bool(torch.isfinite(features.data).all())


@pytest.mark.parametrize("name", ("embedding", "fused"))
def test_constant_images_and_gaps(name):
    extractor = make_extractor(name)
    flat = Image.from_numpy(np.full((24, 24), 7.0, np.float32))
    features = extractor(flat, flat.grid).data
    assert bool(torch.isfinite(features).all())
    assert float((features - features[:, :1, :1]).abs().max()) < 1e-4
    values = np.random.default_rng(0).random((24, 24)).astype(np.float32)
    values[:6] = np.nan
    assert bool(torch.isfinite(extractor(Image.from_numpy(values), flat.grid).data).all())
    with pytest.raises(InputError, match="has no finite value"):
        extractor(Image.from_numpy(np.full((8, 8), np.nan, np.float32)), flat.grid)


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such model file"):
        make_extractor("embedding", model=str(tmp_path / "none.safetensors"))
