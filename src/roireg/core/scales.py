"""Transforms of thumbnails, put to use on the full images."""

from __future__ import annotations

import numpy as np

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, Chain, DisplacementField, Transform, VelocityField

__all__ = ["between_full_images", "field_grid"]


def between_full_images(transform: Transform, *, fixed_scale: float, moving_scale: float) -> Transform:
    """Return what a transform between two thumbnails is between the full images, whose world is the pixel index.

    Parameters
    ----------
    transform : fixed to moving thumbnail, px.
    fixed_scale, moving_scale : how many pixels of the full image one pixel of its thumbnail covers along an axis; 1
        for an image that was registered itself. Both have the same outer edges, so pixel 0 of a thumbnail is centred
        on (scale - 1) / 2.

    Raises
    ------
    InputError
        When a scale is not a positive number.
    """
    for side, scale in (("fixed", fixed_scale), ("moving", moving_scale)):
        if not (np.isfinite(scale) and scale > 0):
            raise InputError(f"the {side} scale is a positive number of pixels, found {scale}")
    parts: list[Transform] = [transform]
    if fixed_scale != 1:
        parts.insert(0, _full_from_thumbnail(fixed_scale, transform.ndim).inverse())
    if moving_scale != 1:
        parts.append(_full_from_thumbnail(moving_scale, transform.ndim))
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def _full_from_thumbnail(scale: float, ndim: int) -> Affine:
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] *= scale
    matrix[:-1, -1] = (scale - 1) / 2
    return Affine(matrix)


def field_grid(transform: Transform) -> Grid | None:
    """Return the grid of the deformation that points go through first, None for maps without one."""
    if isinstance(transform, Chain):
        return next((grid for part in transform.transforms if (grid := field_grid(part)) is not None), None)
    if isinstance(transform, VelocityField):
        return transform.field.grid
    return transform.grid if isinstance(transform, DisplacementField) else None
