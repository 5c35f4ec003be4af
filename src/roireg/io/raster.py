"""What the readers of raster files and DICOM share: what was read, and how one of several pictures is chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import InputError
from roireg.core.grid import Grid

__all__ = ["Selection", "Stored", "check_memory", "choose", "refuse_selection"]


@dataclass(frozen=True)
class Selection:
    """Which picture of a file that holds several; None where nothing is chosen.

    Parameters
    ----------
    frame : point in time, from 0.
    series : UID of a DICOM series.
    level : step of a pyramid, 0 is full resolution.
    page : which of several pictures, from 0; "all" stacks pages of equal size as slices.
    channel : index from 0, or the name in the file.
    """

    frame: int | None = None
    series: str | None = None
    level: int | None = None
    page: int | str | None = None
    channel: int | str | None = None


@dataclass(frozen=True)
class Stored:
    """What a file holds.

    Parameters
    ----------
    array : (channel, *spatial) values in the stored type, spatial axes in storage order.
    grid : where they lie.
    unit : "mm", or "px" where the file has no physical size.
    metadata : what was taken of a file with several pictures, and what DICOM says of its series.
    """

    array: NDArray[Any]
    grid: Grid
    unit: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def choose(name: str, what: str, number: int | None, count: int, *, holds: str, listing: Sequence[str] = ()) -> int:
    """Return the index of one of `count` pictures of a file.

    Parameters
    ----------
    name : the file.
    what : the option that chooses: "frame", "page" ...
    number : the wish; None is fine where there is one.
    holds : what the file is, for the message: "a time series of 3 frames".
    listing : one description each, for the message.

    Raises
    ------
    InputError
        When none of several is chosen, or one that is not there.
    """
    if number is None and count == 1:
        return 0
    if number is not None and 0 <= number < count:
        return number
    if count == 1:
        raise InputError(f"{name}: there is no {what} {number}, the file holds one; leave out --{what}")
    wrong = "" if number is None else f" and no {what} {number}"
    shown = f" ({'; '.join(f'{i}: {text}' for i, text in enumerate(listing[:12]))})" if listing else ""
    raise InputError(
        f"{name}: the file holds {holds}{wrong}{shown}, expected one image; choose one with --{what} N, "
        f"N from 0 to {count - 1}"
    )


def refuse_selection(name: str, kind: str, selection: Selection) -> None:
    """Refuse a level, page or channel of a file that holds a single picture; 0 is that one.

    Raises
    ------
    InputError
        Naming the option.
    """
    for what in ("level", "page", "channel"):
        wish = getattr(selection, what)
        if wish not in (None, 0):
            raise InputError(
                f"{name}: --{what} {wish} is for TIFF files with several; {kind} holds one; leave it out"
            )


def check_memory(name: str, size: int, *, advice: str) -> None:
    """Refuse to unpack more bytes than the machine has memory: a header can claim any size.

    Raises
    ------
    InputError
        Naming the size and, as `advice`, what to do.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36
    if size > memory:
        need, there = (f"{n / 2**30:.3g} GiB" for n in (size, memory))
        raise InputError(f"{name}: the image unpacks to {need}, this machine has {there}; {advice}")


def rgb_from_cmyk(values: NDArray[Any]) -> NDArray[Any]:
    """Return (3, *spatial) RGB of (4, *spatial) unsigned CMYK without a colour profile: (1 - ink) (1 - black)."""
    top = int(np.iinfo(values.dtype).max)
    light = (top - values[:3]).astype(np.uint64)
    black = (top - values[3]).astype(np.uint64)
    return np.asarray(((light * black + top // 2) // top).astype(values.dtype))
