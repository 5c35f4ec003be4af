"""Where weights are, and that nothing goes online unless asked. The hub is a stand-in."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.io.weights import (
    fetch_weights,
    find_weights,
    hub_cache,
    hub_folder,
    models_folder,
    weight_files,
    weights_digest,
)

HUB_ID = "someone/some-model"


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "ROIREG_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def offline(*args: object, **more: object) -> None:
        raise AssertionError("went online")

    monkeypatch.setattr(socket.socket, "connect", offline)


def snapshot(revision: str = "abc", *files: str, main: bool = False) -> Path:
    repository = hub_folder(HUB_ID)
    folder = repository / "snapshots" / revision
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_text(file)
    if main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(revision)
    return folder


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    assert hub_cache() == tmp_path / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other"))
    assert hub_cache() == tmp_path / "other"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HF_HOME")
    assert hub_cache() == Path("~/.cache/huggingface/hub").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub_cache() == tmp_path / "huggingface" / "hub"


def test_nothing_is_found_where_nothing_is():
    assert find_weights("m", hub_id=HUB_ID, files=("m.pth",)) is None


def test_snapshots_need_weights_and_main_comes_first():
    snapshot("broken", "config.json")
    assert find_weights("m", hub_id=HUB_ID) is None
    old = snapshot("old", "config.json", "model.safetensors")
    assert find_weights("m", hub_id=HUB_ID) == old
    snapshot("new", "config.json", "model.safetensors")
    main = snapshot("main", "config.json", "pytorch_model.bin", main=True)
    assert find_weights("m", hub_id=HUB_ID) == main
    assert find_weights("m", hub_id="someone/else") is None


def test_original_checkpoints_in_snapshots():
    folder = snapshot("abc", "m.pt", "README.md")
    assert find_weights("m", hub_id=HUB_ID, files=("m.pt",)) == folder / "m.pt"


def test_the_folder_of_models(tmp_path, monkeypatch):
    root = tmp_path / "models"
    monkeypatch.setenv("ROIREG_MODELS", str(root))
    with pytest.raises(InputError, match=r"ROIREG_MODELS names .*models, which is no folder"):
        find_weights("m")
    root.mkdir()
    assert models_folder() == root
    assert find_weights("m", files=("a.pth", "b.pth")) is None
    (root / "b.pth").write_text("b")
    assert find_weights("m", files=("a.pth", "b.pth")) == root / "b.pth"
    (root / "m").mkdir()
    (root / "m" / "b.pth").write_text("own")
    assert find_weights("m", files=("a.pth", "b.pth")) == root / "m" / "b.pth"
    (root / "n").mkdir()
    (root / "n" / "config.json").write_text("{}")
    assert find_weights("n") is None
    (root / "n" / "model.safetensors").write_text("n")
    assert find_weights("n") == root / "n"


def test_the_folder_of_models_may_have_copies_of_repositories(tmp_path, monkeypatch):
    monkeypatch.setenv("ROIREG_MODELS", str(tmp_path))
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / "some-model").mkdir(exist_ok=True)
        (tmp_path / "some-model" / name).write_text(name)
    assert find_weights("m") is None
    assert find_weights("m", hub_id=HUB_ID) == tmp_path / "some-model"
    (tmp_path / "bundle" / "models").mkdir(parents=True)
    (tmp_path / "bundle" / "models" / "b.pt").write_text("b")
    assert find_weights("bundle", files=("models/b.pt",)) == tmp_path / "bundle" / "models" / "b.pt"
    (tmp_path / "c.pt").write_text("c")
    assert find_weights("c", files=("models/c.pt",)) == tmp_path / "c.pt"


def test_the_folder_of_models_comes_before_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROIREG_MODELS", str(tmp_path))
    found = snapshot("abc", "config.json", "model.safetensors")
    assert find_weights("m", hub_id=HUB_ID, files=("m.pth",)) == found
    (tmp_path / "m.pth").write_text("m")
    assert find_weights("m", hub_id=HUB_ID, files=("m.pth",)) == tmp_path / "m.pth"


def test_which_files_hold_the_weights(tmp_path):
    assert weight_files(tmp_path) == []
    for name in ("pytorch_model.bin", "b.safetensors", "a.safetensors", "notes.txt"):
        (tmp_path / name).write_text(name)
    assert weight_files(tmp_path) == [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    assert weight_files(tmp_path / "pytorch_model.bin") == [tmp_path / "pytorch_model.bin"]


def test_digests(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"first")
    one = hashlib.sha256(b"first").hexdigest()
    assert weights_digest(tmp_path) == weights_digest(tmp_path / "a.safetensors") == one
    (tmp_path / "config.json").write_text("anything")
    assert weights_digest(tmp_path) == one
    (tmp_path / "b.safetensors").write_bytes(b"second")
    both = one + hashlib.sha256(b"second").hexdigest()
    assert weights_digest(tmp_path) == hashlib.sha256(both.encode()).hexdigest()
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no weight file here"):
        weights_digest(tmp_path / "none")


# -- fetching -------------------------------------------------------------------------------------


def fetch(files: tuple[str, ...] = ("m.pt",)) -> Path:
    return fetch_weights("m", hub_id=HUB_ID, source="https://example.org", files=files)


@pytest.fixture
def hub(monkeypatch):
    """`hub(*files)`: a repository with these files; what is downloaded of it is listed."""

    def publish(*files: str) -> list[str]:
        downloaded: list[str] = []

        def download(repository, *, allow_patterns):
            assert repository == HUB_ID and set(allow_patterns) <= set(files)
            downloaded.extend(allow_patterns)
            folder = snapshot("abc", main=True)
            for name in allow_patterns:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(name)

        listing = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])
        monkeypatch.setattr(huggingface_hub, "model_info", lambda repository: listing)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return downloaded

    return publish


# As the pages of these repositories list them.
SAM = [".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
SAM += ["pytorch_model.bin", "tf_model.h5"]
MEDSAM = [".gitattributes", "README.md", "config.json", "preprocessor_config.json", "pytorch_model.bin"]
SAM2 = [".gitattributes", "config.json", "model.safetensors", "sam2.1_hiera_tiny.pt", "sam2.1_hiera_t.yaml"]
MEDSAM2 = [".gitattributes", "MedSAM2_2411.pt", "MedSAM2_CTLesion.pt", "MedSAM2_latest.pt", "README.md"]
VISTA3D = ["LICENSE", "configs/inference.json", "models/model.pt", "scripts/inferer.py"]
SHARDS = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
SHARDS += ["model.safetensors.index.json", "onnx/model.safetensors"]


@pytest.mark.parametrize(
    ("published", "files", "wanted", "place"),
    [
        (SAM, ("sam_vit_b_01ec64.pth",), ["config.json", "model.safetensors"], ""),
        (MEDSAM, ("medsam_vit_b.pth",), ["config.json", "pytorch_model.bin"], ""),
        (SAM2, ("sam2.1_hiera_tiny.pt",), ["config.json", "model.safetensors"], ""),
        (MEDSAM2, ("MedSAM2_latest.pt",), ["MedSAM2_latest.pt"], "MedSAM2_latest.pt"),
        (VISTA3D, ("models/model.pt",), ["models/model.pt"], "models/model.pt"),
        (SHARDS, (), SHARDS[:4], ""),
    ],
)
def test_fetch_takes_what_is_needed_and_once(published, files, wanted, place, hub):
    downloaded = hub(*published)
    folder = hub_folder(HUB_ID) / "snapshots" / "abc"
    assert fetch(files) == folder / place
    assert downloaded == wanted
    assert find_weights("m", hub_id=HUB_ID, files=files) == folder / place


def test_what_is_not_on_the_hub_says_where_it_is():
    with pytest.raises(InputError, match=r"m.pt is published by way of https://example.org; .* ROIREG_MODELS"):
        fetch_weights("m", hub_id=None, source="https://example.org", files=("m.pt",))


def test_offline_is_one_clear_sentence(monkeypatch):
    """Asked for real, of huggingface_hub itself."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        fetch()
    assert str(caught.value) == "m: huggingface_hub is told to stay offline; unset HF_HUB_OFFLINE and fetch again"


