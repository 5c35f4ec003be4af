"""`models`."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch
import typer
from click.testing import Result
from typer.testing import CliRunner

from models import tiny
from roireg.app import models as commands
from roireg.app.models import models_app

GROUP = typer.main.get_command(models_app)
NAMES = ["list", "info", "fetch", "check"]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """No weights of this machine, no network; ROIREG_MODELS is the folder returned."""
    for name in ("HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("COLUMNS", "140")
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("ROIREG_MODELS", str(folder))
    return folder


@pytest.fixture(scope="module")
def sam_file(tmp_path_factory):
    return tiny.saved("sam-file", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has a tiny SAM under every name, and counts how often it is asked."""
    import huggingface_hub

    asked = []

    def download(repository, *, allow_patterns):
        asked.append(repository)
        folder = tmp_path / "hf" / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
        return str(tiny.sam_folder(folder))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def run(*arguments: object) -> Result:
    return CliRunner().invoke(models_app, [str(a) for a in arguments], catch_exceptions=False)


def answer(*arguments: object) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: object, words: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in result.output
    assert not [word for word in words if word not in lines[0]], lines[0]


# -- help -----------------------------------------------------------------------------------------


def test_the_four_commands_are_there_and_explained():
    assert sorted(GROUP.commands) == sorted(NAMES)
    for name in NAMES:
        command = GROUP.commands[name]
        first = command.help.split("\n\n")[0]
        assert first.endswith(".") and "\n" not in first and len(first) < 120
        example = command.help.partition("Example:\n")[2].strip().splitlines()
        assert example and all(line.split()[:3] == ["roireg", "models", name] for line in example)
        assert not [p.name for p in command.params if not getattr(p, "help", None)]
        assert {"--json", "-v", "--debug", "--threads"} <= {o for p in command.params for o in p.opts}


# -- list and info --------------------------------------------------------------------------------


def test_list_says_what_is_on_disk(root, sam_file):
    rows = {row["name"]: row for row in answer("list")["models"]}
    assert not any(row["path"] for row in rows.values())
    shutil.copy(sam_file, root / "medsam_vit_b.pth")
    rows = {row["name"]: row for row in answer("list")["models"]}
    assert [name for name, row in rows.items() if row["path"]] == ["medsam"]
    assert rows["medsam"]["bytes"] == sam_file.stat().st_size
    assert (rows["sam-vit-huge"]["hub_id"], rows["sam-vit-huge"]["ndim"]) == ("facebook/sam-vit-huge", 2)
    text = run("list").stdout
    line = next(line for line in text.splitlines() if line.startswith("medsam "))
    assert line.split()[-1] == "yes"
    assert "CC-BY-NC-SA-4.0" in text and "features only" in text


def test_info(root, sam_file):
    document = answer("info", "medsam")
    assert (document["code_licence"], document["path"]) == ("Apache-2.0", None)
    text = run("info", "medsam").stdout
    assert "wanglab/medsam-vit-base" in text and "not on this disk" in text and "weights Apache-2.0" in text
    shutil.copy(sam_file, root / "medsam_vit_b.pth")
    assert "medsam_vit_b.pth (0." in run("info", "medsam").stdout
    assert "on its server" in run("info", "nninteractive").stdout


@pytest.mark.parametrize("command", ["info", "fetch", "check"])
def test_unknown_names_suggest_the_nearest(command):
    refused(command, "medsan", words=("'medsan' is unknown", "did you mean medsam"))


def test_a_wrong_folder_of_models(monkeypatch):
    monkeypatch.setenv("ROIREG_MODELS", "/nowhere/at/all")
    refused("list", words=("ROIREG_MODELS", "/nowhere/at/all"))


# -- fetch ----------------------------------------------------------------------------------------


def test_fetch_shows_the_licence_first_and_wants_a_yes(hub):
    refused("fetch", "sam-vit-base", words=("weights under Apache-2.0", "--yes"))
    assert hub == []


def test_fetch_with_yes(hub, tmp_path):
    result = run("fetch", "sam-vit-base", "--yes")
    assert result.exit_code == 0, result.output
    assert hub == ["facebook/sam-vit-base"]
    assert "licence: sam-vit-base: weights under Apache-2.0" in result.stderr
    file = next(tmp_path.rglob("model.safetensors"))
    assert hashlib.sha256(file.read_bytes()).hexdigest() in result.stdout
    again = answer("fetch", "sam-vit-base")
    assert again["path"] == str(file.parent) and again["bytes"] == file.stat().st_size
    assert hub == ["facebook/sam-vit-base"]


@pytest.mark.parametrize(("said", "code"), [(True, 0), (False, 2)])
def test_fetch_at_a_terminal_asks(said, code, hub, monkeypatch):
    monkeypatch.setattr(commands, "_at_a_terminal", lambda: True)
    monkeypatch.setattr(commands.typer, "confirm", lambda *a, **b: said)
    assert run("fetch", "sam-vit-base").exit_code == code
    assert len(hub) == (code == 0)


def test_fetch_of_what_is_published_elsewhere_or_nowhere(hub):
    words = ("sam-med2d_b.pth", "https://github.com/OpenGVLab/SAM-Med2D", "ROIREG_MODELS")
    refused("fetch", "sam-med2d", "--yes", words=words)
    refused("fetch", "nninteractive", words=("server of its own",))
    assert hub == []


# -- check ----------------------------------------------------------------------------------------


def test_check(sam_file):
    document = answer("check", sam_file)
    assert (document["family"], document["input_size"], document["unexpected"]) == ("sam", 128, [])
    assert document["sha256"] == hashlib.sha256(sam_file.read_bytes()).hexdigest()
    assert document["parameters"] > 50_000
    text = run("check", sam_file).stdout
    assert text.startswith("ok") and "all that the network needs, none besides" in text
    assert answer("check", f"medsam={sam_file}")["name"] == "medsam"


def test_check_reports_what_does_not_belong(tmp_path):
    tensors = {**tiny.original(tiny.sam()), "ema_step": torch.zeros(1)}
    file = tiny.save_file(tensors, tmp_path / "more.pth")
    assert answer("check", file)["unexpected"] == ["ema_step"]
    assert "1 do not belong to it (ema_step)" in run("check", file).stdout


def test_check_of_an_encoder(tmp_path):
    assert answer("check", tiny.saved("dinov2", tmp_path))["family"] == "dinov2"


def test_check_of_what_is_no_whole_model(tmp_path, sam_file):
    (tmp_path / "half.pth").write_bytes(sam_file.read_bytes()[:9000])
    refused("check", tmp_path / "half.pth", words=("half.pth", "truncated"))
    refused("check", f"sam2.1-tiny={sam_file}", words=("sam.pth", "not sam2.1-tiny"))
    refused("check", tmp_path / "none.pth", words=("none.pth", "no such model file"))
    refused("check", "sam-vit-base", words=("roireg models fetch sam-vit-base", "hierarchy"))
    refused("check", "nninteractive", words=("server of its own",))
    (tmp_path / "nothing").mkdir()
    refused("check", tmp_path / "nothing", words=("nothing", "no config.json"))
