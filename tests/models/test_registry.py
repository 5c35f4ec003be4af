"""Names, paths and places."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from roireg.core.errors import InputError
from roireg.models import available_models, find_card, load_model, registry, resolve
from roireg.models.detect import TITLES

CARDS = available_models()


def test_cards_are_complete():
    names = [card.name for card in CARDS]
    assert len(set(names)) == len(names) >= 22
    for card in CARDS:
        assert card.family in registry.FAMILIES
        assert card.family in TITLES or card.family in registry.SERVED
        assert card.ndim in (2, 3) and card.input_size > 0 and card.parameters > 0
        assert card.source.startswith("https://")
        assert card.code_licence and card.weights_licence
        assert card.hub_id or card.files or card.family in registry.SERVED
        assert set(card.prompts) <= {"point", "box", "mask"}
    assert set(registry.SIZES) <= set(names)


PROMISED = """
sam-vit-base sam-vit-large sam-vit-huge slimsam-50 slimsam-77 medsam sam-hq-vit-base sam-hq-vit-large sam-hq-vit-huge
sam2.1-tiny sam2.1-small sam2.1-base-plus sam2.1-large sam-med2d medsam2 mobile-sam dinov2-small dinov2-base
dinov2-large dinov3-small dinov3-base sam-med3d sam-med3d-turbo vista3d nninteractive
"""


@pytest.mark.parametrize("name", PROMISED.split())
def test_known_names(name):
    assert find_card(name).name == name


def test_licences_that_bind():
    assert find_card("nninteractive").weights_licence == "CC-BY-NC-SA-4.0"
    assert find_card("dinov3-base").weights_licence == "DINOv3 License"
    assert find_card("sam-vit-huge").weights_licence == "Apache-2.0"


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
    for attempt in (find_card, load_model, resolve):
        with pytest.raises(InputError, match=f"'{wrong}' is unknown.*{hint}"):
            attempt(wrong)


def test_weights_that_are_not_here_name_the_command_and_the_alternative():
    with pytest.raises(InputError, match=r"`roireg models fetch medsam`.*hierarchy"):
        load_model("medsam")


def test_by_name_from_the_folder_of_models(place, tmp_path, monkeypatch):
    monkeypatch.setenv("ROIREG_MODELS", str(tmp_path))
    shutil.copy(place("sam-file"), tmp_path / "medsam_vit_b.pth")
    model = load_model("medsam")
    assert (model.card.name, model.card.weights_licence) == ("medsam", "Apache-2.0")
    assert model.preprocessing.mean is None and model.preprocessing.layout == "stretch"
    assert model.key.startswith("medsam-")
    shutil.copytree(place("sam2"), tmp_path / "sam2.1-tiny")
    assert load_model("sam2.1-tiny").card.family == "sam2"
    shutil.copytree(place("sam"), tmp_path / "sam2.1-large")
    with pytest.raises(InputError, match=r"holds Segment Anything \(SAM\), which is not sam2.1-large"):
        load_model("sam2.1-large")


def test_by_name_from_the_cache_of_the_hub(place, tmp_path):
    snapshot = tmp_path / "hf" / "hub" / "models--facebook--sam-vit-base" / "snapshots" / "abc"
    shutil.copytree(place("sam"), snapshot)
    assert load_model("sam-vit-base").card.name == "sam-vit-base"
    assert load_model(snapshot).card == find_card("sam-vit-base")


def test_a_file_with_a_published_name_is_that_model(place, tmp_path):
    shutil.copy(place("sam-file"), tmp_path / "medsam_vit_b.pth")
    assert load_model(tmp_path / "medsam_vit_b.pth").card == find_card("medsam")


def test_a_path_may_say_which_model_it_is(place):
    plain, told = load_model(place("sam-file")), load_model(f"medsam={place('sam-file')}")
    assert (plain.card.name, told.card.name) == ("sam", "medsam")
    assert plain.preprocessing != told.preprocessing


def test_medsam_2_is_resized_as_it_was_trained(place):
    model = load_model(f"medsam2={place('sam2')}")
    assert model.card.name == "medsam2" and model.preprocessing.cubic
    assert (model.card.input_size, model.preprocessing.layout) == (512, "stretch")


def test_the_card_of_a_path_tells_what_it_is(place):
    card = load_model(place("sam2")).card
    assert (card.name, card.family, card.hub_id, card.weights_licence) == ("sam2", "sam2", None, "unknown")
    assert card.input_size == 128
    assert "SAM 2" in card.notes


def test_registered_names_win_over_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("medsam").mkdir()
    with pytest.raises(InputError, match="fetch medsam"):
        load_model("medsam")


def test_relative_paths(place, monkeypatch):
    monkeypatch.chdir(place("sam").parent)
    assert load_model("sam").card.name == "sam"
    assert load_model("sam-file/sam.pth").card.family == "sam"
    with pytest.raises(InputError, match="no such model file"):
        load_model("nowhere.pth")


def test_unknown_device(place):
    with pytest.raises(InputError, match="device 'abacus' is unknown"):
        load_model(place("sam"), device="abacus")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_devices_that_are_not_here(device, place, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"device {device} is not available on this machine"):
        load_model(place("sam"), device=device)


def test_an_equals_sign_in_a_path(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place("sam"), tmp_path / "run=3")
    assert load_model("run=3").card.family == "sam"


def test_a_served_model_has_no_place():
    card, path = resolve("nninteractive")
    assert (card.name, path) == ("nninteractive", None)
    assert resolve("nninteractive=http://host:1527") == (card, None)


def test_cards_need_no_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert {card.name for card in available_models()} == {card.name for card in CARDS}
    assert torch.device("cpu") == registry._device("cpu")
