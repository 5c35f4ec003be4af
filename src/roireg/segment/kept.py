"""What was prepared of the last images stays for the next ones: many images onto one template."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from roireg.core.image import Image

__all__ = ["Kept"]

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Values by what they were made from: settings, and the name, place and values of an image. Threads may share it.

    Attributes
    ----------
    count : how many stay, those that were asked for last; 0 keeps none.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, image: Image, settings: object, make: Callable[[], Value]) -> Value:
        """Return what was made of an equal image under settings of the same text, else make it."""
        if self.count < 1:
            return make()
        key = _key(image, settings)
        with self._lock:
            value = self._values.pop(key, None)
        if value is None:
            value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self.count:
                self._values.popitem(last=False)
        return value


def _key(image: Image, settings: object) -> str:
    data = image.data.detach().cpu().contiguous()
    grid = image.grid
    header = repr((settings, image.name, data.dtype, tuple(data.shape), grid.shape, grid.affine.tolist()))
    digest = hashlib.blake2b(header.encode(errors="surrogateescape"), digest_size=16)
    digest.update(data.numpy().tobytes())
    return digest.hexdigest()
