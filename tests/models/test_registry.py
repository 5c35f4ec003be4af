"""Names, paths and places."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import tiny
from roireg.core.errors import InputError
from roireg.models import ClassNetwork, available_models, find_card, load, registry, resolve
from roireg.models.preprocess import Preprocessing

CARDS = available_models()


def test_cards_are_complete():
    names = [card.name for card in CARDS]
    assert len(set(names)) == len(names) >= 22
    for card in CARDS:
        family = registry.family_of(card)
        served = family.connect is not None
        # The card of a format for folders stands for networks of any size.
        any_size = served or family.folder is not None
        assert card in family.cards and family.title and bool(card.size) != any_size
        assert card.ndim in (2, 3) and card.input_size > 0 and (card.parameters > 0) != (family.folder is not None)
        assert card.source.startswith("https://")
        assert card.code_licence and card.weights_licence
        assert card.hub_id or card.files or any_size
        assert set(card.prompts) <= {"point", "box", "mask"}
        # Networks of classes and the embedding scale images themselves.
        own = issubclass(family.model, ClassNetwork) or card.family == "embedding"
        assert own or (card.preprocessing is not None and card.preprocessing.words)
        if isinstance(card.preprocessing, Preprocessing):
            assert card.preprocessing.size == card.input_size
        assert re.fullmatch(r"([0-9a-f]{8,64})?", card.sha256) and (card.files or not card.sha256)


PROMISED = """
sam-vit-base sam-vit-large sam-vit-huge slimsam-50 slimsam-77 medsam sam-hq-vit-base sam-hq-vit-large sam-hq-vit-huge
sam2.1-tiny sam2.1-small sam2.1-base-plus sam2.1-large sam-med2d medsam2 mobile-sam dinov2-small dinov2-base
dinov2-large dinov3-small dinov3-base sam-med3d sam-med3d-turbo vista3d nninteractive embedding-2d embedding-3d
"""


@pytest.mark.parametrize("name", PROMISED.split())
def test_known_names(name):
    assert find_card(name).name == name


def test_licences_that_bind():
    assert find_card("nninteractive").weights_licence == "CC-BY-NC-SA-4.0"
    assert find_card("dinov3-base").weights_licence == "DINOv3 License"
    assert find_card("sam-vit-huge").weights_licence == "Apache-2.0"
    assert find_card("medsam2").weights_licence == "CC-BY-SA-4.0"
    assert "non-commercial" in find_card("vista3d").weights_licence


def test_who_wants_images_how():
    """As the authors' own code prepares them."""
    ways = {card.name: card.preprocessing.tag for card in CARDS if isinstance(card.preprocessing, Preprocessing)}
    assert {name for name, way in ways.items() if way == "pad-bilinear"} == {
        name for name in ways if name.startswith(("sam-vit", "slimsam", "sam-hq", "mobile"))
    }
    assert {name for name, way in ways.items() if way == "stretch-bilinear"} == {
        name for name in ways if name.startswith("sam2.1")
    }
    assert ways["medsam"] == "stretch-bicubic-extremes"
    assert ways["medsam2"] == "stretch-bicubic"
    assert ways["sam-med2d"] == "stretch-nearest"
    assert {way for name, way in ways.items() if name.startswith("dino")} == {"patches-bilinear"}


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("sam-vit-bas", "sam-vit-base"),
        ("MedSAM", "medsam"),
        ("sam2-tiny", "sam2.1-tiny"),
        ("dinov2", "dinov2-base"),
        ("qqqq", "roireg models list"),
    ],
)
def test_unknown_names_suggest_the_nearest(wrong, hint):
    for attempt in (find_card, load, resolve):
        with pytest.raises(InputError, match=f"'{wrong}' is unknown.*{hint}"):
            attempt(wrong)


def test_weights_that_are_not_here_name_the_command_and_the_alternative():
    with pytest.raises(InputError, match=r"`roireg models fetch medsam`.*hierarchy"):
        load("medsam")


