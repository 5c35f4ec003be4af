"""What every 2D promptable model promises: prompts alone and together, places, sizes, precision, counting."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.tiny import KINDS, saved
from roireg.core.errors import InputError
from roireg.models import DenseEncoder, PromptableModel, load, precision
from roireg.models.precision import choose_precision

FILES = ["sam", "slimsam", "sam-hq", "sam2", "sam-med2d", "mobile-sam"]
CPU = torch.device("cpu")


def raster(shape=(37, 61), seed=0):
    return torch.rand((1, *shape), generator=torch.Generator().manual_seed(seed)) * 255


@pytest.fixture(scope="session")
def loaded(place):
    return cache(lambda kind: load(place(kind), input_size=128))


@pytest.fixture(params=FILES)
def model(request, loaded):
    model = loaded(request.param)
    model.encoded = 0
    return model


def assert_same(found, expected, atol=2e-5):
    torch.testing.assert_close(found.logits, expected.logits, atol=atol, rtol=0)
    torch.testing.assert_close(found.quality, expected.quality, atol=atol, rtol=0)


def test_the_contract(model):
    assert isinstance(model, PromptableModel) and isinstance(model, DenseEncoder)
    assert model.device == CPU
    embedding = model.encode(raster())
    assert embedding.shape == (37, 61)
    assert embedding.tensors["image"].shape == (1, 32, 8, 8)
    assert all(t.dtype is torch.float32 and not t.requires_grad for t in embedding.tensors.values())
    answer = model.decode(embedding, points=torch.tensor([[[3.0, 4.0]]]), labels=torch.tensor([[1]]))
    assert answer.logits.shape == (1, 3, 32, 32) and answer.quality.shape == (1, 3)
    assert model.upscale(answer.logits, embedding).shape == (1, 3, 37, 61)


def test_gray_is_three_equal_channels_and_runs_repeat(model):
    one, three = model.encode(raster()), model.encode(raster().expand(3, -1, -1))
    assert torch.equal(one.tensors["image"], three.tensors["image"])
    assert torch.equal(one.tensors["image"], model.encode(raster()).tensors["image"])
    assert not torch.equal(one.tensors["image"], model.encode(raster(seed=1)).tensors["image"])


def test_every_encoding_is_counted_and_no_decoding(model):
    assert model.encoded == 0
    embedding = model.encode(raster())
    for _ in range(3):
        model.decode(embedding, boxes=torch.tensor([[[1.0, 2.0], [9.0, 12.0]]]))
    assert model.encoded == 1
    model.encode_dense(raster(), layer=0)
    model.encode_dense(raster())
    assert model.encoded == 3


def test_prompts_together_are_the_prompts_alone(model):
    embedding = model.encode(raster())
    points = torch.tensor([[[5.0, 6.0], [30, 50]], [[0, 0], [0, 0]], [[20, 30], [1, 1]], [[36, 60], [2, 3]]])
    labels = torch.tensor([[1, 0], [1, -1], [-1, 1], [0, 1]])
    together = model.decode(embedding, points=points, labels=labels)
    for i in range(4):
        kept = labels[i] >= 0
        alone = model.decode(embedding, points=points[i : i + 1, kept], labels=labels[i : i + 1, kept])
        torch.testing.assert_close(together.logits[i : i + 1], alone.logits, atol=2e-5, rtol=0)
        torch.testing.assert_close(together.quality[i : i + 1], alone.quality, atol=2e-5, rtol=0)


def test_a_box_needs_no_points_beside_it(model):
    embedding = model.encode(raster())
    boxes = torch.tensor([[[2.0, 3.0], [30.0, 50.0]], [[0.0, 10.0], [12.0, 20.0]]])
    padded = {"points": torch.zeros(2, 1, 2), "labels": torch.tensor([[-1], [-1]])}
    assert_same(model.decode(embedding, boxes=boxes, **padded), model.decode(embedding, boxes=boxes))


def test_an_answer_goes_back_in_as_a_mask(model):
    embedding = model.encode(raster())
    prompt = {"points": torch.tensor([[[3.0, 4.0]], [[20, 9]]]), "labels": torch.ones(2, 1)}
    first = model.decode(embedding, **prompt, multimask=False)
    second = model.decode(embedding, **prompt, masks=first.logits)
    assert second.logits.shape == (2, 3, 32, 32)
    assert not torch.equal(second.logits[:, :1], first.logits)


def test_points_matter_where_they_are(model):
    embedding = model.encode(raster())
    label = torch.tensor([[1]])
    here = model.decode(embedding, points=torch.tensor([[[3.0, 40.0]]]), labels=label)
    there = model.decode(embedding, points=torch.tensor([[[30.0, 40.0]]]), labels=label)
    outside = model.decode(embedding, points=torch.tensor([[[3.0, 40.0]]]), labels=torch.tensor([[0]]))
    assert (here.logits - there.logits).abs().max() > 1e-3
    assert (here.logits - outside.logits).abs().max() > 1e-3


def test_what_is_no_prompt(model):
    embedding = model.encode(raster())
    point, label = torch.zeros(2, 1, 2), torch.ones(2, 1)
    cases = [
        ({}, "needs a prompt"),
        ({"points": point[:0], "labels": label[:0]}, "needs a prompt"),
        ({"points": point}, "one label per point"),
        ({"labels": label, "boxes": torch.zeros(2, 2, 2)}, "one label per point"),
        ({"points": point, "labels": label[:1]}, "one label per point"),
        ({"points": point, "labels": -label}, "neither a point with label 0 or 1"),
        ({"points": torch.zeros(2, 1, 3), "labels": label}, r"points of shape \(2, 1, 3\)"),
        ({"points": torch.full((2, 1, 2), torch.nan), "labels": label}, "expected finite"),
        ({"boxes": torch.zeros(2, 4)}, r"boxes of shape \(2, 4\)"),
        ({"points": point, "labels": label, "boxes": torch.zeros(3, 2, 2)}, "2 points, 3 boxes"),
        ({"masks": torch.zeros(2, 32, 32)}, "masks of shape"),
    ]
    for given_, words in cases:
        with pytest.raises(InputError, match=words):
            model.decode(embedding, **given_)


def test_only_prompts_of_its_card(place):
    model = load(place("sam"))
    model.card = dataclasses.replace(model.card, prompts=frozenset({"box"}))
    embedding = model.encode(raster())
    with pytest.raises(InputError, match="does not answer points"):
        model.decode(embedding, points=torch.zeros(1, 1, 2), labels=torch.ones(1, 1))
    assert model.decode(embedding, boxes=torch.tensor([[[1.0, 1.0], [9.0, 9.0]]])).logits.shape[0] == 1


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (3, 5), (200, 128), (127, 131)])
def test_any_shape(model, shape):
    embedding = model.encode(raster(shape))
    answer = model.decode(embedding, points=torch.zeros(1, 1, 2), labels=torch.ones(1, 1))
    assert model.upscale(answer.logits, embedding).shape == (1, 3, *shape)
    assert torch.isfinite(answer.logits).all()


def test_dense_layers_lie_where_the_embedding_says(model):
    for layer in (None, 0, model.layers - 1, -1):
        embedding = model.encode_dense(raster(), layer=layer)
        features = embedding.tensors["image"]
        centre = embedding.scale * (np.array(embedding.shape) - 1) / 2 + embedding.offset
        shown = np.array(embedding.covered)
        assert features.dtype is torch.float32
        np.testing.assert_allclose(centre, (shown - 1) / 2, atol=0.51)
    assert torch.equal(
        model.encode_dense(raster(), layer=-1).tensors["image"],
        model.encode_dense(raster(), layer=model.layers - 1).tensors["image"],
    )
    with pytest.raises(InputError, match=f"blocks 0 to {model.layers - 1}"):
        model.encode_dense(raster(), layer=model.layers)


@given(st.integers(2, 60), st.integers(2, 60))
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_masks_cover_the_raster(loaded, height, width):
    """A cell-sized spot in the answer lands on the pixels that this cell of the input shows."""
    model = loaded("sam")
    embedding = model.encode(raster((height, width)))
    logits = torch.full((1, 1, 32, 32), -1.0)
    logits[..., 0, 0] = 1
    inside = model.upscale(logits, embedding)[0, 0] > 0
    expected = [round(4 / (128 / max(height, width))), round(4 / (128 / max(height, width)))]
    assert abs(int(inside[0].sum()) - expected[1]) <= 1 and abs(int(inside[:, 0].sum()) - expected[0]) <= 1


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 96, 192])
def test_other_input_sizes(model, place, size):
    kind = next(k for k in FILES if model.card.name in str(place(k)))
    other = load(place(kind), input_size=size)
    embedding = other.encode(raster())
    assert embedding.tensors["image"].shape[-2:] == (size // 16, size // 16)
    answer = other.decode(embedding, points=torch.tensor([[[5.0, 6.0]]]), labels=torch.ones(1, 1))
    assert answer.logits.shape[-2:] == (size // 4, size // 4)
    assert other.upscale(answer.logits, embedding).shape[-2:] == (37, 61)
    assert other.key != model.key
    masked = other.decode(embedding, masks=answer.logits[:, :1])
    assert masked.logits.shape == answer.logits.shape


def test_the_trained_size_changes_nothing(place):
    plain, asked = load(place("sam")), load(place("sam"), input_size=128)
    assert plain.key == asked.key
    assert torch.equal(plain.encode(raster()).tensors["image"], asked.encode(raster()).tensors["image"])


def test_a_smaller_position_embedding_is_the_interpolated_one(place):
    full, half = load(place("sam")), load(place("sam"), input_size=64)
    grid = full.network.vision_encoder.pos_embed.permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (4, 4), mode="bicubic").permute(0, 2, 3, 1)
    torch.testing.assert_close(half.network.vision_encoder.pos_embed, expected)


@pytest.mark.parametrize(("kind", "size", "step"), [("sam", 100, 16), ("sam2", 144, 32), ("sam-med2d", 80, 32)])
def test_sizes_that_do_not_fit(kind, size, step, place):
    for wrong in (size, 0, -64, 16):
        with pytest.raises(InputError, match=f"input size {wrong} is unsuitable; use a multiple of {step}"):
            load(place(kind), input_size=wrong)


# -- precision ------------------------------------------------------------------------------------


def test_bfloat16_encodes_nearly_the_same(model, place, monkeypatch):
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: True)
    kind = next(k for k in FILES if model.card.name in str(place(k)))
    coarse = load(place(kind), input_size=128, dtype="bfloat16")
    assert (coarse.dtype, model.dtype) == (torch.bfloat16, torch.float32)
    assert coarse.key.endswith("bfloat16") and coarse.key != model.key
    a, b = (m.encode(raster()).tensors["image"] for m in (model, coarse))
    assert b.dtype is torch.float32
    assert (a - b).norm() < 0.05 * a.norm()
    assert coarse.encode_dense(raster(), layer=0).tensors["image"].dtype is torch.float32
    prompt = {"points": torch.tensor([[[3.0, 4.0]], [[20, 9]]]), "labels": torch.ones(2, 1)}
    exact, rough = (m.decode(m.encode(raster()), **prompt) for m in (model, coarse))
    assert rough.logits.dtype is rough.quality.dtype is torch.float32
    assert (exact.logits - rough.logits).norm() < 0.1 * exact.logits.norm()
    torch.testing.assert_close(exact.quality, rough.quality, atol=0.05, rtol=0.1)


def test_bfloat16_keeps_the_place_of_points(place, monkeypatch):
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: True)
    network = load(place("sam"), dtype="bfloat16").network
    points = torch.tensor([[[[100.0, 100.0]], [[100.4, 100.0]]]])
    sparse, _ = network.prompt_encoder(points, torch.ones(1, 2, 1, dtype=torch.int64), None, None)
    assert sparse.dtype is torch.float32
    assert (sparse[0, 0] - sparse[0, 1]).abs().max() > 1e-3


def test_which_precision(monkeypatch):
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: False)
    assert {choose_precision(p, CPU) for p in (None, "auto", "float32", torch.float32)} == {torch.float32}
    for asked in ("bfloat16", torch.bfloat16):
        with pytest.raises(InputError, match="bfloat16 is no gain on cpu"):
            choose_precision(asked, CPU)
    with pytest.raises(InputError, match="'float8' is unknown"):
        choose_precision("float8", CPU)
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: True)
    assert {choose_precision(p, CPU) for p in ("auto", "bfloat16", torch.bfloat16)} == {torch.bfloat16}
    assert choose_precision(None, CPU) is torch.float32


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_full_memory_says_what_to_change(full, place, monkeypatch):
    model = load(place("sam"))
    embedding = model.encode(raster())

    def fail(*arguments, **more):
        raise full

    for method, call in {
        "_encode": lambda: model.encode(raster()),
        "_layer": lambda: model.encode_dense(raster(), layer=0),
        "_decode": lambda: model.decode(embedding, boxes=torch.tensor([[[1.0, 1.0], [9.0, 9.0]]])),
    }.items():
        monkeypatch.setattr(model, method, fail)
        with pytest.raises(InputError, match=r"sam ran out of memory while .* use a smaller input size"):
            call()


def test_other_errors_pass(place, monkeypatch):
    model = load(place("sam"))

    def fail(*arguments):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(model, "_encode", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        model.encode(raster())


# -- keys -----------------------------------------------------------------------------------------


def test_keys_tell_weights_apart(place, tmp_path):
    same, other = load(place("sam")), load(saved("sam", tmp_path, seed=1))
    assert same.key == load(place("sam")).key
    assert same.key != other.key


def test_all_kinds_are_here():
    assert {kind.removesuffix("-file") for kind in KINDS} == set(FILES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_on_a_gpu(model, place):
    kind = next(k for k in FILES if model.card.name in str(place(k)))
    there = load(place(kind), input_size=128, device="cuda")
    prompt = {"points": torch.tensor([[[3.0, 4.0]]]), "labels": torch.tensor([[1]])}
    answers = [m.decode(m.encode(raster()), **prompt) for m in (model, there)]
    torch.testing.assert_close(answers[1].logits.cpu(), answers[0].logits, atol=1e-3, rtol=1e-3)
