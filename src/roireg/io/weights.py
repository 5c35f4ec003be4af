"""Weights on disk: where they are, how to get them, and no network access unless `fetch_weights` is called.

Three places are searched: the folder that the environment variable ROIREG_MODELS names, for plain files and copied
folders, the weights that come with this package, and the cache of huggingface_hub (HF_HUB_CACHE, HF_HOME, or
~/.cache/huggingface).
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.core.files import atomic_path
from roireg.io.hashing import sha256_of

__all__ = [
    "SUFFIXES",
    "fetch_weights",
    "find_weights",
    "hub_cache",
    "hub_folder",
    "kept_folder",
    "models_folder",
    "weight_files",
    "weights_digest",
]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Weight files in order of preference."""

FORMATS = (re.compile(r"[^/]+\.safetensors(\.index\.json)?"), re.compile(r"pytorch_model[^/]*\.bin(\.index\.json)?"))
"""Weight files beside the config.json of a Hugging Face repository, in order of preference."""

SHIPPED = Path(__file__).parents[1] / "models" / "weights"
"""Folder of the weights that come with this package."""


def models_folder() -> Path | None:
    """Return the folder that ROIREG_MODELS names, or None.

    Raises
    ------
    InputError
        When it names something that is no folder.
    """
    name = os.environ.get("ROIREG_MODELS")
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(f"ROIREG_MODELS names {folder}, which is no folder; make it or unset the variable")
    return folder


def hub_cache() -> Path:
    """Return the folder in which huggingface_hub keeps what it downloads."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def hub_folder(hub_id: str) -> Path:
    """Return the folder of a repository in the cache of huggingface_hub, whether it is there or not."""
    return hub_cache() / f"models--{hub_id.replace('/', '--')}"


def find_weights(name: str, *, hub_id: str | None = None, files: Sequence[str] = ()) -> Path | None:
    """Return the folder or file with the weights of a model, or None when they are not on this disk.

    Parameters
    ----------
    name : registry name; a folder of this name below ROIREG_MODELS counts when it holds weights.
    hub_id : repository whose snapshot in the cache of huggingface_hub counts, and below ROIREG_MODELS its name.
    files : original checkpoints, looked for in ROIREG_MODELS, in its folder `name`, in the package and in snapshots.
    """
    root = models_folder()
    if root is not None:
        for place in (root / name, root):
            for file in files:
                for path in (place / file, place / Path(file).name):
                    if path.is_file():
                        return path
        for folder in (root / name, root / (hub_id or name).rpartition("/")[2]):
            if (folder / "config.json").is_file() and weight_files(folder):
                return folder
    for file in files:
        if (SHIPPED / file).is_file():
            return SHIPPED / file
        if (path := kept_folder(name) / Path(file).name).is_file():
            return path
    return None if hub_id is None else _snapshot(hub_id, files)


def kept_folder(name: str) -> Path:
    """Return where a model is kept that its authors publish as plain files, whether it is there or not."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "roireg" / "models" / name


def _snapshot(hub_id: str, files: Sequence[str]) -> Path | None:
    """Return the folder of the newest complete snapshot of a repository, or the original checkpoint in it.

    A broken download has no weights and does not count.
    """
    repository = hub_folder(hub_id)
    main = repository / "refs" / "main"
    named = [repository / "snapshots" / main.read_text(encoding="utf-8").strip()] if main.is_file() else []
    others = sorted((repository / "snapshots").glob("*"), key=lambda p: p.stat().st_mtime, reverse=True)
    for folder in [*named, *others]:
        if (folder / "config.json").is_file() and weight_files(folder):
            return folder
        for file in files:
            if (folder / file).is_file():
                return folder / file
    return None


