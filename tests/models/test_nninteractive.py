from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from models.nninteractive_server import Handler, Server, serving
from roireg.core.errors import InputError, OptionalDependencyError
from roireg.core.image import Image
from roireg.core.rois import Prompt
from roireg.models import allow_remote, load, remote
from roireg.models.base import DenseEncoder, PromptableModel
from roireg.models.cache import EmbeddingCache
from roireg.models.nninteractive import NNInteractive
from roireg.models.volumes import VolumeModel
from roireg.segment.filters import RegionFilter
from roireg.segment.model3d import Model3DSegmenter
from support import make_grid, rotation


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def model(server) -> Iterator[NNInteractive]:
    found = NNInteractive(server.address)
    yield found
    server.answer = None
    found.close()


def two_blocks() -> torch.Tensor:
    raster = torch.zeros(1, 6, 8, 10)
    raster[0, 1:3, 1:4, 1:5] = 200
    raster[0, 4:6, 5:8, 6:9] = 200
    return raster


def test_points_select_what_they_lie_in(server, model):
    assert isinstance(model, PromptableModel) and isinstance(model, VolumeModel)
    assert not isinstance(model, DenseEncoder)
    raster = two_blocks()
    embedding = model.encode(raster)
    np.testing.assert_array_equal(server.image, raster.numpy())
    points = torch.tensor([[[1.2, 2.0, 3.0], [0, 0, 0]], [[4.4, 6.0, 7.0], [2.0, 2.0, 2.0]]])
    answer = model.decode(embedding, points=points, labels=torch.tensor([[1, -1], [1, 1]]))
    full = model.upscale(answer.logits, embedding)
    assert full.shape == (2, 1, 6, 8, 10)
    assert int((full[0] > 0).sum()) == 24 and bool(full[0, 0, 1, 2, 3] > 0)
    assert torch.equal(full[1, 0] > 0, raster[0] > 100)
    assert answer.quality.tolist() == [[1.0], [1.0]]
    # The image crosses the wire once, however many prompts follow.
    assert server.calls.count("set_image") == 1 and model.encoded == 1
    assert server.calls.count("claim") == 1


def test_boxes_send_their_middle_slice_and_masks_a_first_guess(server, model):
    embedding = model.encode(two_blocks())
    box = torch.tensor([[[0.6, 0.5, 1.0], [4.4, 3.4, 20.0]]])
    found = model.decode(embedding, boxes=box).logits[0, 0] > 0
    expected = torch.zeros(6, 8, 10, dtype=torch.bool)
    expected[2, 1:4, 1:10] = True
    assert torch.equal(found, expected)
    again = model.decode(embedding, masks=torch.where(expected, 4.0, -4.0)[None, None]).logits[0, 0] > 0
    assert torch.equal(again, expected)


def test_an_image_sent_meanwhile_does_not_mix_up_the_answers(server, model):
    first = model.encode(two_blocks())
    model.encode(torch.zeros(1, 3, 3, 3))
    found = model.decode(first, points=torch.tensor([[[1.0, 2.0, 3.0]]]), labels=torch.ones(1, 1))
    assert int((found.logits > 0).sum()) == 24
    assert model.encoded == 2 and server.calls.count("set_image") == 3


def test_a_lost_lease_is_renewed(server, model):
    server.expire = True
    model.encode(two_blocks())
    assert server.leases == 2 and server.calls.count("set_image") == 2


def test_prompts_in_mm_through_the_segmenter(server, model):
    grid = make_grid((6, 8, 10), (4.0, 1.0, 1.2), rotation(3, 2), (10, 20, 30))
    image = Image(two_blocks() * 4, grid)
    find = Model3DSegmenter(
        model, cache=EmbeddingCache(), points=400, limits=RegionFilter(min_fraction=0, max_fraction=1)
    )
    found = find.prepare(image).answer(Prompt.at(grid.world_from_index([2, 2, 2])))
    assert found.grid == grid and int(found.masks[0].sum()) == 24
    corners = grid.world_from_index([[1.0, 1.0, 1.0], [2.0, 3.0, 4.0]])
    boxed = find.prepare(image).answer(Prompt(np.zeros((0, 3)), np.zeros(0), box=corners))
    assert int(boxed.masks[0].sum()) == 12
    rois = find(image)
    assert sorted(rois.masks.flatten(1).sum(1).tolist()) == [18, 24]
    assert server.calls.count("set_image") == 1


