"""ANHIR and CIMA: stained sections with landmarks, listed in a CSV of pairs or simply side by side."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from roireg.core.errors import InputError
from roireg_bench.adapters.base import Found, FoundPair, as_points, read_text, unique

__all__ = ["anhir"]

COLUMNS = ("Source image", "Source landmarks", "Target image", "Target landmarks")
RASTER = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
SWAPS = tuple((points, images) for points in ("landmarks", "annotations") for images in ("dataset", "images"))
"""How the folder of landmarks differs from that of the images, where they are not the same."""


def anhir(source: Path) -> Found:
    """Read a list of pairs as ANHIR publishes it, or folders of images and landmarks as CIMA does.

    With a list the target image is fixed and the source image moving; pairs without landmarks on both sides are left
    out. Without one, all images of a folder that have landmarks are paired with each other, the first by name being
    fixed; landmarks of another scale than the images are scaled. Of lists of unequal length the first rows are taken,
    as the challenge does.

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
            _Section(files["Target image"], files["Target landmarks"]),
            _Section(files["Source image"], files["Source landmarks"]),
        )


def _located(name: str, roots: list[Path], table: Path) -> Path:
    for root in roots:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{table}: there is no file {name} beside it or one folder below; add it or remove its line")


@dataclass(frozen=True)
class _Section:
    """An image, its landmark file, and the size of the image relative to that which the landmarks were put on."""

    image: Path
    landmarks: Path
    scale: float = 1.0


def _side_by_side(source: Path) -> Iterator[FoundPair]:
    groups: dict[Path, list[_Section]] = {}
    for points in sorted(source.rglob("*.csv")):
        section = _section(points, source)
        if section is not None:
            groups.setdefault(points.parent, []).append(section)
    paired: set[tuple[Path, Path]] = set()
    # Of the landmarks of several people those count that lie beside the images, then those of who placed most.
    for folder, members in sorted(groups.items(), key=lambda g: (g[0] != g[1][0].image.parent, -len(g[1]), g[0])):
        tissue = "_".join(folder.relative_to(source).parts)
        for fixed, moving in combinations(members, 2):
            if (fixed.image, moving.image) not in paired:
                paired.add((fixed.image, moving.image))
                names = [part for part in (tissue, fixed.landmarks.stem, moving.landmarks.stem) if part]
                yield _pair("_".join(names), fixed, moving)


def _section(points: Path, source: Path) -> _Section | None:
    for place, scale in _places_of_images(points.parent, source):
        for ending in RASTER:
            if (image := place / f"{points.stem}{ending}").is_file():
                return _Section(image, points, scale)
    return None


def _places_of_images(folder: Path, source: Path) -> Iterator[tuple[Path, float]]:
    """Yield where the images of a folder of landmarks may lie, and their scale relative to the landmarks.

    CIMA has images in ``TISSUE/scale-5pc``, ``TISSUE/scale-50pc`` ..., and what somebody annotated, at one of the
    scales, in ``TISSUE/user-NAME_scale-50pc``.
    """
    within = folder.relative_to(source).as_posix()
    near = [folder, *(source / within.replace(*swap) for swap in SWAPS)]
    yield from ((place, 1.0) for place in near)
    if (own := _percent(folder)) is None:
        return
    for place in near:
        scales = {percent: p for p in place.parent.glob("scale-*pc") if (percent := _percent(p)) is not None}
        for percent in sorted(scales, key=lambda percent: (percent != own, -percent)):
            yield scales[percent], percent / own


def _percent(folder: Path) -> int | None:
    match = re.fullmatch(r"(?:.+_)?scale-([1-9]\d*)pc", folder.name)
    return None if match is None else int(match[1])


def _pair(name: str, fixed: _Section, moving: _Section) -> FoundPair:
    points = [_landmarks(section) for section in (fixed, moving)]
    count = min(len(p) for p in points)
    longer = max(len(p) for p in points)
    return FoundPair(
        id=name,
        fixed=fixed.image,
        moving=moving.image,
        fixed_points=as_points(points[0][:count], fixed.landmarks),
        moving_points=as_points(points[1][:count], moving.landmarks),
        notes="" if longer == count else f"the first {count} of {longer} landmarks",
    )


def _landmarks(section: _Section) -> np.ndarray:
    """Read a CSV with the columns X and Y, pixels; others, such as a running number, are left out."""
    path = section.landmarks
    reader = csv.DictReader(io.StringIO(read_text(path)))
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    if not {"x", "y"} <= set(columns):
        raise InputError(f"{path}: expected landmarks with the columns X and Y, found {reader.fieldnames}")
    try:
        points = np.array([[float(row[columns[axis]]) for axis in "xy"] for row in reader], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: line {reader.line_num}: a coordinate is no number; correct the file") from error
    if not len(points):
        raise InputError(f"{path}: the file holds no landmarks")
    # Pixel centres are whole numbers, so the corner of an image is at -0.5 at every scale.
    return points * section.scale + (section.scale - 1) / 2
