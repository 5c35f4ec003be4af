"""``info``: what is in a file, in words and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.text import Text
from scipy.optimize import linear_sum_assignment

from roireg.app.console import Outcome, Session
from roireg.app.stored import RECORD, stored_result
from roireg.app.summary import escape, listed, number, rows_table, size_of
from roireg.core.bspline import BSpline
from roireg.core.errors import InputError
from roireg.core.files import extension_of, is_complete
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, Chain, DisplacementField, Transform, VelocityField, in_words
from roireg.io import PointSet, list_series, read_pairs, read_points
from roireg.io.documents import read_json
from roireg.io.fields import FIELD
from roireg.io.images import read_stored
from roireg.io.raster import Selection, Stored
from roireg.jobs.files import kind_of
from roireg.jobs.reading import load_transform
from roireg.pipeline import PRESETS, SavedRegistration, load

__all__ = ["axis_letters", "describe", "say_files", "say_presets"]

LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
"""Body direction at the negative and at the positive end of every LPS world axis."""


def say_presets(session: Session) -> Outcome:
    """Print every setting of every preset as YAML documents."""
    settings = {name: make().model_dump(mode="json") for name, make in PRESETS.items()}
    documents = [f"# preset {name}\n{yaml.safe_dump(s, sort_keys=False)}" for name, s in settings.items()]
    session.say(Text("---\n".join(documents).rstrip()))
    return Outcome({"presets": settings}, printed=True)


def say_files(session: Session, paths: Sequence[Path], picture: Mapping[str, Any]) -> Outcome:
    """Describe every file, `picture` as for `read_image`."""
    documents = [describe(path, **picture) for path in paths]
    for document in documents:
        _say(session, document)
    return Outcome({"files": documents}, printed=True)


def describe(path: Path, **picture: Any) -> dict[str, Any]:
    """Return what is in a file as plain values, its type under ``kind``; `picture` as for `read_image`."""
    kind = kind_of(path)
    document: dict[str, Any] = {"file": str(path), "kind": kind}
    if kind == "points":
        return document | _points(read_points(path))
    if kind == "pairs":
        return document | _pairs(path)
    if kind == "result" and (path / RECORD).is_file() and is_complete(path, record=RECORD):
        if "verdict" not in (read_json(path / RECORD, names=True) or {}) and (path / "pairs").is_dir():
            return describe(path / "pairs")  # of `match` or `prompt`
        stored_result(path)
        return document | _result(load(path))
    if kind in ("transform", "result"):
        return document | {"kind": "transform"} | _transform(load_transform(path))
    if path.is_dir():
        series = list_series(path)
        document["series"] = [
            {"uid": s.uid, "modality": s.modality, "description": s.description, "slices": len(s.files)}
            for s in series
        ]
        if len(series) > 1:
            return document | {"kind": "several DICOM series"}
    stored = read_stored(path, Selection(**picture))
    kinds = len(stored.array), stored.array.dtype.kind, extension_of(path) in FIELD
    if kinds == (stored.grid.ndim, "f", True):
        return document | {"kind": "transform"} | _transform(load_transform(path))
    return document | _image(path, stored)


def axis_letters(grid: Grid) -> str:
    """Return the body directions the voxel axes x, y, z run towards, such as "LPS"; "" in 2D.

    Oblique axes take the letter of the nearest body direction, each used once.
    """
    if grid.ndim == 2:
        return ""
    world, storage = linear_sum_assignment(-np.abs(grid.direction))
    letters = [""] * 3
    for w, s in zip(world, storage, strict=True):
        letters[2 - s] = LETTERS[w][int(grid.direction[w, s] > 0)]
    return "".join(letters)


def _grid(grid: Grid) -> dict[str, Any]:
    _, spacing, origin, direction = grid.itk
    d = grid.ndim
    corners = grid.corners()
    return {
        "size": grid.shape[::-1],
        "spacing": spacing,
        "origin": origin,
        "direction": np.reshape(direction, (d, d)),
        "orientation": axis_letters(grid),
        "oblique": bool(np.abs(grid.direction).max(axis=0).min() < 1 - 1e-4),
        "from": corners.min(axis=0),
        "to": corners.max(axis=0),
    }


def _image(path: Path, stored: Stored) -> dict[str, Any]:
    values = stored.array
    whole = values.dtype.kind != "f"
    known = values if whole else values[np.isfinite(values)]
    if not known.size:
        raise InputError(f"{path}: all {values.size} voxels are NaN or infinite; compute the image again")
    document = {
        "dimension": stored.grid.ndim,
        "type": str(values.dtype),
        "channels": len(values),
        "unit": stored.unit,
        **_grid(stored.grid),
        "minimum": known.min().item(),
        "maximum": known.max().item(),
        "mean": float(known.mean(dtype=np.float64)),
        "text": size_of(stored.grid, stored.unit),
    }
    if known.size < values.size:
        document["not_finite"] = values.size - known.size
    if len(values) == 1 and whole:
        ids = np.unique(values)
        if len(ids) <= 64:
            document["values"] = [int(v) for v in ids]
    return document | ({"metadata": dict(stored.metadata)} if stored.metadata else {})


def _points(points: PointSet) -> dict[str, Any]:
    return {
        "dimension": points.ndim,
        "count": len(points),
        "from": points.points.min(axis=0),
        "to": points.points.max(axis=0),
        "names": [n for n in points.names if n],
    }


def _pairs(path: Path) -> dict[str, Any]:
    pairs = read_pairs(path)
    return {
        "dimension": pairs.fixed.grid.ndim,
        "moving_regions": len(pairs.moving),
        "fixed_regions": len(pairs.fixed),
        "moving_grid": _grid(pairs.moving.grid),
        "fixed_grid": _grid(pairs.fixed.grid),
        "pairs": [
            {
                "name": p.name,
                "similarity": p.similarity,
                "confidence": p.confidence,
                "source": p.source,
                "status": p.status,
                "moving_centroid": pairs.moving.centroids[p.moving],
                "fixed_centroid": pairs.fixed.centroids[p.fixed],
            }
            for p in pairs.pairs
        ],
    }


def _result(saved: SavedRegistration) -> dict[str, Any]:
    record = saved.record
    inputs = saved.provenance.get("inputs", {})
    document = {
        "verdict": saved.verdict,
        "reasons": saved.reasons,
        "worse": record.get("worse", []),
        **{side: inputs.get(side, {}).get("path") for side in ("fixed", "moving")},
        "pairs": record.get("pairs"),
        "made_by": f"roireg {saved.provenance.get('roireg', '')}".strip(),
        "files": sorted({name.split("/")[0] for name in (*record.get("written", ()), RECORD)}),
    }
    return document | (_transform(saved.transform) if (saved.folder / "transform.h5").is_file() else {})


def _transform(transform: Transform) -> dict[str, Any]:
    parts = transform.transforms if isinstance(transform, Chain) else (transform,)
    return {"dimension": transform.ndim, "motion": in_words(transform), "parts": [_part(p) for p in parts]}


def _part(part: Transform) -> dict[str, Any]:
    if isinstance(part, Affine):
        d = part.ndim
        stretch = np.linalg.svd(part.matrix[:d, :d], compute_uv=False)
        return {
            "type": "affine",
            "matrix": part.matrix,
            "translation": part.matrix[:d, d],
            "stretch": stretch,
            "determinant": float(np.linalg.det(part.matrix[:d, :d])),
        }
    field = part.field if isinstance(part, VelocityField | BSpline) else part
    if not isinstance(field, DisplacementField):
        return {"type": type(part).__name__}
    length = field.displacement.norm(dim=0)
    return {
        "type": "displacement field",
        **_grid(field.grid),
        "mean_displacement": float(length.mean()),
        "largest_displacement": float(length.max()),
        "text": size_of(field.grid, _unit(field.grid.ndim)),
    }


def _unit(ndim: int) -> str:
    """Return the unit of a transform, whose file does not say whether flat images were in mm or pixels."""
    return "mm" if ndim == 3 else "mm or px"


# -- text -----------------------------------------------------------------------------------------


def _say(session: Session, document: dict[str, Any]) -> None:
    session.say(f"[bold]{escape(document['file'])}[/]  {document['kind']}")
    rows = {
        "result": _result_rows,
        "points": _point_rows,
        "pairs": _pair_rows,
        "transform": _transform_rows,
        "image": _image_rows,
    }
    session.say(rows_table(rows.get(document["kind"], _series_rows)(document)))


def _triple(values: Any) -> str:
    return ", ".join(f"{v:.5g}" for v in np.asarray(values, dtype=np.float64).ravel())


def _grid_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    letters = f"{d['orientation']} (x, y, z run towards), " if d["orientation"] else ""
    unit = d.get("unit", "mm")
    return [
        ("size", d["text"]),
        ("origin", f"{_triple(d['origin'])} {unit}"),
        ("orientation", letters + ("oblique" if d["oblique"] else "along the axes")),
        ("spans", f"{_triple(d['from'])}  to  {_triple(d['to'])} {unit}"),
    ]


def _image_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    channels = "" if d["channels"] == 1 else f", {d['channels']} channels"
    rows = [("type", f"{d['dimension']}D {d['type']}{channels}"), *_grid_rows(d)]
    ends = [str(d[end]) if isinstance(d[end], int) else number(d[end]) for end in ("minimum", "maximum")]
    without = f", {d['not_finite']} voxels are NaN or infinite" if "not_finite" in d else ""
    rows.append(("intensity", f"{' to '.join(ends)}, mean {number(d['mean'])}{without}"))
    if "values" in d:
        rows.append(("values", listed(d["values"])))
    return rows + [(k.replace("_", " "), v) for k, v in d.get("metadata", {}).items() if v]


def _series_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"{s['modality']} {s['slices']} slices", f"{s['description'] or 'no description'}: {d['file']}::{s['uid']}")
        for s in d["series"]
    ]


def _point_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("points", f"{d['count']}, {d['dimension']}D"), ("span", f"{_triple(d['from'])}  to  {_triple(d['to'])}")]
    return rows + ([("names", listed(d["names"]))] if d["names"] else [])


def _pair_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("pairs", f"{len(d['pairs'])} of {d['moving_regions']} moving and {d['fixed_regions']} fixed regions")]
    for i, p in enumerate(d["pairs"][:10], 1):
        name = f"{p['name']}, " if p["name"] else ""
        text = f"{name}confidence {p['confidence']:.2f}, {p['status']}, fixed centroid {_triple(p['fixed_centroid'])}"
        rows.append((f"pair {i}", text))
    return rows


def _result_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("verdict", d["verdict"]), *(("", said) for said in (*d["reasons"], *d["worse"]))]
    rows += [(side, d[side]) for side in ("fixed", "moving") if d[side]]
    rows += _transform_rows(d) if "parts" in d else [("transform", "not written")]
    return [*rows, ("files", ", ".join(d["files"])), ("made by", d["made_by"])]


def _transform_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("transform", f"{d['dimension']}D, {d['motion']}; {len(d['parts'])} part(s), applied in this order")]
    for part in d["parts"]:
        if part["type"] == "affine":
            rows.append(("affine", "; ".join(_triple(row) for row in np.asarray(part["matrix"])[:-1])))
            rows.append(("", f"stretch {_triple(part['stretch'])}, volume x {part['determinant']:.4g}"))
        elif "text" in part:
            rows.append((part["type"], part["text"]))
            rows.append(("", f"spans {_triple(part['from'])}  to  {_triple(part['to'])} {_unit(d['dimension'])}"))
            largest = f"{part['largest_displacement']:.3g} {_unit(d['dimension'])}"
            rows.append(("", f"mean {part['mean_displacement']:.3g}, up to {largest}"))
        else:
            rows.append((part["type"], ""))
    return rows


_ROWS = {
    "image": _image_rows,
    "pairs": _pair_rows,
    "points": _point_rows,
    "result": _result_rows,
    "transform": _transform_rows,
}
