"""Dense features of both images on one lattice, for the stages that compare features only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.core.warp import resample, warp
from roireg.features import make_extractor
from roireg.fit.objectives import block_mean
from roireg.fit.stage import Problem

__all__ = ["Compared", "compared", "feature_maps"]


CENTRED: dict[str, dict[str, bool]] = {"mind": {"centred": True}}
"""Options that make a cosine of features spread over -1..1 instead of crowding near 1."""


@dataclass(frozen=True, eq=False)
class Compared:
    """Features of both sides on one lattice over the fixed image and a margin around it.

    Attributes
    ----------
    fixed, moving : (C, *wide) features, those of the moving image after the start.
    fixed_weight, moving_weight : (1, *wide), 0..1: where the images show something; that of the fixed image is 0 in
        the margin.
    margin : voxels around the box of the fixed image, at either end of every axis.
    """

    fixed: Tensor
    moving: Tensor
    fixed_weight: Tensor
    moving_weight: Tensor
    margin: tuple[int, ...]

    @property
    def swapped(self) -> Compared:
        """The same with the two sides exchanged."""
        return Compared(self.moving, self.fixed, self.moving_weight, self.fixed_weight, self.margin)

    def pooled(self, block: Sequence[int]) -> Compared:
        """Return means over blocks of voxels; margins and axes are whole numbers of blocks."""
        parts = (self.fixed, self.moving, self.fixed_weight, self.moving_weight)
        fixed, moving, fixed_weight, moving_weight = (block_mean(t, block) for t in parts)
        margin = tuple(m // b for m, b in zip(self.margin, block, strict=True))
        return Compared(fixed, moving, fixed_weight, moving_weight, margin)

    def inside(self, data: Tensor) -> Tensor:
        """Return the part of (C, *wide) values that lies over the fixed image."""
        ends = zip(self.margin, data.shape[1:], strict=True)
        return data[(slice(None), *(slice(m, n - m) for m, n in ends))]


def feature_maps(
    problem: Problem, names: Sequence[str], image: Image, grid: Grid, *, side: int, unit: bool = False
) -> Tensor:
    """(C, *grid.shape) features of several kinds, each as long as the others on average, one after the other.

    Every kind is divided by the root mean square length of its vectors over the image and by the root of the number
    of kinds, so that the squared distance of two unrelated vectors is about 2 (or less, where they have a common
    mean), whatever the feature.

    Parameters
    ----------
    names : of the features; "model" are the encodings of the problem.
    side : 0 for the fixed image, 1 for the moving one.
    unit : every vector of every kind is made as long as the others, so that a dot product is the mean cosine of the
        kinds.

    Raises
    ------
    InputError
        When a feature does not exist, or that of a network is asked for and none is named.
    """
    maps = []
    for name in names:
        if name == "model":
            if problem.encodings is None:
                raise InputError(
                    "a stage asks for the features of a network, but no network is named; set network.model"
                )
            encoded = problem.encodings[side]
        else:
            encoded = make_extractor(name, **(CENTRED.get(name, {}) if unit else {}))(image, grid)
        data = encoded.data.float() if encoded.grid is grid else resample(encoded, grid).data.float()
        squared = data.square().sum(0)
        length = (squared if unit else squared.mean()).sqrt().clamp(min=1e-6)
        maps.append(data / length / len(names) ** 0.5)
    return torch.cat(maps)


def compared(problem: Problem, start: Transform, names: Sequence[str], grid: Grid, margin: Sequence[int]) -> Compared:
    """Bring the moving image through a start onto a lattice of the fixed image and take features of both.

    Parameters
    ----------
    grid : over the fixed image, of any spacing.
    margin : voxels that the moving side is wider by, at either end of every axis.
    """
    pair = problem.pair
    wide = grid.padded(margin, margin)
    spacing = float(grid.spacing.min())

    def brought(image: Image, transform: Transform | None, fill: float | None = None) -> Image:
        coarse = image.grid.with_spacing(np.maximum(image.grid.spacing, spacing))
        return warp(resample(image, coarse), transform, wide, fill=fill)

    # Both in the same way, so that equal images have equal features up to the border.
    fixed, moving = brought(pair.fixed, None), brought(pair.moving, start)
    shown = pair.moving_mask or pair.moving.with_data(torch.ones_like(pair.moving.data))
    mask = pair.fixed_mask or pair.fixed.with_data(torch.ones_like(pair.fixed.data))
    moved = problem
    if problem.encodings is not None:
        moved = Problem(pair, encodings=(problem.encodings[0], brought(problem.encodings[1], start)))
    return Compared(
        feature_maps(problem, names, fixed, wide, side=0),
        feature_maps(moved, names, moving, wide, side=1),
        brought(mask, None, fill=0.0).data,
        brought(shown, start, fill=0.0).data,
        tuple(margin),
    )
