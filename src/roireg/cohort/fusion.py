"""What the images of a template know of its regions, put together: label maps, or the regions that were paired.

Labels are carried onto the template and vote. The vote of an image counts as much as the image resembles the template
around the voxel (Artaechevarria et al., IEEE TMI 28:1266, 2009); the vote of a region as much as its pair is trusted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roireg.cohort.averaging import normalised
from roireg.core.files import new_folder
from roireg.core.filters import box_mean
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Chain, Transform
from roireg.core.warp import warp
from roireg.io import read_image, read_labels, read_pairs, read_transform, write_image, write_labels, write_transform

__all__ = ["finish", "fuse_labels", "fuse_regions"]

RADIUS = 2
"""Voxels around a voxel that tell how much an image resembles the template there."""

MAJORITY = 0.5
"""Share of the votes by which a region is one."""

Member = Mapping[str, Any]
Rows = list[list[Any]]


def finish(*, out: str, place: str, template: str, members: Sequence[Member]) -> dict[str, Any]:
    """Write the template, the transforms of its images, and their regions on it, with a table of volumes.

    Parameters
    ----------
    out : folder of the template.
    place : folder of the last round: its registrations and the movement of its mean.
    template : the mean of that round.
    members : id, image and labels of every image that is part of it.
    """
    image = read_image(template)
    back = read_transform(Path(place) / "mean/shape_inverse.h5")
    forth = read_transform(Path(place) / "mean/shape.h5")
    away: dict[str, Transform] = {}
    with new_folder(Path(out)) as folder:
        write_image(folder / "template.nii.gz", image)
        (folder / "transforms").mkdir()
        onto: dict[str, Transform] = {}
        for member in members:
            result = Path(place) / "pairs" / member["id"]
            onto[member["id"]] = Chain((back, read_transform(result / "transform.h5")))
            write_transform(folder / "transforms" / f"{member['id']}.h5", onto[member["id"]])
            away[member["id"]] = Chain((read_transform(result / "inverse.h5"), forth))
            write_transform(folder / "transforms" / f"{member['id']}_inverse.h5", away[member["id"]])
        if all(m["labels"] is not None for m in members):
            labels, rows = fuse_labels(image, members, onto, away)
            write_labels(folder / "labels.nii.gz", labels)
            head = ["id", "label", "volume_mm3", "own_volume_mm3", "dice", "confidence"]
        else:
            regions, rows = fuse_regions(image, Path(place), members, back)
            write_labels(folder / "regions.nii.gz", regions)
            head = ["id", "region", "volume_mm3", "confidence"]
        text = io.StringIO()
        csv.writer(text, delimiter="\t", lineterminator="\n").writerows([head, *rows])
        (folder / "volumes.tsv").write_text(text.getvalue(), encoding="utf-8")
    return {"members": len(members)}


def fuse_labels(
    template: Image, members: Sequence[Member], onto: Mapping[str, Transform], away: Mapping[str, Transform]
) -> tuple[Image, Rows]:
    """Return the label map of the template that label maps of its images vote for, and a row per image and label.

    Parameters
    ----------
    onto, away : per image, template to image points and image to template points.

    A row is id, label, volume of the fused label in the image, volume of its own, their Dice overlap, and the mean
    vote of the image for the label where it has it, 0..1.
    """
    votes: dict[int, Tensor] = {}
    trust: dict[str, Tensor] = {}
    for member in members:
        weight = resemblance(template, normalised(read_image(member["image"], finite=False)), onto[member["id"]])
        trust[member["id"]] = weight
        carried = warp(read_labels(member["labels"]), onto[member["id"]], template.grid, mode="nearest", fill=0).data
        for value in torch.unique(carried).tolist():
            votes.setdefault(int(value), torch.zeros_like(weight)).add_(weight * (carried[0] == value))
    values = sorted(votes)
    winner = torch.stack([votes[value] for value in values]).argmax(0)
    fused = Image(torch.tensor(values, dtype=torch.int32)[winner][None], template.grid, name="labels")
    rows: Rows = []
    for member in members:
        own = read_labels(member["labels"])
        brought = warp(fused, away[member["id"]], own.grid, mode="nearest", fill=0).data
        voxel = float(np.prod(own.grid.spacing))
        for value in values:
            if value == 0:
                continue
            a, b = brought == value, own.data == value
            size = float(a.sum() + b.sum())
            dice = 2 * float((a & b).sum()) / size if size else float("nan")
            here = trust[member["id"]][(fused.data[0] == value)]
            rows.append(
                [
                    member["id"],
                    value,
                    f"{float(a.sum()) * voxel:.6g}",
                    f"{float(b.sum()) * voxel:.6g}",
                    f"{dice:.4f}",
                    f"{float(here.mean()) if here.numel() else 0.0:.4f}",
                ]
            )
    return fused, rows


def resemblance(template: Image, image: Image, transform: Transform) -> Tensor:
    """(*shape) how much an image resembles the template around every voxel: local correlation, 0.01 to 1."""
    moved = warp(image, transform, template.grid).data[0].double()
    fixed = template.data[0].double()
    size = [RADIUS if n > 1 else 0 for n in fixed.shape]

    def mean(values: Tensor) -> Tensor:
        return box_mean(values[None], size)[0]

    a, b = mean(fixed), mean(moved)
    covariance = mean(fixed * moved) - a * b
    spread = ((mean(fixed * fixed) - a * a).clamp(min=0) * (mean(moved * moved) - b * b).clamp(min=0)).sqrt()
    correlation = torch.where(spread > 1e-6, covariance / spread.clamp(min=1e-6), 0.0)
    inside = warp(image.with_data(torch.ones_like(image.data)), transform, template.grid, fill=0.0).data[0] > 0.5
    return (correlation.clamp(0.01, 1.0) * inside).float()


def fuse_regions(template: Image, place: Path, members: Sequence[Member], back: Transform) -> tuple[Image, Rows]:
    """Return the regions of the template that most of its images have, and a row per image and region.

    The last round has paired regions of one fixed image with those of every image. A region is where the partners,
    carried onto the template, agree by more than `MAJORITY` of their confidence; it must have partners in as many of
    the images. A row is id, region, volume of the partner in the image, confidence of the pair.
    """
    sums: dict[bytes, Tensor] = {}
    weights: dict[bytes, float] = {}
    found: list[tuple[str, bytes, float, float]] = []
    for member in members:
        result = place / "pairs" / member["id"]
        pairs = read_pairs(result / "pairs").active
        transform = Chain((back, read_transform(result / "transform.h5")))
        voxel = float(np.prod(pairs.moving.grid.spacing))
        for pair in pairs.pairs:
            key = np.packbits(pairs.fixed.masks[pair.fixed].numpy() > 0).tobytes()
            mask = pairs.moving.masks[pair.moving].float()
            carried = warp(_mask(mask, pairs.moving.grid), transform, template.grid, fill=0.0).data[0]
            sums.setdefault(key, torch.zeros_like(carried)).add_(pair.confidence * carried)
            weights[key] = weights.get(key, 0.0) + pair.confidence
            found.append((member["id"], key, float(mask.sum()) * voxel, pair.confidence))
    partners = {key: {id for id, other, _, _ in found if other == key} for key in sums}
    common = [key for key in sums if len(partners[key]) >= MAJORITY * len(members) and weights[key] > 0]
    # Small regions lie on large ones.
    masks = {key: sums[key] / weights[key] > MAJORITY for key in common}
    order = sorted((key for key in common if masks[key].any()), key=lambda key: -int(masks[key].sum()))
    data = torch.zeros(template.grid.shape, dtype=torch.int32)
    numbers = {key: number for number, key in enumerate(order, 1)}
    for key, number in numbers.items():
        data[masks[key]] = number
    rows: Rows = [
        [id, numbers[key], f"{volume:.6g}", f"{confidence:.4f}"]
        for id, key, volume, confidence in found
        if key in numbers
    ]
    return Image(data[None], template.grid, name="regions"), rows


def _mask(mask: Tensor, grid: Grid) -> Image:
    return Image(mask[None], grid, name="region")
