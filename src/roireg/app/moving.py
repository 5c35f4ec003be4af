"""``apply`` and ``convert``: transforms put to use, and files in other formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from roireg.app.console import Outcome, Session
from roireg.app.summary import escape, size_of
from roireg.core.errors import GeometryError, InputError
from roireg.core.files import check_file, check_folder, extension_of
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.scales import between_full_images, field_grid
from roireg.core.transforms import Transform
from roireg.io import (
    PointSet,
    read_image,
    read_labels,
    read_pairs,
    read_points,
    write_ants,
    write_image,
    write_labels,
    write_pairs,
    write_points,
    write_transform,
)
from roireg.io.images import TIFF
from roireg.io.timeseries import frame_count, read_series, write_series
from roireg.jobs.files import POINTS, kind_of, parse_transform
from roireg.jobs.options import parse_numbers
from roireg.jobs.reading import load_chain
from roireg.jobs.resampling import Interpolation, check_fill, outside_value, resampled, unmoved

__all__ = ["apply", "convert", "extract_slice"]


def apply(
    session: Session,
    transforms: Sequence[str],
    subject: Path,
    out: Path,
    *,
    reference: Path | None,
    labels: bool,
    points: bool,
    inverse: bool,
    picture: Mapping[str, Any],
    fill: str,
    scales: tuple[float, float] = (1.0, 1.0),
    interpolation: Interpolation | None = None,
    spacing: str | None = None,
    fixed: Path | None = None,
    moving: Path | None = None,
) -> Outcome:
    """Warp an image, series or label map onto the reference grid, or map points; see the command's help."""
    value = _fill(fill)
    if labels and interpolation not in (None, "nearest"):
        raise InputError(f"--interpolation {interpolation}: a label map takes its nearest label; leave it out")
    sources = [parse_transform(name)[2] for name in transforms]
    check_file(out, inputs=[subject, *sources, *([] if reference is None else [reference])])
    if len(transforms) == 1 and not (points or extension_of(subject) in POINTS):
        # A single transform of an image leaves no doubt what was registered to what.
        ends = (subject, reference) if inverse else (reference, subject)
        fixed, moving = fixed or ends[0], moving or ends[1]
    mapping = load_chain(transforms, inverse=inverse, fixed=fixed, moving=moving)
    first, second = scales[::-1] if inverse else scales
    mapping = between_full_images(mapping, fixed_scale=first, moving_scale=second)
    if points or extension_of(subject) in POINTS:
        return _apply_to_points(session, mapping, transforms, subject, out, inverse=inverse)
    if reference is None:
        raise InputError(
            f"{subject}: an image is resampled onto a grid; name an image that has it with --reference (the fixed "
            "image, or the moving one with --inverse)"
        )
    series = picture["frame"] is None and not labels and frame_count(subject) > 1
    image = read_series(subject) if series else _read(subject, picture, labels=labels, finite=False)
    target = _reference(reference, picture)
    for name, ndim in ((str(subject), image.ndim), (str(reference), target.ndim)):
        if ndim != mapping.ndim:
            raise GeometryError(
                f"{name}: the image is {ndim}D but {', '.join(transforms)} is {mapping.ndim}D; expected equal"
            )
    if scales == (1.0, 1.0):
        _tell_scale(session, mapping, target)
    grid = target.grid
    if spacing is not None:
        sizes = parse_numbers("--spacing", spacing, (1, grid.ndim))
        if min(sizes) <= 0:
            raise InputError(f"--spacing takes positive numbers, found {spacing!r}")
        grid = grid.with_spacing(sizes[::-1])
    if value is not None:
        check_fill(value, image, labels=labels)
    outside = outside_value(image, labels=labels, series=series) if value is None else value
    warped = resampled(image, mapping, grid, mode="nearest" if labels else interpolation or "linear", fill=outside)
    warped = replace(warped, unit=target.unit)
    (write_series if series else write_labels if labels else write_image)(out, warped)
    count = f", {image.channels} volumes" if series else ""
    session.say(f"{size_of(grid, target.unit)}{count}: {escape(str(out))}")
    document = {"out": out, "kind": "labels" if labels else "image", "size": grid.shape[::-1]}
    return Outcome(document | ({"frames": image.channels} if series else {}))


