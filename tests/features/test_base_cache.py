"""The registry and the cache."""

import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.features import (
    CachedExtractor,
    FeatureExtractor,
    IntensityFeatures,
    MindFeatures,
    available_extractors,
    make_extractor,
    register_extractor,
)


class Counting:
    """MIND that counts its calls."""

    name = "counting"

    def __init__(self, scale=1.0):
        self.calls = 0
        self.scale = scale

    @property
    def params(self):
        return {"scale": self.scale}

    def __call__(self, image, grid):
        self.calls += 1
        return MindFeatures()(image, grid)


@pytest.fixture
def image():
    return Image(torch.rand((1, 12, 10), generator=torch.Generator().manual_seed(0)), Grid.pixels((12, 10)))


def test_registry_builds_by_name():
    assert {"mind", "intensity"} <= set(available_extractors())
    assert make_extractor("mind", radius=2.0) == MindFeatures(radius=2.0)
    assert isinstance(make_extractor("intensity"), FeatureExtractor)


def test_registry_refuses_unknown_and_taken_names():
    with pytest.raises(InputError, match="use one of"):
        make_extractor("nothing")
    with pytest.raises(InputError, match="does not take"):
        make_extractor("mind", colour=1)
    with pytest.raises(InputError, match="already registered"):
        register_extractor("mind", IntensityFeatures)


def test_memory_hit_returns_equal_features(image):
    inner = Counting()
    cached = CachedExtractor(inner)
    first, second = cached(image, image.grid), cached(image, image.grid)
    assert inner.calls == 1
    assert torch.equal(first.data, second.data)


def test_everything_that_matters_is_in_the_key(image, tmp_path):
    inner = Counting()
    cached = CachedExtractor(inner, folder=tmp_path)
    cached(image, image.grid)
    cached(Image(image.data, image.grid, name="other file"), image.grid)
    assert inner.calls == 1
    changed = image.data.clone()
    changed[0, 0, 0] += 1e-3
    cached(image.with_data(changed), image.grid)
    cached(image, image.grid.with_spacing(2))
    assert inner.calls == 3
    shifted = image.grid.affine.copy()
    shifted[0, 2] += 1
    cached(Image(image.data, Grid((12, 10), shifted)), image.grid)
    assert inner.calls == 4
    other = Counting(scale=2.0)
    CachedExtractor(other, folder=tmp_path)(image, image.grid)
    assert other.calls == 1


def test_the_folder_outlives_the_object(image, tmp_path):
    grid = image.grid.with_spacing(2)
    first = CachedExtractor(Counting(), folder=tmp_path / "new")(image, grid)
    inner = Counting()
    second = CachedExtractor(inner, folder=tmp_path / "new")(image, grid)
    assert inner.calls == 0
    assert torch.equal(first.data, second.data) and second.grid == grid
    assert [p.suffix for p in (tmp_path / "new").iterdir()] == [".npz"]


def test_a_broken_file_is_named(image, tmp_path):
    CachedExtractor(Counting(), folder=tmp_path)(image, image.grid)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"broken")
    with pytest.raises(InputError, match="delete it"):
        CachedExtractor(Counting(), folder=tmp_path)(image, image.grid)


def test_memory_is_bounded(image):
    inner = Counting()
    cached = CachedExtractor(inner, memory=1)
    cached(image, image.grid)
    cached(image, image.grid.with_spacing(2))
    cached(image, image.grid)
    assert inner.calls == 3
