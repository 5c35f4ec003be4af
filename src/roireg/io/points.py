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

from roireg.core.errors import InputError, warn_header
from roireg.core.files import atomic_path
from roireg.io.documents import parse_json

__all__ = ["PointSet", "pair_points", "read_points", "write_points"]

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
    rows : N places in the file, from 0; points that were not placed have one, too.
    """

    points: NDArray[np.float64]
    names: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise InputError(f"points have shape (N, 2) or (N, 3), found {points.shape}")
        names = tuple(self.names) or ("",) * len(points)
        if len(names) != len(points):
            raise InputError(f"{len(points)} points need as many names, found {len(names)}")
        rows = tuple(self.rows) or tuple(range(len(points)))
        if len(rows) != len(points):
            raise InputError(f"{len(points)} points need as many rows, found {len(rows)}")
        if not np.isfinite(points).all():
            raise InputError(f"point {int((~np.isfinite(points)).any(1).argmax()) + 1} has coordinates not finite")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "rows", rows)

    @property
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return int(self.points.shape[1])

    def __len__(self) -> int:
        return len(self.points)

    def take(self, index: Sequence[int]) -> PointSet:
        """Return some of the points, in the order of their indices."""
        rows = [int(i) for i in index]
        return PointSet(self.points[rows], tuple(self.names[i] for i in rows), tuple(self.rows[i] for i in rows))


def pair_points(
    fixed: PointSet, moving: PointSet, *, fixed_name: str = "fixed points", moving_name: str = "moving points"
) -> tuple[PointSet, PointSet]:
    """Return the corresponding points of two files, row i of the one to row i of the other.

    Where every point of both has a name of its own and some names occur in both, equal names correspond. Otherwise
    row i corresponds to row i, whatever was not placed left out on both sides. What is left without a partner, and
    that names changed the order, is told by a warning.

    Raises
    ------
    InputError
        When the points differ in dimension, or without common names in number, or none is left.
    """
    if fixed.ndim != moving.ndim:
        raise InputError(f"{moving_name}: the points are {moving.ndim}D, those of {fixed_name} {fixed.ndim}D")
    common = set(fixed.names) & set(moving.names)
    by_name = bool(common) and all("" not in p.names and len(set(p.names)) == len(p) for p in (fixed, moving))
    if by_name:
        keys: tuple[tuple[Any, ...], ...] = (fixed.names, moving.names)
        if fixed.names != moving.names and [n for n in moving.names if n in common] != [
            n for n in fixed.names if n in common
        ]:
            warn_header(moving_name, f"its points are in another order than those of {fixed_name}; paired by name")
    else:
        count = [max(p.rows, default=-1) + 1 for p in (fixed, moving)]
        if len(fixed) == count[0] and len(moving) == count[1] and count[0] != count[1]:
            raise InputError(
                f"{moving_name}: found {len(moving)} points but {len(fixed)} in {fixed_name}; row i of one file must "
                "correspond to row i of the other, or every point have a name of its own"
            )
        keys = (fixed.rows, moving.rows)
        _tell_other_names(fixed, moving, common, fixed_name, moving_name)
    places = {key: i for i, key in enumerate(keys[1])}
    matches = [(i, places[key]) for i, key in enumerate(keys[0]) if key in places]
    if not matches:
        raise InputError(f"{moving_name}: none of its points corresponds to one of {fixed_name}; check their names")
    for points, name, used in (
        (fixed, fixed_name, {i for i, _ in matches}),
        (moving, moving_name, {j for _, j in matches}),
    ):
        alone = [points.names[i] or f"row {points.rows[i] + 1}" for i in range(len(points)) if i not in used]
        if alone:
            warn_header(name, f"without a partner on the other side, left out: {_listed(alone)}")
    return fixed.take([i for i, _ in matches]), moving.take([j for _, j in matches])


def _tell_other_names(fixed: PointSet, moving: PointSet, common: set[str], fixed_name: str, moving_name: str) -> None:
    """Warn where rows correspond although their names, which both files have, say something else."""
    there = dict(zip(moving.rows, moving.names, strict=True))
    pairs = [(name, there[row]) for row, name in zip(fixed.rows, fixed.names, strict=True) if row in there]
    other = [f"{a or 'unnamed'} with {b or 'unnamed'}" for a, b in pairs if a != b]
    if other and common - {""}:
        warn_header(
            moving_name,
            f"its points are paired with those of {fixed_name} row by row although names differ ({_listed(other)}); "
            "give every point a name of its own",
        )


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def read_points(path: str | Path) -> PointSet:
    """Read landmarks from .csv, .mrk.json or .fcsv.

    A CSV has a header with the columns x, y (2D, pixels or mm) or x, y, z (LPS mm), in any order; a column
    `name`, `label` or `id` gives names, other columns are ignored. Slicer files state their coordinate system
    (LPS or RAS); RAS is converted. Points that Slicer knows as not placed are left out, with a warning.

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
        return _from_markups(place, text)
    if name.endswith(".fcsv"):
        return _from_fcsv(place, text)
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
    columns = [c.strip().lower() for c in _row(place, lines[0][0], header, delimiter)]
    axes = [a for a in "xyz" if a in columns]
    if axes not in (["x", "y"], ["x", "y", "z"]):
        raise InputError(
            f"{place}: the first line names the columns and must have x,y (2D) or x,y,z (LPS mm), found "
            f"{_shown(header)}"
        )
    twice = [a for a in axes if columns.count(a) > 1]
    if twice:
        raise InputError(f"{place}: the first line names the column {twice[0]} twice; leave one out")
    name_column = next((columns.index(c) for c in NAME_COLUMNS if c in columns), None)
    points, names = [], []
    for number, line in lines[1:]:
        row = _row(place, number, line, delimiter)
        # What stands beyond the last column may be decimals that a comma cut off.
        if len(row) < len(columns) or any(cell.strip() for cell in row[len(columns) :]):
            raise InputError(f"{place}: line {number} has {len(row)} columns, expected {len(columns)}")
        points.append([_number(place, f"line {number}", row[columns.index(a)]) for a in axes])
        names.append(row[name_column].strip() if name_column is not None else "")
    return points, names