def _fill(text: str) -> float | None:
    """Return the value outside the image; None where it is to be found."""
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--fill is auto or a number, found {text!r}") from None


def _apply_to_points(
    session: Session, mapping: Transform, transforms: Sequence[str], subject: Path, out: Path, *, inverse: bool
) -> Outcome:
    landmarks = read_points(subject)
    if landmarks.ndim != mapping.ndim:
        raise InputError(
            f"{subject}: the points are {landmarks.ndim}D but {', '.join(transforms)} is {mapping.ndim}D; expected "
            f"{mapping.ndim} coordinates per point"
        )
    beyond = np.flatnonzero(unmoved(mapping, landmarks.points))
    if len(beyond):
        names = ", ".join(landmarks.names[i] or f"row {i + 1}" for i in beyond[:5])
        more = f" and {len(beyond) - 5} more" if len(beyond) > 5 else ""
        session.note(
            "warning",
            f"beyond the end of a displacement field, which does not move them: {names}{more}",
            "yellow",
        )
    write_points(out, PointSet(mapping.map_points(landmarks.points), landmarks.names))
    session.say(f"{len(landmarks)} points mapped: {escape(str(out))}")
    document = {"out": out, "kind": "points", "count": len(landmarks)}
    return Outcome(document | ({"beyond_field": beyond.tolist()} if len(beyond) else {}))


def _tell_scale(session: Session, mapping: Transform, target: Image) -> None:
    """Tell that a reference in pixels is several times as large as what was registered."""
    lattice = field_grid(mapping)
    if target.unit != "px" or lattice is None or lattice.ndim != target.ndim:
        return
    times = target.grid.extent / lattice.extent
    if times.min() > 1.5:
        session.note(
            "warning",
            f"{target.name} is about {times.min():.2g} times as large as what the transform was made for; if a "
            "thumbnail of it was registered, give --fixed-scale and --moving-scale",
            "yellow",
        )


def _read(path: Path, picture: Mapping[str, Any], *, labels: bool, finite: bool = True) -> Image:
    if not labels:
        return read_image(path, **picture, finite=finite)
    if picture["channel"] is not None:
        raise InputError(f"{path}: a label map has one channel; leave out --channel")
    return read_labels(path, **{name: value for name, value in picture.items() if name != "channel"})


def _reference(path: Path, picture: Mapping[str, Any] | None = None) -> Image:
    """Read a reference image for its grid; the frames of a 4D one share it, level and page are those of the image."""
    same = picture if picture is not None and extension_of(path) in TIFF else {}
    return read_image(path, **{**same, "frame": 0, "channel": None})


# -- convert --------------------------------------------------------------------------------------


def convert(
    session: Session,
    source: Path,
    out: Path | None,
    *,
    kind: str | None,
    ants: Path | None,
    reference: Path | None,
    inverse: bool,
    picture: Mapping[str, Any],
    cut: str | None,
    fixed: Path | None = None,
    moving: Path | None = None,
) -> Outcome:
    """Write a file in another format; see the command's help."""
    if (out is None) == (ants is None):
        raise InputError("name one place to write to: OUT, or --ants PREFIX for the files of ANTs")
    if kind is not None and kind not in ("transform", *_CONVERTERS):
        raise InputError(f"--kind is transform, {', '.join(_CONVERTERS)}, found {kind!r}")
    what = kind or _kind_of_job(source, out, as_transform=bool(ants or reference or inverse))
    for option, setting in (("--slice", cut), *((f"--{name}", value) for name, value in picture.items())):
        if setting is not None and what not in ("image", "labels"):
            raise InputError(f"{option} is for images, but {source} is taken as {what}; leave it out")
    if what == "transform":
        mapping = load_chain([str(source)], inverse=inverse, fixed=fixed, moving=moving)
        written = _convert_transform(mapping, source, out, ants=ants, reference=reference)
    else:
        if ants or reference or inverse:
            raise InputError(f"--ants, --reference and --inverse are for transforms, but {source} is taken as {what}")
        assert out is not None
        written = [out]
        _CONVERTERS[what](source, out, picture=picture, cut=cut)
    for file in written:
        session.say(escape(str(file)))
    return Outcome({"kind": what, "written": written})