def weight_files(path: Path) -> list[Path]:
    """Return the weight files of a model: the file itself, or those of a folder in the preferred format."""
    if path.is_file():
        return [path]
    for suffix in SUFFIXES:
        if files := sorted(path.glob(f"*{suffix}")):
            return files
    return []


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of a model's weight file; of several files, that of their digests in name order.

    Raises
    ------
    InputError
        When there is no weight file or it cannot be read.
    """
    digests = [sha256_of(file) for file in weight_files(path)]
    if not digests:
        patterns = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise InputError(f"{path}: no weight file here ({patterns}); fetch the model again")
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def fetch_weights(
    name: str, *, hub_id: str | None, source: str, files: Sequence[str] = (), url: str = "", sha256: str = ""
) -> Path:
    """Download a model into the cache of huggingface_hub and return its place. The only function that goes online.

    Of a repository in the Hugging Face format config.json and its weights are fetched (pytorch_model.bin where there
    are no .safetensors), of another one the first of `files` that it has. A model that is not on the hub but has a
    `url` goes into `kept_folder`, all of its `files`; the first must have the checksum `sha256`.

    Raises
    ------
    InputError
        When its authors do not publish it on the hub (the message says where it is), it is gated, or there is no way
        to it.
    OptionalDependencyError
        When huggingface_hub is not installed.
    """
    if hub_id is None and url:
        return _fetch_files(name, files, url, sha256)
    if hub_id is None:
        raise InputError(
            f"{name} cannot be fetched: {' or '.join(files) or 'its file'} is published by way of {source}; "
            "download it there and put it into the folder that the environment variable ROIREG_MODELS names"
        )
    hub, errors = _hub(), _hub("errors")
    try:
        present = [file.rfilename for file in hub.model_info(hub_id).siblings or ()]
        if missing := _wanted(present, files):
            hub.snapshot_download(hub_id, allow_patterns=missing)
    except errors.GatedRepoError as error:
        raise InputError(
            f"{name}: the authors ask you to accept their licence first; do so at https://huggingface.co/{hub_id}, "
            "run `hf auth login`, and fetch again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{name}: there is no repository {hub_id} on the Hugging Face hub; see {source}") from error
    except errors.OfflineModeIsEnabled as error:
        raise InputError(
            f"{name}: huggingface_hub is told to stay offline; unset HF_HUB_OFFLINE and fetch again"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(f"{name}: huggingface.co cannot be reached; check the connection and fetch again") from error
    except Exception as error:
        # The HTTP library under huggingface_hub is its own affair; so are the classes of its errors.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
            raise
        raise InputError(
            f"{name}: {hub_id} could not be downloaded ({_first_line(error)}); check the connection and fetch again"
        ) from error
    path = find_weights(name, hub_id=hub_id, files=files)
    if path is None:
        expected = ", ".join(["config.json with *.safetensors or pytorch_model.bin", *files])
        raise InputError(f"{name}: {hub_id} holds none of {expected}; see {source}")
    return path


def _fetch_files(name: str, files: Sequence[str], url: str, sha256: str) -> Path:
    """Download files of one folder of the web, all or none."""
    target = kept_folder(name)
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            address = urljoin(url, file)
            try:
                with urlopen(address, timeout=60) as answer, (Path(folder) / file).open("wb") as stream:
                    shutil.copyfileobj(answer, stream)
            except OSError as error:
                raise InputError(
                    f"{name}: {address} could not be downloaded ({_first_line(error)}); check the connection and "
                    "fetch again"
                ) from error
        digest = sha256_of(Path(folder) / files[0])
        if not digest.startswith(sha256):
            raise InputError(
                f"{name}: {urljoin(url, files[0])} is another file than was published (SHA-256 {digest[:16]}..., "
                f"expected {sha256[:16]}...); nothing was kept"
            )
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            with atomic_path(target / file) as temporary:
                shutil.copyfile(Path(folder) / file, temporary)
    return target / files[0]


def _wanted(present: Sequence[str], files: Sequence[str]) -> list[str]:
    """Return which files of a repository to download."""
    if "config.json" in present:
        for form in FORMATS:
            if weights := [file for file in present if form.fullmatch(file)]:
                return ["config.json", *weights]
    return [file for file in files if file in present][:1]


def _hub(module: str = "") -> Any:
    try:
        return importlib.import_module("huggingface_hub" + (f".{module}" if module else ""))
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            'fetching models needs the package huggingface_hub; run pip install "roireg[models]"'
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
