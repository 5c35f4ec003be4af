"""Parameter files of elastix (TransformParameters.N.txt), chained by the initial transform they name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import InputError
from roireg.core.transforms import Affine, Chain, Transform
from roireg.io.itk_files import read_records
from roireg.io.itk_transforms import Record, from_records

__all__ = ["is_elastix", "read_elastix"]

Array = NDArray[np.float64]
Entries = dict[str, list[str]]

CHAIN_LIMIT = 50
"""More initial transforms than this name each other in a circle."""

_ENTRY = re.compile(r"^\s*\(\s*([\w.]+)\s+(.*?)\s*\)\s*(?://.*)?$")
_VALUE = re.compile(r'"([^"]*)"|([^\s"]+)')
_INITIAL = ("InitialTransformParameterFileName", "InitialTransformParametersFileName")
_LINEAR = {
    "AffineTransform": "AffineTransform_double_{d}_{d}",
    "EulerTransform": "Euler{d}DTransform_double_{d}_{d}",
    "SimilarityTransform": "Similarity{d}DTransform_double_{d}_{d}",
}
_SPLINES = ("BSplineTransform", "RecursiveBSplineTransform")


def is_elastix(text: str) -> bool:
    """Tell whether a text is a parameter file of elastix."""
    return re.search(r'^\s*\(\s*Transform\s+"', text, re.MULTILINE) is not None


def read_elastix(path: Path, text: str) -> Transform:
    """Read a parameter file of elastix and the initial transforms it names.

    Understood are TranslationTransform, EulerTransform, SimilarityTransform, AffineTransform, BSplineTransform,
    RecursiveBSplineTransform and File, a file of ITK, as which initial transforms come too. They are looked for at
    the path in the file and beside it.

    Raises
    ------
    InputError
        When a kind is another, an entry is missing or unusable, or an initial transform cannot be read.
    GeometryError
        When a linear part is singular.
    """
    parts: list[Transform] = []
    place = path
    for _ in range(CHAIN_LIMIT):
        entries = _entries(text)
        parts.append(_transform(entries, str(place)))
        initial = _initial(entries)
        if initial is None:
            return parts[0] if len(parts) == 1 else Chain(tuple(reversed(parts)))
        combine = entries.get("HowToCombineTransforms", ["Compose"])[0]
        if combine != "Compose":
            raise InputError(
                f"{place}: transforms combined by {combine!r} are not supported, only those by 'Compose'; register "
                "again with that setting"
            )
        place = _initial_file(place, initial)
        read = _text(place)
        if read is None:
            parts.append(from_records(read_records(place), name=str(place)))
            return Chain(tuple(reversed(parts)))
        text = read
    raise InputError(f"{path}: the initial transforms name each other in a circle; name the file of one transform")


def _entries(text: str) -> Entries:
    entries: Entries = {}
    for line in text.splitlines():
        if match := _ENTRY.match(line):
            entries[match[1]] = [quoted or bare for quoted, bare in _VALUE.findall(match[2])]
    return entries


def _initial(entries: Entries) -> str | None:
    for key in _INITIAL:
        value = (entries.get(key) or [""])[0]
        if value and value != "NoInitialTransform":
            return value
    return None


def _initial_file(place: Path, initial: str, what: str = "initial transform") -> Path:
    """Return a file that another one names, where it was or, after a move, beside that one."""
    for candidate in (place.parent / initial, place.parent / Path(initial.replace("\\", "/")).name):
        if _is_file(candidate):
            return candidate
    raise InputError(f"{place}: its {what} {initial[:80]!r} is not there; put the file beside it")


def _text(path: Path) -> str | None:
    """Return the text of a parameter file of elastix; None where it is something else, such as a file of ITK."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read ({error.strerror}); check its permissions") from error
    return text if is_elastix(text) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _transform(entries: Entries, name: str) -> Transform:
    kind = (entries.get("Transform") or [""])[0]
    d = int(_numbers(entries, "FixedImageDimension", name, 1)[0]) if "FixedImageDimension" in entries else 3
    if d not in (2, 3):
        raise InputError(f"{name}: expected a 2D or 3D transform, found {d}D")
    if (entries.get("UseDirectionCosines") or ["true"])[0] == "false":
        raise InputError(
            f"{name}: it was found without the directions of the images (UseDirectionCosines false), so it does not "
            'map points of the world; register again with "true"'
        )
    if kind == "File":
        return _of_itk(entries, name)
    if (entries.get("UseBinaryFormatForTransformationParameters") or ["false"])[0] == "true":
        raise InputError(f"{name}: parameters in a binary file are not read; write them into the text file")
    if kind == "TranslationTransform":
        return Affine.translation(_numbers(entries, "TransformParameters", name, d))
    if kind in _SPLINES:
        return _spline(entries, d, name)
    if kind not in _LINEAR:
        kinds = ", ".join(("TranslationTransform", *_LINEAR, *_SPLINES))
        raise InputError(
            f"{name}: transforms of elastix of type {kind[:80]!r} are not supported, expected one of {kinds}; let "
            "transformix write the displacement field (-def all)"
        )
    fixed = _numbers(entries, "CenterOfRotationPoint", name, d)
    if kind == "EulerTransform" and d == 3:
        fixed = np.append(fixed, float((entries.get("ComputeZYX") or ["false"])[0] == "true"))
    parameters = _numbers(entries, "TransformParameters", name)
    return from_records([Record(_LINEAR[kind].format(d=d), parameters, fixed)], name=name)


def _of_itk(entries: Entries, name: str) -> Transform:
    """Read the file of ITK in which elastix 5.1 and later keep the numbers if they are asked to."""
    file = (entries.get("TransformFileName") or [""])[0]
    place = _initial_file(Path(name), file, "transform file")
    return from_records(read_records(place), name=str(place))


def _spline(entries: Entries, d: int, name: str) -> Transform:
    if (entries.get("UseCyclicTransform") or ["false"])[0] == "true":
        raise InputError(f"{name}: cyclic B-splines are not supported; let transformix write the displacement field")
    size, index, spacing, origin = (
        _numbers(entries, f"Grid{key}", name, d) for key in ("Size", "Index", "Spacing", "Origin")
    )
    if "GridDirection" in entries:
        direction = _numbers(entries, "GridDirection", name, d * d).reshape(d, d).T  # one axis after the other
    else:
        direction = np.eye(d)
    order = "3"
    if "BSplineTransformSplineOrder" in entries:
        order = f"{_numbers(entries, 'BSplineTransformSplineOrder', name, 1)[0]:g}"
    fixed = np.concatenate([size, origin + direction @ (spacing * index), spacing, direction.ravel()])
    parameters = _numbers(entries, "TransformParameters", name)
    return from_records([Record(f"BSplineTransform_double_{d}_{d}_{order}", parameters, fixed)], name=name)


def _numbers(entries: Entries, key: str, name: str, count: int | None = None) -> Array:
    values = entries.get(key)
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if values is None or not np.isfinite(numbers).all() or count not in (None, len(numbers)):
        expected = "numbers" if count is None else f"{count} number{'s' * (count > 1)}"
        text = "nothing" if values is None else " ".join(values[:4])[:60] or "nothing"
        raise InputError(f"{name}: ({key} ...) has {expected}, found {text}; write the file again")
    return numbers
