"""The grid that regions are computed on, and the image brought to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import resample

__all__ = ["MAX_VOXELS", "normalised_on", "working_grid"]

MAX_VOXELS = {2: 256 * 256, 3: 350_000}
"""Voxels of a working grid per dimension: what keeps regions to a fraction of a second in 2D, seconds in 3D."""


def working_grid(grid: Grid, *, max_voxels: int | None = None) -> Grid:
    """Return the grid coarsened to `max_voxels`, by default those of its dimension; see `Grid.coarsened`."""
    return grid.coarsened(MAX_VOXELS[grid.ndim] if max_voxels is None else max_voxels)


def normalised_on(image: Image, grid: Grid) -> NDArray[np.float32]:
    """Resample an image (with low-pass) and map its 0.5th and 99.5th percentiles over all channels to 0 and 1.

    One scale for all channels keeps colour distances. A constant image becomes 0. Values are rounded to
    1/4096, so that scaling, shifting or inverting the intensities leaves the regions as they are.

    Raises
    ------
    InputError
        When the image has values that are not finite.
    """
    source = image if grid == image.grid else resample(image, grid)
    data = source.data.detach().double().cpu().numpy()
    if not np.isfinite(data).all():
        raise InputError(f"{image.name}: the image has NaN or infinite values; replace them before segmenting")
    low, high = np.percentile(data, (0.5, 99.5))
    if high <= low:
        low, high = data.min(), data.max()
    # Interpolating a constant leaves differences of single precision; they are no structure.
    if high - low <= 4e-6 * np.abs(data).max():
        return np.zeros(data.shape, dtype=np.float32)
    return (np.round(np.clip((data - low) / (high - low), 0, 1) * 4096) / 4096).astype(np.float32)