class Timeout(Exception):
    """As the HTTP library raises it."""

    __module__ = "httpx._exceptions"


ANSWER = SimpleNamespace(headers={}, request=None, status_code=403)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (errors.GatedRepoError("no", response=ANSWER), "accept their licence first"),
        (errors.RepositoryNotFoundError("no", response=ANSWER), "there is no repository someone/some-model"),
        (
            errors.HfHubHTTPError("500 Server Error\nmore", response=ANSWER),
            r"\(500 Server Error\); check the connection",
        ),
        (errors.LocalEntryNotFoundError("Two sentences. Of the library."), r"^m: huggingface.co cannot be reached; "),
        (errors.OfflineModeIsEnabled("offline"), "unset HF_HUB_OFFLINE"),
        (Timeout("timed out"), r"could not be downloaded \(timed out\)"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_fetching_fails_in_one_sentence(failure, words, monkeypatch):
    def ask(repository):
        raise failure

    monkeypatch.setattr(huggingface_hub, "model_info", ask)
    with pytest.raises(InputError, match=words) as caught:
        fetch()
    assert "\n" not in str(caught.value)
    assert find_weights("m", hub_id=HUB_ID) is None


def test_mistakes_of_this_program_are_not_taken_for_the_network(monkeypatch):
    def ask(repository):
        raise KeyError("siblings")

    monkeypatch.setattr(huggingface_hub, "model_info", ask)
    with pytest.raises(KeyError):
        fetch()


def test_a_repository_without_weights(hub):
    downloaded = hub("config.json", "README.md", "other.pt")
    with pytest.raises(InputError, match=r"none of config.json with \*.safetensors or pytorch_model.bin, m.pt;"):
        fetch()
    assert downloaded == []


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(OptionalDependencyError, match=r'pip install "roireg\[models\]"'):
        fetch()
