"""What a path on the command line stands for, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roireg.app.outputs import extension_of
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.transforms import Chain, Transform
from roireg.io import read_image, read_labels, read_transform

__all__ = ["Frames", "kind_of", "load_image", "load_labels", "load_transform", "parse_frames", "parse_numbers"]

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


def load_transform(path: Path) -> Transform:
    """Read a transform file, the ``transform.h5`` of a result folder, or the files of an ANTs prefix.

    Of ANTs' numbered files (``prefix0GenericAffine.mat``, ``prefix1Warp.nii.gz``) the highest number is applied to
    points first.

    Raises
    ------
    InputError
        When there is no such file, no result in the folder, or no transform in the file.
    """
    if path.is_dir():
        inside = path / "transform.h5"
        if not inside.is_file():
            raise InputError(f"{path}: the folder holds no transform.h5; name a transform file or a result folder")
        return read_transform(inside)
    if not path.exists():
        parts = _ants_files(path)
        if parts:
            return Chain(tuple(read_transform(p) for p in parts)) if len(parts) > 1 else read_transform(parts[0])
    return read_transform(path)


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
        if _ants_files(path):
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
    if kind == ".txt":
        with path.open("rb") as stream:
            return "transform" if stream.read(8) == b"#Insight" else "points"
    return "image"
