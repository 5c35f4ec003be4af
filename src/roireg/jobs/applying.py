"""A transform put to use: `roireg.apply` in Python, and what the job of the command does."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from roireg.core.ambient import own_settings
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.kinds import looks_like_labels
from roireg.core.progress import Progress, ProgressEvent
from roireg.core.scales import between_full_images, field_grid
from roireg.core.transforms import Chain, Transform
from roireg.core.words import Interpolation
from roireg.io import (
    ImageLike,
    LabelsLike,
    PointSet,
    TransformLike,
    as_image,
    as_labels,
    as_transform,
    read_points,
    write_image,
    write_labels,
    write_points,
)
from roireg.io.timeseries import frame_count, read_series, write_series
from roireg.jobs.apply import ApplyJob
from roireg.jobs.job import Work
from roireg.jobs.options import parse_fill, parse_numbers
from roireg.jobs.reading import MOST_TRIED, inverted, load_chain, load_transform, read_picture, read_reference
from roireg.jobs.resampling import check_fill, outside_value, resampled, unmoved
from roireg.pipeline import Registration
from roireg.pipeline.saved import SavedRegistration

__all__ = ["apply", "compute"]

MOST_VOXELS = 1e11
"""No memory holds more; what is too much for this one is told when it is full."""

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
        Of the file of a time series (4D) every volume is carried, each a channel of the result; one of them is
        `roireg.read(FILE, frame=N)`.
    labels : whether it is a label map: nearest label, no new ones, 0 outside.
    inverse : whether to take the inverse.
    interpolation : "nearest", "linear", "bspline" or "lanczos"; None is linear, and nearest for label maps.
    spacing : voxel size of the result in mm, a number or one per array axis, of as many voxels as fill the box of
        `fixed` best; None is that of `fixed`.
    fill : value outside the image; "auto" is what lies around its object, such as -1024 in a CT.

    Raises
    ------
    InputError
        When an option is unknown or an input unsuitable.
    GeometryError
        When dimensions differ.
    """
    mapping = _mapping(transform, inverse=inverse)
    file = Path(moving) if isinstance(moving, str | os.PathLike) and not labels else None
    series = file is not None and frame_count(file) > 1
    if series and file is not None:
        image = read_series(file)
    else:
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
        outside: float | Sequence[float] = outside_value(image, labels=labels, series=series)
    else:
        check_fill(fill, image, labels=labels)
        outside = fill
    grid = grid if spacing is None else _spaced(grid, spacing, f"spacing {spacing}")
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
    return inverted(mapping, "the transform") if inverse else mapping


# -- the job ----------------------------------------------------------------------------------------


def compute(job: ApplyJob, progress: Progress) -> Work:
    """Read, check and carry; see `roireg.jobs.job.Job.run`."""
    progress(ProgressEvent("reading the files", 0.0))
    mapping = _chain(job)
    return _points(job, mapping) if job.carries_points else _image(job, mapping)


def _chain(job: ApplyJob) -> Transform:
    """Return the transform that is applied, between full images where thumbnails were registered."""
    fixed, moving = job.fixed, job.moving
    if len(job.transforms) == 1 and not job.carries_points:
        # A single transform of an image leaves no doubt what was registered to what.
        ends = (job.subject, job.reference) if job.inverse else (job.reference, job.subject)
        fixed, moving = fixed or ends[0], moving or ends[1]
    mapping = load_chain(job.transforms, inverse=job.inverse, fixed=fixed, moving=moving)
    scales = (job.moving_scale, job.fixed_scale) if job.inverse else (job.fixed_scale, job.moving_scale)
    return between_full_images(mapping, fixed_scale=scales[0], moving_scale=scales[1])


def _points(job: ApplyJob, mapping: Transform) -> Work:
    points = read_points(job.subject)
    if points.ndim != mapping.ndim:
        raise InputError(
            f"{job.subject}: the points are {points.ndim}D but {', '.join(job.transforms)} is {mapping.ndim}D; "
            f"expected {mapping.ndim} coordinates per point"
        )
    moved = PointSet(mapping.map_points(points.points), points.names)
    document: dict[str, Any] = {"out": job.out, "kind": "points", "count": len(points)}
    notes = []
    beyond = np.flatnonzero(unmoved(mapping, points.points))
    if len(beyond):
        document["beyond_field"] = beyond
        names = ", ".join(points.names[i] or f"row {i + 1}" for i in beyond[:5])
        more = f" and {len(beyond) - 5} more" if len(beyond) > 5 else ""
        notes.append(f"beyond the end of a displacement field, which does not move them: {names}{more}")
    return Work(document, lambda path: write_points(path, moved), moved, notes)


