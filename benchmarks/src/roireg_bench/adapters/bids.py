"""BIDS: images of a derivative with their discrete segmentations (dseg)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from roireg.core.errors import InputError
from roireg_bench.adapters.base import NIFTI, Found, FoundPair, name_of, nifti_stem, read_json, read_text, ring

__all__ = ["bids"]

SUFFIXES = ("T1w", "T2w", "FLAIR", "PDw", "T2star", "inplaneT1", "inplaneT2", "CT")
"""Anatomical images, those most often segmented first."""


@dataclass(frozen=True)
class _File:
    path: Path
    suffix: str
    entities: dict[str, str]

    def matches(self, other: _File) -> bool:
        """Tell whether both are of one subject, session, space and so on."""
        return self.scan == other.scan

    @property
    def scan(self) -> dict[str, str]:
        """Entities but for how a file was made; ``space-orig`` is the space of the image itself."""
        return {k: v for k, v in self.entities.items() if k != "desc" and (k, v) != ("space", "orig")}


def bids(source: Path) -> Found:
    """Read a BIDS derivative with ``*_dseg.nii.gz`` and images of equal entities apart from ``desc``.

    Images that are not in the derivative are looked for in the data sets that it was made from, see `_origins`. Where
    a subject has several sessions, each is registered onto the one before; otherwise every subject onto the next. Of
    several choices the native space is taken, the segmentation without ``desc``, else the first by name, and the
    first suffix of `SUFFIXES`. Label names come from a ``dseg.tsv`` with index and name.
    """
    description = source / "dataset_description.json"
    content = read_json(description) if description.is_file() else {}
    files = _files(source.rglob("sub-*"))
    raw = _files(p for origin in _origins(source, content) for p in origin.glob("sub-*/**/sub-*"))
    by_session: dict[tuple[str, str], tuple[_File, _File]] = {}
    segmented = [f for f in files if f.suffix == "dseg"]
    for labels in sorted(segmented, key=lambda f: ("space" in f.scan, "desc" in f.entities, f.path.name)):
        fitting = ([f for f in listing if f.suffix in SUFFIXES and f.matches(labels)] for listing in (files, raw))
        if images := next(filter(None, fitting), None):
            image = min(images, key=lambda f: (SUFFIXES.index(f.suffix), f.path.name))
            by_session.setdefault((labels.entities["sub"], labels.entities.get("ses", "")), (image, labels))
    if not by_session:
        raise InputError(
            f"{source}: expected images with segmentations such as sub-01_T1w.nii.gz and sub-01_dseg.nii.gz, found "
            f"{len(segmented)} segmentations and none with an image of equal entities"
        )
    sessions: dict[str, list[str]] = {}
    for subject, session in sorted(by_session):
        sessions.setdefault(subject, []).append(session)
    repeated = any(len(own) > 1 for own in sessions.values())
    pairs = []
    if repeated:
        for subject, own in sessions.items():
            pairs += [_pair(by_session, (subject, a), (subject, b)) for a, b in pairwise(own)]
    else:
        pairs = [_pair(by_session, (a, sessions[a][0]), (b, sessions[b][0])) for a, b in ring(sorted(sessions))]
    suffix = next(iter(by_session.values()))[0].suffix
    return Found(
        name=name_of(content.get("Name"), source),
        ndim=3,
        task="intra-subject" if repeated else "inter-subject",
        fixed=suffix,
        moving=suffix,
        pairs=pairs,
        terms=str(content.get("License", "see the data set")),
        labels=_names(source, next(iter(by_session.values()))[1]),
    )


def _origins(source: Path, content: dict[str, Any]) -> list[Path]:
    """Return the data sets that a derivative names as its sources, and the one whose ``derivatives`` it is in."""
    links, sources = content.get("DatasetLinks"), content.get("SourceDatasets")
    named = list(links.values()) if isinstance(links, dict) else []
    named += [s.get("URL", "") for s in sources if isinstance(s, dict)] if isinstance(sources, list) else []
    paths = [unquote(str(uri).removeprefix("file://")) for uri in named]
    places = [source / path for path in paths if path and not re.match(r"\w{2,}:", path)]
    places += [p.parent for p in (source.resolve(), source.resolve().parent) if p.name == "derivatives"]
    return [place for place in places if place.is_dir()]


def _files(paths: Iterable[Path]) -> list[_File]:
    return [f for p in sorted(set(paths)) if p.name.endswith(NIFTI) and (f := _parsed(p)) is not None]


def _parsed(path: Path) -> _File | None:
    *parts, suffix = nifti_stem(path).split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    return _File(path, suffix, entities) if "sub" in entities else None


def _pair(
    by_session: dict[tuple[str, str], tuple[_File, _File]], fixed: tuple[str, str], moving: tuple[str, str]
) -> FoundPair:
    (image, labels), (other, other_labels) = by_session[fixed], by_session[moving]
    names = ["-".join(part for part in key if part) for key in (fixed, moving)]
    return FoundPair("_".join(names), image.path, other.path, labels.path, other_labels.path)


def _names(source: Path, labels: _File) -> dict[int, str] | None:
    """Return label names of the table beside a segmentation, or of one for the whole data set."""
    description = labels.entities.get("desc")
    general = f"desc-{description}_dseg.tsv" if description else "dseg.tsv"
    for file in (labels.path.with_name(f"{nifti_stem(labels.path)}.tsv"), source / general, source / "dseg.tsv"):
        if file.is_file():
            return _table(file)
    return None


def _table(file: Path) -> dict[int, str]:
    rows = csv.DictReader(io.StringIO(read_text(file)), delimiter="\t")
    if not {"index", "name"} <= set(rows.fieldnames or ()):
        raise InputError(f"{file}: expected the columns index and name, found {rows.fieldnames}")
    names = {}
    for row in rows:
        try:
            names[int(row["index"])] = str(row["name"] or "")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{file}: line {rows.line_num}: expected a whole number as index, found {row['index']!r}; correct it"
            ) from error
    return {index: name for index, name in names.items() if index > 0}