def test_by_name_from_the_folder_of_models(place, tmp_path, monkeypatch):
    monkeypatch.setenv("ROIREG_MODELS", str(tmp_path))
    shutil.copy(place("sam-file"), tmp_path / "medsam_vit_b.pth")
    model = load("medsam")
    assert (model.card.name, model.card.weights_licence) == ("medsam", "unknown")
    size = "holds Segment Anything (SAM) of no published size, where medsam is ViT-B"
    assert model.report.remarks == (f"{size}: the licence of these weights is not known",)
    assert model.preprocessing.mean is None and model.preprocessing.layout == "stretch"
    assert model.key.startswith("medsam-")
    shutil.copytree(place("sam2"), tmp_path / "sam2.1-tiny")
    assert load("sam2.1-tiny").card.family == "sam2"
    shutil.copytree(place("sam"), tmp_path / "sam2.1-large")
    with pytest.raises(InputError, match=r"holds Segment Anything \(SAM\).*, which is not sam2.1-large"):
        load("sam2.1-large")


@pytest.fixture
def sized(monkeypatch):
    """Let the tiny networks pass for published ones."""
    blank = [replace(f, cards=tuple(replace(card, size="") for card in f.cards)) for f in registry.FAMILIES]
    monkeypatch.setattr(registry, "FAMILIES", blank)


@pytest.mark.usefixtures("sized")
def test_by_name_from_the_cache_of_the_hub(place, tmp_path):
    snapshot = tmp_path / "hf" / "hub" / "models--facebook--sam-vit-base" / "snapshots" / "abc"
    shutil.copytree(place("sam"), snapshot)
    assert load("sam-vit-base").card.name == "sam-vit-base"
    assert load(snapshot).card == find_card("sam-vit-base")


@pytest.mark.usefixtures("sized")
def test_a_file_with_a_published_name_is_that_model(place, tmp_path):
    file = Path(shutil.copy(place("sam-file"), tmp_path / "medsam_vit_b.pth"))
    model = load(file)
    assert model.card == find_card("medsam")
    assert model.report.remarks == (
        "images are prepared as for medsam, by the name of the file or folder; if it is another, say "
        f"sam-vit-base={file}",
    )


@pytest.mark.usefixtures("sized")
@pytest.mark.parametrize("name", ["medsam", "medsam-vit-base"])
def test_a_folder_with_the_name_of_a_repository_is_that_model(name, place, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(place("sam"), tmp_path / name))
    model = load(folder)
    assert model.card == find_card("medsam") and model.preprocessing.mean is None
    assert "by the name of the file or folder" in model.report.remarks[0]
    monkeypatch.setenv("ROIREG_MODELS", str(tmp_path))
    assert resolve("medsam") == (find_card("medsam"), folder)


def test_of_what_nothing_tells_the_model_the_preprocessing_is_said(place):
    path = place("sam")
    assert load(path).report.remarks == (
        f"images are prepared as for sam-vit-base, as nothing tells the model; if it is another, say medsam={path}",
    )
    assert f"say medsam2={place('sam2')}" in load(place("sam2")).report.remarks[0]
    for kind in ("sam-hq", "sam-med2d", "mobile-sam"):
        assert load(place(kind), input_size=128).report.remarks == ()


def test_another_published_size_than_the_name_says(tmp_path):
    shapes = {"patch_embed.proj.weight": (768, 3, 16, 16)} | {f"blocks.{i}.norm1.weight": (768,) for i in range(12)}
    tensors = {f"image_encoder.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    file = tiny.save_file(tensors, tmp_path / "sam_vit_h_4b8939.pth")
    with pytest.raises(InputError, match="ViT-B, which is not sam-vit-huge"):
        resolve(file)


def test_a_published_size_without_a_card_is_read_all_the_same(tmp_path):
    shapes = {"cls_token": (1, 1, 1024)} | {f"blocks.{i}.ls1.gamma": (1024,) for i in range(24)}
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()} | {
        "storage_tokens": torch.zeros(1, 4, 1024)
    }
    card, _ = resolve(tiny.save_file(tensors, tmp_path / "own.pth"))
    assert (card.name, card.family, card.weights_licence) == ("own", "dinov3", "unknown")


