"""`models`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from click.testing import Result
from typer.testing import CliRunner

from models import tiny
from roireg import synth
from roireg.app import models as commands
from roireg.app.models import models_app
from roireg.io import write_image

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


def _sam(folder: Path) -> None:
    tiny.sam_folder(folder)
    torch.save(tiny.sam().state_dict(), folder / "pytorch_model.bin")


def _file(name: str, write: Callable[[Path], Path]) -> Callable[[Path], None]:
    def publish(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True)
        write(folder).rename(folder / name)

    return publish


HUB: dict[str, Callable[[Path], object]] = {
    "facebook/sam-vit-base": _sam,
    "wanglab/medsam-vit-base": lambda folder: tiny.save_bin_folder(tiny.sam(), folder),
    "Zigeng/SlimSAM-uniform-77": lambda folder: tiny.save_folder(tiny.slimsam(), folder),
    "blueyo0/SAM-Med3D": _file("sam_med3d_turbo.pth", tiny.sam_med3d),
    "MONAI/vista3d": _file("models/model.pt", tiny.vista3d),
}
"""What these repositories hold, with tiny networks in place of the trained ones."""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has what `HUB` says, gives only what is asked for, and lists what was downloaded."""
    import huggingface_hub

    asked = []

    def listed(repository):
        shelf = tmp_path / "shelf" / repository
        if not shelf.is_dir():
            HUB[repository](shelf)
            (shelf / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        names = [path.relative_to(shelf).as_posix() for path in sorted(shelf.rglob("*")) if path.is_file()]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])

    def download(repository, *, allow_patterns):
        folder = tmp_path / "hf" / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
        for name in allow_patterns:
            asked.append(f"{repository}/{name}")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / "shelf" / repository / name, folder / name)

    monkeypatch.setattr(huggingface_hub, "model_info", listed)
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
    # The embeddings come with the package, nothing else is there.
    assert {name for name, row in rows.items() if row["path"]} == {"embedding-2d", "embedding-3d"}
    shutil.copy(sam_file, root / "medsam_vit_b.pth")
    rows = {row["name"]: row for row in answer("list")["models"]}
    assert {name for name, row in rows.items() if row["path"]} == {"medsam", "embedding-2d", "embedding-3d"}
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
    assert "stretched to 1024 x 1024 px (bicubic), intensities from 0 to 1" in text
    assert document["preprocessing"].startswith("stretched to 1024")
    shutil.copy(sam_file, root / "medsam_vit_b.pth")
    assert "medsam_vit_b.pth (0." in run("info", "medsam").stdout
    assert "on its server" in run("info", "nninteractive").stdout


def test_info_says_where_weights_would_go_and_how_large_they_are(tmp_path):
    document = answer("info", "medsam")
    place = tmp_path / "hf" / "hub" / "models--wanglab--medsam-vit-base"
    assert document["cache"] == str(place)
    assert document["expected_bytes"] == pytest.approx(375e6, rel=0.01)
    text = "".join(run("info", "medsam").stdout.split())
    assert "about374.8MB;`roiregmodelsfetchmedsam`putsthemintoPLACE".replace("PLACE", str(place)) in text
    assert "about 1.08 GB; put sam-med2d_b.pth into the folder" in run("info", "sam-med2d").stdout
    assert answer("info", "nninteractive")["expected_bytes"] is None


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
    files = ["facebook/sam-vit-base/config.json", "facebook/sam-vit-base/model.safetensors"]
    assert hub == files
    assert "licence: sam-vit-base: weights under Apache-2.0" in result.stderr
    file = next(tmp_path.rglob("model.safetensors"))
    assert hashlib.sha256(file.read_bytes()).hexdigest() in result.stdout
    again = answer("fetch", "sam-vit-base")
    assert again["path"] == str(file.parent) and again["bytes"] == file.stat().st_size
    assert hub == files


@pytest.mark.parametrize(
    ("name", "repository", "files"),
    [
        ("medsam", "wanglab/medsam-vit-base", ["config.json", "pytorch_model.bin"]),
        ("slimsam-77", "Zigeng/SlimSAM-uniform-77", ["config.json", "model.safetensors"]),
        ("sam-med3d-turbo", "blueyo0/SAM-Med3D", ["sam_med3d_turbo.pth"]),
        ("vista3d", "MONAI/vista3d", ["models/model.pt"]),
    ],
)
def test_what_is_fetched_loads(name, repository, files, hub):
    if name == "vista3d":
        pytest.importorskip("monai.networks.nets", reason="needs monai")
    assert not answer("info", name)["path"]
    document = answer("fetch", name, "--yes")
    assert hub == [f"{repository}/{file}" for file in files]
    checked = answer("check", name)
    assert checked["name"] == name and checked["sha256"] == document["sha256"]
    assert str(checked["path"]) == document["path"] == answer("info", name)["path"]
    assert checked["preprocessing"].startswith(document["preprocessing"][:9])


