"""A registration at a glance: both images in one picture, before and after, as a figure of matplotlib."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from roireg.core.errors import GeometryError
from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.evaluate.planes import Plane, display_planes, sample_plane
from roireg.evaluate.plots import Picture, fusion, intensity_window, to_picture

__all__ = ["ShownFigure", "fusion_figure"]

INCHES = 3.2
"""Width of one picture."""

TALLEST = 1.5
"""Height of a row as a share of that width; taller planes become narrower."""


class ShownFigure(Figure):
    """A figure that a notebook shows by itself, whatever backend it uses; nothing of pyplot is touched."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        FigureCanvasAgg(self).print_png(stream)
        return stream.getvalue()


def fusion_figure(
    fixed: Image,
    moving: Image,
    transform: Transform,
    *,
    point: ArrayLike | None = None,
    title: str = "",
) -> ShownFigure:
    """Return a figure of the fixed (orange) and the moving image (blue) in one, gray where they agree.

    The upper row is as the images lie, the lower one under the transform; one column for every plane of a volume.

    Parameters
    ----------
    transform : from fixed to moving points.
    point : (d,) fixed world point the planes of a volume pass through; None is the middle of the fixed image.

    Raises
    ------
    GeometryError
        When the point has another number of coordinates than the fixed image has axes.
    """
    place = fixed.grid.center if point is None else np.asarray(point, dtype=np.float64)
    if place.shape != (fixed.ndim,):
        raise GeometryError(f"a point of {fixed.name} has {fixed.ndim} coordinates, found an array of {place.shape}")
    planes = display_planes(fixed.grid, place, unit=fixed.unit)
    height = INCHES * min(TALLEST, max(plane.size[1] / plane.size[0] for plane in planes))
    figure = ShownFigure(figsize=(INCHES * len(planes) + 0.3, 2 * height + 0.8), layout="constrained")
    axes = figure.subplots(2, len(planes), squeeze=False)
    for column, plane in enumerate(planes):
        still = _picture(fixed, plane, None)
        for row, motion in enumerate((None, transform)):
            shown = axes[row, column]
            shown.imshow(fusion(still, _picture(moving, plane, motion)), interpolation="bilinear")
            shown.set(xticks=[], yticks=[])
        axes[0, column].set_title(f"{plane.name}, {plane.position}" if plane.position else "", fontsize=8)
    for row, name in enumerate(("before", "after")):
        axes[row, 0].set_ylabel(name)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _picture(image: Image, plane: Plane, transform: Transform | None) -> Picture:
    window = intensity_window(image)
    channels = [0, 1, 2] if image.channels >= 3 else None
    values = sample_plane(image.data, image.grid, plane.display, transform, fill=window[0], channels=channels)
    return to_picture(values, window)
