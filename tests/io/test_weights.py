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
from roireg.io.weights import fetch_weights, find_weights, hub_cache, models_folder, weight_files, weights_digest

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
    repository = hub_cache() / "models--someone--some-model"
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


def fetch() -> Path:
    return fetch_weights("m", hub_id=HUB_ID, source="https://example.org", files=("m.pt",))


def test_fetch_asks_for_configuration_and_weights_alone(monkeypatch):
    asked = []

    def download(repository, *, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(snapshot("abc", "config.json", "model.safetensors", main=True))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fetch() == find_weights("m", hub_id=HUB_ID)
    assert asked == [(HUB_ID, ["config.json", "*.safetensors", "*.safetensors.index.json", "m.pt"])]


def test_what_is_not_on_the_hub_says_where_it_is():
    with pytest.raises(InputError, match=r"download m.pt from https://example.org .* ROIREG_MODELS"):
        fetch_weights("m", hub_id=None, source="https://example.org", files=("m.pt",))


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
        (errors.LocalEntryNotFoundError("no connection"), r"could not be downloaded \(no connection\)"),
        (errors.OfflineModeIsEnabled("offline"), "could not be downloaded"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_fetching_fails_in_one_sentence(failure, words, monkeypatch):
    def download(repository, *, allow_patterns):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(InputError, match=words) as caught:
        fetch()
    assert "\n" not in str(caught.value)
    assert find_weights("m", hub_id=HUB_ID) is None


def test_a_repository_without_weights(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **b: str(snapshot("abc", "config.json")))
    with pytest.raises(InputError, match=r"holds none of \*.safetensors, m.pt"):
        fetch()


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(OptionalDependencyError, match=r'pip install "roireg\[models\]"'):
        fetch()