def _row(place: Path, number: int, line: str, delimiter: str = ",") -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error as error:
        raise InputError(f"{place}: line {number} is no row of a table ({error}); correct it") from error


def _number(place: Path, where: str, value: Any) -> float:
    try:
        odd = isinstance(value, bool) or "_" in str(value)  # 1_000 is a number for Python alone
        number = float("nan") if odd else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"{place}: {where} has {_shown(value)} where a finite number is expected")
    return number


def _shown(value: Any) -> str:
    """Return a value for a message, cut to a length one can read."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "an integer of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


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
    system = _SYSTEMS.get(str(value).strip().upper())
    if system is None:
        raise InputError(f"{place}: the coordinate system is LPS or RAS, found {_shown(value)}")
    return system


def _to_lps(point: Sequence[float], system: str) -> list[float]:
    x, y, z = point
    return [-x, -y, z] if system == "RAS" else [x, y, z]


def _from_fcsv(place: Path, text: str) -> PointSet:
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
        raise InputError(f"{place}: the columns line must name x, y and z, found {_shown(','.join(columns))}")
    points, names, rows, unplaced = [], [], [], []
    for place_in_list, (number, line) in enumerate(lines):
        row = _row(place, number, line)
        if len(row) < 1 + max(columns.index(a) for a in "xyz"):
            raise InputError(f"{place}: line {number} has {len(row)} columns, expected {len(columns)}")
        label = columns.index("label") if "label" in columns else len(row)
        name = row[label] if label < len(row) else ""
        # Slicer 5 adds two columns that its header does not name; the first is the state of the point.
        if row[len(columns) : len(columns) + 1] not in ([], [""], [_FCSV_PLACED]):
            unplaced.append(name or f"line {number}")
            continue
        values = [_number(place, f"line {number}", row[columns.index(a)]) for a in "xyz"]
        points.append(_to_lps(values, system))
        names.append(name)
        rows.append(place_in_list)
    return _of_placed(place, points, names, rows, unplaced)


def _to_fcsv(points: PointSet) -> str:
    stream = io.StringIO()
    stream.write("# Markups fiducial file version = 5.6\n# CoordinateSystem = LPS\n")
    stream.write(f"# columns = {','.join(FCSV_COLUMNS)}\n")
    table = csv.writer(stream, lineterminator="\n")
    for i, (point, name) in enumerate(zip(points.points.tolist(), points.names, strict=True), 1):
        table.writerow([i, *map(repr, point), 0, 0, 0, 1, 1, 1, 0, name, "", ""])
    return stream.getvalue()


def _from_markups(place: Path, text: str) -> PointSet:
    content = parse_json(text, str(place))
    lists = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(lists, list) or not all(isinstance(m, dict) for m in lists):
        raise InputError(f"{place}: expected a Slicer markups file with a list 'markups'")
    controls = [(markup, control) for markup in lists for control in _controls(place, markup)]
    points, names, rows, unplaced = [], [], [], []
    for row, (markup, control) in enumerate(controls):
        system = _system(place, markup.get("coordinateSystem", "LPS"))
        name = str(control.get("label", ""))
        if str(control.get("positionStatus", "defined")) not in _PLACED:
            unplaced.append(name or f"point {row + 1}")
            continue
        position = control.get("position")
        where = f"control point {row + 1} ({_shown(name)[1:-1] or 'unnamed'})"
        if not isinstance(position, list) or len(position) != 3:
            raise InputError(f"{place}: {where} has no position of three numbers; place it in Slicer or remove it")
        points.append(_to_lps([_number(place, where, v) for v in position], system))
        names.append(name)
        rows.append(row)
    return _of_placed(place, points, names, rows, unplaced)


def _of_placed(
    place: Path, points: list[list[float]], names: list[str], rows: list[int], unplaced: list[str]
) -> PointSet:
    """Return the points of Slicer that are placed, with a warning that names the others."""
    if not points:
        raise InputError(f"{place}: the file holds no points{' that are placed' if unplaced else ''}")
    if unplaced:
        warn_header(str(place), f"points that were not placed are left out: {_listed(unplaced)}")
    return PointSet(np.array(points, dtype=np.float64), tuple(names), tuple(rows))


_PLACED = ("defined",)
"""Of Slicer's states; the others are undefined, preview and missing."""

_FCSV_PLACED = "2"
"""The same as a number; 0 is undefined, 1 preview, 3 missing."""


def _controls(place: Path, markup: dict[str, Any]) -> list[dict[str, Any]]:
    _system(place, markup.get("coordinateSystem", "LPS"))
    controls = markup.get("controlPoints")
    controls = [] if controls is None else controls
    if not isinstance(controls, list) or not all(isinstance(c, dict) for c in controls):
        raise InputError(f"{place}: 'controlPoints' is a list of points, found {_shown(controls)}")
    unit = markup.get("coordinateUnits", "mm")
    # A coded unit begins with its sign: ["mm", "UCUM", "millimeter"].
    sign = unit[0] if isinstance(unit, list) and unit else unit
    if controls and sign not in ("mm", ""):
        raise InputError(f"{place}: coordinates are read in mm, found the unit {_shown(unit)}; convert them")
    return controls


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
