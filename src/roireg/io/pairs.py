"""ROI pairs as a folder (or .zip of it) that a person can read, edit and load in Slicer.

``pairs.json`` says what is what; ``fixed_rois.nii.gz`` and ``moving_rois.nii.gz`` are label maps (``.png`` index
images in 2D); regions that overlap go to further layers, ``fixed_rois_1.nii.gz`` and so on. A label occurs in one
layer of a side only, and the two regions of a pair carry the same label (hence the same colour in a viewer)
unless one of them belongs to several pairs.
"""

from __future__ import annotations

import json
import lzma
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from roireg.core.errors import GeometryError, InputError
from roireg.core.files import atomic_path, new_folder
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.lattice import stored_on
from roireg.core.rois import Prompt, ROIPair, ROIPairs, ROISet
from roireg.io.documents import parse_json, read_text
from roireg.io.images import read_labels, write_labels
from roireg.io.mistakes import explained
from roireg.io.streams import refuse_special

__all__ = ["read_pairs", "write_pairs"]

VERSION = 1

_LARGEST_MASKS = 16 << 30
"""Bytes of the masks of one side."""
_LARGEST_ARCHIVE = 4 << 30
"""Bytes that an archive may unpack to."""

Point = Annotated[list[FiniteFloat], Field(min_length=2, max_length=3)]
Status = Literal["proposed", "accepted", "rejected"]
Number = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Of similarities, confidences and scores, which are computed with in single precision."""
Label = Annotated[int, Field(ge=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Grid(_Model):
    shape: Annotated[list[int], Field(min_length=2, max_length=3)]
    affine: list[list[FiniteFloat]]


class _Roi(_Model):
    label: Label
    layer: Annotated[int, Field(ge=0)] = 0
    name: str | None = None
    score: Number = 1.0
    centroid: Point | None = None


class _Side(_Model):
    grid: _Grid
    layers: Annotated[list[str], Field(min_length=1)]
    rois: list[_Roi]


class _Prompt(_Model):
    points: list[Point] = []
    labels: list[Literal[0, 1]] = []
    box: Annotated[list[Point], Field(min_length=2, max_length=2)] | None = None


class _Pair(_Model):
    id: int
    moving: Label
    fixed: Label
    name: str | None = None
    similarity: Number
    confidence: Number
    probability: Annotated[float, Field(ge=0, le=1)] | None = None
    source: str = "user"
    status: Status = "proposed"
    moving_centroid: Point | None = None
    fixed_centroid: Point | None = None
    prompts: list[_Prompt] = []


class _Document(_Model):
    schema_version: int
    convention: str = ""
    moving: _Side
    fixed: _Side
    pairs: list[_Pair]


CONVENTION = (
    "world coordinates are LPS mm (x, y[, z]); grid.shape is in storage order (z, y, x) and grid.affine maps an "
    "array index in that order to the world; 'moving' and 'fixed' of a pair are labels of the label maps"
)


# -- writing --------------------------------------------------------------------------------------


def write_pairs(path: str | Path, pairs: ROIPairs) -> None:
    """Write ROI pairs as a folder, or as one file when `path` ends in .zip.

    Unmatched regions, names, scores, prompts and rejected pairs are kept; `read_pairs` gives back equal values.
    Files of an earlier version of the folder are removed, others stay.

    Raises
    ------
    InputError
        When a similarity, confidence or score is not finite.
    OutputError
        When the place cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() == ".zip":
        with tempfile.TemporaryDirectory() as folder:
            _fill(Path(folder), pairs)
            with atomic_path(target) as temporary:
                _zip(Path(folder), temporary)
        return
    with new_folder(target) as temporary:
        _fill(temporary, pairs)


def _fill(folder: Path, pairs: ROIPairs) -> None:
    moving, fixed = _shared_labels(pairs)
    try:
        document = _Document(
            schema_version=VERSION,
            convention=CONVENTION,
            moving=_write_side(folder, "moving", pairs.moving, moving),
            fixed=_write_side(folder, "fixed", pairs.fixed, fixed),
            pairs=[
                _Pair(
                    id=i,
                    moving=moving[p.moving],
                    fixed=fixed[p.fixed],
                    name=p.name,
                    similarity=float(p.similarity),
                    confidence=float(p.confidence),
                    probability=None if p.probability is None else float(p.probability),
                    source=p.source,
                    status=cast(Status, p.status),
                    moving_centroid=pairs.moving.centroids[p.moving].tolist(),
                    fixed_centroid=pairs.fixed.centroids[p.fixed].tolist(),
                    prompts=[_prompt_out(q) for q in p.prompts],
                )
                for i, p in enumerate(pairs.pairs, 1)
            ],
        )
    except ValidationError as error:
        raise InputError(f"the ROI pairs cannot be written: {explained(error.errors())}") from error
    text = json.dumps(document.model_dump(), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "pairs.json").write_text(_compact(text) + "\n", encoding="utf-8")


