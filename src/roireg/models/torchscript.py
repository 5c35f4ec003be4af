"""The tensors of a TorchScript archive, by name; the program in it is neither compiled nor run.

Such an archive is a zip file: the values of every tensor are a file, the objects that hold them a pickle, and what
they do is source code beside both. The pickle is read here with stand-ins for every class that it names.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["is_script", "read_script"]

TYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


def is_script(path: Path) -> bool:
    """Whether a zip file is a TorchScript archive: it has source code."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def read_script(path: Path) -> dict[str, Tensor]:
    """Return the parameters and buffers of the module that an archive holds, as its `state_dict` names them.

    Raises
    ------
    pickle.UnpicklingError, LookupError, RuntimeError, TypeError, ValueError
        When the archive is damaged or its pickle names anything but tensors, numbers and modules.
    """
    with zipfile.ZipFile(path) as archive:
        place = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        module = _Reader(archive, place.removesuffix(".pkl")).load()
    tensors: dict[str, Tensor] = {}
    _collect(module, "", tensors)
    return tensors


class _Stand:
    """Stands for an object of the program: what it holds, by name."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.held = dict(state) if isinstance(state, dict) else {}


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(_stored(archive, f"{folder}.pkl")))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return type(name, (_Stand,), {})
        if module == "torch" and name in TYPES:
            return TYPES[name]
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, tag: value,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a network")

    def persistent_load(self, pid: Any) -> Tensor:
        _, kind, key, _, count = pid
        values = torch.frombuffer(bytearray(_stored(self.archive, f"{self.folder}/{key}")), dtype=kind)
        if len(values) != count:
            raise ValueError(f"{key} has {len(values)} values instead of {count}")
        return values


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a part of an archive that takes as much space in it as in memory."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(name)


def _tensor(storage: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    return storage.as_strided(shape, stride, offset)


def _collect(value: Any, name: str, tensors: dict[str, Tensor]) -> None:
    for key, part in getattr(value, "held", {}).items():
        if isinstance(part, Tensor):
            tensors[f"{name}{key}"] = part
        else:
            _collect(part, f"{name}{key}.", tensors)