def test_fetch_offline_is_one_clear_sentence(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    result = run("fetch", "sam-vit-base", "--yes")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "error: sam-vit-base: huggingface_hub is told to stay offline; unset HF_HUB_OFFLINE and fetch again"
    )


@pytest.mark.parametrize(("said", "code"), [(True, 0), (False, 2)])
def test_fetch_at_a_terminal_asks(said, code, hub, monkeypatch):
    monkeypatch.setattr(commands, "_at_a_terminal", lambda: True)
    monkeypatch.setattr(commands.typer, "confirm", lambda *a, **b: said)
    assert run("fetch", "sam-vit-base").exit_code == code
    assert bool(hub) == (code == 0)


def test_fetch_of_what_is_published_elsewhere_or_nowhere(hub):
    words = ("sam-med2d_b.pth", "https://github.com/OpenGVLab/SAM-Med2D", "ROIREG_MODELS")
    refused("fetch", "sam-med2d", "--yes", words=words)
    for name in ("sam-med2d", "sam-med3d", "mobile-sam"):
        assert "is not on the Hugging Face hub" not in run("fetch", name, "--yes").stderr
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


def test_check_compares_the_sha256_where_one_is_published(sam_file, tmp_path, monkeypatch):
    from roireg.models import registry, sam

    assert "(none is published to compare it with)" in run("check", sam_file).stdout
    named = shutil.copy(sam_file, tmp_path / "sam_vit_b_01ec64.pth")
    digest = hashlib.sha256(sam_file.read_bytes()).hexdigest()
    refused("check", named, words=("sam_vit_b_01ec64.pth", digest[:16], "ec2df62732614e57", "another file"))
    assert "(not that of the published sam_vit_b_01ec64.pth)" in run("check", f"sam-vit-base={sam_file}").stdout
    cards = [dataclasses.replace(card, sha256=digest[:8], size="") for card in sam.FAMILY.cards]
    monkeypatch.setattr(registry, "FAMILIES", [dataclasses.replace(sam.FAMILY, cards=tuple(cards))])
    assert f"{digest} (as published, 8 digits compared)" in run("check", named).stdout
    document = answer("check", named)
    assert (document["published_sha256"], document["weights_licence"]) == (digest[:8], "Apache-2.0")


def test_check_says_what_the_tensors_do_not_tell(sam_file, tmp_path):
    """A small network with a great name has neither its licence nor goes without a word."""
    file = shutil.copy(sam_file, tmp_path / "medsam_vit_b.pth")
    document = answer("check", file)
    size, images = document["remarks"]
    assert "holds Segment Anything (SAM) of no published size, where medsam is ViT-B" in size
    assert images.endswith(f"by the name of the file or folder; if it is another, say sam-vit-base={file}")
    assert document["weights_licence"] == "unknown"
    assert document["preprocessing"].startswith("stretched to 128 x 128 px (bicubic)")
    (images,) = answer("check", sam_file)["remarks"]
    assert images.startswith("images are prepared as for sam-vit-base, as nothing tells the model; ")
    assert images.endswith(f"say medsam={sam_file}")
    text = run("check", sam_file).stdout
    assert "longest side 128 px, padded to a square" in text and "weights unknown" in text


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


# -- other computers ------------------------------------------------------------------------------


def test_a_settings_file_cannot_send_images_away(tmp_path, monkeypatch):
    """Only the person at the terminal can, and is told the host before anything leaves."""
    pytest.importorskip("nnInteractive.inference.remote", reason="needs nninteractive-client")
    from roireg.app.cli import app
    from roireg.models import remote

    monkeypatch.setattr(remote, "_allowed", set())
    volume = synth.make_pair(3, shape=(8, 16, 16))
    for side in ("fixed", "moving"):
        write_image(tmp_path / f"{side}.nii.gz", getattr(volume, side))
    settings = tmp_path / "settings.yaml"
    settings.write_text('network: {model: "nninteractive=http://host.invalid:1527"}', encoding="utf-8")
    line = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", "--config", "settings.yaml"]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 2 and "would send images to host.invalid" in result.stderr
    result = CliRunner().invoke(app, [*line, "--allow-remote", "host.invalid"])
    assert result.exit_code == 2 and "no nnInteractive server answers at http://host.invalid" in result.stderr
    assert result.stderr.index("images are sent to host.invalid") < result.stderr.index("no nnInteractive server")
    assert not (tmp_path / "out").exists()
