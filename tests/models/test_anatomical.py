"""The embedding network and the weights that come with the package."""

from __future__ import annotations

import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.files import file_digest
from roireg.models import find_card, load, untrained
from roireg.models.anatomical import WEIGHTS, weights_card
from roireg.models.embedding_network import STRIDES, EmbeddingNet, joined_maps


@pytest.mark.parametrize("ndim", (2, 3))
def test_card_and_weights_agree(ndim):
    file, known = WEIGHTS / f"embedding-{ndim}d.safetensors", weights_card(ndim)
    assert file_digest(file) == known["sha256"] == find_card(f"embedding-{ndim}d").sha256
    assert file.stat().st_size == known["bytes"] < 10e6
    assert {"data", "seed", "steps", "limits", "hardware", "held_out"} <= known.keys()
    model = load(f"embedding-{ndim}d", "features")
    count = sum(p.numel() for p in model.network.parameters())
    assert round(count / 1e6, 3) == known["parameters_million"]


@pytest.mark.parametrize("ndim", (2, 3))
def test_a_constant_image_has_one_descriptor_everywhere(ndim):
    """Zeros around the image would tell how far the border is."""
    torch.manual_seed(0)
    network = EmbeddingNet(ndim, (4, 4, 8, 8), 4).eval()
    with torch.no_grad():
        maps = network(torch.full((1, 1, *[48] * ndim), 0.3))
    for features in maps:
        assert float((features - features.flatten(2)[..., :1].reshape(1, -1, *[1] * ndim)).abs().max()) < 1e-5


def test_what_is_shown_decides_and_not_where():
    model = load("embedding-2d", "features")
    rng = torch.Generator().manual_seed(0)
    image = torch.nn.functional.avg_pool2d(torch.rand(1, 400, 400, generator=rng), 9, 1, 4)
    here, there = model.maps(image[:, :320, :320]), model.maps(image[:, 48:368, 32:352])
    for stride, a, b in zip(STRIDES, here, there, strict=True):
        down, right = 48 // stride, 32 // stride
        middle = slice(152 // stride, 168 // stride)
        moved = a[:, middle.start : middle.stop, middle.start : middle.stop]
        same = b[:, middle.start - down : middle.stop - down, middle.start - right : middle.stop - right]
        assert float((moved * same).sum(0).min()) > 0.98


@pytest.mark.parametrize("shape", [(1, 1), (7, 130), (33, 16), (5, 1, 40), (17, 23, 9)])
def test_any_shape_is_covered_by_cells(shape):
    model = load(f"embedding-{len(shape)}d", "features")
    for stride, features in zip(STRIDES, model.maps(torch.rand(1, *shape)), strict=True):
        assert features.shape == (32, *(-(-n // stride) for n in shape))
        assert torch.allclose(features.norm(dim=0), torch.ones(1), atol=1e-4)


def test_joined_products_are_mean_cosines():
    maps = [torch.nn.functional.normalize(torch.randn(1, 3, n, n), dim=1) for n in (8, 4, 2)]
    joined = joined_maps(maps, (2.0, 1.0, 1.0))
    assert joined.shape == (1, 9, 8, 8) and torch.allclose(joined.norm(dim=1), torch.ones(1), atol=1e-5)
    first, second = joined[0, :, 0, 0], joined[0, :, 7, 7]
    cosines = [float(m[0, :, 0, 0] @ m[0, :, -1, -1]) for m in maps]
    assert abs(float(first @ second) - (2 * cosines[0] + cosines[1] + cosines[2]) / 4) < 1e-5


def test_a_dense_encoder_as_all_others():
    model = load("embedding-2d", "features", input_size=64)
    embedding = model.encode_dense(torch.rand(3, 100, 50) * 255)
    assert embedding.tensors["image"].shape == (1, 96, 32, 16) and embedding.covered == (32, 16)
    assert embedding.scale.tolist() == [0.32, 0.32]
    assert model.encode_dense(torch.rand(1, 30, 30) * 255, layer=2).tensors["image"].shape == (1, 32, 4, 4)
    with pytest.raises(InputError, match="has blocks 0 to 2, not 3"):
        model.encode_dense(torch.rand(1, 30, 30), layer=3)
    with pytest.raises(InputError, match="encodes 2D images"):
        model.maps(torch.rand(1, 8, 8, 8))


def test_the_settings_of_a_network_are_in_its_shapes():
    network = EmbeddingNet(3, (4, 6, 8, 10), 5)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert EmbeddingNet.settings(shapes) == {"ndim": 3, "widths": (4, 6, 8, 10), "dim": 5}
    assert not untrained("embedding").trained