def _kind_of_job(source: Path, out: Path | None, *, as_transform: bool) -> str:
    kind = kind_of(source)
    if kind == "result" or as_transform or (out is not None and extension_of(out) in (".h5", ".tfm", ".mat")):
        return "transform"
    return kind


def _convert_transform(
    transform: Transform, source: Path, out: Path | None, *, ants: Path | None, reference: Path | None
) -> list[Path]:
    check_file(out if out is not None else Path(f"{ants}0GenericAffine.mat"), inputs=[parse_transform(source)[2]])
    if out is None:
        files = write_ants(str(ants), transform)
        return [*files.forward, *(p for p, invert in files.inverse if not invert)]
    grid = None if reference is None else _reference(reference).grid
    if grid is not None and grid.ndim != transform.ndim:
        raise GeometryError(f"{reference}: the image is {grid.ndim}D but the transform is {transform.ndim}D")
    write_transform(out, transform, grid=grid)
    return [out]


def _convert_image(source: Path, out: Path, *, picture: Mapping[str, Any], cut: str | None, labels: bool) -> None:
    check_file(out)
    image = _read(source, picture, labels=labels)
    if cut is not None:
        image = extract_slice(image, cut)
    (write_labels if labels else write_image)(out, image)


def _convert_points(source: Path, out: Path, *, picture: Mapping[str, Any], cut: str | None) -> None:
    check_file(out)
    write_points(out, read_points(source))


def _convert_pairs(source: Path, out: Path, *, picture: Mapping[str, Any], cut: str | None) -> None:
    (check_file if out.suffix.lower() == ".zip" else check_folder)(out)
    write_pairs(out, read_pairs(source))


_CONVERTERS: dict[str, Callable[..., None]] = {
    "image": partial(_convert_image, labels=False),
    "labels": partial(_convert_image, labels=True),
    "points": _convert_points,
    "pairs": _convert_pairs,
}


def extract_slice(image: Image, cut: str) -> Image:
    """Return one slice of a volume as a 2D image.

    Parameters
    ----------
    image : a 3D image.
    cut : ``x=N``, ``y=N`` or ``z=N``: the voxel axis across the slice and the index on it, from 0.

    Where the axes of the volume run along the world axes the slice keeps its place in the two that remain;
    elsewhere it starts at (0, 0) with its spacing.

    Raises
    ------
    InputError
        When the image is 2D, or `cut` is malformed or beyond the image.
    """
    letter, _, text = cut.partition("=")
    if letter not in ("x", "y", "z") or not text.isdigit():
        raise InputError(f"--slice is an axis and an index such as z=10, found {cut!r}")
    if image.ndim != 3:
        raise InputError(f"{image.name}: the image is 2D already; leave out --slice")
    axis = "zyx".index(letter)
    index, count = int(text), image.grid.shape[axis]
    if index >= count:
        raise InputError(f"{image.name}: there is no slice {cut}; {letter} runs from 0 to {count - 1}")
    return image.with_data(image.data.select(axis + 1, index).clone(), _slice_grid(image.grid, axis, index))


def _slice_grid(grid: Grid, axis: int, index: int) -> Grid:
    axes = [a for a in range(3) if a != axis]
    shape = tuple(grid.shape[a] for a in axes)
    across = int(np.argmax(np.abs(grid.direction[:, axis])))
    world = [a for a in range(3) if a != across]
    affine = np.eye(3)
    if np.abs(grid.direction[:, axis]).max() > 1 - 1e-6:
        start = np.zeros(3)
        start[axis] = index
        affine[:2, :2] = grid.affine[np.ix_(world, axes)]
        affine[:2, 2] = grid.world_from_index(start)[world]
        return Grid(shape, affine)
    spacing = grid.spacing[axes]
    return Grid.from_itk(shape[::-1], spacing[::-1].tolist(), [0.0, 0.0], np.eye(2))
