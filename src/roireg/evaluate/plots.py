"""Pictures of a registration as (rows, columns, 3) uint8 arrays; drawn with matplotlib, nothing global touched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from contourpy import FillType, LineType, contour_generator
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.text import Text
from numpy.typing import NDArray
from scipy import ndimage

from roireg.core.image import Image
from roireg.evaluate.palette import FIXED, FOLDED, GRID, dashes

__all__ = [
    "JACOBIAN_COLOURS",
    "checkerboard",
    "draw_grid",
    "draw_jacobian",
    "draw_regions",
    "fusion",
    "intensity_window",
    "rendered",
    "to_picture",
]

Picture = NDArray[np.uint8]
Array = NDArray[np.float64]
LineStyle = tuple[int, tuple[float, ...] | None]

JACOBIAN_COLOURS = "RdBu_r"


def intensity_window(image: Image) -> tuple[float, float]:
    """Return the intensities shown as black and white: 0..255 for 8-bit colour, else the 0.5 and 99.5 percentile."""
    if image.channels >= 3 and image.dtype == "uint8":
        return 0.0, 255.0
    step = max(1, int((image.data.numel() / 1e6) ** (1 / image.ndim)))
    values = image.data[(slice(0, 3), *[slice(None, None, min(step, n)) for n in image.grid.shape])]
    low, high = np.percentile(values.float().cpu().numpy(), [0.5, 99.5])
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return float(low), float(high) if high > low else float(low) + 1.0


def to_picture(values: NDArray[np.float32], window: tuple[float, float]) -> Picture:
    """Turn (channel, rows, columns) intensities into a picture; three or more channels are shown as colours."""
    low, high = window
    scaled = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    scaled = scaled[:3] if len(scaled) >= 3 else np.repeat(scaled.mean(0, keepdims=True), 3, axis=0)
    return np.asarray(np.round(scaled.transpose(1, 2, 0) * 255), dtype=np.uint8)


def fusion(fixed: Picture, moving: Picture) -> Picture:
    """Return both pictures in one: orange where only the fixed one is bright, blue where only the moving one is.

    Parameters
    ----------
    fixed, moving : (rows, columns, 3) of one shape; of colours the lightness counts.
    """
    orange = np.array(to_rgb(FIXED))
    lightness = [picture @ np.array([0.299, 0.587, 0.114]) for picture in (fixed, moving)]
    mixed = lightness[0][..., None] * orange + lightness[1][..., None] * (1 - orange)
    return np.asarray(np.round(mixed), dtype=np.uint8)


def checkerboard(a: Picture, b: Picture, *, tiles: int = 8) -> Picture:
    """Return tiles of `a` and `b` in turn, `tiles` of them along the longer side; both pictures equal in shape."""
    edge = max(1.0, max(a.shape[:2]) / tiles)
    rows, columns = np.ogrid[: a.shape[0], : a.shape[1]]
    odd = ((rows // edge + columns // edge) % 2 == 1)[..., None]
    return np.asarray(np.where(odd, b, a))


def draw_regions(
    picture: Picture,
    masks: NDArray[np.float32],
    colours: Sequence[str],
    numbers: Sequence[int],
    *,
    longest: int = 600,
    text: float = 0.025,
) -> Picture:
    """Draw region outlines, a light fill and a number at each region's centre over a picture.

    Parameters
    ----------
    picture : (rows, columns, 3).
    masks : (K, rows, columns) values 0..1; the outline is the 0.5 level.
    colours, numbers : one per region; regions that the plane does not cut are skipped.
    longest : longer side of the result in pixels.
    text : height of the numbers as a share of the longer side.
    """
    figure, axes = _canvas(picture, longest)
    # One collection for all regions: `contour` for each would take most of the time of a report.
    fills: list[Path] = []
    fill_colours: list[str] = []
    lines: list[Array] = []
    line_colours: list[str] = []
    styles: list[LineStyle] = []
    for rank, (mask, colour) in enumerate(zip(masks, colours, strict=True)):
        # Masks come from coarser voxels than the pixels: half a pixel of blur rounds off the staircase.
        level = ndimage.gaussian_filter(mask, 0.7)
        if level.max() <= 0.5 or min(mask.shape) < 2:
            continue
        contours = contour_generator(z=level, fill_type=FillType.OuterCode, line_type=LineType.Separate)
        areas = [Path(points, codes) for points, codes in zip(*contours.filled(0.5, 2), strict=True)]
        borders = [np.asarray(line) for line in contours.lines(0.5)]
        fills += areas
        fill_colours += [colour] * len(areas)
        lines += borders
        line_colours += [colour] * len(borders)
        styles += [(0, dashes(rank) or None)] * len(borders)
    axes.add_collection(PathCollection(fills, facecolors=fill_colours, linewidths=0, alpha=0.22), autolim=False)
    axes.add_collection(LineCollection(lines, colors="#000000", linewidths=longest / 230, alpha=0.45), autolim=False)
    axes.add_collection(
        LineCollection(lines, colors=line_colours, linewidths=longest / 400, linestyles=styles), autolim=False
    )
    for mask, colour, number in zip(masks, colours, numbers, strict=True):
        inside = mask > 0.5
        if not inside.any():
            continue
        row, column = _label_place(inside)
        bright = float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114))) > 0.45
        axes.text(
            column,
            row,
            str(number),
            color="#000000" if bright else "#ffffff",
            ha="center",
            va="center",
            fontsize=0.72 * text * longest,
            fontweight="bold",
            bbox={"boxstyle": "round,pad=0.16", "facecolor": colour, "edgecolor": "#000000", "linewidth": 0.8},
        )
    return rendered(figure)


def draw_grid(picture: Picture, rows: Array, columns: Array, *, step: float, longest: int = 600) -> Picture:
    """Draw a regular grid of the moving image as it lies on the fixed image.

    Parameters
    ----------
    picture : the fixed image, (rows, columns, 3).
    rows, columns : (rows, columns) in-plane moving position of every pixel, in display pixels down and right.
    step : distance of the grid lines, in display pixels.
    """
    figure, axes = _canvas(np.asarray(picture * 0.5, dtype=np.uint8), longest)
    for position in (rows, columns):
        first, last = np.ceil(position.min() / step), np.floor(position.max() / step)
        # A wildly scaling transform would ask for thousands of lines; thin them so that some remain visible.
        stride = max(1, int((last - first) / 120))
        levels = np.arange(first, last + 1, stride) * step
        if len(levels) and min(position.shape) > 1:
            width = max(0.8, longest / 620)
            lines = axes.contour(position, levels=levels, colors=[GRID], linewidths=width, alpha=0.95)
            # Straight lines would otherwise be moved to the next whole pixel.
            lines.set_snap(False)
    return rendered(figure)


def draw_jacobian(
    determinant: Array, folded: NDArray[np.bool_], picture: Picture, *, limit: float, longest: int = 600
) -> Picture:
    """Draw log2 det J in diverging colours centred at det J = 1, folded voxels marked, edges of the anatomy shaded.

    Parameters
    ----------
    determinant : (rows, columns) det J.
    folded : (rows, columns) where det J ≤ 0.
    picture : the fixed image, (rows, columns, 3); its edges are drawn as thin shadows.
    limit : |log2 det J| at the ends of the colour scale.
    """
    exponent = np.log2(np.clip(determinant, 2.0**-limit, 2.0**limit))
    colour = colormaps[JACOBIAN_COLOURS](0.5 + 0.5 * exponent / limit)[..., :3]
    edges = ndimage.gaussian_gradient_magnitude(picture.astype(np.float64).mean(-1), 1.2)
    # Shadows leave flat tissue in the exact colour of the scale.
    shade = 1 - 0.42 * np.clip(edges / max(np.percentile(edges, 99), 1.0), 0, 1)
    colour = np.where(folded[..., None], to_rgb(FOLDED), colour * shade[..., None])
    figure, axes = _canvas(np.asarray(np.round(colour * 255), dtype=np.uint8), longest)
    if folded.any() and min(folded.shape) > 1:
        axes.contour(folded.astype(float), levels=[0.5], colors=["#000000"], linewidths=1.0)
    return rendered(figure)


def _label_place(inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Return (row, column) of the centroid of a cross-section, or of its innermost pixel if that lies outside."""
    row, column = (float(v) for v in np.argwhere(inside).mean(0))
    if not inside[round(row), round(column)]:
        depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
        row, column = (float(v) for v in np.unravel_index(int(np.argmax(depth)), depth.shape))
    # Keep the digits inside the picture.
    edge = 0.03 * max(inside.shape)
    height, width = inside.shape
    return min(max(row, edge), max(edge, height - 1 - edge)), min(max(column, edge), max(edge, width - 1 - edge))


def _canvas(picture: Picture, longest: int) -> tuple[Figure, Axes]:
    """Return a figure whose only axes show the picture edge to edge, in pixel coordinates."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    figure = Figure(figsize=(max(1, round(width * scale)) / 100, max(1, round(height * scale)) / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(picture, interpolation="bilinear", aspect="auto")
    axes.set_autoscale_on(False)
    return figure, axes


def rendered(figure: Figure) -> Picture:
    """Draw a figure whose texts are shown letter for letter: a dollar sign in a name begins no formula."""
    canvas = FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
