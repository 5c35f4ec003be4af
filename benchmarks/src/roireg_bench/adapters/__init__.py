"""Case sets out of public data sets as they lie on a disk; images are neither copied nor converted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from roireg.core.errors import InputError
from roireg_bench.adapters.acdc import acdc
from roireg_bench.adapters.anhir import anhir
from roireg_bench.adapters.base import Found, FoundPair, store
from roireg_bench.adapters.bids import bids
from roireg_bench.adapters.fire import fire
from roireg_bench.adapters.folder import folder
from roireg_bench.adapters.learn2reg import learn2reg
from roireg_bench.cases import CaseFolder

__all__ = ["LAYOUTS", "Found", "FoundPair", "write_set"]

LAYOUTS: dict[str, Callable[[Path], Found]] = {
    "learn2reg": learn2reg,
    "acdc": acdc,
    "fire": fire,
    "folder": folder,
    "anhir": anhir,
    "bids": bids,
}
"""Layout -> what reads it; a function of the folder that returns what it found."""


def write_set(layout: str, source: str | Path, target: str | Path, *, absolute: bool = False) -> CaseFolder:
    """Make a case set of a public data set.

    Parameters
    ----------
    layout : a name of `LAYOUTS`.
    source : folder of the data set as published.
    target : folder for ``pairs.json`` and landmarks.
    absolute : absolute paths to the images; else relative to `target`.

    Raises
    ------
    InputError
        When the layout is unknown, or the folder is not of it or holds no usable pair.
    OutputError
        When `target` cannot be written.
    """
    if layout not in LAYOUTS:
        raise InputError(f"there is no layout {layout!r}; use one of {', '.join(LAYOUTS)}")
    place = Path(source)
    if not place.exists():
        raise InputError(f"{place}: there is no such folder; name the data set")
    return store(LAYOUTS[layout](place), place, Path(target), absolute=absolute)
