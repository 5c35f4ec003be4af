"""Weights of layered models as TensorFlow.js keeps them: `model.json` names the tensors, `model.bin` holds them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roireg.core.errors import InputError
from roireg.io.documents import parse_json, read_text

__all__ = ["TENSORFLOW", "read_layers"]

TENSORFLOW = "model.bin"
"""Name of the file with the weights; model.json lies beside it."""


def read_layers(path: Path) -> dict[str, Tensor]:
    """Return the float32 tensors of `path` by name, as model.json beside it lists them.

    Raises
    ------
    InputError
        When model.json lists no weights, weights of another kind, or more or fewer than there are.
    """
    document = path.with_suffix(".json")
    content = parse_json(read_text(document, str(document)), str(document))
    try:
        groups = content["weightsManifest"]
        listed = [(str(w["name"]), tuple(int(n) for n in w["shape"]), str(w["dtype"])) for w in groups[0]["weights"]]
        files = groups[0]["paths"]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{document}: expected the list of weights of TensorFlow.js, found none") from error
    if len(groups) != 1 or list(files) != [path.name] or any(kind != "float32" for _, _, kind in listed):
        raise InputError(f"{document}: expected float32 weights in {path.name} alone, found others")
    size, expected = path.stat().st_size, 4 * sum(math.prod(shape) for _, shape, _ in listed)
    if size != expected:
        raise InputError(f"{path}: model.json lists {expected} bytes of weights, found {size}; fetch it again")
    values = np.fromfile(path, dtype="<f4")
    tensors, first = {}, 0
    for name, shape, _ in listed:
        last = first + math.prod(shape)
        tensors[name] = torch.from_numpy(values[first:last].reshape(shape))
        first = last
    return tensors
