"""How much memory a registration is expected to take, from the headers of its images."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import SimpleITK as sitk

from roireg.io._itk import plain_name, quiet
from roireg.jobs.needs import memory_needed

__all__ = ["expected_memory"]


def expected_memory(*images: Path) -> int:
    """Return the bytes that the registration of images is expected to take; images that are not there need none."""
    return int(memory_needed(sum(_values(str(path)) for path in images)))


@lru_cache(maxsize=4096)
def _values(path: str) -> float:
    """Return how many values an image has; of what has no plain header, as many as its files could hold."""
    place = Path(path)
    if place.is_file():
        reader = sitk.ImageFileReader()
        with plain_name(place) as name, suppress(RuntimeError), quiet():
            reader.SetFileName(name)
            reader.ReadImageInformation()
            return float(math.prod(reader.GetSize()[:3]) * reader.GetNumberOfComponents())
    if not place.exists() and "::" in path:
        place = Path(path.rpartition("::")[0])
    files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()] if place.is_dir() else []
    return sum(file.stat().st_size for file in files) / 2