def test_without_a_server_one_sentence_says_how_to_start_it():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"no nnInteractive server answers at {address}.*nninteractive-server"):
            NNInteractive(address).encode(two_blocks())


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "wants another API key"),
        (503, "no free place .*all taken"),
        (500, "refused .500: .*all taken"),
        (200, "is no nnInteractive server"),
    ],
)
def test_refusals_are_explained(server, model, status, words):
    server.answer = (status, "all taken")
    with pytest.raises(InputError, match=words):
        model.encode(two_blocks())


def test_a_slow_server_is_explained(server, monkeypatch):
    monkeypatch.setattr(Handler, "_add_point_interaction", lambda self, body: threading.Event().wait(0.5))
    model = NNInteractive(server.address, timeout=0.1)
    embedding = model.encode(two_blocks())
    with pytest.raises(InputError, match="no answer in time"):
        model.decode(embedding, points=torch.zeros(1, 1, 3), labels=torch.ones(1, 1))
    model.close()


def test_unsuitable_input_is_explained(model):
    for address in ("127.0.0.1:1527", "ftp://here", "nonsense"):
        with pytest.raises(InputError, match="is no address"):
            NNInteractive(address)
    embedding = model.encode(two_blocks())
    with pytest.raises(InputError, match="found none"):
        model.decode(embedding)
    with pytest.raises(InputError, match="no point with label 0 or 1"):
        model.decode(embedding, points=torch.zeros(1, 1, 3), labels=-torch.ones(1, 1))


def test_without_the_client_one_sentence_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nnInteractive.inference.remote", None)
    with pytest.raises(OptionalDependencyError, match="pip install nninteractive-client"):
        NNInteractive("http://127.0.0.1:1")


# -- other computers ------------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch):
    """Nothing is allowed yet, and what is allowed ends with the test."""
    monkeypatch.setattr(remote, "_allowed", set())


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "address",
    [
        "http://gpu.lab.org:1527",
        "http://10.0.0.7:1527",
        "http://127.0.0.1@evil.org",
        "http://127.0.0.1.evil.org",
        "http://[2001:db8::1]:1527",
        "https://localhost.evil.org",
    ],
)
def test_no_other_computer_is_sent_anything_unless_allowed(address):
    for attempt in (NNInteractive, lambda a: load(f"nninteractive={a}")):
        with pytest.raises(InputError, match=r"would send images to .*--allow-remote"):
            attempt(address)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "http://127.8.8.8"]
)
def test_this_computer_needs_no_permission(address):
    assert load(f"nninteractive={address}").address == address


@pytest.mark.usefixtures("nowhere")
def test_an_allowed_computer_is_named_before_anything_leaves(monkeypatch, caplog):
    allow_remote("GPU.lab.org")
    model = load("nninteractive=http://gpu.lab.org:1527")
    with pytest.raises(InputError, match=r"would send images to other\.lab\.org"):
        load("nninteractive=http://other.lab.org:1527")
    assert not caplog.records

    def opened(*arguments, **more):
        assert "images are sent to gpu.lab.org" in caplog.text
        raise ValueError("no server")

    monkeypatch.setattr(model._remote, "nnInteractiveRemoteInferenceSession", opened)
    with pytest.raises(InputError, match="is no nnInteractive server"):
        model.encode(two_blocks())
    assert "images are sent to gpu.lab.org" in caplog.text


@pytest.mark.parametrize("host", ["", "http://gpu.lab.org", "gpu.lab.org/", "*", "user@host"])
def test_what_is_no_host(host):
    with pytest.raises(InputError, match="is no host"):
        allow_remote(host)
