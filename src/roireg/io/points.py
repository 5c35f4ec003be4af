"""Landmarks: CSV, Slicer markups (.mrk.json) and the older .fcsv, in world coordinates (LPS mm; pixels in 2D)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import InputError
from roireg.core.files import atomic_path

__all__ = ["PointSet", "read_points", "write_points"]

NAME_COLUMNS = ("name", "label", "id")
FCSV_COLUMNS = (
    "id",
    "x",
    "y",
    "z",
    "ow",
    "ox",
    "oy",
    "oz",
    "vis",
    "sel",
    "lock",
    "label",
    "desc",
    "associatedNodeID",
)
_SYSTEMS = {"LPS": "LPS", "1": "LPS", "RAS": "RAS", "0": "RAS"}


@dataclass(frozen=True, eq=False)
class PointSet:
    """Landmarks of one image.

    Parameters
    ----------
    points : (N, d) float64 world points, (x, y[, z]) in LPS mm; pixel coordinates (column, row) for raster images.
    names : N names, "" where a point has none.
    """

    points: NDArray[np.float64]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise InputError(f"points have shape (N, 2) or (N, 3), found {points.shape}")
        names = tuple(self.names) or ("",) * len(points)
        if len(names) != len(points):
            raise InputError(f"{len(points)} points need as many names, found {len(names)}")
        if not np.isfinite(points).all():
            raise InputError(f"point {int((~np.isfinite(points)).any(1).argmax()) + 1} has coordinates not finite")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "names", names)

    @property
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return int(self.points.shape[1])

    def __len__(self) -> int:
        return len(self.points)


def read_points(path: str | Path) -> PointSet:
    """Read landmarks from .csv, .mrk.json or .fcsv.

    A CSV has a header with the columns x, y (2D, pixels or mm) or x, y, z (LPS mm), in any order; a column
    `name`, `label` or `id` gives names, other columns are ignored. Slicer files state their coordinate system
    (LPS or RAS); RAS is converted.

    Raises
    ------
    InputError
        When the file is missing, malformed, empty, or a coordinate is no finite number.
    """
    place = Path(path)
    name = place.name.lower()
    if not place.is_file():
        raise InputError(f"{place}: no such file; check the path of the points")
    try:
        text = place.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{place}: the file cannot be read as text; expected .csv, .mrk.json or .fcsv") from error
    if name.endswith(".json"):
        points, names = _from_markups(place, text)
    elif name.endswith(".fcsv"):
        points, names = _from_fcsv(place, text)
    elif name.endswith((".csv", ".tsv", ".txt")):
        points, names = _from_table(place, [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()])
    else:
        raise InputError(f"{place}: points are read from .csv, .mrk.json or .fcsv, found {place.suffix!r}")
    if not points:
        raise InputError(f"{place}: the file holds no points")
    return PointSet(np.array(points, dtype=np.float64), tuple(names))


def write_points(path: str | Path, points: PointSet) -> None:
    """Write landmarks as .csv (exact), .mrk.json or .fcsv (3D only; both in LPS).

    Raises
    ------
    InputError
        When the extension is unknown or 2D points are asked for in a Slicer format.
    OutputError
        When the place cannot be written.
    """
    target = Path(path)
    name = target.name.lower()
    if name.endswith(".csv"):
        text = _to_csv(points)
    elif name.endswith((".mrk.json", ".fcsv")):
        if points.ndim != 3:
            raise InputError(f"{target}: Slicer's point files are 3D, found 2D points; use .csv")
        text = _to_fcsv(points) if name.endswith(".fcsv") else _to_markups(points)
    else:
        raise InputError(f"{target}: points are written as .csv, .mrk.json or .fcsv, found {target.suffix!r}")
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


# -- tables ---------------------------------------------------------------------------------------


def _from_table(place: Path, lines: list[tuple[int, str]]) -> tuple[list[list[float]], list[str]]:
    if not lines:
        return [], []
    header = lines[0][1]
    delimiter = next((c for c in (",", ";", "\t") if c in header), ",")
    columns = [c.strip().lower() for c in next(csv.reader([header], delimiter=delimiter))]
    axes = [a for a in "xyz" if a in columns]
    if axes not in (["x", "y"], ["x", "y", "z"]):
        raise InputError(
            f"{place}: the first line names the columns and must have x,y (2D) or x,y,z (LPS mm), found {header!r}"
        )
    name_column = next((columns.index(c) for c in NAME_COLUMNS if c in columns), None)
    points, names = [], []
    for number, line in lines[1:]:
        row = next(csv.reader([line], delimiter=delimiter))
        if len(row) < len(columns):
            raise InputError(f"{place}: line {number} has {len(row)} columns, expected {len(columns)}")
        points.append([_number(place, f"line {number}", row[columns.index(a)]) for a in axes])
        names.append(row[name_column].strip() if name_column is not None else "")
    return points, names


def _number(place: Path, where: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"{place}: {where} has {value!r} where a finite number is expected")
    return number


def _to_csv(points: PointSet) -> str:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    named = any(points.names)
    table.writerow([*"xyz"[: points.ndim], *(["name"] if named else [])])
    for point, name in zip(points.points.tolist(), points.names, strict=True):
        table.writerow([*map(repr, point), *([name] if named else [])])
    return stream.getvalue()


# -- Slicer ---------------------------------------------------------------------------------------


def _system(place: Path, value: object) -> str:
    found = _SYSTEMS.get(str(value).strip().upper())
    if found is None:
        raise InputError(f"{place}: the coordinate system is LPS or RAS, found {value!r}")
    return found


def _to_lps(point: Sequence[float], system: str) -> list[float]:
    x, y, z = point
    return [-x, -y, z] if system == "RAS" else [x, y, z]


def _from_fcsv(place: Path, text: str) -> tuple[list[list[float]], list[str]]:
    system = "RAS"  # files from before the header line existed
    columns = list(FCSV_COLUMNS)
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            key, _, value = line.lstrip("# ").partition("=")
            if key.strip() == "CoordinateSystem":
                system = _system(place, value)
            elif key.strip() == "columns":
                columns = [c.strip() for c in value.split(",")]
        elif line.strip():
            lines.append((number, line))
    if not {"x", "y", "z"} <= set(columns):
        raise InputError(f"{place}: the columns line must name x, y and z, found {','.join(columns)!r}")
    points, names = [], []
    for number, line in lines:
        row = next(csv.reader([line]))
        if len(row) < 1 + max(columns.index(a) for a in "xyz"):
            raise InputError(f"{place}: line {number} has {len(row)} columns, expected {len(columns)}")
        values = [_number(place, f"line {number}", row[columns.index(a)]) for a in "xyz"]
        points.append(_to_lps(values, system))
        label = columns.index("label") if "label" in columns else len(row)
        names.append(row[label] if label < len(row) else "")
    return points, names


def _to_fcsv(points: PointSet) -> str:
    stream = io.StringIO()
    stream.write("# Markups fiducial file version = 5.6\n# CoordinateSystem = LPS\n")
    stream.write(f"# columns = {','.join(FCSV_COLUMNS)}\n")
    table = csv.writer(stream, lineterminator="\n")
    for i, (point, name) in enumerate(zip(points.points.tolist(), points.names, strict=True), 1):
        table.writerow([i, *map(repr, point), 0, 0, 0, 1, 1, 1, 0, name, "", ""])
    return stream.getvalue()


def _from_markups(place: Path, text: str) -> tuple[list[list[float]], list[str]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: line {error.lineno} is not valid JSON ({error.msg})") from error
    lists = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(lists, list) or not all(isinstance(m, dict) for m in lists):
        raise InputError(f"{place}: expected a Slicer markups file with a list 'markups'")
    points, names = [], []
    for markup in lists:
        system = _system(place, markup.get("coordinateSystem", "LPS"))
        for i, control in enumerate(markup.get("controlPoints") or [], 1):
            name = str(control.get("label", "")) if isinstance(control, dict) else ""
            position = control.get("position") if isinstance(control, dict) else None
            where = f"control point {i} ({name or 'unnamed'})"
            if not isinstance(position, list) or len(position) != 3:
                raise InputError(
                    f"{place}: {where} has no position of three numbers; place it in Slicer or remove it"
                )
            points.append(_to_lps([_number(place, where, v) for v in position], system))
            names.append(name)
    return points, names


def _to_markups(points: PointSet) -> str:
    controls = [
        {"id": str(i), "label": name, "position": point, "selected": True, "visibility": True}
        | {"positionStatus": "defined"}
        for i, (point, name) in enumerate(zip(points.points.tolist(), points.names, strict=True), 1)
    ]
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    document = {
        "@schema": f"{schema}markups-schema-v1.0.3.json#",
        "markups": [
            {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": controls}
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
