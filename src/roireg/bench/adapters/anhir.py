"""ANHIR and CIMA: stained sections with landmarks, listed in a CSV of pairs or simply side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from roireg.bench.adapters.base import Found, FoundPair, read_text, unique
from roireg.core.errors import InputError
from roireg.io import PointSet

__all__ = ["anhir"]

COLUMNS = ("Source image", "Source landmarks", "Target image", "Target landmarks")
RASTER = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
SWAPS = (("landmarks", "dataset"), ("landmarks", "images"))
"""How the folder of landmarks differs from that of the images, where they are not the same."""


def anhir(source: Path) -> Found:
    """Read a list of pairs as ANHIR publishes it, or folders of images and landmarks as CIMA does.

    With a list the target image is fixed and the source image moving; pairs without landmarks on both sides are left
    out. Without one, all images of a folder that have landmarks are paired with each other, the first by name being
    fixed. Of lists of unequal length the first rows are taken, as the challenge does.

    Parameters
    ----------
    source : folder, or the CSV of pairs itself.
    """
    tables = [source] if source.is_file() else [p for p in sorted(source.glob("*.csv")) if _is_table(p)]
    pairs = _listed(unique(tables, source, "one CSV of pairs")) if tables else _side_by_side(source)
    return Found(
        name="anhir",
        ndim=2,
        task="multimodal",
        fixed="histology, one stain",
        moving="histology, another stain",
        pairs=list(pairs),
        terms="ANHIR / CIMA histology landmarks; cite Borovec et al., IEEE TMI 39(10):3042-3052, 2020",
        spacing_known=False,
    )


def _is_table(path: Path) -> bool:
    return set(COLUMNS) <= set(read_text(path).partition("\n")[0].strip().split(","))


def _listed(table: Path) -> Iterator[FoundPair]:
    reader = csv.DictReader(io.StringIO(read_text(table)))
    if not set(COLUMNS) <= set(reader.fieldnames or ()):
        raise InputError(f"{table}: expected the columns {', '.join(COLUMNS)}, found {reader.fieldnames}")
    roots = [table.parent, *sorted(p for p in table.parent.iterdir() if p.is_dir())]
    for number, row in enumerate(reader):
        if not all((row[column] or "").strip() for column in COLUMNS):
            continue
        files = {column: _located(row[column].strip(), roots, table) for column in COLUMNS}
        yield _pair(
            f"{number:03d}_{files['Target image'].stem}_{files['Source image'].stem}",
            (files["Target image"], files["Target landmarks"]),
            (files["Source image"], files["Source landmarks"]),
        )


def _located(name: str, roots: list[Path], table: Path) -> Path:
    for root in roots:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{table}: there is no file {name} beside it or one folder below; add it or remove its line")


def _side_by_side(source: Path) -> Iterator[FoundPair]:
    groups: dict[Path, list[tuple[Path, Path]]] = {}
    for points in sorted(source.rglob("*.csv")):
        folders = [points.parent, *(Path(str(points.parent).replace(*swap)) for swap in SWAPS)]
        images = [file for f in folders for e in RASTER if (file := f / f"{points.stem}{e}").is_file()]
        if images:
            groups.setdefault(points.parent, []).append((images[0], points))
    for folder, members in groups.items():
        tissue = "_".join(folder.relative_to(source).parts)
        for fixed, moving in combinations(members, 2):
            names = [part for part in (tissue, fixed[0].stem, moving[0].stem) if part]
            yield _pair("_".join(names), fixed, moving)


def _pair(name: str, fixed: tuple[Path, Path], moving: tuple[Path, Path]) -> FoundPair:
    points = [_landmarks(file) for _, file in (fixed, moving)]
    count = min(len(p) for p in points)
    longer = max(len(p) for p in points)
    return FoundPair(
        id=name,
        fixed=fixed[0],
        moving=moving[0],
        fixed_points=PointSet(points[0][:count]),
        moving_points=PointSet(points[1][:count]),
        notes="" if longer == count else f"the first {count} of {longer} landmarks",
    )


def _landmarks(path: Path) -> np.ndarray:
    """Read a CSV with the columns X and Y, pixels; others, such as a running number, are left out."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    if not {"x", "y"} <= set(columns):
        raise InputError(f"{path}: expected landmarks with the columns X and Y, found {reader.fieldnames}")
    try:
        found = np.array([[float(row[columns[axis]]) for axis in "xy"] for row in reader], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: line {reader.line_num}: a coordinate is no number; correct the file") from error
    if not len(found):
        raise InputError(f"{path}: the file holds no landmarks")
    return found
