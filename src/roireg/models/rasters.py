"""What a network is shown of an image: its raster, or that of its slices.

Segmenters and features both take their rasters from here, so that they agree to the bit and an image is encoded once.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import resample
from roireg.models.preprocess import Window, to_raster, usual_window

__all__ = ["MAX_VOXELS", "raster_of", "slice_axis", "slice_grid", "slice_image", "volume_window"]

MAX_VOXELS = {2: 2048 * 2048, 3: 256**3}
"""Larger images are brought to about this many voxels first; networks shrink them further anyway."""


def raster_of(image: Image, *, window: Window = None) -> tuple[Tensor, Grid]:
    """Return the (3, *shape) raster of an image, values 0..255, and the grid it lies on.

    The grid is the image's own up to `MAX_VOXELS`, beyond that a coarser one over the same box. For windows see
    `roireg.models.preprocess.to_raster`.

    Raises
    ------
    InputError
        When the window is unknown, or the image has no finite value.
    """
    grid = image.grid
    if grid.size > MAX_VOXELS[grid.ndim]:
        factor = (grid.size / MAX_VOXELS[grid.ndim]) ** (1 / grid.ndim)
        grid = grid.with_shape([max(1, int(n / factor)) for n in grid.shape])
        image = resample(image, grid)
    try:
        return to_raster(image.data, window=window), grid
    except InputError as error:
        raise InputError(f"{image.name}: {error}") from error


def slice_axis(grid: Grid, axis: int | None = None) -> int:
    """Return the storage axis along which a volume is cut: the one asked for, or the coarsest.

    An axis of one voxel counts as the coarsest; of equally coarse ones (to 1 %) the first is taken, z in most files.

    Raises
    ------
    GeometryError
        When the grid is not 3D or the axis does not exist.
    """
    if grid.ndim != 3 or axis not in (None, 0, 1, 2):
        raise GeometryError(
            f"slices are cut from a volume along storage axis 0, 1 or 2 (z, y, x), found {grid.ndim}D and axis {axis}"
        )
    if axis is not None:
        return axis
    if 1 in grid.shape:
        return grid.shape.index(1)
    return int(np.argmax(grid.spacing > 0.99 * grid.spacing.max()))


def slice_grid(grid: Grid, axis: int) -> Grid:
    """Return the 2D grid of a slice of a 3D grid: the in-plane spacing in mm, origin 0, axes as the world's."""
    axes = [a for a in range(3) if a != axis]
    spacing = [float(grid.spacing[a]) for a in axes]
    return Grid.from_itk([grid.shape[a] for a in axes][::-1], spacing[::-1], [0.0, 0.0], np.eye(2))


def slice_image(image: Image, axis: int, index: int) -> Image:
    """Return one 2D slice of a volume along a storage axis (0 is z)."""
    data = image.data.select(axis + 1, index)
    return Image(data, slice_grid(image.grid, axis), name=f"{image.name} slice {index}", unit=image.unit)


def volume_window(image: Image, *, window: Window = None) -> Window:
    """Return the window that all slices of a volume share: the one asked for, or what `to_raster` takes for all.

    Without it every slice would be stretched on its own, and noise beyond the body would look like anatomy.

    Raises
    ------
    InputError
        When the image has no finite value.
    """
    if window is not None:
        return window
    try:
        return usual_window(image.data)
    except InputError as error:
        raise InputError(f"{image.name}: {error}") from error
