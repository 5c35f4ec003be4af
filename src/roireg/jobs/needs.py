"""Memory and time that a registration will take, announced before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from roireg.core.errors import InputError
from roireg.core.progress import Progress, ProgressEvent
from roireg.jobs.options import parse_size

if TYPE_CHECKING:
    from roireg.core.image import Image

__all__ = ["memory_needed", "tell_needs"]

MEMORY, MEMORY_PER_VALUE = 0.9e9, 20.0
"""Bytes of the program, and per value of both images: 2.9 GB for two RGB pictures of 16 megapixels."""

SECONDS, SECONDS_PER_VALUE = 20.0, 0.5e-6
"""Of one core beside the images, and per value of them; a second core saves a third."""

LARGE = 2e9, 60.0
"""Bytes and seconds from which people are told."""


def memory_needed(values: float) -> float:
    """Return the bytes that registering images with this many values takes."""
    return MEMORY + MEMORY_PER_VALUE * values


def tell_needs(images: Sequence[Image], limit: str | None, progress: Progress) -> None:
    """Announce what a registration will take if that is much, and refuse it if it is too much.

    Raises
    ------
    InputError
        When more memory is needed than `limit` (such as "4G") allows.
    """
    import torch

    values = sum(image.data.numel() for image in images)
    memory = memory_needed(values)
    cores = min(torch.get_num_threads(), 4)
    seconds = (SECONDS + SECONDS_PER_VALUE * values) * (1 + 0.5 / cores) / 1.5
    if limit is not None and memory > parse_size(limit):
        raise InputError(
            f"{images[0].name} and {images[1].name}: the registration takes about {_gigabytes(memory)} of memory, "
            f"more than --max-memory {limit}; take coarser images or a part of them, or allow more"
        )
    if memory > LARGE[0] or seconds > LARGE[1]:
        minutes = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
        text = f"the registration takes about {_gigabytes(memory)} of memory and {minutes}"
        progress(ProgressEvent("reading the files", 1.0, text, notice=True))


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