def _shared_labels(pairs: ROIPairs) -> tuple[list[int], list[int]]:
    """Number the regions of both sides from 1: pairs first, with equal numbers, then all others."""
    moving: list[int] = [0] * len(pairs.moving)
    fixed: list[int] = [0] * len(pairs.fixed)
    count = 0
    for p in pairs.pairs:
        if p.status != "rejected" and not moving[p.moving] and not fixed[p.fixed]:
            count += 1
            moving[p.moving] = fixed[p.fixed] = count
    for side in (moving, fixed):
        for i, label in enumerate(side):
            if not label:
                count += 1
                side[i] = count
    return moving, fixed


def _write_side(folder: Path, side: str, rois: ROISet, labels: list[int]) -> _Side:
    ending = ".png" if rois.grid.ndim == 2 and max(labels, default=0) <= 65535 else ".nii.gz"
    layers = rois.layers() or [(torch.zeros(rois.grid.shape, dtype=torch.int32, device="cpu"), [])]
    names = []
    layer_of: dict[int, int] = {}
    for number, (packed, members) in enumerate(layers):
        table = torch.tensor([0, *(labels[k] for k in members)], dtype=torch.int32, device="cpu")
        layer = table[packed.cpu().long()][None]
        names.append(f"{side}_rois{f'_{number}' if number else ''}{ending}")
        write_labels(folder / names[-1], Image(layer, rois.grid, name=f"{side} regions"))
        layer_of |= dict.fromkeys(members, number)
    assert rois.scores is not None
    return _Side(
        grid=_Grid(shape=list(rois.grid.shape), affine=rois.grid.affine.tolist()),
        layers=names,
        rois=[
            _Roi(
                label=labels[k],
                layer=layer_of[k],
                name=rois.names[k],
                score=float(rois.scores[k]),
                centroid=rois.centroids[k].tolist(),
            )
            for k in range(len(rois))
        ],
    )


def _prompt_out(prompt: Prompt) -> _Prompt:
    box = None if prompt.box is None else prompt.box.tolist()
    return _Prompt(points=prompt.points.tolist(), labels=prompt.labels.tolist(), box=box)


def _compact(text: str) -> str:
    """Put lists of plain numbers on one line, so that a point is a line and not four."""
    out: list[str] = []
    lines = text.split("\n")
    i = 0
    while i < len(lines):
        line = lines[i]
        if line.endswith("["):
            stop = i + 1
            while lines[stop].strip().rstrip(",").lstrip("-").replace(".", "", 1)[:1].isdigit():
                stop += 1
            if lines[stop].strip() in ("]", "],") and stop > i + 1:
                line += " ".join(part.strip() for part in lines[i + 1 : stop]) + lines[stop].strip()
                i = stop
        out.append(line)
        i += 1
    return "\n".join(out)


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            # A fixed date gives equal archives for equal pairs.
            entry = zipfile.ZipInfo(file.name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())


# -- reading --------------------------------------------------------------------------------------


