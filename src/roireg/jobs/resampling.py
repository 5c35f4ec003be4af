"""Images through a transform onto a grid, by any interpolation; NaN stays NaN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.background import background
from roireg.core.bspline import BSpline
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Chain, DisplacementField, Transform, VelocityField
from roireg.core.warp import warp
from roireg.core.words import Interpolation
from roireg.io import to_itk
from roireg.io._itk import check_shear, to_itk_image

__all__ = ["check_fill", "outside_value", "resampled", "unmoved"]

_ITK = {"bspline": sitk.sitkBSpline, "lanczos": sitk.sitkLanczosWindowedSinc}


def resampled(
    image: Image, mapping: Transform, grid: Grid, *, mode: Interpolation = "linear", fill: float | Sequence[float]
) -> Image:
    """Resample an image through a pull-back transform.

    Where an image has NaN (no data), its neighbours are interpolated as if the nearest value went on there, and what
    lies nearest to NaN becomes NaN: neither spreads into the other.

    Parameters
    ----------
    image : the moving image; every channel is resampled alike.
    mapping : from world points of `grid` to world points of `image`.
    mode : "nearest", "linear", "bspline" (cubic) or "lanczos" (windowed sinc of 5 voxels).
    fill : value outside the image, one for all channels or one each.
    """
    missing = torch.isnan(image.data) if image.data.is_floating_point() else None
    if missing is None or not bool(missing.any()):
        return _interpolated(image, mapping, grid, mode, fill)
    filled = torch.from_numpy(np.stack([_nearest_value(channel) for channel in image.data.numpy()]))
    moved = _interpolated(image.with_data(filled), mapping, grid, mode, fill)
    holes = warp(image.with_data(missing.to(torch.uint8)), mapping, grid, mode="nearest", fill=0.0)
    return moved.with_data(moved.data.masked_fill(holes.data.bool(), float("nan")))


def _nearest_value(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a channel whose NaN have the value of the nearest voxel that is none; 0 where there is no other."""
    missing = np.isnan(channel)
    if missing.all():
        return np.zeros_like(channel)
    if not missing.any():
        return channel
    nearest = scipy.ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    return np.asarray(channel[tuple(nearest)])


def _interpolated(
    image: Image, mapping: Transform, grid: Grid, mode: Interpolation, fill: float | Sequence[float]
) -> Image:
    if mode == "nearest" or mode == "linear":
        return warp(image, mapping, grid, mode=mode, fill=fill)
    values = [fill] * image.channels if isinstance(fill, int | float) else list(fill)
    check_shear(grid)
    size, spacing, origin, direction = grid.itk
    itk = to_itk(mapping)
    moved: list[Tensor] = []
    for channel, value in zip(image.data.numpy(), values, strict=True):
        source = to_itk_image(np.asarray(channel[None], dtype=np.float32), image.grid)
        result = sitk.Resample(
            source, size, itk, _ITK[mode], origin, spacing, direction, float(value), sitk.sitkFloat32
        )
        moved.append(torch.from_numpy(sitk.GetArrayFromImage(result)))
    return image.with_data(torch.stack(moved), grid)


def outside_value(image: Image, *, labels: bool = False, series: bool = False) -> float | tuple[float, ...]:
    """Return what is put outside an image, as `Registration.warped` does; the same in all volumes of a series."""
    if labels:
        return 0.0
    finite = image.with_data(torch.nan_to_num(image.data[:1] if series else image.data))
    fill = background(finite)
    return fill[0] if series else fill


def check_fill(fill: float, image: Image, *, labels: bool) -> None:
    """Refuse a value that the pixel type of the result cannot hold.

    Raises
    ------
    InputError
        When the type holds whole numbers of a smaller range.
    """
    kind = np.dtype("int32") if labels else np.dtype("uint8" if image.dtype == "bool" else image.dtype)
    if kind.kind == "f":
        return
    limits = np.iinfo(kind)
    if not (limits.min <= fill <= limits.max) or fill != round(fill):
        what = "labels are" if labels else f"the pixel type of {image.name} is"
        raise InputError(
            f"--fill {fill:g}: {what} {kind}, whole numbers from {limits.min} to {limits.max}; give one of them"
        )


def unmoved(mapping: Transform, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which points a field of the chain does not move because they lie outside it.

    A field whose border does not move anything has no end.
    """
    outside = np.zeros(len(points), dtype=bool)
    for part in mapping.transforms if isinstance(mapping, Chain) else (mapping,):
        field = part.field if isinstance(part, VelocityField | BSpline) else part
        if isinstance(field, DisplacementField) and _border(field) > 0.5 * float(field.grid.spacing.min()):
            outside |= ~field.grid.contains(points)
        points = part.map_points(points)
    return outside


def _border(field: DisplacementField) -> float:
    """Return the largest displacement, mm, on the outer voxels of a field."""
    length = field.displacement.norm(dim=0)
    ends = [length.select(axis, index).max() for axis in range(length.ndim) for index in (0, -1)]
    return float(torch.stack(ends).max())
