"""Where the pixels of a TIFF file lie: its physical pixel size, where it means one, and the levels of its pyramid."""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import tifffile

from roireg.core.grid import Grid

__all__ = ["ome_pixels", "place_of"]

_MILLIMETRES = {
    "nm": 1e-6,
    "µm": 1e-3,
    "μm": 1e-3,
    "um": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "mm": 1.0,
    "cm": 10.0,
}
_MILLIMETRES |= {"pm": 1e-9, "Å": 1e-7, "m": 1e3, "micrometer": 1e-3, "millimeter": 1.0}
_FINEST_PRINT = 0.02
"""Pixels per centimetre are a size, not a wish for printing, where a pixel is smaller than this (mm)."""


def place_of(
    file: tifffile.TiffFile, full: tifffile.TiffPageSeries, level: tifffile.TiffPageSeries, shape: tuple[int, ...]
) -> tuple[Grid, str]:
    """Return the grid of a level, in the world of the full image, and its unit."""
    size = _pixel_size(file, full)
    if size is None or (len(shape) == 3 and size[0] is None):
        spacing, unit = [1.0] * len(shape), "px"
    else:
        spacing, unit = [float(s or 1.0) for s in size[-len(shape) :]], "mm"
    whole = dict(zip(full.get_axes(False), full.get_shape(False), strict=True))
    factors = [
        _factor(whole.get(a, n), n) if a in "YX" else 1.0 for a, n in zip("ZYX"[-len(shape) :], shape, strict=True)
    ]
    step = [s * f for s, f in zip(spacing, factors, strict=True)]
    origin = [s * (f - 1) / 2 for s, f in zip(spacing, factors, strict=True)]
    return Grid.from_itk(shape[::-1], step[::-1], origin[::-1], np.eye(len(shape))), unit


def _factor(whole: int, part: int) -> float:
    """Return how many pixels one pixel of a level covers: a whole number where rounding explains the size."""
    factor = round(whole / part)
    return float(factor) if part in (whole // factor, -(-whole // factor)) else whole / part


def _pixel_size(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[float | None, float, float] | None:
    """Return the (z, y, x) size of a pixel in mm as the file means it; None where it says nothing."""
    pixels = ome_pixels(file, series)
    if pixels is not None:
        z, y, x = (_ome_length(pixels, axis) for axis in "ZYX")
        return None if y is None or x is None else (z, y, x)
    page = series.keyframe
    if file.is_imagej:
        details = file.imagej_metadata or {}
        unit = _MILLIMETRES.get(str(details.get("unit", "")).replace("\\u00B5", "µ"))
        across = _per_unit(page)
        if unit is None or across is None:
            return None
        z = details.get("spacing")
        return (abs(float(z)) * unit if z else None, unit / across[0], unit / across[1])
    if file.is_svs:
        micron = re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description or "")
        return (None, float(micron[1]) / 1000, float(micron[1]) / 1000) if micron and float(micron[1]) > 0 else None
    across = _per_unit(page)
    if across is None or page.resolutionunit != tifffile.RESUNIT.CENTIMETER:
        return None
    y, x = 10 / across[0], 10 / across[1]
    return (None, y, x) if max(y, x) < _FINEST_PRINT else None


def _per_unit(page: Any) -> tuple[float, float] | None:
    """Return the (y, x) pixels per unit of the resolution tags, None where they are missing or 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, y = page.get_resolution()
    return (float(y), float(x)) if np.isfinite((x, y)).all() and x > 0 and y > 0 and (x, y) != (1, 1) else None


def ome_pixels(file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ElementTree.Element | None:
    """Return the Pixels element of OME metadata that describes a series."""
    if not file.is_ome or file.ome_metadata is None:
        return None
    try:
        root = ElementTree.fromstring(file.ome_metadata)
    except ElementTree.ParseError:
        return None
    images = [e for e in root.iter() if e.tag.rpartition("}")[2] == "Image"]
    number = next((i for i, s in enumerate(file.series) if s is series), 0)
    if number >= len(images):
        return None
    return next((e for e in images[number] if e.tag.endswith("Pixels")), None)


def _ome_length(pixels: ElementTree.Element, axis: str) -> float | None:
    text = pixels.get(f"PhysicalSize{axis}")
    unit = _MILLIMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value * unit if unit is not None and np.isfinite(value) and value > 0 else None
