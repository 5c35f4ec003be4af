"""NIfTI images in one folder and label maps of the same names in another: AMOS, CHAOS as NIfTI, the Decathlon."""

from __future__ import annotations

import re
from pathlib import Path

from roireg.bench.adapters.base import Found, FoundPair, as_names, read_json, ring, voxel_files
from roireg.core.errors import InputError

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

    Of files with a channel number as nnU-Net writes it (``_0000``) the first channel is taken. A ``dataset.json``
    gives the names of the labels.
    """
    images, labels = _both(source)
    pairs = [
        FoundPair(f"{fixed}_{moving}", images[fixed], images[moving], labels[fixed], labels[moving])
        for fixed, moving in ring(sorted(set(images) & set(labels)))
    ]
    description = source / "dataset.json"
    content = read_json(description) if description.is_file() else {}
    modality = content.get("modality", content.get("channel_names", {}))
    names = [str(v) for v in modality.values()] if isinstance(modality, dict) else [str(modality)]
    shown = " / ".join(names) or "unknown"
    return Found(
        name=str(content.get("name", source.resolve().name)),
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
            found = voxel_files(source / images)
            first = {re.sub(r"_0000$", "", name): path for name, path in found.items() if not _later_channel(name)}
            return first, voxel_files(source / labels)
    listed = ", ".join(f"{a} and {b}" for a, b in PLACES)
    raise InputError(f"{source}: expected two folders such as {listed}, found neither; rename yours")


def _later_channel(name: str) -> bool:
    return bool(re.search(r"_0\d{3}$", name)) and not name.endswith("_0000")
