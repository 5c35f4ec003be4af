"""Networks that are published as a folder: weights, and documents that say how they are used.

Of the documents nothing is run: they are read as plain values, and what they name must be known here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roireg.core.errors import InputError
from roireg.io.hashing import sha256_of
from roireg.models.base import LoadReport

__all__ = ["FolderFormat", "read_json"]


@dataclass(frozen=True)
class FolderFormat:
    """How networks of a kind are published as folders.

    Attributes
    ----------
    name : of the format, for messages.
    recognise : whether a folder is one.
    weights : folder -> the file with its weights.
    documents : folder -> what else decides what the network does.
    read : (folder, name) -> network with its weights, float32 on the CPU, and how the file met it.
    """

    name: str
    recognise: Callable[[Path], bool]
    weights: Callable[[Path], Path]
    documents: Callable[[Path], tuple[Path, ...]]
    read: Callable[[Path, str], tuple[Any, LoadReport]]

    def digest(self, folder: Path) -> str:
        """Return a SHA-256 of all that decides what the network does."""
        files = (self.weights(folder), *self.documents(folder))
        return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the content of a JSON file whose values have names.

    Raises
    ------
    InputError
        When it is missing or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); fetch the model again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected values by name, found {type(content).__name__}; fetch the model again")
    return content
