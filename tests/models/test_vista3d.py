from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.core.image import Image
from roireg.core.rois import Prompt
from roireg.models import load
from roireg.models.base import DenseEncoder
from roireg.models.cache import EmbeddingCache
from roireg.models.vista3d import CLASSES, FAMILY, Vista3D
from roireg.models.volumes import VolumeModel
from roireg.segment.everything import EverythingOptions
from roireg.segment.filters import RegionFilter
from roireg.segment.model3d import Model3DSegmenter
from support import make_grid, rotation

nets = pytest.importorskip("monai.networks.nets", reason="needs monai")

SIDE = 32


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nets.vista3d132(encoder_embed_dim=8).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, network):
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint) -> Vista3D:
    return load(f"vista3d={checkpoint}", input_size=SIDE)


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).uniform(0, 255, (1, *shape)).astype(np.float32))


def test_answers_are_those_of_monai_and_its_window_inferer(network, model):
    from monai.apps.vista3d.inferer import point_based_window_inferer

    raster = noise(SIDE, SIDE, SIDE)
    points, labels = torch.tensor([[[4.0, 20.0, 9.0], [25.0, 8.0, 14.0]]]), torch.tensor([[1, 0]])
    before = model.encoded
    embedding = model.encode(raster)
    answer = model.decode(embedding, points=points, labels=labels)
    more = model.decode(embedding, points=points.flip(1)[:, :1], labels=torch.ones(1, 1))
    assert model.encoded == before + 1
    assert not torch.allclose(more.logits, answer.logits)
    xyz = raster.permute(0, 3, 2, 1)[None] / 255
    with torch.no_grad():
        whole = network(xyz, point_coords=points.flip(-1), point_labels=labels)
        with warnings.catch_warnings():
            # MONAI warns of what it does itself with the affine of its own tensor.
            warnings.filterwarnings("ignore", message="Setting affine", category=UserWarning)
            window = point_based_window_inferer(
                xyz, (SIDE,) * 3, network, point_coords=points.flip(-1), point_labels=labels, transpose=True
            )
    # MONAI adds up the windows of all points; here both points have the same window.
    for theirs in (whole, torch.as_tensor(window).transpose(0, 1) / points.shape[1]):
        torch.testing.assert_close(answer.logits, theirs.permute(0, 1, 4, 3, 2), atol=1e-5, rtol=1e-4)
    assert model.upscale(answer.logits, embedding).shape == (1, 1, SIDE, SIDE, SIDE)


def test_classes_are_those_of_monai(network, checkpoint):
    model = load(checkpoint, "classes", input_size=SIDE)
    names = model.classes
    assert len(names) == 117 and CLASSES["heart"] == 115 and CLASSES["left kidney"] == 14
    assert {"kidney", "lung tumor", "airway", ""}.isdisjoint(names)
    raster = noise(SIDE, SIDE, SIDE)
    found = model.probabilities(raster)
    picked = [names.index(name) for name in ("liver", "right kidney")]
    with torch.no_grad():
        theirs = network(raster.permute(0, 3, 2, 1)[None] / 255, class_vector=torch.tensor([[1], [5]]))
    expected = theirs[:, 0].sigmoid().permute(0, 3, 2, 1)
    torch.testing.assert_close(found[picked].float() / 255, expected, atol=0.003, rtol=0)


def test_a_ct_is_shown_to_the_classes_as_to_the_points(model):
    grid = make_grid((12, 30, 34), (3.0, 1.5, 1.4), rotation(3, 6), (5, 6, 7))
    image = Image(torch.full((1, *grid.shape), -1000.0), grid, name="ct")
    image.data[:, 4:, 5:] = 45.0
    shown = model.shown(image)
    np.testing.assert_allclose(shown.grid.spacing, 1.5, rtol=0.1)
    assert float(shown.data.max()) == pytest.approx(255 / 2, abs=0.3) and float(shown.data.min()) == 0
    with pytest.raises(InputError, match="reads CT in Hounsfield units"):
        model.shown(image.with_data(image.data.abs()))


