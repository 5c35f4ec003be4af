"""The deformed grid: lines of the fixed image that become straight and evenly spaced in the moving one."""

from __future__ import annotations

import numpy as np

from roireg.core.transforms import Transform
from roireg.evaluate.outlines import level_lines
from roireg.evaluate.planes import Plane

__all__ = ["grid_lines"]

LINES = 24
"""How many lines cross the longer side of a plane."""

SAMPLES = 160
"""Points along the longer side at which the transform is looked at."""


def grid_lines(transform: Transform, plane: Plane) -> list[list[list[float]]]:
    """Return the lines on a fixed plane, each a list of (column, row) in pixels of the plane.

    A line is where the moving point has one and the same coordinate along the columns, or the rows, of the plane.
    """
    native = plane.native
    rows, columns = native.shape[-2:]
    factor = max(rows, columns) / SAMPLES
    shape = (max(2, round(rows / factor)), max(2, round(columns / factor)))
    coarse = native.with_shape((*native.shape[:-2], *shape))
    mapped = native.index_from_world(transform.map_points(coarse.points()))[:, -2:].reshape(*shape, 2)
    step = max(rows, columns) / LINES
    scale = np.array([columns / shape[1], rows / shape[0]])
    lines = []
    for axis in (0, 1):
        values = mapped[..., axis]
        first, last = np.floor(values.min() / step), np.ceil(values.max() / step)
        levels = [float(k * step) for k in np.arange(first, min(last, first + 20 * LINES) + 1)]
        lines += [np.round((line + 0.5) * scale - 0.5, 2).tolist() for line in level_lines(values, levels)]
    return lines
