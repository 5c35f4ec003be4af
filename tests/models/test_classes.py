"""Networks that name classes: tiny random ones in the files of their authors, and the real ones where they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import warp
from roireg.io import read_image, read_labels, weights
from roireg.models import ClassModel, load, obelisk, wnet
from roireg.models.meshnet import DILATIONS, NAMES, Layers
from roireg.models.obelisk import HybridNet
from roireg.models.wnet import TwoNets

SHARED = Path(__file__).resolve().parents[4] / "shared"


def volume(grid: Grid, seed: int = 0, lowest: float = 0.0) -> Image:
    data = torch.from_numpy(np.random.default_rng(seed).uniform(lowest, 200, (1, *grid.shape)).astype(np.float32))
    return Image(data, grid, name="volume")


def brainchop(folder: Path, network: Layers) -> Path:
    """Write a network as brainchop does."""
    weights, values, layers = [], [], []
    convs = [*network.convs, network.output]
    for k, conv in enumerate(convs):
        name = f"conv3d_{2 * k}" if k + 1 < len(convs) else "output"
        kernel = conv.weight.detach().permute(2, 3, 4, 1, 0)
        for part, value in (("kernel", kernel), ("bias", conv.bias.detach())):
            weights.append({"name": f"{name}/{part}", "shape": list(value.shape), "dtype": "float32"})
            values.append(value.contiguous().numpy().ravel())
        layers.append({"class_name": "Conv3D", "config": {"name": name, "dilation_rate": list(conv.dilation)}})
    topology = {"model_config": {"config": {"layers": layers}}}
    document = {"modelTopology": topology, "weightsManifest": [{"paths": ["model.bin"], "weights": weights}]}
    (folder / "model.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "colormap.json").write_text(json.dumps({"labels": list(network.names)}), encoding="utf-8")
    np.concatenate(values).astype("<f4").tofile(folder / "model.bin")
    return folder


@pytest.fixture(scope="module")
def brain(tmp_path_factory) -> tuple[Layers, Path]:
    torch.manual_seed(0)
    network = Layers(4, ("nothing", "Thalamus", "3rd-Ventricle"), (1, 3, 2)).eval()
    return network, brainchop(tmp_path_factory.mktemp("brain"), network)


# -- MeshNet --------------------------------------------------------------------------------------


def test_the_files_of_brainchop_give_the_network_that_was_saved(brain):
    network, folder = brain
    model = load(folder, "classes")
    assert isinstance(model, ClassModel) and model.classes == ("Thalamus", "3rd-Ventricle")
    assert model.sided == {"Thalamus"}
    image = volume(Grid((37, 20, 24), np.eye(4)).oriented("LIA"))
    low, high = image.data.min(), image.data.max()
    with torch.no_grad():
        x = ((image.data - low) / (high - low))[None]
        for conv in network.convs:
            x = torch.nn.functional.elu(conv(x))
        expected = network.output(x)[0].softmax(0)[1:]
    torch.testing.assert_close(model.class_map(image).data.float() / 255, expected, atol=0.003, rtol=0)


def test_what_a_network_sees_has_its_axes_and_voxels(brain):
    model = load(brain[1], "classes")
    grid = Grid.from_itk((20, 24, 16), (2.0, 1.0, 1.5), (3.0, -4.0, 5.0), np.diag([-1.0, 1.0, 1.0]))
    shown = model.shown(volume(grid))
    np.testing.assert_allclose(shown.grid.spacing, 1, atol=0.05)
    np.testing.assert_allclose(shown.grid.direction, np.array([[1, 0, 0], [0, 0, -1], [0, -1, 0]]), atol=1e-9)
    np.testing.assert_allclose(np.sort(shown.grid.corners(), 0), np.sort(grid.corners(), 0), atol=1e-6)
    assert float(shown.data.min()) >= 0 and float(shown.data.max()) == pytest.approx(1)


def test_a_state_dict_of_the_published_size_has_the_published_classes(tmp_path):
    torch.save(Layers(5, NAMES, DILATIONS).state_dict(), tmp_path / "own.pth")
    model = load(tmp_path / "own.pth", "classes")
    assert model.classes == NAMES[1:] and model.card.weights_licence == "unknown"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["weightsManifest"][0]["weights"].pop(), ("model.bin", "bytes of weights")),
        (lambda d: d.pop("weightsManifest"), ("model.json", "list of weights")),
        (lambda d: d["weightsManifest"][0]["weights"][0].update(dtype="uint8"), ("float32",)),
    ],
)
def test_damaged_files_are_refused(brain, tmp_path, change, words):
    for file in brain[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    document = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    change(document)
    (tmp_path / "model.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load(tmp_path, "classes")
    assert not [w for w in words if w not in str(caught.value)], caught.value


# -- OBELISK --------------------------------------------------------------------------------------

AUTHORS = {"near": "1", "far": "2"}


def as_published(network: HybridNet) -> dict[str, torch.Tensor]:
    """Tensors under the names of the authors."""
    renamed = {}
    for name, value in network.state_dict().items():
        part = name.split(".")
        if part[0] in AUTHORS:
            side, kind = AUTHORS[part[0]], part[1]
            if kind == "offset":
                key = f"offset{side}"
            elif kind == "a":
                key = f"linear{side}a.{part[2]}"
            elif kind == "convs":
                key = f"linear{side}{'bcde'[int(part[2])]}.{part[3]}"
            else:
                key = f"batch{side}{'abcd'[int(part[2])]}.{part[3]}"
        elif part[0] == "last":
            key = f"conv77U.{part[1]}"
        else:
            key = f"{part[0]}{part[1]}.{part[2]}"
        renamed[key] = value
    return renamed


def test_obelisk_is_read_under_the_names_of_its_authors_and_sees_the_body(tmp_path, monkeypatch):
    torch.manual_seed(1)
    network = HybridNet(("background", "one", "two")).eval()
    torch.save(as_published(network), tmp_path / "organs.pth")
    model = load(tmp_path / "organs.pth", "classes")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[name], value)
    monkeypatch.setattr(obelisk, "SIDE", 16)
    data = torch.full((1, 20, 20, 20), -1000.0)
    data[:, :, 5:15, 4:16] = 0.0
    shown = model.shown(Image(data, Grid((20, 20, 20), np.eye(4)), name="ct"))
    assert shown.grid.shape == (16, 16, 16) and float((shown.data - 1).abs().mean()) < 0.1
    assert model.class_map(Image(data, shown.grid.with_shape((20, 20, 20)), name="ct")).data.shape[0] == 2
    with pytest.raises(InputError, match="Hounsfield"):
        model.class_map(volume(Grid((20, 20, 20), np.eye(4))))


# -- W-Net ----------------------------------------------------------------------------------------


def test_wnet_answers_are_those_of_the_image_and_its_mirror_images(tmp_path, monkeypatch):
    torch.manual_seed(2)
    network = TwoNets((2, 4)).eval()
    torch.save({"model_state_dict": network.state_dict(), "stats": 1}, tmp_path / "vessels.pth")
    model = load(tmp_path / "vessels.pth", "classes")
    monkeypatch.setattr(wnet, "SIDE", 32)
    generator = np.random.default_rng(0)
    photo = Image.from_numpy(generator.integers(60, 255, (40, 32, 3)).astype(np.uint8), channel_axis=-1)
    map_ = model.class_map(photo)
    assert map_.data.shape == (1, 32, 24 + 4 * (map_.grid.shape[1] > 24))
    mirrored = photo.with_data(photo.data.flip(-1))
    torch.testing.assert_close(model.class_map(mirrored).data.flip(-1), map_.data, atol=1, rtol=0)
    dark = photo.with_data(photo.data * (torch.arange(photo.grid.shape[1]) > 20))
    assert int(model.class_map(dark).data[..., :12].max()) == 0


# -- all of them ----------------------------------------------------------------------------------


def test_networks_refuse_images_of_another_dimension_and_other_uses(brain, tmp_path):
    model = load(brain[1], "classes")
    with pytest.raises(GeometryError, match="takes 3D images"):
        model.class_map(Image(torch.rand(1, 8, 8), Grid.pixels((8, 8)), name="photo"))
    with pytest.raises(InputError, match="answers no prompts"):
        load(brain[1], "prompts")
    with pytest.raises(InputError, match="names no classes"):
        from models.tiny import saved

        load(saved("sam", tmp_path), "classes")


def test_files_that_authors_publish_are_fetched_whole_or_not_at_all(brain, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ROIREG_MODELS", raising=False)
    url = brain[1].as_uri() + "/"
    files = ("model.bin", "model.json", "colormap.json")
    wanted = {"hub_id": None, "source": "here", "files": files, "url": url}
    with pytest.raises(InputError, match="another file than was published"):
        weights.fetch_weights("brain", **wanted, sha256="00")
    assert weights.find_weights("brain", files=files) is None
    digest = weights.weights_digest(brain[1] / "model.bin")
    path = weights.fetch_weights("brain", **wanted, sha256=digest)
    assert weights.find_weights("brain", files=files) == path
    assert load(path, "classes").classes == ("Thalamus", "3rd-Ventricle")
    with pytest.raises(InputError, match="could not be downloaded"):
        weights.fetch_weights("brain", **(wanted | {"files": ("none.bin",)}))


# -- the real weights -----------------------------------------------------------------------------

REAL = {
    "meshnet-30": "brainchop/model30chan18cls",
    "meshnet-21": "brainchop/model18cls",
    "obelisk-tcia": "obelisk/obeliskhybrid_tcia_fold1.pth",
}


@pytest.mark.data
def test_the_published_weights_are_the_cards_models_and_find_a_liver():
    if not (SHARED / "models").is_dir():
        pytest.skip("the trained networks are not beside this repository")
    for name, place in REAL.items():
        model = load(f"{name}={SHARED / 'models' / place}", "classes")
        path = SHARED / "models" / place
        digest = weights.weights_digest(path / "model.bin" if path.is_dir() else path)
        assert digest == model.card.sha256 and model.card.name == name
    folder = SHARED / "data" / "ct_synthetic"
    image, labels = read_image(folder / "abdomen_fixed.nii.gz"), read_labels(folder / "abdomen_fixed_labels.nii.gz")
    map_ = model.class_map(image)
    liver = warp(replace(map_, data=map_.data[5:6].float()), None, image.grid).data[0] > 127
    truth = labels.data[0] == 5
    # Organs are labelled in the upper 30 slices.
    liver[:-30] = False
    assert float(2 * (liver & truth).sum() / (liver.sum() + truth.sum())) > 0.85
