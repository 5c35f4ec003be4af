"""A full memory, explained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from roireg.core.errors import InputError
from roireg.models.base import ModelCard

__all__ = ["memory_explained"]


@contextmanager
def memory_explained(card: ModelCard, doing: str) -> Iterator[None]:
    """Turn an out-of-memory error of any device into a sentence that says what to change.

    Raises
    ------
    InputError
        In place of the error; every other error passes.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has a class for a full GPU, and a plain RuntimeError for a full main memory.
        full = isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not full:
            raise
        coarser = ", a coarser spacing" if card.ndim == 3 else ""
        raise InputError(
            f"{card.name} ran out of memory while {doing} (encoding one image takes about {card.memory_mb} MB at "
            f"input size {card.input_size}); use a smaller input size{coarser}, fewer prompts at once, a smaller "
            "model, or another device"
        ) from error
