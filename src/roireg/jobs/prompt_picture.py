"""The picture of carried prompts: one row per prompt, its own image on the left, the other one on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.evaluate.palette import GREEN, SKY, VERMILION
from roireg.evaluate.planes import Plane, display_planes, sample_plane
from roireg.evaluate.plots import intensity_window, rendered, to_picture
from roireg.io import atomic_path
from roireg.match.carry import anchor_of
from roireg.pipeline.prompts import PromptResult

__all__ = ["draw_answers"]

DRAWN = 8
"""How many prompts the picture shows."""

INSIDE, OUTSIDE, REGION = GREEN, VERMILION, SKY

Array = NDArray[np.float64]


def draw_answers(path: Path, result: PromptResult, fixed: Image, moving: Image, names: Sequence[str]) -> None:
    """Write the picture; prompts beyond the first eight are left out.

    Markers: + inside the region, x outside. The box is dashed, below the outline of the region and wider, so that
    both show where they coincide. Volumes are shown in their sharpest plane through the prompt.
    """
    images = {"fixed": fixed, "moving": moving}
    shown = result.answers[:DRAWN]
    figure = Figure(figsize=(9, 4.3 * len(shown)), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots(len(shown), 2, squeeze=False)
    for row, answer, name in zip(axes, shown, names, strict=False):
        own, other = answer.side, "moving" if answer.side == "fixed" else "fixed"
        _draw(row[0], images[own], answer.given, answer.regions, f"{own}: prompt {name}")
        counterpart, sets = answer.found, {"fixed": result.pairs.fixed, "moving": result.pairs.moving}
        if answer.pair is not None:
            title = f"{other}: counterpart, confidence {answer.confidence:.2f}"
            _draw(row[1], images[other], counterpart, sets[other].subset([answer.pair]), title)
        else:
            _draw(
                row[1],
                images[other],
                counterpart,
                None,
                f"{other}: no counterpart, confidence {answer.confidence:.2f}",
            )
    picture = rendered(figure)
    with atomic_path(path) as temporary:
        PIL.Image.fromarray(picture).save(temporary, "PNG")


def _draw(axes: Axes, image: Image, prompt: Prompt | None, region: ROISet | None, title: str) -> None:
    middle = image.grid.center if prompt is None else anchor_of(prompt)
    plane = _sharpest(display_planes(image.grid, middle, unit=image.unit))
    window = intensity_window(image)
    channels = [0, 1, 2] if image.channels >= 3 else None
    values = sample_plane(image.data, image.grid, plane.display, fill=window[0], channels=channels)
    axes.imshow(to_picture(values, window), interpolation="bilinear")
    axes.set_autoscale_on(False)
    axes.set_axis_off()
    axes.set_title(f"{title}\n{plane.position}" if plane.position else title, fontsize=10)
    if prompt is not None and prompt.box is not None:
        corners = _on_plane(prompt.box, plane, thick=np.inf)
        (top, left), (bottom, right) = corners.min(0), corners.max(0)
        across, down = [left, right, right, left, left], [top, top, bottom, bottom, top]
        axes.plot(across, down, color="white", linewidth=5.6, zorder=1)
        axes.plot(across, down, color=INSIDE, linewidth=4.4, linestyle=(0, (2, 1)), zorder=1)
    if region is not None and len(region):
        mask = sample_plane(region.masks[:1], region.grid, plane.display)[0]
        if mask.max() > 0.5 and min(mask.shape) > 1:
            axes.contourf(mask, levels=[0.5, 2], colors=[REGION], alpha=0.2)
            axes.contour(mask, levels=[0.5], colors=["black"], linewidths=2.6, alpha=0.5)
            axes.contour(mask, levels=[0.5], colors=[REGION], linewidths=1.5)
    if prompt is None:
        return
    for label, colour, marker in ((1, INSIDE, "+"), (0, OUTSIDE, "x")):
        points = _on_plane(prompt.points[prompt.labels == label], plane)
        for width, ink in ((4.5, "white"), (2.0, colour)):
            axes.scatter(points[:, 1], points[:, 0], s=110, marker=marker, color=ink, linewidths=width)


def _sharpest(planes: Sequence[Plane]) -> Plane:
    """The plane with the smallest voxels; the first one, axial in 3D, where several have."""
    return min(planes, key=lambda plane: round(float(np.prod(plane.native.spacing[-2:])), 6))


def _on_plane(points: Array, plane: Plane, *, thick: float = 0.75) -> Array:
    """(N, 2) row and column of the points within `thick` slices of a plane."""
    if not len(points):
        return np.zeros((0, 2))
    near = np.ones(len(points), dtype=bool)
    if plane.native.ndim == 3:
        near = np.abs(plane.native.index_from_world(points)[:, 0]) <= thick
    return plane.display.index_from_world(points[near])[:, -2:]