def _image(job: ApplyJob, mapping: Transform) -> Work:
    assert job.reference is not None
    grid, unit = read_reference(job.reference, job.picture)
    told = (job.fixed_scale, job.moving_scale) != (1.0, 1.0)
    notes = [] if told else _scale_notes(mapping, grid, unit, str(job.reference))
    series = job.frame is None and not job.labels and frame_count(job.subject) > 1
    image = (
        read_series(job.subject)
        if series
        else read_picture(job.subject, job.picture, labels=job.labels, finite=False)
    )
    for name, ndim in ((str(job.subject), image.ndim), (str(job.reference), grid.ndim)):
        if ndim != mapping.ndim:
            raise GeometryError(
                f"{name}: the image is {ndim}D but {', '.join(job.transforms)} is {mapping.ndim}D; expected equal"
            )
    if job.spacing is not None:
        sizes = parse_numbers("--spacing", job.spacing, (1, grid.ndim))[::-1]
        grid = _spaced(grid, sizes if len(sizes) > 1 else sizes[0], f"--spacing {job.spacing}")
    fill = parse_fill(job.fill)
    if fill is not None:
        check_fill(fill, image, labels=job.labels)
    outside = outside_value(image, labels=job.labels, series=series) if fill is None else fill
    mode = "nearest" if job.labels else job.interpolation or "linear"
    notes = notes or _end_notes(mapping, grid)
    if mode != "nearest" and not series and looks_like_labels(image):
        notes.append(
            f"{job.subject} looks like a label map, and what was written between its labels is a mean of them; if it "
            "is one, add --labels"
        )
    warped = replace(resampled(image, mapping, grid, mode=mode, fill=outside), unit=unit)
    document = {"out": job.out, "kind": "labels" if job.labels else "image", "size": grid.shape[::-1]}

    def write(path: Path) -> None:
        (write_series if series else write_labels if job.labels else write_image)(path, warped)

    return Work(document | ({"frames": image.channels} if series else {}), write, warped, notes)


def _spaced(grid: Grid, spacing: ArrayLike, name: str) -> Grid:
    """Return the grid of voxels of exactly this size (mm, storage order) that fills the box of a grid best.

    It has the same centre, and its outer faces lie at most half a voxel, together, from those of the box.
    """
    sizes = np.asarray(spacing, dtype=np.float64)
    if sizes.shape not in ((), (grid.ndim,)) or not (np.isfinite(sizes).all() and sizes.min() > 0):
        raise InputError(f"{name}: the size of voxels is a positive number, or one for each of {grid.ndim} axes")
    shape = np.maximum(1, np.round(grid.extent / sizes))
    voxels = math.prod(shape.tolist())
    if voxels > MOST_VOXELS:
        raise InputError(f"{name} makes {voxels:.2g} voxels of the reference; give larger ones")
    affine = np.array(grid.affine)
    affine[:-1, :-1] *= sizes / grid.spacing
    affine[:-1, -1] = grid.center - affine[:-1, :-1] @ ((shape - 1) / 2)
    return Grid(tuple(int(n) for n in shape), affine)


def _end_notes(mapping: Transform, grid: Grid) -> list[str]:
    """Tell how much of a reference lies where a displacement field has ended."""
    share = float(unmoved(mapping, grid.coarsened(MOST_TRIED).points()).mean())
    if share <= 0.005:
        return []
    return [
        f"{100 * share:.2g} % of the reference lie beyond the end of a displacement field, which does not move them; "
        "what is shown there is not registered"
    ]


def _scale_notes(mapping: Transform, grid: Grid, unit: str, name: str) -> list[str]:
    """Warn where a reference in pixels is several times as large as what was registered."""
    lattice = field_grid(mapping)
    if unit != "px" or lattice is None or lattice.ndim != grid.ndim:
        return []
    times = (grid.extent / lattice.extent).min()
    if times <= 1.5:
        return []
    return [
        f"{name} is about {times:.2g} times as large as what the transform was made for; if a thumbnail of it "
        "was registered, give --fixed-scale and --moving-scale"
    ]
