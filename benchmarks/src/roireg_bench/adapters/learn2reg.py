"""Learn2Reg: a dataset JSON that lists pairs, beside imagesTr, labelsTr and keypointsTr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from roireg.core.errors import InputError
from roireg.io import PointSet, read_image
from roireg_bench.adapters.base import (
    Found,
    FoundPair,
    as_modalities,
    as_names,
    as_points,
    name_of,
    nifti_stem,
    read_json,
    read_text,
    unique,
)

__all__ = ["learn2reg"]

LISTS = ("registration_val", "training_paired_images", "registration_test")
"""Where pairs are listed; the first list with labels or keypoints counts. Test pairs come without them."""


def learn2reg(source: Path) -> Found:
    """Read a Learn2Reg task: the pairs of its dataset JSON, with labels and keypoints of the same file names.

    Keypoints are voxel indices in the order of the NIfTI axes; they become world points.
    """
    file = unique(sorted(source.glob("*dataset.json")), source, "one dataset JSON of Learn2Reg")
    content = read_json(file)
    listed = [entry for key in LISTS if (entry := content.get(key))]
    if not listed:
        raise InputError(f"{file}: expected pairs under one of {', '.join(LISTS)}, found none of these lists")
    pairs: list[FoundPair] = []
    for entries in listed:
        if not isinstance(entries, list):
            raise InputError(f"{file}: expected lists of pairs, found {entries!r}; correct the file")
        pairs = [pair for entry in entries if (pair := _pair(source, file, entry)) is not None]
        if pairs:
            break
    modality = as_modalities(content.get("modality"))
    return Found(
        name=name_of(content.get("name"), source),
        ndim=3,
        task="multimodal" if len(set(modality)) > 1 else "unknown",
        fixed=modality[0],
        moving=modality[-1],
        pairs=pairs,
        terms=str(content.get("licence", content.get("license", "see the Learn2Reg task"))),
        labels=as_names(content.get("labels")) if any(pair.fixed_labels for pair in pairs) else None,
    )


def _pair(source: Path, file: Path, entry: Any) -> FoundPair | None:
    if not isinstance(entry, dict) or not {"fixed", "moving"} <= set(entry):
        raise InputError(f"{file}: expected pairs with the keys fixed and moving, found {entry!r}")
    images = [source / str(entry[side]) for side in ("fixed", "moving")]
    labels = [_beside(image, "labels", ".nii.gz") for image in images]
    points = [_beside(image, "keypoints", ".csv") for image in images]
    has_labels, has_points = (all(f is not None for f in files) for files in (labels, points))
    if not (has_labels or has_points):
        return None
    sets = [_keypoints(p, i) if p is not None else None for p, i in zip(points, images, strict=True)]
    return FoundPair(
        id=f"{nifti_stem(images[0])}_{nifti_stem(images[1])}",
        fixed=images[0],
        moving=images[1],
        fixed_labels=labels[0] if has_labels else None,
        moving_labels=labels[1] if has_labels else None,
        fixed_points=sets[0] if has_points else None,
        moving_points=sets[1] if has_points else None,
    )


def _beside(image: Path, kind: str, ending: str) -> Path | None:
    folder = image.parent.parent / image.parent.name.replace("images", kind)
    file = folder / f"{nifti_stem(image)}{ending}"
    return file if file.is_file() else None


def _keypoints(path: Path, image: Path) -> PointSet:
    rows = [line.split(",") for line in read_text(path).splitlines() if line.strip()]
    try:
        indices = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path}: expected three numbers per line without a header, found something else") from error
    if indices.ndim != 2 or indices.shape[1] != 3:
        raise InputError(f"{path}: expected three numbers per line, found an array of shape {indices.shape}")
    grid = read_image(image).grid
    if grid.ndim != 3:
        raise InputError(f"{image}: expected a 3D image for the keypoints of {path.name}, found {grid.ndim}D")
    # NIfTI counts (x, y, z), storage order is (z, y, x).
    return as_points(grid.world_from_index(indices[:, ::-1]), path)
