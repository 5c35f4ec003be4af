from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.features import EncoderFeatures, make_extractor
from roireg.models.cache import EmbeddingCache
from roireg.segment.promptable import ModelSegmenter
from segment.fake_model import STRIDE, FakeModel
from support import make_grid, rotation


def features(model=None, **more) -> EncoderFeatures:
    return EncoderFeatures(model or FakeModel(), cache=EmbeddingCache(), window="none", **more)


def ramp(grid: Grid, gradient, offset: float) -> Image:
    """An image whose grey value is linear in world position."""
    values = grid.points() @ np.asarray(gradient, float) + offset
    assert values.min() > 0 and values.max() < 255
    return Image(torch.from_numpy(values.reshape(1, *grid.shape)).float(), grid)


def test_it_is_an_extractor_known_by_name():
    made = make_extractor("model", model=FakeModel(), layer=2, window=(40.0, 400.0))
    assert (made.model.key, made.layer, made.window, made.axis) == ("fake", 2, (40.0, 400.0), None)
    with pytest.raises(InputError, match="encode_dense"):
        make_extractor("model", model=3.5)


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (4, 64), (40, 8)])
def test_cells_lie_where_their_pixels_are(shape):
    # The fake's cell is the mean of 4 x 4 pixels: on a ramp that is the value at the centre of the cell.
    grid = make_grid(shape, (0.4, 0.9), direction=rotation(2, 4), origin=(30.0, 60.0))
    image = ramp(grid, (1.1, 0.7), 60.0)
    out = features()(image, grid)
    assert out.grid.shape == tuple(n // STRIDE for n in shape)
    expected = out.grid.points() @ (1.1, 0.7) + 60.0
    np.testing.assert_allclose(out.data[0].numpy().ravel(), expected, atol=0.51)
    np.testing.assert_allclose(out.grid.spacing, STRIDE * grid.spacing)


def test_an_impulse_is_in_the_cell_around_it():
    grid = make_grid((48, 64), (0.4, 0.9), direction=rotation(2, 4), origin=(3.0, 6.0))
    data = torch.zeros((1, 48, 64))
    data[0, 29, 50] = 255
    out = features()(Image(data, grid), grid)
    (peak,) = torch.nonzero(out.data[0] > 0).numpy()
    assert peak.tolist() == [7, 12]
    distance = out.grid.index_from_world(grid.world_from_index([29, 50])) - peak
    assert (np.abs(distance) < 0.5).all()


def test_padding_is_left_out_and_partly_shown_cells_stay():
    grid = Grid.pixels((45, 64))
    out = features()(Image(torch.full((1, 45, 64), 80.0), grid), grid)
    assert out.grid.shape == (12, 16)
    assert (out.data[0, :11] == 80).all() and (out.data[0, 11] == 20).all()


def test_segmenter_and_features_encode_an_image_once():
    model, cache = FakeModel(), EmbeddingCache()
    image = Image(torch.rand(1, 24, 32), Grid.pixels((24, 32)))
    ModelSegmenter(model, cache=cache).prepare(image)
    extractor = EncoderFeatures(model, cache=cache)
    extractor(image, image.grid)
    extractor(image, image.grid.with_spacing(3))
    assert model.encoded == 1
    EncoderFeatures(model, cache=cache, layer=1)(image, image.grid)
    assert model.encoded == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_a_volume_are_stacked_in_place(axis):
    shape = np.insert(np.array([24, 32]), axis, 5)
    spacing = np.insert(np.array([0.8, 1.1]), axis, 4.0)
    grid = make_grid(tuple(shape), spacing, direction=rotation(3, 7), origin=(40.0, 50.0, 30.0))
    image = ramp(grid, (1.0, 0.5, 0.7), 50.0)
    model = FakeModel()
    out = features(model)(image, grid)
    assert model.encoded == 5
    assert out.grid.shape == tuple(np.insert(np.array([6, 8]), axis, 5))
    expected = out.grid.points() @ (1.0, 0.5, 0.7) + 50.0
    np.testing.assert_allclose(out.data[0].numpy().ravel(), expected, atol=0.51)


def test_a_coarse_grid_encodes_every_nth_slice():
    grid = make_grid((11, 24, 32), (2.0, 1.0, 1.0), origin=(40.0, 50.0, 30.0))
    image = ramp(grid, (1.0, 0.5, 0.7), 50.0)
    model = FakeModel()
    out = features(model)(image, grid.with_spacing((6.6, 2.0, 2.0)))
    # 22 mm in voxels of 7.33 mm: every third slice, the same number of slices left over at both ends.
    assert model.encoded == 4 and out.grid.shape == (4, 6, 8)
    np.testing.assert_allclose(out.data[0].numpy().ravel(), out.grid.points() @ (1.0, 0.5, 0.7) + 50.0, atol=0.51)
    assert features(model)(image, grid.with_shape((1, 2, 2))).grid.shape[0] == 1


def test_a_volume_of_one_slice_and_a_network_for_volumes():
    thin = Image(torch.full((1, 1, 16, 20), 9.0), make_grid((1, 16, 20), (5.0, 1.0, 1.0)))
    assert features()(thin, thin.grid).grid.shape == (1, 4, 5)
    solid = Image(torch.full((1, 8, 12, 16), 9.0), make_grid((8, 12, 16), (5.0, 1.0, 1.0)))
    out = features(FakeModel(ndim=3))(solid, solid.grid)
    assert out.grid.shape == (2, 3, 4) and (out.data[0, 1, 2, 3] == 9).all()


def test_wrong_dimensions_are_refused():
    flat = Image(torch.zeros(1, 8, 8), Grid.pixels((8, 8)))
    with pytest.raises(GeometryError, match="found a 2D image"):
        features(FakeModel(ndim=3))(flat, flat.grid)
    with pytest.raises(GeometryError, match="3D grid"):
        features()(flat, Grid.pixels((4, 4, 4)))


def test_progress_goes_slice_by_slice():
    events = []
    volume = Image(torch.rand(1, 4, 8, 8), make_grid((4, 8, 8), (5.0, 1.0, 1.0)))
    features(progress=events.append)(volume, volume.grid)
    assert [e.fraction for e in events] == [0.25, 0.5, 0.75, 1.0]
