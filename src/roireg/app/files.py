"""What a path on the command line stands for, and how it is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roireg.app.outputs import extension_of
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Chain, Transform
from roireg.io import CONVENTIONS, read_image, read_labels, read_transform

__all__ = [
    "Frames",
    "kind_of",
    "load_chain",
    "load_image",
    "load_labels",
    "load_transform",
    "parse_frames",
    "parse_numbers",
    "parse_transform",
]

TRANSFORMS = (".h5", ".hdf5", ".tfm", ".mat")
POINTS = (".csv", ".tsv", ".fcsv", ".json", ".mrk.json")


@dataclass(frozen=True)
class Frames:
    """Which volume of 4D files to take, per side; None where the files are not 4D."""

    fixed: int | None = None
    moving: int | None = None


def parse_frames(text: str | None) -> Frames:
    """Turn ``N`` (both images) or ``FIXED,MOVING`` into `Frames`.

    Raises
    ------
    InputError
        When it is neither.
    """
    if text is None:
        return Frames()
    parts = [p.strip() for p in text.split(",")]
    if len(parts) not in (1, 2) or not all(p.isdigit() for p in parts):
        raise InputError(f"--frame is a number from 0, or two as FIXED,MOVING, found {text!r}")
    numbers = [int(p) for p in parts]
    return Frames(numbers[0], numbers[-1])


def parse_numbers(option: str, text: str, counts: Sequence[int]) -> list[float]:
    """Turn ``1.5,2,3`` into numbers, of which there must be one of `counts`.

    Raises
    ------
    InputError
        When there are others, naming the option.
    """
    try:
        numbers = [float(p) for p in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        wanted = " or ".join(map(str, counts))
        raise InputError(f"{option} takes {wanted} numbers separated by commas, found {text!r}")
    return numbers


def load_image(path: Path | str, frame: int | None = None) -> Image:
    """Read an image."""
    return read_image(path, frame=frame)


def load_labels(path: Path | None, frame: int | None = None) -> Image | None:
    """Read a label map or mask, if one is named."""
    return None if path is None else read_labels(path, frame=frame)


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
        found = read_transform(place, convention=convention, **grids)
    elif place.is_dir():
        stored = place / "inverse.h5"
        if inverse and stored.is_file():
            return read_transform(stored)
        inside = place / "transform.h5"
        if not inside.is_file():
            raise InputError(f"{place}: the folder holds no transform.h5; name a transform file or a result folder")
        found = read_transform(inside)
    elif not place.exists() and (parts := _ants_files(place)):
        found = Chain(tuple(read_transform(p) for p in parts)) if len(parts) > 1 else read_transform(parts[0])
    else:
        found = read_transform(place)
    return found.inverse() if inverse else found


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


def parse_transform(name: Path | str) -> tuple[bool, str | None, Path]:
    """Return (inverse, convention, path) of a name like ``i:fsl:a.mat``; a file of that name is taken as it is."""
    text, inverse, convention = str(name), False, None
    while not Path(text).exists():
        mark, colon, rest = text.partition(":")
        if mark == "i" and colon and not inverse:
            inverse = True
        elif mark in CONVENTIONS and colon and convention is None:
            convention = mark
        else:
            break
        text = rest
    return inverse, convention, Path(text)


def _inverted(name: Path | str) -> str:
    inverse, convention, place = parse_transform(name)
    return f"{'' if inverse else 'i:'}{f'{convention}:' if convention else ''}{place}"


def _grid(path: Path | None) -> Grid | None:
    return None if path is None else read_image(path, frame=0).grid


def _ants_files(prefix: Path) -> list[Path]:
    """Return the forward files of an ANTs prefix, first applied to points first."""
    found = []
    for number in range(10):
        for ending in (f"{number}GenericAffine.mat", f"{number}Warp.nii.gz"):
            file = prefix.with_name(prefix.name + ending)
            if file.is_file():
                found.append(file)
    return found[::-1]


def kind_of(path: Path) -> str:
    """Return "image", "transform", "points", "pairs" or "result" for a path, by name and, where needed, content.

    Raises
    ------
    InputError
        When there is no such file or folder.
    """
    if not path.exists():
        inverse, convention, place = parse_transform(path)
        if inverse or convention is not None or _ants_files(place):
            return "transform"
        if "::" in path.name and Path(str(path).rpartition("::")[0]).is_dir():
            return "image"
        raise InputError(f"{path}: no such file or folder; check the path")
    if path.is_dir():
        if (path / "pairs.json").is_file():
            return "pairs"
        return "result" if (path / "transform.h5").is_file() else "image"
    kind = extension_of(path)
    if kind == ".zip":
        return "pairs"
    if kind in POINTS:
        return "points"
    if kind in TRANSFORMS:
        return "transform"
    if kind == ".lta":
        return "transform"
    if kind == ".txt":
        return "points" if _is_table(path) else "transform"
    return "image"


def _is_table(path: Path) -> bool:
    """Tell whether a text file begins with the names of columns, as points do."""
    with path.open("rb") as stream:
        first = stream.readline(4096).decode("utf-8-sig", "replace").lower()
    columns = {c.strip() for c in re.split("[,;\t]", first)}
    return {"x", "y"} <= columns
