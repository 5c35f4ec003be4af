"""Seeds and devices: same inputs, same seed, same device give the same result."""

from __future__ import annotations

import numpy as np
import torch

from roireg.core.devices import check_device
from roireg.core.errors import InputError

__all__ = ["generator", "resolve_device"]


def generator(seed: int, *, stream: str = "") -> np.random.Generator:
    """Return a random generator that depends on the seed and the name of its use alone.

    Stages draw from streams of their own, so that adding a draw to one leaves the others as they were.
    """
    return np.random.default_rng([seed, *stream.encode()])


def resolve_device(name: str) -> torch.device:
    """Turn ``auto | cpu | cuda | cuda:N | mps`` into a device that is there.

    Raises
    ------
    InputError
        When the device is unknown or not available on this machine.
    """
    check_device(name)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    kind, _, index = name.partition(":")
    if not available[kind] or (index and int(index) >= torch.cuda.device_count()):
        raise InputError(f"device {name!r} is not available on this machine; use --device cpu")
    return torch.device(name)
