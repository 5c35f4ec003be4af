"""Encoded images, kept: in memory for those used last, on disk for the others, and in a folder between runs.

An image is known by the values of its raster, a network by its `key`; names, files and grids play no role. The
segmenter and the features of one network share a cache, so that an image is encoded once for both.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from roireg.core.errors import OutputError
from roireg.core.files import atomic_path
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.models.base import DenseEncoder, Embedding, PromptableModel

__all__ = ["EmbeddingCache", "embedding_key", "shared_cache"]

FORMAT = "2"
"""Version of the files; one of another version has another name and is computed again."""

SUFFIX = ".embedding"

DIGEST = 32
"""Bytes of the checksum that a file begins with."""


def embedding_key(model: PromptableModel | DenseEncoder, raster: Tensor, *, layer: int | None = None) -> str:
    """Hexadecimal digest of all that determines an embedding: the network, its layer, the values of the raster."""
    data = raster.detach().float().cpu().contiguous()
    header = json.dumps([FORMAT, model.key, layer, list(data.shape)])
    digest = hashlib.blake2b(header.encode(), digest_size=16)
    digest.update(data.numpy().tobytes())
    return digest.hexdigest()


class EmbeddingCache:
    """Encodes images that it has not seen; safe in threads, which wait for an embedding that another one computes.

    Parameters
    ----------
    folder : where to keep embeddings between runs, one file each; None keeps them as long as the cache, those that
        leave the memory in a temporary folder.
    memory : bytes of embeddings held in memory; the least recently used leave first, the last one stays.
    disk : bytes of files kept in the folder; the least recently used leave first.
    progress : told when a file cannot be read or kept, so that its embedding is computed again.
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
        self.memory = memory
        self.disk = disk
        self.progress = progress
        self._held: OrderedDict[str, Embedding] = OrderedDict()
        self._overflow: Path | None = None
        self._lock = Lock()
        self._computing: dict[str, Lock] = {}

    def encode(self, model: PromptableModel, raster: Tensor) -> Embedding:
        """Return the embedding of a (1 or 3, *shape) raster on the model's device, computed at most once.

        Raises
        ------
        OutputError
            When the folder cannot be written.
        """
        return self._embedding(embedding_key(model, raster), model.device, lambda: model.encode(raster))

    def encode_dense(self, model: DenseEncoder, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Return the embedding that dense features are read from; see `DenseEncoder.encode_dense` and `encode`.

        The final map of a promptable network is what `encode` keeps, so segmenting and describing an image encode
        it once.
        """
        if layer is None and isinstance(model, PromptableModel):
            return self.encode(model, raster)
        key = embedding_key(model, raster, layer=layer)
        return self._embedding(key, model.device, lambda: model.encode_dense(raster, layer=layer))

    def _embedding(self, key: str, device: torch.device, compute: Callable[[], Embedding]) -> Embedding:
        with self._lock:
            turn = self._computing.setdefault(key, Lock())
        with turn:
            with self._lock:
                embedding = self._held.get(key)
            if embedding is None:
                embedding = self._load(key)
            if embedding is None:
                embedding = compute()
                if self.folder is not None:
                    self._save(key, embedding)
            embedding = _on_device(embedding, device)
            with self._lock:
                self._held[key] = embedding
                self._held.move_to_end(key)
                while len(self._held) > 1 and sum(_bytes(e) for e in self._held.values()) > self.memory:
                    leaving = self._held.popitem(last=False)
                    if self.folder is None:
                        self._spill(*leaving)
        return embedding

    def _spill(self, key: str, embedding: Embedding) -> None:
        """Keep what leaves the memory: a volume of many slices is encoded once for its regions and its features."""
        try:
            if self._overflow is None:
                self._overflow = Path(mkdtemp(prefix="roireg-embeddings-"))
                weakref.finalize(self, shutil.rmtree, self._overflow, ignore_errors=True)
            if not (self._overflow / f"{key}{SUFFIX}").exists():
                self._save(key, embedding)
        except (OSError, OutputError) as error:
            self._tell(
                f"the temporary folder takes no more embeddings ({error}); what is needed again is encoded again"
            )

    def _load(self, key: str) -> Embedding | None:
        folder = self.folder or self._overflow
        path = None if folder is None else folder / f"{key}{SUFFIX}"
        if path is None or not path.exists():
            return None
        try:
            content = path.read_bytes()
            path.touch()
            if hashlib.blake2b(content[DIGEST:], digest_size=DIGEST).digest() == content[:DIGEST]:
                return _embedding(**torch.load(io.BytesIO(content[DIGEST:]), weights_only=True))
            reason = "its checksum is wrong"
        except OSError as error:
            reason = str(error)
        # Half a file after a crash, a flipped bit: the image is at hand, so nothing is lost but time.
        self._tell(f"{path.name} in the embedding cache is unreadable ({reason}); encoding the image again")
        return None

    def _tell(self, note: str) -> None:
        self.progress(ProgressEvent("keeping embeddings", 1.0, note, notice=True))

    def _save(self, key: str, embedding: Embedding) -> None:
        path = (self.folder or self._overflow or Path()) / f"{key}{SUFFIX}"
        stream = io.BytesIO()
        torch.save(
            {"tensors": {n: t.detach().cpu().clone() for n, t in embedding.tensors.items()}, **_about(embedding)},
            stream,
        )
        content = stream.getvalue()
        with atomic_path(path) as temporary:
            temporary.write_bytes(hashlib.blake2b(content, digest_size=DIGEST).digest() + content)
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


def _embedding(
    tensors: dict[str, Tensor], shape: list[int], scale: list[float], offset: list[float], covered: list[int]
) -> Embedding:
    return Embedding(tensors, tuple(shape), np.array(scale), np.array(offset), tuple(covered))


@lru_cache(maxsize=1)
def shared_cache() -> EmbeddingCache:
    """Return the cache in memory that everything in this process uses unless it is given another one."""
    return EmbeddingCache()


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
