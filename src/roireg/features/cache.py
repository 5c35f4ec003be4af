"""A cache around any extractor: same image, same parameters, same grid are computed once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.features.base import FeatureExtractor

__all__ = ["CachedExtractor", "content_key"]


def content_key(image: Image, extractor: FeatureExtractor, grid: Grid) -> str:
    """Hexadecimal digest of all that determines a feature map: pixels, both grids, extractor and parameters.

    The name and file of the image play no role.
    """
    data = image.data.detach().cpu().contiguous()
    header = {
        "extractor": extractor.name,
        "params": dict(extractor.params),
        "dtype": str(data.dtype),
        "shape": list(data.shape),
        "grid": list(grid.shape),
    }
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    digest.update(image.grid.affine.tobytes())
    digest.update(grid.affine.tobytes())
    digest.update(data.numpy().tobytes())
    return digest.hexdigest()


class CachedExtractor:
    """An extractor that remembers.

    Parameters
    ----------
    extractor : what to remember the results of.
    folder : where to keep feature maps between runs; None keeps them in memory only.
    memory : bytes of feature maps held in memory; the least recently used leave first.
    """

    def __init__(
        self, extractor: FeatureExtractor, *, folder: Path | str | None = None, memory: int = 512 * 2**20
    ) -> None:
        self.extractor = extractor
        self.folder = None if folder is None else Path(folder)
        self.memory = memory
        self._held: OrderedDict[str, Image] = OrderedDict()

    @property
    def name(self) -> str:
        """Registry name of the extractor inside."""
        return self.extractor.name

    @property
    def params(self) -> Mapping[str, object]:
        """Parameters of the extractor inside."""
        return self.extractor.params

    def __call__(self, image: Image, grid: Grid) -> Image:
        """Return the features, from memory, from the folder, or computed and kept.

        Raises
        ------
        InputError
            When a file of the cache folder cannot be read.
        """
        key = content_key(image, self.extractor, grid)
        features = self._held.get(key)
        if features is None:
            features = self._load(key, image)
        if features is None:
            features = self.extractor(image, grid)
            self._save(key, features)
        self._keep(key, features)
        # Hits carry the name and device of the image asked for, not of the one first seen.
        return image.with_data(features.data.to(image.data.device), features.grid)

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{self.name}-{key}.npz"

    def _load(self, key: str, image: Image) -> Image | None:
        path = self._path(key)
        if path is None or not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                data, affine = stored["data"], stored["affine"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(f"{path}: unreadable feature cache file ({error}); delete it and run again") from error
        return image.with_data(torch.from_numpy(data), Grid(tuple(data.shape[1:]), affine))

    def _save(self, key: str, features: Image) -> None:
        path = self._path(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written under another name first, so that an interrupted run leaves no half file behind.
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, data=features.data.detach().cpu().numpy(), affine=features.grid.affine)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _keep(self, key: str, features: Image) -> None:
        self._held[key] = features
        self._held.move_to_end(key)
        while len(self._held) > 1 and sum(_bytes(f) for f in self._held.values()) > self.memory:
            self._held.popitem(last=False)


def _bytes(features: Image) -> int:
    return features.data.numel() * features.data.element_size()
