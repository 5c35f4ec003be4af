"""Label maps as regions: the same classes in both images make pairs by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.core.warp import resample
from roireg.segment.base import PreparedRegions, Segmenter
from roireg.segment.working import working_grid

__all__ = ["LabelSegmenter"]

MOST_CLASSES = 2000
"""Each is a mask of its own; more take minutes and a memory that a person would not expect."""


@dataclass(frozen=True, eq=False)
class LabelSegmenter(Segmenter):
    """A label map of one image, as its regions.

    Parameters
    ----------
    labels : (*shape) or (1, *shape) tensor of whole numbers, 0 is background.
    grid : grid of the label map; the image has the same one.
    class_names : id -> name; ids without a name are called by their number.
    classes : ids or names to take, in this order; None takes all that are there, ascending.
    max_voxels : size of the working grid; None takes the default of the dimension.

    Raises
    ------
    GeometryError
        When labels and grid differ in shape.
    InputError
        When the labels are no whole numbers, no class is there, or a class name is unknown or not unique.
    """

    labels: Tensor
    grid: Grid
    class_names: Mapping[int, str] = field(default_factory=dict)
    classes: Sequence[int | str] | None = None
    max_voxels: int | None = None

    def __post_init__(self) -> None:
        labels = self.labels[0] if self.labels.ndim == self.grid.ndim + 1 and len(self.labels) == 1 else self.labels
        if tuple(labels.shape) != self.grid.shape:
            raise GeometryError(
                f"a label map of shape {tuple(self.labels.shape)} does not fit a grid of shape {self.grid.shape}"
            )
        whole = labels.long()
        if labels.is_floating_point() and not bool((labels == whole).all()):
            raise InputError("label maps hold whole numbers, found fractions; pass segmentations, not probabilities")
        if len(set(self.class_names.values())) != len(self.class_names):
            raise InputError("two label ids have the same class name; give every id its own name")
        object.__setattr__(self, "labels", whole)

    @property
    def present(self) -> tuple[int, ...]:
        """The ids other than 0 that occur, ascending."""
        return tuple(int(i) for i in torch.unique(self.labels) if int(i) != 0)

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The ids asked for, whether they occur or not.

        Raises
        ------
        InputError
            When a name is in no class list.
        """
        if self.classes is None:
            return self.present
        by_name = {name: i for i, name in self.class_names.items()}
        ids = []
        for c in self.classes:
            if isinstance(c, str) and c not in by_name and not c.isdigit():
                raise InputError(f"class {c!r} is unknown; the label map has {self._listed()}")
            ids.append(by_name[c] if isinstance(c, str) and c in by_name else int(c))
        if 0 in ids:
            raise InputError("class 0 is the background of a label map and cannot be a region")
        return tuple(dict.fromkeys(ids))

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the classes asked for that do not occur."""
        present = set(self.present)
        return tuple(self.name_of(i) for i in self.class_ids if i not in present)

    def name_of(self, label: int) -> str:
        """Return the class name of an id."""
        return self.class_names.get(label, str(label))

    def _listed(self) -> str:
        return ", ".join(f"{i} ({self.name_of(i)})" for i in self.present) or "no class at all"

    def prepare(self, image: Image) -> PreparedRegions:
        """Return the image with one region per class that occurs, named, on the working grid of the image.

        Of the working grid's voxels a region takes those it covers at least half of, and at least the one it
        covers most of, so that small classes do not vanish. Classes asked for that do not occur are left out;
        `missing` lists them. Where none occurs, `regions` raises an InputError.

        Raises
        ------
        GeometryError
            When the label map is on another grid than the image.
        """
        if not self.grid.is_close(image.grid):
            raise GeometryError(
                f"the label map of {image.name} is on another grid than the image: {self.grid!r} against "
                f"{image.grid!r}; resample it onto the image first"
            )
        return PreparedRegions(image, self._regions)

    def _regions(self, image: Image) -> ROISet:
        present = set(self.present)
        ids = [i for i in self.class_ids if i in present]
        if not ids:
            classes = ", ".join(map(str, self.classes)) if self.classes is not None else "any"
            raise InputError(f"the label map of {image.name} has {self._listed()}; asked for: {classes}")
        if len(ids) > MOST_CLASSES:
            raise InputError(
                f"the label map of {image.name} has {len(ids)} labels, regions are at most {MOST_CLASSES}; "
                "merge some, or give a map of larger parts"
            )
        names = tuple(self.name_of(i) for i in ids)
        grid = working_grid(self.grid, max_voxels=self.max_voxels)
        if grid == self.grid:
            return ROISet(torch.stack([self.labels == i for i in ids]), grid, names)
        return ROISet(torch.stack([_coverage(self.labels == i, self.grid, grid) for i in ids]), grid, names)


def _coverage(mask: Tensor, source: Grid, target: Grid) -> Tensor:
    """Return the voxels of a coarser grid that a mask covers by half, or else the ones it covers most."""
    share = resample(Image(mask[None].float(), source), target).data[0]
    inside = share >= 0.5
    return inside if bool(inside.any()) else share >= share.max()
