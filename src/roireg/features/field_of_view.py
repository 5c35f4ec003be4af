"""Where an image shows something: not in padding, frames and apertures, and not in the air around a body."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours
from skimage.morphology import convex_hull_image
from torch import Tensor

from roireg.core.image import Image
from roireg.core.noise import noise_level
from roireg.core.warp import resample

__all__ = ["field_of_view"]

Mask = NDArray[np.bool_]

CELLS = {2: 256, 3: 64}
"""Cells along the longest axis of the grid on which the field of view is found."""
DARK = 0.03
"""A surround differs from the value of the border by less than this part of the range of intensities."""
MARGIN = 0.03
"""How far inside the outline of an aperture, and how far outside the outline of a body, the mask ends: part of the
longest axis."""


def field_of_view(image: Image) -> Image:
    """Return a mask of where an image shows something, 1 inside and 0 outside, on a coarse grid of the same box.

    The surround is what has the value of the border and is connected with it. Where its outline is a frame, an
    aperture or padding (straight lines or an arc of a circle: no part of what is shown), the mask ends inside the
    outline. Around a body the outline tells where the body is, and the mask ends outside it. Small specks in the
    surround (burnt-in text, scales) are not shown things. An image without surround is shown everywhere.

    Parameters
    ----------
    image : 2D or 3D, any channels.

    Returns
    -------
    A one-channel uint8 image of the same world box, at most 256 (2D) or 64 (3D) cells along the longest axis.
    """
    gray = image.gray()
    longest = float(gray.grid.extent.max())
    cell = longest / CELLS[image.ndim]
    grid = gray.grid.with_spacing(np.maximum(gray.grid.spacing, cell))
    values = _quiet(resample(gray, grid).data[0].float().cpu())
    # An axis that is too short for a margin has none.
    margin = [
        max(1, round(MARGIN * longest / h)) if n > 8 else 0 for n, h in zip(grid.shape, grid.spacing, strict=True)
    ]
    inside = _inside(values, margin)
    return Image(
        torch.as_tensor(inside[None].astype(np.uint8)), grid, f"field of view of {image.name}", dtype="uint8"
    )


def _quiet(values: Tensor) -> NDArray[np.float32]:
    """Average noise away that would make dark air as bright as dark tissue; (*shape) values."""
    low, high = np.percentile(values, (1, 99))
    width = int(np.ceil(6 * noise_level(values[None]) / max(DARK * (high - low), 1e-6)))
    if width < 2:
        return values.numpy()
    size = [min(width | 1, 7, n) for n in values.shape]
    quiet: NDArray[np.float32] = ndimage.uniform_filter(values.numpy(), size, mode="nearest")
    return quiet


def _inside(values: NDArray[np.float32], margin: list[int]) -> Mask:
    surround = _surround(values)
    if surround.mean() < 0.005:
        return np.ones(values.shape, dtype=bool)
    shown = _without_specks(ndimage.binary_fill_holes(~surround))
    if shown.mean() < 0.02:
        return np.ones(values.shape, dtype=bool)
    if _is_geometric(shown):
        # Holes and notches of what is shown are dark things in it.
        inner = ~_dilated(~convex_hull_image(shown), margin)
        return inner if inner.mean() > 0.02 else shown
    return _dilated(shown, margin)


def _surround(values: NDArray[np.float32]) -> Mask:
    """What is connected with the border and has its usual value, if that is at either end of the intensities."""
    if max(values.shape) <= 2:  # nothing but border
        return np.zeros(values.shape, dtype=bool)
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    low, high = min(low, float(values.min())), max(high, low + 1e-6)
    rim = np.concatenate([np.take(values, [0, -1], axis=a).ravel() for a, n in enumerate(values.shape) if n > 2])
    best = np.zeros(values.shape, dtype=bool)
    for end in (low, high):
        near = np.abs(values - end) < DARK * (high - low)
        if (np.abs(rim - end) < DARK * (high - low)).mean() < 0.02:
            continue
        # Thin bridges into dark structures are cut.
        if min(values.shape) > 8:
            around = np.pad(near, 1, mode="edge")
            near = ndimage.binary_opening(around)[tuple(slice(1, -1) for _ in near.shape)]
        labels, _ = ndimage.label(near)
        touching = np.unique(
            np.concatenate([np.take(labels, [0, -1], axis=a).ravel() for a, n in enumerate(values.shape) if n > 2])
        )
        outside = np.isin(labels, touching[touching > 0])
        best = outside if outside.sum() > best.sum() else best
    return best


def _without_specks(shown: Mask) -> Mask:
    """Drop parts below a fiftieth of the largest."""
    labels, count = ndimage.label(shown)
    if count < 2:
        return shown
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.isin(labels, np.flatnonzero(sizes >= max(sizes.max() / 50, 1)))


def _is_geometric(shown: Mask) -> bool:
    """Tell whether the outline is made of straight lines or of one circle, seen along every axis."""
    if shown.ndim == 3:
        axes = (
            [a for a, n in enumerate(shown.shape) if n == min(shown.shape)] if min(shown.shape) <= 12 else [0, 1, 2]
        )
        return all(_is_geometric(np.asarray(shown.any(axis=a))) for a in axes)
    hull = convex_hull_image(shown)
    filled = shown.sum() / hull.sum()
    if filled < 0.94:
        return False
    outline = max(find_contours(np.pad(hull, 1).astype(float), 0.5), key=len)
    size = float(np.hypot(*np.ptp(outline, axis=0)))
    # The outline comes back to its first corner: at most eight corners, as of a turned and cut off rectangle.
    if filled >= 0.965 and len(approximate_polygon(outline, 0.006 * size + 0.5)) <= 9:
        return True
    return _is_cut_disc(outline, 0.01 * size + 0.5)


def _is_cut_disc(outline: NDArray[np.float64], tolerance: float) -> bool:
    """Tell whether (N, 2) points lie on one circle, but for the sides of the box around them all that cut it off."""
    ends = np.stack([outline.min(axis=0), outline.max(axis=0)])
    free = ~(np.abs(outline[None] - ends[:, None]) < 1.0).any(axis=(0, 2))
    on = free
    for _ in range(3):  # an algebraic fit, then without what it leaves aside
        if on.sum() < 8:
            return False
        points = outline[on]
        y, x, rest = np.linalg.lstsq(np.c_[2 * points, np.ones(len(points))], (points**2).sum(1), rcond=None)[0]
        radius = np.sqrt(max(rest + y * y + x * x, 0))
        on = free & (np.abs(np.hypot(outline[:, 0] - y, outline[:, 1] - x) - radius) < tolerance)
    return bool(on.sum() > 0.85 * free.sum() and (on | ~free).mean() > 0.9)


def _dilated(mask: Mask, margin: list[int]) -> Mask:
    """Grow by a margin in cells per axis."""
    for axis, m in enumerate(margin):
        if m:
            mask = ndimage.maximum_filter1d(mask, 2 * m + 1, axis=axis)
    return mask
