"""Encoded images, kept: in memory for those used last, on disk for the others, and in a folder between runs.

An image is known by the values of its raster, a network by its `key`; names, files and grids play no role. The
segmenter and the features of one network share a cache, so that an image is encoded once for both.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roireg.core.errors import OptionalDependencyError, OutputError
from roireg.core.files import atomic_path
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.models.base import DenseEncoder, Embedding, PromptableModel

__all__ = ["EmbeddingCache", "embedding_key", "shared_cache"]

FORMAT = "1"
"""Version of the files in the folder; a file of another one is computed again."""


def embedding_key(model: PromptableModel | DenseEncoder, raster: Tensor, *, layer: int | None = None) -> str:
    """Hexadecimal digest of all that determines an embedding: the network, its layer, the values of the raster."""
    data = raster.detach().float().cpu().contiguous()
    header = json.dumps([FORMAT, model.key, layer, list(data.shape)])
    digest = hashlib.blake2b(header.encode(), digest_size=16)
    digest.update(data.numpy().tobytes())
    return digest.hexdigest()


class EmbeddingCache:
    """Encodes images that it has not seen.

    Parameters
    ----------
    folder : where to keep embeddings between runs, one safetensors file each; None keeps them as long as the cache,
        those that leave the memory in a temporary folder.
    memory : bytes of embeddings held in memory; the least recently used leave first, the last one stays.
    disk : bytes of files kept in the folder; the least recently used leave first.
    progress : told when a file cannot be read or kept, so that its embedding is computed again.

    Raises
    ------
    OptionalDependencyError
        When a folder is given and the package safetensors is missing.
    """

    def __init__(
        self,
        *,
        folder: Path | str | None = None,
        memory: int = 2**30,
        disk: int = 20 * 2**30,
        progress: Progress = silent,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            _safetensors()
        self.memory = memory
        self.disk = disk
        self.progress = progress
        self._held: OrderedDict[str, Embedding] = OrderedDict()
        self._overflow: Path | None = None
        self._lock = Lock()

    def encode(self, model: PromptableModel, raster: Tensor) -> Embedding:
        """Return the embedding of a (1 or 3, *shape) raster on the model's device, computed at most once.

        Raises
        ------
        OutputError
            When the folder cannot be written.
        """
        return self._known(embedding_key(model, raster), model.device, lambda: model.encode(raster))

    def encode_dense(self, model: DenseEncoder, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Return the embedding that dense features are read from; see `DenseEncoder.encode_dense` and `encode`.

        The final map of a promptable network is what `encode` keeps, so segmenting and describing an image encode
        it once.
        """
        if layer is None and isinstance(model, PromptableModel):
            return self.encode(model, raster)
        key = embedding_key(model, raster, layer=layer)
        return self._known(key, model.device, lambda: model.encode_dense(raster, layer=layer))

    def _known(self, key: str, device: torch.device, compute: Callable[[], Embedding]) -> Embedding:
        with self._lock:
            found = self._held.get(key)
        if found is None:
            found = self._load(key)
        if found is None:
            found = compute()
            self._save(key, found)
        found = _on_device(found, device)
        with self._lock:
            self._held[key] = found
            self._held.move_to_end(key)
            while len(self._held) > 1 and sum(_bytes(e) for e in self._held.values()) > self.memory:
                leaving = self._held.popitem(last=False)
                if self.folder is None:
                    self._spill(*leaving)
        return found

    def _spill(self, key: str, embedding: Embedding) -> None:
        """Keep what leaves the memory: a volume of many slices is encoded once for its regions and its features."""
        try:
            if self._overflow is None:
                self._overflow = Path(mkdtemp(prefix="roireg-embeddings-"))
                weakref.finalize(self, shutil.rmtree, self._overflow, ignore_errors=True)
            path = self._overflow / f"{key}.pt"
            if not path.exists():
                tensors = {name: t.detach().cpu().clone() for name, t in embedding.tensors.items()}
                torch.save({"tensors": tensors, "about": _about(embedding)}, path)
                self._prune(path)
        except (OSError, RuntimeError) as error:
            note = f"the temporary folder takes no more embeddings ({error}); what is needed again is encoded again"
            self.progress(ProgressEvent("keeping embeddings", 1.0, note, notice=True))

    def _spilled(self, key: str) -> Embedding | None:
        path = None if self._overflow is None else self._overflow / f"{key}.pt"
        if path is None or not path.exists():
            return None
        path.touch()
        stored = torch.load(path, weights_only=True)
        return _embedding(stored["tensors"], stored["about"])

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{key}.safetensors"

    def _load(self, key: str) -> Embedding | None:
        path = self._path(key)
        if path is None:
            return self._spilled(key)
        if not path.exists():
            return None
        try:
            with _safetensors().safe_open(path, framework="pt") as stored:
                about = json.loads(stored.metadata()["embedding"])
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            path.touch()
            return _embedding(tensors, about)
        except (_safetensors().SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            # Half a file after a crash or a full disk: the image is at hand, so nothing is lost but time.
            note = f"{path.name} in the embedding cache is unreadable ({error}); encoding the image again"
            self.progress(ProgressEvent("reading embeddings", 1.0, note, notice=True))
            return None

    def _save(self, key: str, embedding: Embedding) -> None:
        path = self._path(key)
        if path is None:
            return
        about = _about(embedding)
        # Clones: safetensors refuses tensors that share memory.
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in embedding.tensors.items()}
        with atomic_path(path) as temporary:
            try:
                importlib.import_module("safetensors.torch").save_file(
                    tensors, temporary, metadata={"embedding": json.dumps(about)}
                )
            except _safetensors().SafetensorError as error:
                raise OutputError(
                    f"{path}: cannot write the embedding ({error}); choose another cache folder or do without one"
                ) from error
        self._prune(path)

    def _prune(self, newest: Path) -> None:
        files = sorted(newest.parent.glob(f"*{newest.suffix}"), key=_age)
        total = sum(_size(f) for f in files)
        for file in files:
            if total <= self.disk:
                break
            if file != newest and not file.name.startswith("."):
                total -= _size(file)
                file.unlink(missing_ok=True)


