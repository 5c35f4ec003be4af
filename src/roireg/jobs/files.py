"""What a path stands for, judged by its name and, where needed, by its first bytes."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from roireg.core.errors import HeaderWarning, InputError
from roireg.core.files import extension_of
from roireg.core.words import CONVENTIONS, IMAGE_FORMATS
from roireg.io.folders import check_series

__all__ = [
    "FILES",
    "POINTS",
    "ants_files",
    "check_content",
    "check_image",
    "check_input",
    "check_points",
    "check_transform",
    "kind_of",
    "parse_transform",
]

TRANSFORMS = (".h5", ".hdf5", ".tfm", ".mat", ".lta")
TEXT_HEADER = re.compile(rb"\s*(#|NRRD|\w+\s*=)")
"""How the images begin whose header is text: NRRD, MetaImage, VTK."""

START = 256
"""Bytes that are looked at."""

POINTS = (".csv", ".tsv", ".fcsv", ".json", ".mrk.json")

PICTURES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".jpeg", ".tif", ".tiff")

FILES = (*PICTURES, *TRANSFORMS, *POINTS, ".html", ".txt")
"""Endings of what is written as a single file; no folder of results is meant by such a name."""


def ants_files(prefix: Path) -> list[Path]:
    """Return the forward files of an ANTs prefix, first applied to points first.

    Of ``prefix0GenericAffine.mat``, ``prefix1Warp.nii.gz`` the highest number comes first.
    """
    files: list[Path] = []
    if not prefix.name:  # "." and "/" begin no names
        return files
    for number in range(10):
        for ending in (f"{number}GenericAffine.mat", f"{number}Warp.nii.gz"):
            file = prefix.with_name(prefix.name + ending)
            if file.is_file():
                files.append(file)
    return files[::-1]


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


def check_input(path: Path) -> None:
    """Refuse what does not exist, and devices and pipes, which would block.

    A DICOM series is ``folder::uid``; the prefix of ANTs' files is no file of its own.

    Raises
    ------
    InputError
        When nothing of the name can be read.
    """
    try:
        _, _, place = parse_transform(path)
        if place.is_file() or place.is_dir() or ants_files(place):
            return
        if "::" in path.name and Path(str(path).rpartition("::")[0]).is_dir():
            return
        there = path.exists()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); check the path and its permissions") from error
    if there:
        raise InputError(f"{path}: this is a device or pipe; only files and folders are read")
    raise InputError(f"{path}: no such file or folder; check the path")


def check_image(path: Path) -> None:
    """Refuse a file of plain text that is no header of an image, by its first bytes; readers tell of all else.

    Raises
    ------
    InputError
        When the file is such a text, or empty, or a folder has no DICOM file.
    """
    if path.is_dir():
        check_series(path)
    if not path.is_file():
        return
    try:
        with path.open("rb") as stream:
            first = stream.read(START)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if not first:
        raise InputError(f"{path}: the file is empty; copy or export it again")
    printable = all(byte >= 32 or byte in b"\t\n\r" for byte in first)
    if printable and not TEXT_HEADER.match(first.removeprefix(b"\xef\xbb\xbf")) and _is_text(first):
        raise InputError(f"{path}: the file is text, not an image; expected {IMAGE_FORMATS}")


def check_points(path: Path) -> None:
    """Refuse a file that holds no points; what else is to be known of them is told when they are used.

    Raises
    ------
    InputError
        As `read_points`.
    """
    from roireg.io.points import read_points

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeaderWarning)
        read_points(path)


def check_transform(path: Path) -> None:
    """Refuse a folder that is no result with its transform.

    Raises
    ------
    InputError
        When it holds neither a transform nor the record of a result, of which readers say more.
    """
    if path.is_dir() and not any((path / name).exists() for name in ("transform.h5", "result.json")):
        raise InputError(f"{path}: the folder holds no transform.h5; name a transform file or a result folder")


def check_content(path: Path) -> str:
    """Refuse an image or points by what the file says at first sight; return what kind of thing it is.

    Raises
    ------
    InputError
        As `check_image` and `check_points`.
    """
    kind = kind_of(path)
    if kind in ("image", "points"):
        (check_image if kind == "image" else check_points)(path)
    return kind


def _is_text(first: bytes) -> bool:
    try:
        first.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(first) == START and error.start > START - 4  # a letter of several bytes was cut
    return True


def kind_of(path: Path) -> str:
    """Return "image", "transform", "points", "pairs" or "result" for a path, by name and, where needed, content.

    Raises
    ------
    InputError
        When there is no such file or folder.
    """
    check_input(path)
    if path.is_dir():
        if (path / "pairs.json").is_file():
            return "pairs"
        return "result" if any((path / name).is_file() for name in ("transform.h5", "result.json")) else "image"
    if not path.exists():
        return "image" if "::" in path.name else "transform"  # marked, or a prefix
    kind = extension_of(path)
    if kind == ".zip":
        return "pairs"
    if kind in POINTS:
        return "points"
    if kind in TRANSFORMS:
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
