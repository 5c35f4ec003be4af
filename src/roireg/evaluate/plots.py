"""Pictures of a registration as (rows, columns, 3) uint8 arrays; drawn with matplotlib, nothing global touched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy import ndimage

from roireg.core.image import Image
from roireg.evaluate.outlines import number_places, outlines
from roireg.evaluate.palette import FIXED, dashes

__all__ = [
    "JACOBIAN_COLOURS",
    "draw_regions",
    "fusion",
    "intensity_window",
    "jacobian_picture",
    "rendered",
    "resized",
    "to_picture",
    "tone_curve",
]

Picture = NDArray[np.uint8]
Array = NDArray[np.float64]

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


def resized(picture: Picture, shape: tuple[int, ...]) -> Picture:
    """Return a picture over the same box with (rows, columns) pixels, smooth where there are more of them."""
    if picture.shape[:2] == shape:
        return picture
    image = PillowImage.fromarray(picture)
    return np.asarray(image.resize((shape[1], shape[0]), PillowImage.Resampling.BICUBIC))


def tone_curve(moving: NDArray[np.uint8], fixed: NDArray[np.uint8], *, knots: int = 33) -> Array:
    """Return the curve that gives one list of gray values the histogram of another, (knots,) values 0..1.

    The curve is given at evenly spaced gray values 0..1 and never falls.
    """
    levels = np.arange(256)
    ranks = []
    for values in (moving, fixed):
        count = np.bincount(values.ravel(), minlength=256) + 1e-9
        ranks.append((np.cumsum(count) - count / 2) / count.sum())
    place = np.linspace(0, 255, knots)
    return np.asarray(np.interp(np.interp(place, levels, ranks[0]), ranks[1], levels) / 255)


def draw_regions(
    picture: Picture,
    masks: NDArray[np.float32],
    colours: Sequence[str],
    numbers: Sequence[int],
    *,
    longest: int = 600,
    text: float = 0.025,
) -> Picture:
    """Draw region outlines, and a number in each region, over a picture; what lies inside stays as it is.

    Parameters
    ----------
    picture : (rows, columns, 3).
    masks : (K, rows, columns) values 0..1; the outline is the 0.5 level.
    colours, numbers : one per region; regions that the plane does not cut are skipped.
    longest : longer side of the result in pixels.
    text : height of the numbers as a share of the longer side.
    """
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    figure = Figure(figsize=(max(1, round(width * scale)) / 100, max(1, round(height * scale)) / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(picture, interpolation="bilinear", aspect="auto")
    axes.set_autoscale_on(False)
    for rank, (mask, colour) in enumerate(zip(masks, colours, strict=True)):
        lines = outlines(mask)
        dashed = (0, dashes(rank) or None)
        for ink, thick, style in (("#000000", longest / 230, "solid"), (colour, longest / 400, dashed)):
            drawn = LineCollection(lines, colors=ink, linewidths=thick, linestyles=[style])
            drawn.set_alpha(0.45 if ink == "#000000" else 1)
            axes.add_collection(drawn, autolim=False)
    halo = [withStroke(linewidth=longest / 260, foreground="#000000")]
    size = 0.72 * text * longest
    for number, place in zip(numbers, number_places(masks), strict=True):
        if place is not None:
            across, down = place[0] * width - 0.5, place[1] * height - 0.5
            axes.text(
                across, down, str(number), color="#ffffff", ha="center", va="center", fontsize=size,
                fontweight="bold", path_effects=halo,
            )  # fmt: skip
    return rendered(figure)


def jacobian_picture(determinant: Array, picture: Picture, *, limit: float) -> Picture:
    """Return log2 det J in diverging colours centred at det J = 1, edges of the anatomy as thin shadows.

    Parameters
    ----------
    determinant : (rows, columns) det J.
    picture : the fixed image, (rows, columns, 3).
    limit : |log2 det J| at the ends of the colour scale.
    """
    exponent = np.log2(np.clip(determinant, 2.0**-limit, 2.0**limit))
    colour = colormaps[JACOBIAN_COLOURS](0.5 + 0.5 * exponent / limit)[..., :3]
    edges = ndimage.gaussian_gradient_magnitude(picture.astype(np.float64).mean(-1), 1.2)
    # Shadows leave flat tissue in the exact colour of the scale.
    shade = 1 - 0.42 * np.clip(edges / max(np.percentile(edges, 99), 1.0), 0, 1)
    return np.asarray(np.round(colour * shade[..., None] * 255), dtype=np.uint8)


def rendered(figure: Figure) -> Picture:
    """Draw a figure whose texts are shown letter for letter: a dollar sign in a name begins no formula."""
    canvas = FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
