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

PROGRAM = 0.8e9
"""Bytes that the smallest registration takes."""

FIRST, MOST, REST = 100.0, 0.3e9, 24.0
"""Bytes per voxel of both images for what is kept of coarse levels, at most how many, and for what grows on."""

STORED, IN_BANDS = 2.0, 1.0
"""How often the values of both images are held, as they are stored; where the warped one is written in bands."""

SECONDS, SECONDS_FIRST, SECONDS_MOST, SECONDS_REST = 20.0, 7e-6, 20.0, 0.8e-6
"""Seconds of one core, in the same order; a second core saves a third."""

SECONDS_PASSED = 0.07e-6
"""Seconds per pixel of large pictures that is read, warped and written, but not looked at."""

LARGE = 2e9, 60.0
"""Bytes and seconds from which people are told."""


def memory_needed(voxels: float, held: float = 0.0) -> float:
    """Return the bytes that a registration of this many voxels takes, and of so many bytes of values that are held.

    Large pictures count as they are looked at, halved. The estimate was between 0.85 and 1.19 of the peak of eighteen
    pairs: volumes of 35 x 51 x 35 to 512 x 512 x 300, pictures of 206 x 206 to 6000 x 5000 in colour; 1.09 of that
    of two pictures of 20000 x 20000 in colour.
    """
    return PROGRAM + min(FIRST * voxels, MOST) + REST * voxels + held


def seconds_needed(voxels: float) -> float:
    """Return the seconds that registering this many voxels takes one core."""
    return SECONDS + min(SECONDS_FIRST * voxels, SECONDS_MOST) + SECONDS_REST * voxels


def tell_needs(images: Sequence[Image], limit: str | None, progress: Progress) -> None:
    """Announce what a registration will take if that is much, and refuse it if it is too much.

    Raises
    ------
    InputError
        When more memory is needed than `limit` (such as "4G") allows.
    """
    import torch

    from roireg.core.warp import halved_grid
    from roireg.pipeline.registration import warped_in_bands

    voxels = sum(halved_grid(image.grid).size for image in images)
    times = IN_BANDS if warped_in_bands(images[1], images[0].grid) else STORED
    memory = memory_needed(voxels, times * sum(image.data.nbytes for image in images))
    cores = min(torch.get_num_threads(), 4)
    passed = sum(image.grid.size for image in images) - voxels
    seconds = seconds_needed(voxels) * (1 + 0.5 / cores) / 1.5 + SECONDS_PASSED * passed
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
