"""Draw the pictures of README.md and docs/ from the package's own phantoms: ``python docs/make_images.py``."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Picture

import roireg
from roireg.core.image import Image
from roireg.evaluate.palette import distinct_colours
from roireg.evaluate.plots import fusion, intensity_window, rendered, to_picture
from roireg.synth import as_raster, make_pair

FOLDER = Path(__file__).parent / "images"
SHOWN_PAIRS = 12
SMALLEST, LARGEST = 0.0015, 0.15
"""Fractions of the image between which a region is drawn: smaller ones are dots here, larger ones hide others."""
COMPACT = 0.75
"""Least share of the ellipse of its second moments that a drawn region fills: rims and branches are hard to see."""


def main() -> None:
    """Register the pair of ``roireg demo`` and draw it."""
    pair = as_raster(make_pair(2, seed=0))
    result = roireg.register(pair.fixed, pair.moving)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "result.png").write_bytes(result_picture(result))


def result_picture(result: roireg.Registration) -> bytes:
    """Return a PNG: matched regions of both images in equal colours, and the overlay before and after."""
    fixed, moving, warped = (_gray(image) for image in (result.fixed, result.moving, result.warped))
    figure = Figure(figsize=(10, 6.9), dpi=84, layout="constrained")
    axes = figure.subplots(2, 2)
    # The body, without the black around it.
    rows, columns = (np.flatnonzero((np.maximum(fixed, moving)[..., 0] > 38).any(axis)) for axis in (1, 0))
    titles = ("fixed image", "moving image, matched regions in the same colour", "overlay before", "overlay after")
    shown = (fixed, moving, fusion(fixed, moving), fusion(fixed, warped))
    for place, title, picture in zip(axes.flat, titles, shown, strict=True):
        place.imshow(picture)
        place.set_title(title, fontsize=12)
        place.set(xlim=(columns[0] - 6, columns[-1] + 6), ylim=(rows[-1] + 6, rows[0] - 6))
        place.set_axis_off()
    pairs = _drawn(result)
    for colour, (fixed_mask, moving_mask) in zip(distinct_colours(len(pairs)), pairs, strict=True):
        axes[0, 0].contour(fixed_mask, [0.5], colors=[colour], linewidths=2)
        axes[0, 1].contour(moving_mask, [0.5], colors=[colour], linewidths=2)
    # Fewer shades of each colour compress far better, and nobody sees it.
    drawn = rendered(figure) // 8 * 8 + 4
    stream = io.BytesIO()
    Picture.fromarray(drawn).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _gray(image: Image) -> np.ndarray:
    gray = image.gray()
    return to_picture(gray.data.numpy(), intensity_window(gray))


def _drawn(result: roireg.Registration) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks on the image grids of the most confident pairs that do not overlap one drawn before."""
    active = result.pairs.active
    fixed, moving = active.fixed_masks(), active.moving_masks()
    taken = np.zeros(result.fixed.grid.shape, dtype=bool)
    chosen: list[tuple[np.ndarray, np.ndarray]] = []
    for k in np.argsort(-active.confidence, kind="stable"):
        masks = tuple(rois.masks[int(k)].cpu().numpy().astype(float) for rois in (fixed, moving))
        size = masks[0].mean()
        ellipse = 4 * np.pi * np.sqrt(np.linalg.det(fixed.covariances[int(k)])) / fixed.grid.size
        if not SMALLEST <= size <= LARGEST or size < COMPACT * ellipse or (taken & (masks[0] > 0.5)).any():
            continue
        taken |= masks[0] > 0.5
        chosen.append((masks[0], masks[1]))
        if len(chosen) == SHOWN_PAIRS:
            break
    return chosen


if __name__ == "__main__":
    main()
