"""Voxels without a value: NaN in an image is no data, as statistical maps have it outside the brain."""

from __future__ import annotations

from dataclasses import replace

import torch

from roireg.core.errors import InputError, warn_header
from roireg.core.image import Image

__all__ = ["masked", "without_missing"]


def without_missing(image: Image) -> tuple[Image, Image | None]:
    """Return an image whose NaN voxels are filled, and a mask of those that have values.

    They are filled with 0 where the values reach from below to above it (a statistical map), else with the lowest
    value (air), and a warning says so.

    Returns
    -------
    The image, and a label map on its grid, 1 where every channel has a value; None where all voxels do.

    Raises
    ------
    InputError
        When no voxel has a value.
    """
    if not image.data.is_floating_point() or not bool(torch.isnan(image.data.sum())):
        return image, None
    empty = torch.isnan(image.data).any(dim=0, keepdim=True)
    count = int(empty.sum())
    if not count:  # infinite values of both signs, which are refused elsewhere
        return image, None
    values = image.data[~empty.expand_as(image.data)]
    if not len(values):
        raise InputError(f"{image.name}: every voxel is NaN, so there is nothing to register; give another file")
    low, high = float(values.min()), float(values.max())
    fill = 0.0 if low <= 0 <= high else low
    told = f"{count} voxels are NaN and taken as no data: left out of the comparison, filled with {fill:g}"
    warn_header(image.name, told)
    filled = replace(image, data=image.data.masked_fill(empty, fill), metadata={**image.metadata, "no data": told})
    return filled, Image((~empty).to(torch.int32), image.grid, name=f"voxels of {image.name} that are not NaN")


def masked(mask: Image | None, present: Image | None) -> Image | None:
    """Return a mask (None: everywhere) without the voxels that have no value."""
    if mask is None or present is None:
        return mask if present is None else present
    return mask.with_data(mask.data * present.data)