def read_pairs(path: str | Path) -> ROIPairs:
    """Read ROI pairs from a folder or .zip that `write_pairs` or a person made, or from the result of a job.

    Raises
    ------
    InputError
        When something is missing or malformed; the message names the entry of pairs.json.
    GeometryError
        When a label map lies on another grid than pairs.json says.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"{place}: no such folder or .zip; check the path of the ROI pairs")
    refuse_special(place)
    if place.is_dir():
        part = place / "pairs"
        place = part if not (place / "pairs.json").is_file() and part.is_dir() else place
        return _read_folder(place, str(place))
    try:
        with tempfile.TemporaryDirectory() as folder:
            _unpack(place, Path(folder))
            inside = sorted(Path(folder).glob("pairs.json")) or sorted(Path(folder).glob("*/pairs.json"))
            return _read_folder(inside[0].parent if inside else Path(folder), str(place))
    except OSError as error:
        raise InputError(f"{place}: the archive cannot be unpacked ({error}); copy or make it again") from error


def _unpack(place: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(place) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > _LARGEST_ARCHIVE:
                raise InputError(
                    f"{place}: the archive unpacks to {size >> 20} MiB, more than ROI pairs have "
                    f"({_LARGEST_ARCHIVE >> 20} MiB); check that it is the right one"
                )
            if any(entry.flag_bits & 1 for entry in archive.infolist()):
                raise InputError(f"{place}: the archive is encrypted; unpack it and name the folder")
            archive.extractall(folder)
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError) as error:
        # Not implemented kinds of compression are runtime errors, too.
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{place}: expected a folder or .zip of ROI pairs, found neither ({reason})") from error


def _read_folder(folder: Path, name: str) -> ROIPairs:
    file = folder / "pairs.json"
    where = f"{name}/pairs.json"
    if not file.is_file():
        raise InputError(f"{name}: there is no pairs.json in it; expected a folder of ROI pairs")
    content = parse_json(read_text(file, where), where)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != VERSION:
        raise InputError(f"{where}: expected schema_version {VERSION}, found {version!r}")
    try:
        document = _Document.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {explained(error.errors())}; correct this entry") from error
    ids = [p.id for p in document.pairs]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"{where}: two pairs have the id {twice}, found it twice; give every pair its own")
    moving, moving_index = _read_side(folder, name, "moving", document.moving)
    fixed, fixed_index = _read_side(folder, name, "fixed", document.fixed)
    pairs = []
    for p in document.pairs:
        for side, label, index in (("moving", p.moving, moving_index), ("fixed", p.fixed, fixed_index)):
            if label not in index:
                raise InputError(
                    f"{where}: pair {p.id} names the {side} label {label}, which {side}.rois does not list"
                )
        try:
            prompts = tuple(_prompt_in(q, moving.grid.ndim) for q in p.prompts)
        except InputError as error:
            raise InputError(f"{where}: pair {p.id}: {error}") from error
        pairs.append(
            ROIPair(
                moving_index[p.moving],
                fixed_index[p.fixed],
                p.similarity,
                p.confidence,
                source=p.source,
                status=p.status,
                name=p.name,
                prompts=prompts,
                probability=p.probability,
            )
        )
    return ROIPairs(moving, fixed, tuple(pairs))


def _read_side(folder: Path, name: str, side: str, data: _Side) -> tuple[ROISet, dict[int, int]]:
    where = f"{name}/pairs.json"
    try:
        grid = Grid(tuple(data.grid.shape), np.array(data.grid.affine, dtype=np.float64))
    except (GeometryError, ValueError) as error:
        raise GeometryError(f"{where}: {side}.grid is not usable: {error}") from error
    maps = []
    for layer in data.layers:
        if Path(layer).name != layer:
            raise InputError(f"{where}: {side}.layers names files of the same folder, found {layer!r}")
        try:
            labels = read_labels(folder / layer)
        except InputError as error:
            # Of an archive, messages would name the temporary folder.
            raise type(error)(str(error).replace(str(folder / layer), f"{name}/{layer}")) from error
        if labels.unit == "px" and labels.grid.shape == grid.shape:
            fitting: Image | None = labels
        else:
            fitting = stored_on(labels, grid)  # another program may have flipped or cropped it
        if fitting is None:
            raise GeometryError(
                f"{name}/{layer}: the label map lies on {labels.grid!r}, but pairs.json says {grid!r} (or another "
                "place); save it on the grid it came with"
            )
        maps.append(fitting.data[0])
    index: dict[int, int] = {}
    for k, roi in enumerate(data.rois):
        if roi.layer >= len(maps):
            raise InputError(f"{where}: {side} label {roi.label} is in layer {roi.layer}, found {len(maps)} layers")
        if roi.label in index:
            raise InputError(f"{where}: {side}.rois lists label {roi.label} twice")
        index[roi.label] = k
    for number, labels_of in enumerate(maps):
        listed = {r.label for r in data.rois if r.layer == number}
        values = {int(v) for v in torch.unique(labels_of)} - {0}
        if listed - values:
            raise InputError(
                f"{name}/{data.layers[number]}: no voxel has label {min(listed - values)}, which pairs.json lists; "
                f"paint it, or remove it from {side}.rois and from the pairs"
            )
        if values - listed:
            raise InputError(
                f"{name}/{data.layers[number]}: label {min(values - listed)} is not listed in {side}.rois of "
                "pairs.json; add it there or erase it"
            )
    if not data.rois:
        return ROISet.empty(grid), index
    if len(data.rois) * grid.size > _LARGEST_MASKS:
        raise InputError(
            f"{where}: {side}.rois lists {len(data.rois)} regions of {grid.size} voxels, more than a memory holds; "
            "leave some out, or save them on a coarser grid"
        )
    masks = torch.stack([maps[r.layer] == r.label for r in data.rois])
    scores = torch.tensor([r.score for r in data.rois], dtype=torch.float32, device="cpu")
    return ROISet(masks, grid, tuple(r.name for r in data.rois), scores), index


def _prompt_in(data: _Prompt, ndim: int) -> Prompt:
    for point in (*data.points, *(data.box or ())):
        if len(point) != ndim:
            raise InputError(f"prompt points have {ndim} coordinates here, found {point}")
    points = np.array(data.points, dtype=np.float64).reshape(-1, ndim)
    box = None if data.box is None else np.array(data.box, dtype=np.float64)
    return Prompt(points, np.array(data.labels, dtype=np.int64), box)
