"""Files and texts of a job as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roireg.core.bspline import BSpline
from roireg.core.errors import GeometryError, InputError, warn_header
from roireg.core.files import extension_of, is_complete
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt
from roireg.core.scales import field_grid
from roireg.core.transforms import Affine, Chain, Transform
from roireg.io import read_image, read_labels, read_transform
from roireg.io.images import TIFF, read_stored
from roireg.io.raster import Selection
from roireg.jobs.files import ants_files, parse_transform
from roireg.jobs.options import ClassOptions, NetworkOptions, PointOptions, SettingsOptions, parse_numbers
from roireg.models import resolve
from roireg.pipeline import Config, preset
from roireg.pipeline.prompts import check_prompt

MOST_TRIED = 20_000
"""Voxels of a field whose inverse is looked at."""

FOLDED = 1e-3
"""Share of them up to which it is not worth a word."""

__all__ = [
    "inverted",
    "load_chain",
    "load_labels",
    "load_transform",
    "pointed",
    "read_picture",
    "read_reference",
    "with_classes",
    "with_network",
    "with_settings",
    "world_points",
]


def load_labels(path: Path | None, frame: int | None = None) -> Image | None:
    """Read a label map or mask, if one is named."""
    return None if path is None else read_labels(path, frame=frame)


def read_picture(path: Path, picture: Mapping[str, Any], *, labels: bool, finite: bool = True) -> Image:
    """Read an image or label map, the picture that `PictureOptions.picture` says."""
    if not labels:
        return read_image(path, **picture, finite=finite)
    return read_labels(path, **{name: value for name, value in picture.items() if name != "channel"})


def read_reference(path: Path, picture: Mapping[str, Any] = MappingProxyType({})) -> tuple[Grid, str]:
    """Return the grid of an image and its unit; the frames of a 4D one share it, level and page as `picture` says."""
    same = picture if extension_of(path) in TIFF else {}
    stored = read_stored(path, Selection(**{**same, "frame": 0, "channel": None}))
    return stored.grid, stored.unit


def load_transform(path: Path | str, *, fixed: Path | None = None, moving: Path | None = None) -> Transform:
    """Read a transform file, the ``transform.h5`` of a result folder, or the files of an ANTs prefix.

    Of ANTs' numbered files (``prefix0GenericAffine.mat``, ``prefix1Warp.nii.gz``) the highest number is applied to
    points first. ``i:`` before a name asks for the inverse, ``ras:`` or ``fsl:`` says what a matrix alone maps.

    Parameters
    ----------
    path : the name, with its marks.
    fixed, moving : the images a matrix of FLIRT was made with.

    Raises
    ------
    InputError
        When there is no such file, no result in the folder, or no transform in the file.
    """
    inverse, convention, place = parse_transform(path)
    if convention is not None:
        grids = {} if convention == "ras" else {"fixed": _grid(fixed), "moving": _grid(moving)}
        transform = read_transform(place, convention=convention, **grids)
    elif place.is_dir():
        if not is_complete(place, record="result.json"):
            raise InputError(f"{place}: a run was stopped while it wrote into this folder; register again")
        stored, inside = place / "inverse.h5", place / "transform.h5"
        if inverse and stored.is_file():
            return read_transform(stored)
        if not inside.is_file():
            raise InputError(f"{place}: the folder holds no transform.h5; name a transform file or a result folder")
        transform = read_transform(inside)
    elif not place.exists() and (parts := ants_files(place)):
        transform = Chain(tuple(read_transform(p) for p in parts)) if len(parts) > 1 else read_transform(parts[0])
    else:
        transform = read_transform(place)
    return inverted(transform, str(path)) if inverse else transform


def inverted(transform: Transform, name: str) -> Transform:
    """Return the inverse of a transform, with a warning where its fields fold, so that there is none.

    Parameters
    ----------
    name : how the warning refers to the transform.
    """
    back = transform.inverse()
    parts = transform.transforms if isinstance(transform, Chain) else (transform,)
    inverses = back.transforms[::-1] if isinstance(back, Chain) else (back,)
    for part, inverse in zip(parts, inverses, strict=True):
        if not isinstance(part, Affine):
            _tell_folds(part, inverse, name)
    return back


def _tell_folds(transform: Transform, inverse: Transform, name: str) -> None:
    """Warn where points do not come back from a field and its inverse to half a voxel."""
    grid = transform.field.grid if isinstance(transform, BSpline) else field_grid(transform)
    if grid is None:
        return
    points = grid.coarsened(MOST_TRIED).points()
    off = np.linalg.norm(inverse.map_points(transform.map_points(points)) - points, axis=1)
    share = float((off > 0.5 * grid.spacing.max()).mean())
    if share > FOLDED:
        warn_header(
            name,
            f"its field folds, so that it has no inverse at {100 * share:.2g} % of its voxels: what is put there is "
            f"up to {off.max():.3g} {'mm' if grid.ndim == 3 else 'mm or px'} off",
        )


def load_chain(
    names: Sequence[Path | str], *, inverse: bool = False, fixed: Path | None = None, moving: Path | None = None
) -> Transform:
    """Read transforms as one; points go through the first named first, images through the last, as in ANTs.

    Parameters
    ----------
    names : as `load_transform` takes them; a leading ``i:`` inverts that one.
    inverse : whether the whole is inverted.
    fixed, moving : the images a matrix of FLIRT was made with.

    Raises
    ------
    InputError
        When a transform cannot be read, or two matrices of FLIRT would share one pair of images.
    GeometryError
        When 2D and 3D transforms are mixed.
    """
    marks = [parse_transform(name) for name in names]
    if sum(convention == "fsl" for _, convention, _ in marks) > 1:
        raise InputError(
            "two matrices of FLIRT have images of their own; write each as ITK's first: roireg convert fsl:FILE "
            "OUT.h5 --fixed REF --moving IN"
        )
    names = list(names)
    if inverse:
        names = [_inverted(name) for name in reversed(names)]
    parts = [load_transform(name, fixed=fixed, moving=moving) for name in names]
    for name, part in zip(names, parts, strict=True):
        if part.ndim != parts[0].ndim:
            raise GeometryError(f"{name}: the transform is {part.ndim}D but {names[0]} is {parts[0].ndim}D")
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def _inverted(name: Path | str) -> str:
    inverse, convention, place = parse_transform(name)
    return f"{'' if inverse else 'i:'}{f'{convention}:' if convention else ''}{place}"


def _grid(path: Path | None) -> Grid | None:
    return None if path is None else read_reference(path)[0]


def with_network(config: Config, options: NetworkOptions) -> Config:
    """Return settings with the network that options name, or as they are where none is named.

    Raises
    ------
    InputError
        When a name is unknown, or the weights are not on this disk or of another architecture.
    """
    if options.model is None:
        return config
    config = config.with_network(
        options.model, profile=options.profile or "balanced", window=options.window, cache=options.cache
    )
    resolve(options.model)
    return config


def with_classes(config: Config, options: ClassOptions) -> Config:
    """Return settings with the segmenter of classes that options name, or as they are where none is named.

    Raises
    ------
    InputError
        When a name is unknown, or the weights are not on this disk or of another architecture.
    """
    if options.segmenter is None and options.segmenter_command is None:
        return config
    if options.segmenter is not None:
        resolve(options.segmenter)
    return config.with_classes(options.segmenter, command=options.segmenter_command)


def with_settings(options: SettingsOptions) -> Config | None:
    """Return the settings of a file or of options; None where the preset alone says everything.

    Raises
    ------
    InputError
        As `Config.load` and `with_network`.
    """
    named = (options.config, options.model, options.features, options.segmenter, options.segmenter_command)
    if all(name is None for name in named):
        return None
    config = preset(options.preset) if options.config is None else Config.load(options.config)
    config = with_classes(with_network(config, options), options)
    if options.features is not None:
        config = config.model_copy(update={"match": config.match.model_copy(update={"features": options.features})})
    return config


def pointed(options: PointOptions, image: Image) -> Prompt | None:
    """Return the prompt that points, labels and box make in an image; None without any.

    Raises
    ------
    InputError
        When a point lies outside the image, or has another number of coordinates.
    """
    if not options.point and options.box is None:
        return None
    points = world_points("--point", options.point or (), image, options.unit)
    corners = None if options.box is None else world_points("--box", [options.box], image, options.unit, per_text=2)
    labels = np.array(options.label or [1] * len(points), dtype=np.int64)
    return check_prompt(Prompt(points, labels, corners), image)


def world_points(
    name: str, texts: Sequence[str], image: Image, unit: str | None, *, per_text: int = 1
) -> NDArray[np.float64]:
    """(N * per_text, d) world points of texts such as ``61,40,12``.

    Parameters
    ----------
    unit : "px" (voxel indices from 0, x first) or "mm" (world, LPS); None is px for raster images, else mm.
    per_text : how many points a text holds: 2 for the corners of a box.

    Raises
    ------
    InputError
        When a text has another number of numbers.
    """
    d = image.ndim
    places = np.array([parse_numbers(name, text, (per_text * d,)) for text in texts]).reshape(-1, d)
    return image.grid.world_from_index(places[:, ::-1]) if (unit or image.unit) == "px" else places
