"""`roireg.apply`: a transform of any kind put to use on an image, in Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias, get_args

from numpy.typing import ArrayLike

from roireg.core.ambient import own_settings
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Chain, Transform
from roireg.core.words import Interpolation
from roireg.io import ImageLike, LabelsLike, TransformLike, as_image, as_labels, as_transform
from roireg.jobs.reading import load_transform
from roireg.jobs.resampling import check_fill, outside_value, resampled
from roireg.pipeline import Registration
from roireg.pipeline.saved import SavedRegistration

__all__ = ["apply"]

Applied: TypeAlias = Registration | SavedRegistration | TransformLike


@own_settings()
def apply(
    transform: Applied | Sequence[Applied],
    moving: ImageLike | LabelsLike,
    fixed: ImageLike | Grid,
    *,
    labels: bool = False,
    inverse: bool = False,
    interpolation: Interpolation | None = None,
    spacing: ArrayLike | None = None,
    fill: float | str = "auto",
) -> Image:
    """Bring an image or label map of the moving side onto the grid of the fixed one.

    >>> import roireg
    >>> roireg.apply("out", "moving_pet.nii.gz", "fixed.nii.gz")  # doctest: +SKIP

    Parameters
    ----------
    transform : fixed to moving points: a result, a transform, one of SimpleITK, a file or a result folder as the
        command ``apply`` takes them (``i:``, ``ras:`` and prefixes of ANTs included). Of several, points go through
        the first one first.
    moving, fixed : images in every form that `roireg.register` takes; of the fixed one only the grid counts. With
        `inverse`, the image to be moved is one of the fixed side and the other one of the moving side.
    labels : whether it is a label map: nearest label, no new ones, 0 outside.
    inverse : whether to take the inverse.
    interpolation : "nearest", "linear", "bspline" or "lanczos"; None is linear, and nearest for label maps.
    spacing : voxel size of the result in mm, a number or one per array axis; None is that of `fixed`.
    fill : value outside the image; "auto" is what lies around its object, such as -1024 in a CT.

    Raises
    ------
    InputError
        When an option is unknown or an input unsuitable.
    GeometryError
        When dimensions differ.
    """
    mapping = _mapping(transform, inverse=inverse)
    image = as_labels(moving, name="label map") if labels else as_image(moving, "moving image")
    target = fixed if isinstance(fixed, Grid) else as_image(fixed, "fixed image")
    grid = target if isinstance(target, Grid) else target.grid
    for name, ndim in ((image.name, image.ndim), ("the fixed image", grid.ndim)):
        if ndim != mapping.ndim:
            raise GeometryError(f"{name}: the image is {ndim}D but the transform is {mapping.ndim}D; expected equal")
    mode = interpolation or ("nearest" if labels else "linear")
    if mode not in get_args(Interpolation):
        raise InputError(f"interpolation is {', '.join(get_args(Interpolation))}, found {mode!r}")
    if labels and mode != "nearest":
        raise InputError(f"a label map takes its nearest label, found interpolation {mode!r}; leave it out")
    if isinstance(fill, str):
        if fill != "auto":
            raise InputError(f"fill is 'auto' or a number, found {fill!r}")
        outside: float | Sequence[float] = outside_value(image, labels=labels)
    else:
        check_fill(fill, image, labels=labels)
        outside = fill
    grid = grid if spacing is None else grid.with_spacing(spacing)
    warped = resampled(image, mapping, grid, mode=mode, fill=outside)
    return warped if isinstance(target, Grid) else replace(warped, unit=target.unit)


def _mapping(transform: Applied | Sequence[Applied], *, inverse: bool) -> Transform:
    if isinstance(transform, Registration | SavedRegistration):
        return transform.inverse if inverse else transform.transform
    if isinstance(transform, str | os.PathLike):
        mapping = load_transform(os.fspath(transform))
    elif isinstance(transform, Sequence):
        if not transform:
            raise InputError("there is no transform to apply; name at least one")
        parts = [_mapping(t, inverse=inverse) for t in transform]
        return Chain(tuple(reversed(parts) if inverse else parts))
    else:
        mapping = as_transform(transform)
    return mapping.inverse() if inverse else mapping