def test_prompts_do_not_disturb_each_other_and_shapes_return(model):
    assert isinstance(model, VolumeModel) and isinstance(model, DenseEncoder)
    embedding = model.encode(noise(20, 40, 31))
    assert embedding.tensors["image"].shape == (1, 8, SIDE, SIDE, SIDE)
    points = torch.tensor([[[3.0, 4, 5], [10, 11, 12]], [[9.0, 20, 9], [0, 0, 0]]])
    labels = torch.tensor([[1, 0], [1, -1]])
    together = model.decode(embedding, points=points, labels=labels)
    alone = model.decode(embedding, points=points[1:, :1], labels=labels[1:, :1])
    torch.testing.assert_close(alone.logits[0], together.logits[1])
    assert model.upscale(together.logits, embedding).shape == (2, 1, 20, 40, 31)
    assert (together.quality >= 0).all() and (together.quality <= 1).all()


def test_the_names_of_the_hugging_face_model_load(tmp_path, network, model):
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    path = tmp_path / "model.safetensors"
    safetensors.save_file({f"network.{k}": v.contiguous() for k, v in network.state_dict().items()}, path)
    other = load(f"vista3d={path}", input_size=SIDE)
    for name, value in model.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[name], value)
    assert other.card.name == "vista3d"


def test_from_a_file_to_regions_of_a_ct(checkpoint):
    grid = make_grid((12, 30, 34), (3.0, 1.5, 1.4), rotation(3, 6), (5, 6, 7))
    values = np.random.default_rng(0).normal(0, 30, grid.shape)
    values[:, :4] = -1000
    image = Image(torch.from_numpy(values[None].astype(np.float32)), grid)
    model = load(checkpoint, input_size=SIDE)
    find = Model3DSegmenter(
        model,
        cache=EmbeddingCache(),
        options=EverythingOptions(pred_iou_thresh=0),
        points=2,
        limits=RegionFilter(min_fraction=0, max_fraction=1),
    )
    found = find.prepare(image).answer(Prompt.at(grid.center))
    assert found.grid == grid
    rois = find(image)
    assert len(rois) >= 1 and rois.grid == grid
    assert model.encoded == 1  # one cube holds it all
    with pytest.raises(InputError, match="reads CT in Hounsfield units"):
        find(image.with_data(image.data + 1024))


def test_bad_files_and_options_are_explained(tmp_path, checkpoint, network):
    cut, other = tmp_path / "cut.pt", tmp_path / "other.pt"
    cut.write_bytes(checkpoint.read_bytes()[:200_000])
    with pytest.raises(InputError, match=r"cut\.pt.*(damaged|truncated)"):
        FAMILY.read(cut, FAMILY.cards[0])
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("point_head.")}
    torch.save(state, other)
    with pytest.raises(
        InputError, match=r"other\.pt.*does not fit vista3d: \d+ tensor\(s\) are missing \(point_head"
    ):
        FAMILY.read(other, FAMILY.cards[0])
    for size in (16, 40):
        with pytest.raises(InputError, match="multiple of 16 from 32 on"):
            FAMILY.resize(network, size, FAMILY.cards[0])


def test_unsuitable_prompts_are_explained(model):
    embedding = model.encode(noise(SIDE, SIDE, SIDE))
    with pytest.raises(InputError, match="takes points, neither boxes nor masks"):
        model.decode(embedding, boxes=torch.zeros(1, 2, 3))
    with pytest.raises(InputError, match="needs points"):
        model.decode(embedding)
    with pytest.raises(InputError, match="last layer only, not of 2"):
        model.encode_dense(noise(SIDE, SIDE, SIDE), layer=2)


def test_too_little_memory_says_what_to_change(model, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    embedding = model.encode(noise(SIDE, SIDE, SIDE))
    monkeypatch.setattr(model.network.point_head, "forward", fail)
    with pytest.raises(InputError, match="ran out of memory while answering 1 prompts"):
        model.decode(embedding, points=torch.ones(1, 1, 3), labels=torch.ones(1, 1))
    monkeypatch.setattr(model.network.image_encoder, "forward", fail)
    with pytest.raises(InputError, match="vista3d ran out of memory while encoding"):
        model.encode(noise(SIDE, SIDE, SIDE))


def test_without_monai_one_sentence_names_the_extra(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(OptionalDependencyError, match=r'vista3d needs.*pip install "roireg\[models\]"'):
        load(checkpoint)
