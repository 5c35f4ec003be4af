"""NIfTI images in one folder and label maps of the same names in another: AMOS, CHAOS as NIfTI, the Decathlon."""

from __future__ import annotations

from pathlib import Path

from roireg.core.errors import InputError
from roireg_bench.adapters.base import (
    Found,
    FoundPair,
    as_modalities,
    as_names,
    name_of,
    read_json,
    ring,
    voxel_files,
)

__all__ = ["folder"]

PLACES = (
    ("imagesTr", "labelsTr"),
    ("imagesVa", "labelsVa"),
    ("images", "labels"),
    ("image", "label"),
    ("img", "seg"),
    ("images", "masks"),
)
"""Names that such folders have."""


def folder(source: Path) -> Found:
    """Read images with label maps and register one person onto the next, the last onto the first.

    An image has the name of its label map, or that and ``_0000``, as nnU-Net numbers the first of several channels.
    A ``dataset.json`` gives the names of the labels.
    """
    images, labels = _both(source)
    pairs = [
        FoundPair(f"{fixed}_{moving}", images[fixed], images[moving], labels[fixed], labels[moving])
        for fixed, moving in ring(sorted(set(images) & set(labels)))
    ]
    description = source / "dataset.json"
    content = read_json(description) if description.is_file() else {}
    shown = " / ".join(as_modalities(content.get("modality", content.get("channel_names"))))
    return Found(
        name=name_of(content.get("name"), source),
        ndim=3,
        task="inter-subject",
        fixed=shown,
        moving=shown,
        pairs=pairs,
        terms=str(content.get("licence", content.get("license", "see the data set"))),
        labels=as_names(content.get("labels")),
    )


def _both(source: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    for images, labels in PLACES:
        if (source / images).is_dir() and (source / labels).is_dir():
            files = voxel_files(source / images)
            first = {name.removesuffix("_0000"): path for name, path in files.items()}
            return first | files, voxel_files(source / labels)
    listed = ", ".join(f"{a} and {b}" for a, b in PLACES)
    raise InputError(f"{source}: expected two folders such as {listed}, found neither; rename yours")