def _about(embedding: Embedding) -> dict[str, list[int] | list[float]]:
    """What an embedding is besides its tensors, in plain numbers."""
    return {
        "shape": [int(n) for n in embedding.shape],
        "scale": [float(v) for v in embedding.scale],
        "offset": [float(v) for v in embedding.offset],
        "covered": [int(n) for n in embedding.covered],
    }


def _embedding(tensors: dict[str, Tensor], about: dict[str, Any]) -> Embedding:
    return Embedding(
        tensors,
        tuple(about["shape"]),
        np.array(about["scale"], dtype=np.float64),
        np.array(about["offset"], dtype=np.float64),
        tuple(about["covered"]),
    )


@lru_cache(maxsize=1)
def shared_cache() -> EmbeddingCache:
    """Return the cache in memory that everything in this process uses unless it is given another one."""
    return EmbeddingCache()


def _safetensors() -> Any:
    try:
        return importlib.import_module("safetensors")
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            "keeping embeddings in a folder needs the package safetensors, which is not installed; "
            'run pip install "roireg[models]" or leave the cache folder out'
        ) from error


def _on_device(embedding: Embedding, device: torch.device) -> Embedding:
    if all(t.device == device for t in embedding.tensors.values()):
        return embedding
    moved = {name: t.to(device) for name, t in embedding.tensors.items()}
    return Embedding(moved, embedding.shape, embedding.scale, embedding.offset, embedding.covered)


def _bytes(embedding: Embedding) -> int:
    return sum(t.numel() * t.element_size() for t in embedding.tensors.values())


def _size(file: Path) -> int:
    # Another process may have removed it meanwhile.
    return file.stat().st_size if file.exists() else 0


def _age(file: Path) -> float:
    return file.stat().st_mtime if file.exists() else 0.0
