"""The pictures of a report: planes, slices and the lines on them, as text that a page can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from roireg.core.background import background
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.core.transforms import Transform
from roireg.evaluate.choice import Body, shown_pairs, shown_slices
from roireg.evaluate.embed import data_uris
from roireg.evaluate.outlines import level_lines, number_places, outlines, svg_path
from roireg.evaluate.overlays import Overlays, frame_of, scale_of
from roireg.evaluate.palette import dashes, distinct_colours
from roireg.evaluate.planes import Plane, cut_profiles, display_planes, jacobian_on_plane, sample_plane
from roireg.evaluate.plots import (
    JACOBIAN_COLOURS,
    Picture,
    intensity_window,
    jacobian_picture,
    resized,
    to_picture,
    tone_curve,
)
from roireg.evaluate.report_input import ReportInput

__all__ = ["Scene"]

Array = NDArray[np.float64]

DRAWN_PAIRS = 20
"""How many pairs are drawn at most; more would hide the image and each other."""


SLICES = 20
"""How many slices of every plane can be looked at."""

SLICE_CHARACTERS = 1_900_000
SCROLLED_CHARACTERS = 2_700_000
PLANE_CHARACTERS = 350_000
"""What the pictures of slices, these with the outlines on them, and every other set of planes take at most."""

GRID_LINES = 24
"""About how many lines of the deformed grid cross the longest plane."""


class Scene:
    """The planes of one report and the pictures on them.

    Attributes
    ----------
    drawn : which pairs are drawn, ascending.
    """

    def __init__(self, report: ReportInput) -> None:
        self.report = report
        fixed, moving = report.fixed, report.moving
        bodies = Body(fixed), Body(moving)
        self.drawn = [] if report.pairs is None else shown_pairs(report.pairs, *bodies, most=DRAWN_PAIRS)
        volume = fixed.ndim == 3
        bounds = {"smallest": 200, "largest": 320} if volume else {"smallest": 360, "largest": 860}
        regions = None if report.pairs is None or not self.drawn else (report.pairs.fixed, *self._members("fixed"))
        index = shown_slices(fixed, bodies[0], regions=regions, labels=report.labels[0])
        point = fixed.grid.world_from_index(index)
        self.planes = display_planes(fixed.grid, point, unit=fixed.unit, **bounds)
        self.moving_planes = display_planes(moving.grid, self._moving_point(point), unit=moving.unit, **bounds)
        self.slices = [_slices(plane, bodies[0]) for plane in self.planes]
        self.nothing = {
            name: float(np.mean(background(image))) for name, image in (("fixed", fixed), ("moving", moving))
        }
        self.windows = {"fixed": intensity_window(fixed), "moving": intensity_window(moving)}
        self._fixed: dict[tuple[str, int], Picture] = {}

    def _members(self, side: str) -> tuple[list[int], list[float]]:
        assert self.report.pairs is not None
        chosen = [self.report.pairs.pairs[i] for i in self.drawn]
        return [getattr(p, side) for p in chosen], [max(p.confidence, 1e-3) for p in chosen]

    def _moving_point(self, point: Array) -> Array:
        """Return the counterpart of a fixed point, each coordinate moved to where its plane shows paired regions."""
        report = self.report
        mapped = report.transform.map_points(point[None])[0]
        if report.pairs is None or not self.drawn:
            return mapped
        rois = report.pairs.moving
        profiles = cut_profiles(rois, *self._members("moving"))
        index = rois.grid.index_from_world(mapped)
        for axis, profile in enumerate(profiles):
            nearest = round(float(index[axis]))
            if not (0 <= nearest < len(profile) and profile[nearest] >= 0.5 * profile.max()):
                index[axis] = int(np.argmax(profile))
        return rois.grid.world_from_index(index)

    def fixed_picture(self, plane: Plane) -> Picture:
        """Return the fixed image on a plane; sampled once."""
        place = plane.name, plane.index
        if place not in self._fixed:
            self._fixed[place] = self._picture(self.report.fixed, plane, "fixed")
        return self._fixed[place]

    def _picture(self, image: Image, plane: Plane, side: str, transform: Transform | None = None) -> Picture:
        channels = [0, 1, 2] if image.channels >= 3 else None
        grid = plane.sampled(max(plane.display.shape))
        values = sample_plane(image.data, image.grid, grid, transform, fill=self.nothing[side], channels=channels)
        return to_picture(values, self.windows[side])

    # -- both images on the fixed grid -------------------------------------------------------------

    def comparison(self) -> dict[str, Any]:
        """Return per plane the slices with the fixed image, the moving one before and after, and lines on them.

        Also the tone curves that bring the moving image to the histogram of the fixed one: per channel, and of gray.
        """
        report = self.report
        stacks = [[plane.at(i) for i in indices] for plane, indices in zip(self.planes, self.slices, strict=True)]
        pictures: dict[str, list[Picture]] = {"fixed": [], "before": [], "after": []}
        for plane in (plane for stack in stacks for plane in stack):
            pictures["fixed"].append(self.fixed_picture(plane))
            pictures["before"].append(self._picture(report.moving, plane, "moving", report.start))
            after = (report.moving, report.transform) if report.warped is None else (report.warped, None)
            pictures["after"].append(self._picture(after[0], plane, "moving", after[1]))
        curves = _curves(pictures["after"], pictures["fixed"])
        shapes = [plane.display.shape[-2:] for stack in stacks for plane in stack]
        every = [resized(p, s) for name in pictures for p, s in zip(pictures[name], shapes, strict=True)]
        uris = data_uris(every, most=SLICE_CHARACTERS)
        lines = Overlays(report, stacks, most=SCROLLED_CHARACTERS - sum(len(uri) for uri in uris))
        rest = iter(uris)
        embedded = {name: iter([next(rest) for _ in shapes]) for name in pictures}
        panels = []
        for plane, stack in zip(self.planes, stacks, strict=True):
            frames = [
                {"position": p.position, **{k: next(v) for k, v in embedded.items()}, **lines.of(p, stack)}
                for p in stack
            ]
            start = next(i for i, p in enumerate(stack) if p.index == plane.index)
            panels.append({**frame_of(plane, self.planes), "frames": frames, "start": start})
        return {
            "planes": panels,
            "curves": curves,
            "outlined": lines.outlined,
            "landmarks": lines.landmarks,
            "left_out": lines.left_out,
        }

    # -- paired regions ----------------------------------------------------------------------------

    def regions(self) -> dict[str, list[dict[str, Any]]] | None:
        """Return the paired regions on planes of either image, or None without pairs to draw."""
        pairs = self.report.pairs
        if pairs is None or not self.drawn:
            return None
        fixed = [self.fixed_picture(p) for p in self.planes]
        moving = [self._picture(self.report.moving, p, "moving") for p in self.moving_planes]
        return {
            "fixed": self._outlined(pairs.fixed, "fixed", self.planes, fixed),
            "moving": self._outlined(pairs.moving, "moving", self.moving_planes, moving),
        }

    def _outlined(
        self, rois: ROISet, side: str, planes: Sequence[Plane], pictures: Sequence[Picture]
    ) -> list[dict[str, Any]]:
        members, _ = self._members(side)
        colours = distinct_colours(len(self.drawn))
        panels = []
        embedded = self._embedded(pictures, planes)
        for plane, uri in zip(planes, embedded, strict=True):
            grid = plane.sampled(max(plane.display.shape))
            masks = sample_plane(rois.masks, rois.grid, grid, channels=members)
            drawing = frame_of(plane, planes)
            scale = scale_of(drawing, masks.shape[1:])
            shapes = []
            for rank, (mask, place) in enumerate(zip(masks, number_places(masks), strict=True)):
                if place is not None:
                    path = svg_path(outlines(mask), scale)
                    shapes.append(
                        {
                            "number": self.drawn[rank] + 1,
                            "colour": colours[rank],
                            "dashes": " ".join(f"{2 * d:g}" for d in dashes(rank)),
                            "path": path,
                            "left": f"{100 * place[0]:.1f}",
                            "top": f"{100 * place[1]:.1f}",
                        }
                    )
            panels.append({**drawing, "image": uri, "shapes": shapes})
        return panels

    def _embedded(self, pictures: Sequence[Picture], planes: Sequence[Plane]) -> list[str]:
        sized = [resized(p, plane.display.shape[-2:]) for p, plane in zip(pictures, planes, strict=True)]
        return data_uris(sized, most=PLANE_CHARACTERS)

    # -- deformation -------------------------------------------------------------------------------

    def deformation(self) -> dict[str, Any]:
        """Return grid and Jacobian pictures of every fixed plane, and the scale of the latter."""
        report = self.report
        grids = [plane.sampled(max(plane.display.shape)) for plane in self.planes]
        measured = [jacobian_on_plane(report.transform, p, g) for p, g in zip(self.planes, grids, strict=True)]
        exponents = np.concatenate([np.abs(np.log2(d[d > 0])).ravel() for d, _ in measured])
        widest = float(np.percentile(exponents, 99)) if len(exponents) else 1.0
        limit = float(np.clip(np.ceil(widest * 4) / 4, 0.5, 3.0))
        step = _round_step(max(max(p.size) for p in self.planes) / GRID_LINES)
        pictures = [self.fixed_picture(plane) for plane in self.planes]
        bases = self._embedded(pictures, self.planes)
        drawn = [jacobian_picture(d, p, limit=limit) for (d, _), p in zip(measured, pictures, strict=True)]
        jacobians = self._embedded(drawn, self.planes)
        panels = []
        for plane, grid, base, jacobian, (_, folded) in zip(
            self.planes, grids, bases, jacobians, measured, strict=True
        ):
            drawing = frame_of(plane, self.planes)
            scale = scale_of(drawing, folded.shape)
            mapped = grid.index_from_world(report.transform.map_points(grid.points()))
            lines: list[Array] = []
            for axis in (-2, -1):
                position = mapped[:, axis].reshape(folded.shape)
                lines += level_lines(position, _levels(position, step / float(grid.spacing[axis])))
            panels.append(
                {
                    **drawing,
                    "image": base,
                    "grid": svg_path(lines, scale),
                    "jacobian": jacobian,
                    "folded": svg_path(outlines(folded), scale),
                }
            )
        inside = np.concatenate([d.ravel() for d, _ in measured])
        stops = [to_hex(c) for c in colormaps[JACOBIAN_COLOURS](np.linspace(0, 1, 17))]
        return {
            "planes": panels,
            "step": f"{step:g}",
            "stops": ", ".join(stops),
            "ticks": [f"{2.0**e:.2f}" if e else "1" for e in np.linspace(-limit, limit, 5)],
            "low": f"{inside.min():.2f}",
            "high": f"{inside.max():.2f}",
            "folded": f"{100 * np.mean(np.concatenate([f.ravel() for _, f in measured])):.2g}",
        }


def _slices(plane: Plane, body: Body) -> list[int]:
    """Return the slices of a plane that can be looked at, evenly over the body, that of the plane among them."""
    if plane.axis < 0:
        return [0]
    first, last = body.span(plane.axis)
    first, last = min(first, plane.index), max(last, plane.index)
    picked = np.round(np.linspace(first, last, min(SLICES, last - first + 1))).astype(int)
    picked[np.argmin(np.abs(picked - plane.index))] = plane.index
    return [int(i) for i in np.unique(picked)]


def _curves(moving: Sequence[Picture], fixed: Sequence[Picture]) -> dict[str, list[str]]:
    """Return tone curves as texts of numbers 0..1: "colours" of the three channels, "gray" of the lightness."""
    a, b = (np.concatenate([p.reshape(-1, 3) for p in pictures]) for pictures in (moving, fixed))
    # Where nothing was sampled both images say nothing about each other.
    values, counts = np.unique(a[:, 0], return_counts=True)
    seen = a[:, 0] != values[np.argmax(counts)]
    if seen.mean() > 0.02:
        a, b = a[seen], b[seen]
    weights = np.array([0.299, 0.587, 0.114])
    pairs = [(a[:, c], b[:, c]) for c in range(3)]
    gray = tone_curve(np.round(a @ weights).astype(np.uint8), np.round(b @ weights).astype(np.uint8))
    texts = [" ".join(f"{v:.3f}" for v in curve) for curve in (*(tone_curve(*p) for p in pairs), gray)]
    return {"colours": texts[:3], "gray": texts[3:]}


def _levels(position: Array, step: float) -> list[float]:
    """Return the grid lines that a plane shows; a wildly scaling transform would ask for thousands of them."""
    first, last = np.ceil(position.min() / step), np.floor(position.max() / step)
    if not last >= first:
        return []
    stride = max(1, int((last - first) / 120))
    return [float(v) for v in np.arange(first, last + 1, stride) * step]


def _round_step(value: float) -> float:
    """Return the nearest of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / value))) * power)
