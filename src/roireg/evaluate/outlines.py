"""Lines on pictures as SVG paths: outlines of masks, level lines, landmarks, and places for numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["arrow_path", "dot_path", "label_outlines", "level_lines", "number_places", "outlines", "svg_path"]

Array = NDArray[np.float64]


def outlines(mask: NDArray[Any]) -> list[Array]:
    """Return the 0.5 level lines of a (rows, columns) mask, each (N, 2) pixel positions (column, row).

    Half a pixel of blur rounds off the staircase of the pixels.
    """
    inside: NDArray[np.bool_] = np.greater(mask, 0.5)
    if min(mask.shape) < 2 or not inside.any():
        return []
    margin = 4
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    box = tuple(slice(max(0, line[0] - margin), line[-1] + margin + 1) for line in (rows, columns))
    part = ndimage.gaussian_filter(np.asarray(mask[box], dtype=np.float32), 0.7)
    if part.max() <= 0.5:  # too thin to survive the blur
        part = np.asarray(mask[box], dtype=np.float32)
    corner = np.array([box[1].start, box[0].start])
    return [line + corner for line in level_lines(part, [0.5])]


def label_outlines(labels: NDArray[np.float32], ids: Array) -> list[Array]:
    """Return the outlines of those labels of a (rows, columns) label map, see `outlines`."""
    wanted = np.sort(ids)
    if not len(wanted):
        return []
    place = np.searchsorted(wanted, labels).clip(max=len(wanted) - 1)
    dense = np.where(wanted[place] == labels, place + 1, 0)
    lines = []
    for k, box in enumerate(ndimage.find_objects(dense)):
        if box is not None:
            grown = tuple(slice(max(0, s.start - 4), s.stop + 4) for s in box)
            corner = np.array([grown[1].start, grown[0].start])
            lines += [line + corner for line in outlines(dense[grown] == k + 1)]
    return lines


def level_lines(values: NDArray[np.float32] | Array, levels: Sequence[float]) -> list[Array]:
    """Return the lines where (rows, columns) values cross the levels, each (N, 2) pixel positions (column, row)."""
    if min(values.shape) < 2:
        return []
    contours = contour_generator(z=values, line_type=LineType.Separate)
    return [np.asarray(line) for level in levels for line in contours.lines(level)]


def svg_path(lines: Sequence[Array], scale: Array, *, apart: float = 3.0) -> str:
    """Return the `d` of an SVG path.

    Parameters
    ----------
    lines : each (N, 2) pixel positions (column, row), 0 at the centre of the first pixel.
    scale : (2,) units of the drawing per pixel, across and down.
    apart : points that are closer than this along the line, in units, and lines that are smaller, are left out.
    """
    lines = [line for line in lines if np.abs(np.ptp(line, axis=0) * scale).max() >= apart]
    if not lines:
        return ""
    lengths = np.array([len(line) for line in lines])
    points = np.round((np.concatenate(lines) + 0.5) * scale).astype(int)
    first = np.cumsum(lengths) - lengths
    # All lines at once: a slice of a brain has hundreds.
    step = np.r_[0.0, np.hypot(*np.diff(points, axis=0).T)]
    step[first] = 0
    kept = np.r_[True, np.diff(np.floor(np.cumsum(step) / apart)) > 0]
    kept[first] = True
    moves = np.diff(points[kept], axis=0).ravel().tolist()
    texts = [str(move) for move in moves]
    starts = (np.cumsum(kept) - 1)[first].tolist()
    ends = [*starts[1:], int(kept.sum())]
    parts = []
    for line, place, start, end in zip(lines, points[first].tolist(), starts, ends, strict=True):
        closed = "z" if (line[0] == line[-1]).all() else ""
        parts.append(f"M{place[0]} {place[1]}l{' '.join(texts[2 * start : 2 * end - 2])}{closed}")
    return "".join(parts).replace(" -", "-")


def dot_path(points: Array, scale: Array) -> str:
    """Return the `d` of an SVG path of dots, lines without length that round caps make visible; see `svg_path`."""
    return "".join(f"M{x} {y}h0" for x, y in np.round((points + 0.5) * scale).astype(int))


def arrow_path(starts: Array, ends: Array, scale: Array, *, head: float = 14.0) -> str:
    """Return the `d` of an SVG path of arrows; short ones have no head. See `svg_path`."""
    parts = []
    for start, end in zip((starts + 0.5) * scale, (ends + 0.5) * scale, strict=True):
        along = end - start
        length = float(np.hypot(*along))
        points = [start, end]
        if length > head:
            back = -along / length * head
            side = np.array([-back[1], back[0]]) * 0.5
            points += [end + back + side, end, end + back - side]
        places = [f"{x} {y}" for x, y in np.round(points).astype(int)]
        parts.append(f"M{places[0]}L{' '.join(places[1:])}")
    return "".join(parts)


def number_places(masks: NDArray[np.float32], *, apart: float = 0.05) -> list[tuple[float, float] | None]:
    """Return for every (rows, columns) mask where its number goes, as shares (across, down); None where it is empty.

    The middle of the region if it lies inside, else its innermost pixel; where another number is nearer than `apart`
    of the longer side, the pixel of the region that is farthest from all numbers.
    """
    places: list[tuple[float, float] | None] = []
    taken: list[Array] = []
    least = apart * max(masks.shape[1:])
    for mask in masks:
        inside = np.argwhere(mask > 0.5)
        if not len(inside):
            places.append(None)
            continue
        place = inside.mean(axis=0)
        if mask[tuple(np.round(place).astype(int))] <= 0.5:
            depth = ndimage.distance_transform_edt(np.pad(mask > 0.5, 1))[1:-1, 1:-1]
            place = np.array(np.unravel_index(int(np.argmax(depth)), depth.shape), dtype=float)
        if taken and min(np.hypot(*(place - other)) for other in taken) < least:
            distance = np.min([np.hypot(*(inside - other).T) for other in taken], axis=0)
            place = inside[int(np.argmax(np.minimum(distance, 1.5 * least)))].astype(float)
        taken.append(place)
        down, across = (place + 0.5) / mask.shape
        places.append((float(np.clip(across, 0.02, 0.98)), float(np.clip(down, 0.02, 0.98))))
    return places
