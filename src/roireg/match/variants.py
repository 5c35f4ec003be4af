"""Random views of an image, and regions averaged over them (PromptReg's prompt marginalisation, section 3.2).

A view is the image sampled on a flipped, turned and scaled grid in the same world, so that a prompt, given in
world coordinates, needs no transform of its own and a region found in a view is where it belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.masks import iou
from roireg.core.rois import Prompt, ROISet
from roireg.core.warp import warp
from roireg.segment.promptable import probabilities

__all__ = ["View", "average_answers", "draw_views", "refined_region", "view_of", "visible"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """One way to look at an image.

    Attributes
    ----------
    flips : storage axes whose order is reversed.
    angle : rotation in degrees in the plane of the two finest storage axes, about the centre of the image.
    scale : magnification; above 1 the border is cut off, below 1 the image is surrounded by its lowest value.
    gamma : exponent of the intensities between their lowest and highest value; 1 leaves them.
    """

    flips: tuple[int, ...] = ()
    angle: float = 0.0
    scale: float = 1.0
    gamma: float = 1.0

    def grid(self, grid: Grid) -> Grid:
        """Return the grid of the view: same shape, other place of the voxels."""
        d = grid.ndim
        order = np.argsort([s if n > 1 else np.inf for s, n in zip(grid.spacing, grid.shape, strict=True)])
        a, b = sorted(int(k) for k in order[:2])
        c, s = np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))
        turn = np.eye(d)
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        # In mm along the storage axes, so that an anisotropic plane is turned and not sheared.
        linear = np.diag(1 / grid.spacing) @ turn @ np.diag(grid.spacing)
        zoomed = [k for k in range(d) if grid.shape[k] > 1 and (d == 2 or k in (a, b))]
        for k in zoomed:
            linear[:, k] /= self.scale
        for k in self.flips:
            linear[:, k] *= -1
        middle = (np.array(grid.shape) - 1) / 2
        index = np.eye(d + 1)
        index[:d, :d] = linear
        index[:d, d] = middle - linear @ middle
        return Grid(grid.shape, grid.affine @ index)


def draw_views(
    count: int,
    ndim: int,
    *,
    rng: np.random.Generator,
    scales: tuple[float, float] = (0.8, 1.25),
    gammas: tuple[float, float] = (0.8, 1.25),
) -> tuple[View, ...]:
    """Draw views: flips, a rotation for every second one (others stay on the axes, as boxes need), scale, gamma.

    Parameters
    ----------
    scales, gammas : ranges, drawn evenly in the logarithm; PromptReg has scales (0.5, 2.5) and no gamma.

    Raises
    ------
    InputError
        When the count is negative or a range is not positive and ascending.
    """
    if count < 0:
        raise InputError(f"the number of views is at least 0, found {count}")
    for low, high in (scales, gammas):
        if not 0 < low <= high:
            raise InputError(f"ranges of views are positive and ascending, found {low} to {high}")
    views = []
    for k in range(count):
        flips = tuple(int(a) for a in np.flatnonzero(rng.random(ndim) < 0.5))
        angle = float(rng.uniform(0, 360)) if k % 2 == 0 else 0.0
        scale = float(np.exp(rng.uniform(*np.log(scales))))
        gamma = float(np.exp(rng.uniform(*np.log(gammas))))
        views.append(View(flips, angle, scale, gamma))
    return tuple(views)


def view_of(image: Image, view: View) -> Image:
    """Return the image as a view shows it; what lies outside has the image's lowest value."""
    data = image.data.float()
    low, high = data.amin(), data.amax()
    if view.gamma != 1.0 and float(high) > float(low):
        data = low + (high - low) * ((data - low) / (high - low)) ** view.gamma
    shown = warp(image.with_data(data), None, view.grid(image.grid), fill=float(low))
    return shown.with_data(shown.data, shown.grid)


def visible(prompt: Prompt, view: View, grid: Grid) -> bool:
    """Tell whether a view shows all of a prompt; boxes need a view without rotation to stay boxes."""
    view_grid = view.grid(grid)
    if prompt.box is not None and (view.angle != 0 or not view_grid.contains(prompt.box).all()):
        return False
    return bool(view_grid.contains(prompt.points).all())


def average_answers(answers: Sequence[ROISet], grid: Grid) -> Tensor:
    """(*shape) mean of the probability maps of the first answers in all views, as published, 0..1.

    A view without an answer, and what a view does not show, count as outside. Where a segmenter tells masks alone,
    these are the probabilities.

    Parameters
    ----------
    answers : of the segmenter in every view, one view at least, on grids of their own in the same world.
    """
    maps = [_on(rois.subset([0]), grid)[0] if len(rois) else torch.zeros(grid.shape) for rois in answers]
    return torch.stack(maps).mean(0)


def refined_region(base: ROISet, answers: Sequence[ROISet]) -> Tensor:
    """(*shape) mean of the probability maps of one region and of the answers that mean the same region, 0..1.

    Of each view the answer that agrees best with `base` (intersection over union) is taken, so that other
    readings of an ambiguous prompt do not blur the region; a view whose best answer agrees by less than a half
    says nothing. So views smooth and mend the border of a region, and cannot put another one in its place;
    `average_answers` can. `base` counts as one more view.

    Parameters
    ----------
    base : one region; the mean lies on its grid.
    answers : of the segmenter in every view, on grids of their own in the same world.
    """
    maps = [probabilities(base)[0]]
    for rois in answers:
        if not len(rois):
            continue
        on_grid = _on(rois, base.grid)
        overlap = iou(base.masks, on_grid > 0.5)[0]
        best = int(overlap.argmax())
        if overlap[best] >= 0.5:
            maps.append(on_grid[best])
    return torch.stack(maps).mean(0)


def _on(rois: ROISet, grid: Grid) -> Tensor:
    """(K, *shape) probability maps of regions on another grid, 0 where their own does not reach."""
    return warp(Image(probabilities(rois), rois.grid), None, grid, fill=0.0).data
