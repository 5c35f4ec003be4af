from __future__ import annotations

import gc
import os
import threading

import numpy as np
import pytest
import torch

from roireg.models.base import Embedding
from roireg.models.cache import EmbeddingCache, embedding_key, shared_cache


class Model:
    """Encodes by halving; counts."""

    def __init__(self, key: str = "model-1"):
        self.key, self.encoded = key, 0

    @property
    def device(self):
        return torch.device("cpu")

    def encode_dense(self, raster, *, layer=None):
        self.encoded += 1
        image = raster[None, :, ::2, ::2].clone() * (1 if layer is None else layer)
        tensors = {"image": image, "half": image.bfloat16(), "same": image}
        return Embedding(tensors, tuple(raster.shape[1:]), np.array([0.5, 0.5]), np.array([-0.25, 0.1]), (3, 4))


@pytest.fixture
def raster():
    return torch.rand((3, 6, 8), generator=torch.Generator().manual_seed(0)) * 255


def same(a: Embedding, b: Embedding) -> bool:
    return (
        a.tensors.keys() == b.tensors.keys()
        and all(
            torch.equal(a.tensors[k], b.tensors[k]) and a.tensors[k].dtype == b.tensors[k].dtype for k in a.tensors
        )
        and a.shape == b.shape
        and a.covered == b.covered
        and np.array_equal(a.scale, b.scale)
        and np.array_equal(a.offset, b.offset)
    )


def test_equal_rasters_are_encoded_once(raster):
    model, cache = Model(), EmbeddingCache()
    first = cache.encode_dense(model, raster)
    assert cache.encode_dense(model, raster.clone()) is first
    assert model.encoded == 1


def test_what_leaves_the_memory_is_not_encoded_again(raster):
    model, cache = Model(), EmbeddingCache(memory=1)
    rasters = [raster + k for k in range(4)]
    first = [cache.encode_dense(model, r) for r in rasters]
    again = [cache.encode_dense(model, r) for r in rasters]
    assert model.encoded == 4 and all(same(a, b) for a, b in zip(first, again, strict=True))
    place = cache._overflow
    assert place.exists()
    del cache
    gc.collect()
    assert not place.exists()


def test_a_full_temporary_folder_is_told_and_costs_time_alone(raster, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("roireg.models.cache.atomic_path", full)
    events = []
    model, cache = Model(), EmbeddingCache(memory=1, progress=events.append)
    for _ in range(2):
        for k in range(2):
            cache.encode_dense(model, raster + k)
    assert model.encoded == 4 and "No space left" in events[0].detail


def test_the_key_knows_network_layer_values_and_shape(raster):
    keys = {
        embedding_key(Model(), raster),
        embedding_key(Model("model-2"), raster),
        embedding_key(Model(), raster, layer=1),
        embedding_key(Model(), raster + 1e-3),
        embedding_key(Model(), raster.reshape(3, 8, 6)),
    }
    assert len(keys) == 5
    # What memory looks like plays no role.
    assert embedding_key(Model(), raster.permute(0, 2, 1).contiguous().permute(0, 2, 1)) in keys


def test_the_folder_outlives_the_cache(raster, tmp_path):
    folder = tmp_path / "new" / "embeddings"
    stored = EmbeddingCache(folder=folder).encode_dense(Model(), raster, layer=2)
    model = Model()
    found = EmbeddingCache(folder=folder).encode_dense(model, raster, layer=2)
    assert model.encoded == 0 and same(stored, found)
    assert [p.suffix for p in folder.iterdir()] == [".embedding"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "first bit", "middle bit", "last bit"])
def test_a_broken_file_is_encoded_again_with_a_note(raster, tmp_path, damage):
    stored = EmbeddingCache(folder=tmp_path).encode_dense(Model(), raster)
    (path,) = tmp_path.iterdir()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        path.write_bytes(b"not a checkpoint at all")
    else:
        content = bytearray(path.read_bytes())
        content[{"first bit": 0, "middle bit": len(content) // 2, "last bit": -1}[damage]] ^= 1
        path.write_bytes(content)
    model, events = Model(), []
    found = EmbeddingCache(folder=tmp_path, progress=events.append).encode_dense(model, raster)
    assert model.encoded == 1 and same(found, stored)
    assert path.name in events[0].detail and "encoding the image again" in events[0].detail
    model = Model()
    assert same(EmbeddingCache(folder=tmp_path).encode_dense(model, raster), stored) and model.encoded == 0


def test_memory_is_bounded_and_the_last_stays(raster):
    model, cache = Model(), EmbeddingCache(memory=1)
    cache.encode_dense(model, raster)
    cache.encode_dense(model, raster)
    assert model.encoded == 1
    cache.encode_dense(model, raster + 1)
    assert list(cache._held) == [embedding_key(model, raster + 1)]


def test_the_folder_is_bounded_and_the_oldest_leave(raster, tmp_path):
    cache = EmbeddingCache(folder=tmp_path, memory=1)
    cache.encode_dense(Model(), raster)
    (first,) = tmp_path.iterdir()
    os.utime(first, (1, 1))
    size = first.stat().st_size
    small = EmbeddingCache(folder=tmp_path, disk=int(2.5 * size))
    small.encode_dense(Model(), raster + 1)
    assert first.exists()
    small.encode_dense(Model(), raster + 2)
    assert not first.exists() and len(list(tmp_path.iterdir())) == 2
    # A file that was read counts as used.
    second = min(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime)
    for p in tmp_path.iterdir():
        os.utime(p, (5, 5))
    EmbeddingCache(folder=tmp_path).encode_dense(Model(), raster + 1)
    small.encode_dense(Model(), raster + 3)
    assert second.exists()


def test_threads_share_a_cache(raster):
    model, cache = Model(), EmbeddingCache()
    cache.encode_dense(model, raster)
    found = []
    threads = [threading.Thread(target=lambda: found.append(cache.encode_dense(model, raster))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 8 and all(f is found[0] for f in found) and model.encoded == 1


def test_the_process_has_one_shared_cache():
    assert shared_cache() is shared_cache()


def test_threads_that_want_the_same_image_wait_for_one(raster):
    class Slow(Model):
        def encode_dense(self, raster, *, layer=None):
            started.wait(5)
            return super().encode_dense(raster, layer=layer)

    model, cache, started = Slow(), EmbeddingCache(), threading.Event()
    threads = [threading.Thread(target=cache.encode_dense, args=(model, raster)) for _ in range(4)]
    for t in threads:
        t.start()
    started.set()
    for t in threads:
        t.join()
    assert model.encoded == 1
