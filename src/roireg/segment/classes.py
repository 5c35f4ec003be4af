"""The classes that a network or a program gives every voxel, as regions: equal classes of two images correspond."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import GeometryError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.lattice import stored_on
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import ROISet
from roireg.core.warp import warp
from roireg.io.programs import label_with
from roireg.models.classes import ClassModel
from roireg.segment.base import PreparedRegions, Segmenter
from roireg.segment.labels import LabelSegmenter
from roireg.segment.promptable import NetworkAnswers

__all__ = ["ClassSegmenter", "CommandSegmenter", "midplane"]

Array = NDArray[np.float64]

MEMORY = 400_000_000
"""Bytes of the masks of one image at most; of larger images the regions are kept coarser."""

LEAST = 8
"""Voxels that a class needs to count as there."""

COLUMN = 4.0
"""Width in mm of the columns from left to right whose middles the midplane is fitted to."""


@dataclass(frozen=True, eq=False)
class ClassSegmenter(Segmenter):
    """Regions of the classes of a network, named, with their probabilities.

    A voxel belongs to the class that is most probable there. Of classes that the left and the right half of a body
    share, either half is a region of its own.

    Parameters
    ----------
    model : the network.
    progress : is told before the network works.
    """

    model: ClassModel
    progress: Progress = field(default=silent, repr=False)

    @property
    def classed(self) -> bool:
        return True

    def prepare(self, image: Image) -> PreparedRegions:
        """Return the image with its regions; `score` of a region is the mean probability of its class inside."""
        return PreparedRegions(image, self._regions)

    def _regions(self, image: Image) -> ROISet:
        name = self.model.card.name
        self.progress(ProgressEvent("finding regions", 0.0, f"{name} names the voxels of {image.name}"))
        map_ = self.model.class_map(image)
        names, soft = list(self.model.classes), map_.data
        sided = [k for k, n in enumerate(names) if n in self.model.sided]
        if sided:
            left = _left(map_, sided)
            parts = [soft[k] * left for k in sided] + [soft[k] * ~left for k in sided]
            rest = [k for k in range(len(names)) if k not in sided]
            soft = torch.stack([soft[k] for k in rest] + parts)
            names = [names[k] for k in rest] + [f"{s}-{names[k]}" for s in ("Left", "Right") for k in sided]
        grid = image.grid.coarsened(max(MEMORY // (2 * len(names)), 1000))
        soft = _onto(map_.with_data(soft), grid)
        best, label = soft.max(0)
        # What is left for the background is 255 minus all classes together.
        label = torch.where(best.long() > 255 - soft.sum(0, dtype=torch.int32).long(), label, -1)
        kept = [k for k in range(len(names)) if int((label == k).sum()) >= LEAST]
        if not kept:
            return ROISet.empty(grid)
        masks = torch.stack([label == k for k in kept])
        scores = torch.stack([soft[k][m].float().mean() / 255 for k, m in zip(kept, masks, strict=True)])
        return NetworkAnswers(masks, grid, tuple(names[k] for k in kept), scores, soft[kept])


@dataclass(frozen=True, eq=False)
class CommandSegmenter(Segmenter):
    """Regions of the label maps that a program writes; equal labels correspond.

    Parameters
    ----------
    command : see `roireg.io.programs.label_with`.
    progress : is told before the program runs.
    """

    command: str
    progress: Progress = field(default=silent, repr=False)

    @property
    def classed(self) -> bool:
        return True

    def prepare(self, image: Image) -> PreparedRegions:
        return PreparedRegions(image, self._regions)

    def _regions(self, image: Image) -> ROISet:
        self.progress(ProgressEvent("finding regions", 0.0, f"the segmenter command reads {image.name}"))
        labels = label_with(self.command, image)
        fitting = stored_on(labels, image.grid) if labels.unit == image.unit or labels.ndim == 3 else None
        if labels.unit == "px" and labels.grid.shape == image.grid.shape:
            fitting = labels
        if fitting is None:
            raise GeometryError(
                f"the segmenter command wrote a label map on another grid than {image.name}: {labels.grid!r} against "
                f"{image.grid!r}; let it keep the voxels of the image"
            )
        segmenter = LabelSegmenter(fitting.data[0], image.grid)
        if not segmenter.present:
            return ROISet.empty(image.grid)
        voxels = max(MEMORY // len(segmenter.present), 1000)
        return LabelSegmenter(fitting.data[0], image.grid, max_voxels=voxels)(image)


def _onto(map_: Image, grid: Grid) -> Tensor:
    """(C, *grid.shape) uint8 of a class map, 0 beyond it; interpolated only where its voxels are others."""
    stored = stored_on(map_, grid)
    if stored is not None:
        return stored.data
    parts = [warp(map_.with_data(c[None].float()), None, grid, fill=0.0).data[0] for c in map_.data]
    return torch.stack([p.round().to(torch.uint8) for p in parts])


def _left(map_: Image, sided: list[int]) -> Tensor:
    """(*shape) bool: voxels on the left side of the midplane of what two sides share."""
    there = map_.data[sided].sum(0, dtype=torch.int32) > 127
    if not bool(there.any()):
        return torch.zeros(map_.grid.shape, dtype=torch.bool)
    points = map_.grid.world_from_index(torch.nonzero(there).numpy())
    offset, along = midplane(points)
    # x of the plane is an affine function of y and z, and so the distance from it one of the index.
    normal = np.array([1.0, -along[0], -along[1]])
    slope, start = normal @ map_.grid.affine[:-1, :-1], normal @ map_.grid.affine[:-1, -1] - offset
    total = torch.full((1, 1, 1), float(start))
    for axis, step in enumerate(slope):
        shape = [1, 1, 1]
        shape[axis] = -1
        total = total + float(step) * torch.arange(map_.grid.shape[axis]).reshape(shape)
    return total > 0


def midplane(points: Array) -> tuple[float, Array]:
    """Return offset and slopes (y, z) of the plane x = offset + slopes @ (y, z) that halves a body.

    Parameters
    ----------
    points : (N, 3) world points (LPS mm) of the body, evenly spread. Columns from left to right are halved, and the
        plane goes through their middles; columns far off it are left out.
    """
    cells = np.round(points[:, 1:] / COLUMN).astype(np.int64)
    _, index, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    low = np.full(len(count), np.inf)
    high = np.full(len(count), -np.inf)
    np.minimum.at(low, index, points[:, 0])
    np.maximum.at(high, index, points[:, 0])
    middle = np.bincount(index, points[:, 0]) / count
    places = np.stack([np.bincount(index, points[:, a]) / count for a in (1, 2)], -1)
    design = np.column_stack([np.ones(len(middle)), places])
    weight = (high - low) ** 2
    for _ in range(5):
        root = np.sqrt(weight)[:, None]
        solution = np.linalg.lstsq(design * root, middle * root[:, 0], rcond=None)[0]
        apart = np.abs(middle - design @ solution)
        weight = (high - low) ** 2 / (1 + (apart / 3.0) ** 2)
    return float(solution[0]), np.asarray(solution[1:])
