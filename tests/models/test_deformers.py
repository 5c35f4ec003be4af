"""Deformation networks: what they give before training, what they are loaded from, and what is refused."""

from __future__ import annotations

import importlib
import itertools
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.models import deformer
from roireg.models.deformer import integrated
from roireg.models.deformers import DEFORMERS, build_deformer, check_deformer, load_deformer
from roireg.models.described import Describer
from roireg.models.lapirn import REACH
from roireg.models.same import correlation

FAMILIES = sorted(DEFORMERS)
CARD = {"steps": 3, "squarings": 7, "size": 32, "spacing": None}


def small(family: str, ndim: int = 2, squarings: int = 7):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_deformer(family, {"ndim": ndim, "squarings": squarings, "width": 4})


def saved(network, path, **card):
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps(CARD | card))
    return path


@pytest.mark.parametrize("shape", ((17, 30), (1, 33), (9, 1, 20)))
@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_network_moves_nothing_whatever_the_size(family, shape):
    network = small(family, len(shape)).eval()
    images = torch.rand(2, 1, 1, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        field = network(*images)
        still = network(images[0] * 0 + 0.4, images[0] * 0 + 0.4)
    assert field.shape == (1, len(shape), *shape) and float(field.abs().max()) == 0
    assert float(still.abs().max()) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_weights_give_the_same_field_after_loading(family, tmp_path):
    network = small(family, squarings=0).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    model = load_deformer(saved(network, tmp_path / "mine.safetensors", squarings=0))
    images = torch.rand(2, 1, 21, 26, generator=torch.Generator().manual_seed(3))
    field = model.field(*images)
    with torch.no_grad():
        assert torch.equal(field, network(images[:1], images[1:])[0])
    assert float(field.abs().max()) > 0 and model.card.family == family and model.network.squarings == 0
    assert model.card.name == "mine" and model.card.parameters > 0 and model.trained


def test_what_is_no_trained_network_is_refused(tmp_path):
    path = saved(small("voxelmorph"), tmp_path / "a.safetensors")
    check_deformer(path, 2)
    with pytest.raises(InputError, match="deforms 2D images, found 3D ones"):
        check_deformer(path, 3)
    with pytest.raises(InputError, match="deforms 2D images, found 3D ones"):
        load_deformer(path).field(torch.zeros(1, 4, 5, 6), torch.zeros(1, 4, 5, 6))
    with pytest.raises(InputError, match="no such file of a trained deformation network"):
        load_deformer(tmp_path / "none.safetensors")
    saved(small("voxelmorph"), path, steps=0)
    with pytest.raises(InputError, match=r"was never trained \(0 steps\)"):
        load_deformer(path)
    for text in ("{", '{"steps": 5}', '{"steps": "many"}', "[]"):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(InputError, match="is no card of a deformation network"):
            load_deformer(path)
    saved(small("voxelmorph"), path, size=0)
    with pytest.raises(InputError, match="has an impossible size"):
        load_deformer(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"has no card a\.json beside it"):
        load_deformer(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="are of no deformation network known here"):
        load_deformer(path)


def test_networks_of_monai_say_that_it_is_missing(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(deformer.importlib, "import_module", missing)
    with pytest.raises(OptionalDependencyError, match=r"VoxelMorphUNet needs the package monai; .*roireg\[models\]"):
        build_deformer("voxelmorph", {"ndim": 2})
    assert importlib.import_module is missing
    build_deformer("lapirn", {"ndim": 2, "width": 4})


def test_monai_gives_the_field_in_storage_order_and_ours_is_reversed():
    network = small("voxelmorph")
    with torch.no_grad():
        network.backbone.net[1].final_conv_out.conv.bias.copy_(torch.tensor([1.0, 2.0]))
        field = network(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
    assert torch.equal(field[0, :, 3, 5], torch.tensor([2.0, 1.0]))


def test_correlation_against_a_naive_reference():
    rng = torch.Generator().manual_seed(0)
    fixed, moving = (torch.randn(1, 3, 4, 5, generator=rng) for _ in range(2))
    found = correlation(fixed, moving)[0]
    for k, (dy, dx) in enumerate(itertools.product((-1, 0, 1), repeat=2)):
        for y, x in itertools.product(range(4), range(5)):
            there = moving[0, :, min(max(y + dy, 0), 3), min(max(x + dx, 0), 4)]
            assert float(found[k, y, x]) == pytest.approx(float(fixed[0, :, y, x] @ there), abs=1e-5)


def test_published_correlations_are_at_the_first_level_alone(tmp_path):
    network = build_deformer("same", {"ndim": 2, "width": 4, "everywhere": False})
    assert network.level2[1][0].weight.shape[1] == 8 and small("same").level2[1][0].weight.shape[1] == 8 + 9
    assert not load_deformer(saved(network, tmp_path / "a.safetensors")).network.everywhere


def test_the_embedding_of_the_network_is_not_a_part_of_its_weights():
    network = small("same")
    assert not any("describe" in name for name in network.state_dict())
    vectors = Describer(2)(torch.rand(2, 1, 15, 18, generator=torch.Generator().manual_seed(0)))
    assert vectors.shape == (2, Describer(2).channels, 8, 9) and not vectors.requires_grad
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2, 8, 9), atol=0.05)


# -- LapIRN ---------------------------------------------------------------------------------------

LAYERS = (
    "input_encoder_lvl1.0.weight",
    "input_encoder_lvl1.2.weight",
    "down_conv.weight",
    *(f"resblock_group_lvl1.{k}.conv{n}.weight" for k in (0, 2, 4, 6, 8) for n in (1, 2)),
    "up.weight",
    "output_lvl1.0.weight",
    "output_lvl1.2.weight",
)


def test_lapirn_has_the_tensors_of_the_published_files():
    shapes = {name: tuple(value.shape) for name, value in build_deformer("lapirn", {}).state_dict().items()}
    assert set(shapes) == {p + name for p in ("", "model_lvl2.", "model_lvl2.model_lvl1.") for name in LAYERS}
    # Start channel 7, volumes.
    assert shapes["model_lvl2.model_lvl1.input_encoder_lvl1.0.weight"] == (28, 2, 3, 3, 3)
    assert (
        shapes["input_encoder_lvl1.0.weight"] == shapes["model_lvl2.input_encoder_lvl1.0.weight"] == (28, 5, 3, 3, 3)
    )
    assert shapes["up.weight"] == (28, 28, 2, 2, 2) and shapes["output_lvl1.2.weight"] == (3, 28, 3, 3, 3)


class Constant(nn.Module):
    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, x):
        return self.values.reshape(1, -1, 1, 1).expand(1, -1, *x.shape[2:])


@pytest.mark.parametrize("squarings", (0, 7))
def test_what_a_coarse_level_of_lapirn_moves_the_fine_ones_keep_in_parts_of_the_image(squarings):
    network = small("lapirn", squarings=squarings)
    network.model_lvl2.model_lvl1.output_lvl1 = Constant(0.1, -0.2)
    network.output_lvl1 = Constant(0.05, 0.0)
    images = torch.rand(2, 1, 1, 32, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fields = network.fields(*images)
    assert [f.shape[2:] for f in fields] == [(8, 6), (16, 12), (32, 24)]
    half = torch.tensor([23.0, 31.0]) / 2
    moved = integrated(fields[2], squarings)[0, :, 16, 12]
    assert torch.allclose(moved, REACH * torch.tensor([0.15, -0.2]) * half, atol=1e-4)
    with torch.no_grad():
        assert len(network.fields(*images, depth=2)) == 2
