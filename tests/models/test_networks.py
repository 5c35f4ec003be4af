"""The networks that are our own (adapters, TinyViT) against slow readings of their papers, and DINO."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models import tiny
from roireg.core.errors import InputError
from roireg.models import DenseEncoder, PromptableModel, load
from roireg.models.sam_med2d import Adapter
from roireg.models.tiny_vit import TinyVit, TinyVitSizes, _Block, _WindowAttention

SIZES = TinyVitSizes(
    widths=(8, 16, 20, 24), depths=(1, 1, 2, 1), windows=(7, 14, 7), heads=(2, 4, 3), expansion=2, channels=32
)
RASTER = torch.rand((1, 37, 61), generator=torch.Generator().manual_seed(0)) * 255


# -- SAM-Med2D ------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_adapter_by_hand():
    adapter = tiny.randomise(Adapter(6, 3))
    x = torch.randn(2, 4, 6, 6)
    weights = dict(adapter.named_parameters())
    for image, found in zip(x, adapter(x), strict=True):
        mean = image.reshape(-1, 6).mean(0)
        inner = torch.relu(weights["channel.0.weight"] @ mean)
        attention = torch.sigmoid(weights["channel.2.weight"] @ inner)
        maps = (image * attention).permute(2, 0, 1)[None]
        low = torch.relu(F.conv2d(maps, weights["spatial.0.weight"], stride=2, padding=1))
        high = torch.relu(F.conv_transpose2d(low, weights["spatial.2.weight"], stride=2, padding=1))
        total = image + high[0].permute(1, 2, 0)
        expected = F.layer_norm(total, (6,), weights["norm.weight"], weights["norm.bias"])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_block_adds_perceptron_and_adapter():
    plain, adapted = tiny.sam(), tiny.sam_med2d()
    for name, value in plain.vision_encoder.named_parameters():
        target = dict(adapted.vision_encoder.named_parameters())
        target.get(name, target.get(name.replace(".mlp.", ".mlp.mlp."))).copy_(value)
    x = torch.randn(1, 8, 8, 32)
    before, after = plain.vision_encoder.layers[1], adapted.vision_encoder.layers[1]
    middle = x + before.attn(before.layer_norm1(x))[0]
    expected = before(x) + after.mlp.adapter(after.layer_norm2(middle))
    torch.testing.assert_close(after(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_sam_med2d_is_prepared_as_its_authors_prepare(place):
    """Plainly resized to the square; clicks and masks of an oblong image go there and back by half-pixel centres."""
    model = load(place("sam-med2d"))
    raster = torch.rand((3, 40, 90), generator=torch.Generator().manual_seed(1)) * 255
    pixels, frame = model.preprocessing(raster)
    assert frame.resized == frame.size == (128, 128)
    rows, columns = (((torch.arange(128) + 0.5) * n / 128).floor().long() for n in (40, 90))
    mean, std = (torch.tensor(v)[:, None, None] for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    torch.testing.assert_close(pixels[0], (raster[:, rows][:, :, columns] - mean) / std)
    corner = frame.to_input(torch.tensor([39.5, 0.0]))
    torch.testing.assert_close(corner, torch.tensor([0.5 * 128 / 90 - 0.5, 127.5]))
    embedding = model.encode(raster)
    # A mask of the right half is the right half of the image, whatever its shape.
    half = torch.full((1, 1, 32, 32), -1.0)
    half[..., 16:] = 1
    inside = model.upscale(half, embedding)[0, 0] > 0
    assert inside.shape == (40, 90)
    assert not inside[:, :45].any() and inside[:, 45:].all()


@torch.no_grad()
def test_silent_adapters_leave_sam(place, tmp_path):
    network = tiny.sam_med2d()
    for block in network.vision_encoder.layers:
        block.mlp.adapter.norm.weight.zero_()
        block.mlp.adapter.norm.bias.zero_()
    adapted = load(tiny.save_file(tiny.original(network), tmp_path / "a.pth", under="model"))
    assert adapted.card.family == "sam-med2d"
    plain_names = {n: v for n, v in tiny.original(network).items() if ".Adapter." not in n}
    plain = load(tiny.save_file(plain_names, tmp_path / "b.pth"))
    assert plain.card.family == "sam"
    pixels, _ = plain.preprocessing(RASTER)
    torch.testing.assert_close(adapted._encode(pixels)["image"], plain._encode(pixels)["image"], atol=1e-5, rtol=0)


# -- TinyViT --------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_attention_bias_of_every_pair_of_tokens():
    """Offsets are numbered in the order in which pairs of tokens meet them."""
    attention = tiny.randomise(_WindowAttention(8, 2, 4))
    places = list(itertools.product(range(4), range(4)))
    numbers: dict[tuple[int, int], int] = {}
    expected = torch.empty(2, 16, 16)
    for (i, a), (j, b) in itertools.product(enumerate(places), enumerate(places)):
        offset = (abs(a[0] - b[0]), abs(a[1] - b[1]))
        number = numbers.setdefault(offset, len(numbers))
        expected[:, i, j] = attention.attention_biases[:, number]
    assert torch.equal(attention.bias(), expected)


@torch.no_grad()
def test_attention_in_every_window_by_hand():
    block = tiny.randomise(_Block(8, 2, 3, 16))
    attention = block.attn
    x = torch.randn(2, 8, 7, 5)
    found = block._attend(x)
    padded = F.pad(x, (0, 1, 0, 2))
    expected = torch.empty_like(padded)
    for image, top, left in itertools.product(range(2), range(0, 9, 3), range(0, 6, 3)):
        window = padded[image, :, top : top + 3, left : left + 3]
        tokens = attention.norm(window.reshape(8, 9).T)
        out = []
        for head, qkv in enumerate(attention.qkv(tokens).split(12, dim=1)):
            q, k, v = qkv[:, :4], qkv[:, 4:8], qkv[:, 8:]
            weights = torch.softmax(q @ k.T / 2 + attention.bias()[head], dim=1)
            out.append(weights @ v)
        expected[image, :, top : top + 3, left : left + 3] = attention.proj(torch.cat(out, 1)).T.reshape(8, 3, 3)
    torch.testing.assert_close(found, expected[:, :, :7, :5], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_stages_and_strides():
    encoder = tiny.randomise(TinyVit(SIZES))
    pixels = torch.randn(1, 3, 128, 96)
    assert [encoder.after(pixels, i).shape[1:] for i in range(4)] == [
        (16, 16, 12),
        (20, 8, 6),
        (24, 8, 6),
        (24, 8, 6),
    ]
    assert encoder(pixels).last_hidden_state.shape == (1, 32, 8, 6)


@torch.no_grad()
def test_batches_are_their_images():
    encoder = tiny.randomise(TinyVit(SIZES))
    pixels = torch.randn(3, 3, 64, 64)
    together = encoder(pixels).last_hidden_state
    for i in range(3):
        torch.testing.assert_close(
            together[i : i + 1], encoder(pixels[i : i + 1]).last_hidden_state, atol=1e-4, rtol=0
        )


def test_left_over_classifiers_are_no_surprise(place, tmp_path):
    tensors = tiny.original(tiny.mobile_sam())
    tensors |= {"image_encoder.norm_head.weight": torch.ones(24), "image_encoder.head.weight": torch.zeros(1000, 24)}
    model = load(tiny.save_file(tensors, tmp_path / "mobile_sam.pt"), input_size=128)
    assert model.report.unexpected == ()
    assert model.card.name == "mobile-sam"


# -- DINO -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "patch", "prefix"), [("dinov2", 14, 1), ("dinov3", 16, 5)])
@torch.no_grad()
def test_dino_gives_patches_without_class_and_registers(kind, patch, prefix, place):
    encoder = load(place(kind), "features", input_size=112)
    assert isinstance(encoder, DenseEncoder) and not isinstance(encoder, PromptableModel)
    network = tiny.dinov2() if kind == "dinov2" else tiny.dinov3()
    pixels, frame = encoder.preprocessing(RASTER)
    rows, columns = frame.size[0] // patch, frame.size[1] // patch
    out = network(pixels, output_hidden_states=True)
    assert out.last_hidden_state.shape[1] == prefix + rows * columns
    for layer in (None, 0, 1, -1):
        embedding = encoder.encode_dense(RASTER, layer=layer)
        if layer in (None, -1):
            tokens = out.last_hidden_state
        else:
            norm = network.layernorm if kind == "dinov2" else network.norm
            tokens = norm(out.hidden_states[layer + 1])
        expected = tokens[0, prefix:].T.reshape(1, 32, rows, columns)
        torch.testing.assert_close(embedding.tensors["image"], expected, atol=1e-4, rtol=0)
        assert embedding.covered == (rows, columns) and embedding.shape == (37, 61)
        np.testing.assert_allclose(embedding.scale * [37, 61], [rows, columns])
    assert encoder.encoded == 4
    with pytest.raises(InputError, match="blocks 0 to 2, not 3"):
        encoder.encode_dense(RASTER, layer=3)


def test_dino_sizes(place):
    assert load(place("dinov2"), "features").preprocessing.size == 518
    with pytest.raises(InputError, match="at least 28, two patches"):
        load(place("dinov2"), "features", input_size=20)


def test_sam_is_an_encoder_too(place):
    encoder = load(place("sam"), "features")
    assert encoder.encode_dense(RASTER).tensors["image"].shape == (1, 32, 8, 8)