def test_a_path_may_say_which_model_it_is(place):
    plain, told = load(place("sam-file")), load(f"medsam={place('sam-file')}")
    assert (plain.card.name, told.card.name) == ("sam", "medsam")
    assert plain.preprocessing != told.preprocessing
    assert not [remark for remark in told.report.remarks if "images" in remark]


def test_keys_tell_the_preprocessing_apart(place, tmp_path):
    """The same weights under the same name, prepared otherwise, are other embeddings."""
    plain = load(place("sam"))
    other = replace(plain.card, preprocessing=find_card("medsam").preprocessing)
    assert other.key("0" * 64, 128, torch.float32) != plain.card.key("0" * 64, 128, torch.float32)


def test_medsam_2_is_resized_as_it_was_trained(place):
    model = load(f"medsam2={place('sam2')}")
    assert model.card.name == "medsam2"
    assert model.preprocessing == replace(find_card("medsam2").preprocessing, size=128)


def test_the_card_of_a_path_tells_what_it_is(place):
    card = load(place("sam2")).card
    assert (card.name, card.family, card.hub_id, card.weights_licence) == ("sam2", "sam2", None, "unknown")
    assert card.input_size == 128
    assert "SAM 2" in card.notes


def test_registered_names_win_over_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("medsam").mkdir()
    with pytest.raises(InputError, match="fetch medsam"):
        load("medsam")


def test_relative_paths(place, monkeypatch):
    monkeypatch.chdir(place("sam").parent)
    assert load("sam").card.name == "sam"
    assert load("sam-file/sam.pth").card.family == "sam"
    with pytest.raises(InputError, match="no such model file"):
        load("nowhere.pth")


def test_unknown_device(place):
    with pytest.raises(InputError, match="device 'abacus' is unknown"):
        load(place("sam"), device="abacus")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_devices_that_are_not_here(device, place, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"device {device} is not available on this machine"):
        load(place("sam"), device=device)


def test_an_equals_sign_in_a_path(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place("sam"), tmp_path / "run=3")
    assert load("run=3").card.family == "sam"


def test_a_served_model_has_no_place():
    card, path = resolve("nninteractive")
    assert (card.name, path) == ("nninteractive", None)
    assert resolve("nninteractive=http://host:1527") == (card, None)


def test_cards_need_no_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert {card.name for card in available_models()} == {card.name for card in CARDS}
    assert torch.device("cpu") == registry._device("cpu")


@pytest.mark.parametrize("kind", ["sam", "sam-file", "sam-med2d"])
def test_what_the_caller_has_set_does_not_matter(kind, place):
    raster = torch.rand(3, 40, 50) * 255
    expected = load(place(kind)).encode(raster).tensors["image"]
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.inference_mode():
            model = load(place(kind))
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(model.encode(raster).tensors["image"], expected)


def test_a_family_is_added_once_and_found_by_its_tensors(monkeypatch, tmp_path):
    from roireg.models import Family, ModelCard, Network, Signs, add_family

    monkeypatch.setattr(registry, "FAMILIES", [*registry.FAMILIES])
    own = Family(
        name="own",
        title="Own",
        cards=(ModelCard("own-tiny", "own", preprocessing=Preprocessing(64), size="tiny"),),
        model=Network,
        recognise=lambda shapes: Signs("tiny") if "own.weight" in shapes else None,
    )
    add_family(own)
    assert find_card("own-tiny") is own.cards[0]
    card, _ = resolve(tiny.save_file({"own.weight": torch.zeros(2)}, tmp_path / "mine.pth"))
    assert (card.name, card.family) == ("mine", "own")
    for again in (own, replace(own, name="other"), replace(own, cards=())):
        with pytest.raises(InputError, match="already; choose another name"):
            add_family(again)
