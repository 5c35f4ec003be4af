"""What an adapter finds in a public data set, and how it becomes a case set."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from roireg.core.errors import InputError
from roireg.io import PointSet, new_folder, write_points
from roireg.io.mistakes import explained
from roireg_bench.cases import FILE, CaseFolder, CaseSet, find_faults, load_folder

__all__ = [
    "Found",
    "FoundPair",
    "as_modalities",
    "as_names",
    "as_points",
    "name_of",
    "nifti_stem",
    "read_json",
    "read_text",
    "ring",
    "store",
    "unique",
    "voxel_files",
]

IMAGES = ("fixed", "moving", "fixed_labels", "moving_labels")
POINTS = "points"
NIFTI = (".nii.gz", ".nii")


@dataclass(frozen=True)
class FoundPair:
    """Files of a pair where they are; landmarks as values, since every data set has a format of its own."""

    id: str
    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_points: PointSet | None = None
    moving_points: PointSet | None = None
    notes: str = ""


@dataclass(frozen=True)
class Found:
    """What a data set holds, in the words of `cases.CaseSet`."""

    name: str
    ndim: int
    task: str
    fixed: str
    moving: str
    pairs: Sequence[FoundPair]
    terms: str
    labels: dict[int, str] | None = None
    spacing_known: bool = True


def store(collection: Found, source: Path, target: Path, *, absolute: bool) -> CaseFolder:
    """Write ``pairs.json`` and landmarks for what was found; images stay where they are.

    Parameters
    ----------
    target : folder, new or not; ``pairs.json`` and ``points`` in it are replaced.
    absolute : write absolute paths; else relative to `target`, which go on working when both move together.

    Raises
    ------
    InputError
        When nothing was found, a file is missing, or a name or an id is unusable.
    OutputError
        When the folder cannot be written.
    """
    if not collection.pairs:
        raise InputError(f"{source}: found no pair with labels or landmarks on both sides; check the folder")
    place = target.resolve()

    with new_folder(place) as folder:
        pairs = []
        for number, pair in enumerate(collection.pairs):
            record: dict[str, Any] = {"id": pair.id}
            for what in IMAGES:
                file = getattr(pair, what)
                record[what] = None if file is None else file.resolve().as_posix()
            for side in ("fixed", "moving"):
                points: PointSet | None = getattr(pair, f"{side}_points")
                name = f"{POINTS}/{number:03d}-{re.sub(r'[^A-Za-z0-9.-]+', '-', pair.id)}_{side}.csv"
                record[f"{side}_points"] = None if points is None else name
                if points is not None:
                    write_points(folder / name, points)
            pairs.append(record | {"true_affine": None, "notes": pair.notes})
        content = {
            "name": collection.name,
            "ndim": collection.ndim,
            "task": collection.task,
            "modality": {"fixed": collection.fixed, "moving": collection.moving},
            "terms": collection.terms,
            "source": str(source),
            "labels": collection.labels,
            "spacing_known": collection.spacing_known,
            "pairs": pairs,
        }
        try:
            cases = CaseSet.model_validate(content)
        except ValidationError as error:
            raise InputError(f"{source}: {explained(error.errors())}; correct the data set") from error
        if faults := find_faults(CaseFolder(folder, cases)):
            raise InputError(f"{source}: {next(iter(faults.values()))}")
        # Relative paths hold in the place that the folder is not in yet.
        document = cases.model_dump(mode="json")
        for record in () if absolute else document["pairs"]:
            for what in (name for name in IMAGES if record[name] is not None):
                record[what] = Path(os.path.relpath(record[what], place)).as_posix()
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")
    return load_folder(target)


# -- what several adapters need --------------------------------------------------------------------


def ring(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return (fixed, moving) names, each with the next one and the last with the first; two give one pair."""
    if len(names) < 2:
        return []
    return [(names[i], names[(i + 1) % len(names)]) for i in range(len(names) if len(names) > 2 else 1)]


def voxel_files(folder: Path) -> dict[str, Path]:
    """Return the NIfTI files of a folder by their name without extension, sorted."""
    files = sorted(p for p in folder.iterdir() if p.name.lower().endswith(NIFTI) and not p.name.startswith("."))
    return {nifti_stem(p): p for p in files}


def nifti_stem(path: Path) -> str:
    """Return a file name without .nii or .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def name_of(title: object, source: Path) -> str:
    """Return the name of a set: the title that a data set has, else the name of its folder."""
    plain = " ".join(str(title or "").split()) or source.resolve().name
    return re.sub(r"[/\\]+", "-", plain)


def as_modalities(value: object) -> list[str]:
    """Return what a dataset.json has under "modality": names by channel, a list of names, or one name."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return [str(v) for v in values if v] or ["unknown"]


def as_points(values: NDArray[np.float64], file: Path) -> PointSet:
    """Return landmarks (N, d) of a file.

    Raises
    ------
    InputError
        When a coordinate is not finite.
    """
    try:
        return PointSet(values)
    except InputError as error:
        raise InputError(f"{file}: {error}; correct the file") from error


def as_names(table: object) -> dict[int, str] | None:
    """Return label id -> name out of what a dataset.json has under "labels"; None where it names none.

    The Decathlon and AMOS write id -> name, nnU-Net since version 2 name -> id, Learn2Reg id -> name per modality.
    """
    if not isinstance(table, dict):
        return None
    nested = [value for value in table.values() if isinstance(value, dict)]
    names: dict[int, str] = {}
    for key, value in (nested[0] if nested else table).items():
        pair = (key, value) if str(key).isdecimal() else (value, key)
        if not str(pair[0]).isdecimal():
            return None
        if int(pair[0]) > 0:
            names[int(pair[0])] = str(pair[1])
    return names or None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        When the file is no JSON object.
    """
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); correct the file") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content


def read_text(path: Path) -> str:
    """Read a text file.

    Raises
    ------
    InputError
        When the file cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text; check the file") from error


def unique(files: Sequence[Path], source: Path, what: str) -> Path:
    """Return the only file.

    Raises
    ------
    InputError
        When there is none or there are several.
    """
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5]) or "none"
        raise InputError(f"{source}: expected {what}, found {names}; name the folder that holds one")
    return files[0]
