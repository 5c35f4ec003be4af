"""Lines over the planes of a report: where labels and landmarks lie, in units of a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roireg.evaluate.outlines import arrow_path, dot_path, label_outlines, svg_path
from roireg.evaluate.planes import Plane, sample_plane
from roireg.evaluate.report_input import ReportInput

__all__ = ["Overlays", "frame_of", "scale_of"]

Array = NDArray[np.float64]

DRAWN_LABELS = 40
DRAWN_LANDMARKS = 500

DRAWING = 1000
"""Units of a drawing along the longer side of its plane."""

COARSEST = 15.0
"""Distance of the points of an outline, in units, beyond which fewer labels are drawn instead."""


def frame_of(plane: Plane, planes: Sequence[Plane]) -> dict[str, Any]:
    """Return what the page needs to lay a plane out; sizes are shares of the largest plane."""
    width, height = plane.size
    largest = max(max(p.size) for p in planes)
    longer = max(width, height)
    # Nothing on a page can be thinner than a line.
    shares = {"width": round(max(width / largest, 1e-3), 4), "height": round(max(height / largest, 1e-3), 4)}
    return {
        "name": plane.name,
        "position": plane.position,
        **shares,
        "box": (max(1, round(DRAWING * width / longer)), max(1, round(DRAWING * height / longer))),
        "letters": dict(zip(("left", "right", "top", "bottom"), plane.letters, strict=True)),
    }


def scale_of(drawing: Mapping[str, Any], shape: tuple[int, ...]) -> Array:
    """Return units of a drawing per pixel, across and down, of an array (rows, columns) over the same box."""
    return np.array([drawing["box"][0] / shape[1], drawing["box"][1] / shape[0]])


class Overlays:
    """Outlines of labels and landmarks on the slices of a report: fixed ones, moving ones before and after.

    Attributes
    ----------
    outlined, landmarks : whether there are any.
    left_out : how many labels, and how many landmarks, are not drawn because there are too many.
    """

    def __init__(self, report: ReportInput, stacks: Sequence[Sequence[Plane]], *, most: int) -> None:
        self.report = report
        self.outlined = any(labels is not None for labels in report.labels)
        self.points = {} if not any(p is not None for p in report.points) else _landmarks(report)
        self.landmarks = bool(self.points)
        self._labels = {(plane.name, plane.index): self._label_maps(plane) for stack in stacks for plane in stack}
        ids, lengths = _boundaries(self._labels)
        shapes = [m.shape for named in self._labels.values() for m in named.values()]
        unit = DRAWING / max((max(shape) for shape in shapes), default=1)
        # A point takes five characters or so.
        spacings = 5 * unit * np.cumsum(lengths) / most
        self._ids = ids[:DRAWN_LABELS][spacings[:DRAWN_LABELS] <= COARSEST]
        self._apart = max(3.0, float(spacings[len(self._ids) - 1])) if len(self._ids) else 3.0
        counted = max((len(p) for p in report.points if p is not None), default=0)
        self.left_out = {"labels": len(ids) - len(self._ids), "landmarks": max(0, counted - DRAWN_LANDMARKS)}

    def _label_maps(self, plane: Plane) -> dict[str, NDArray[np.float32]]:
        report = self.report
        fixed, moving = report.labels
        grid = plane.sampled(max(plane.display.shape))
        wanted = {
            "fixed": (fixed, None),
            "before": (moving, report.start),
            "after": (moving, report.transform),
        }
        return {
            name: sample_plane(labels.data[:1], labels.grid, grid, transform, mode="nearest")[0]
            for name, (labels, transform) in wanted.items()
            if labels is not None
        }

    def of(self, plane: Plane, stack: Sequence[Plane]) -> dict[str, dict[str, str]]:
        """Return the SVG paths of a slice, by what they show."""
        drawing = frame_of(plane, stack)
        marks = {
            f"outline_{name}": svg_path(
                label_outlines(labels, self._ids), scale_of(drawing, labels.shape), apart=self._apart
            )
            for name, labels in self._labels[plane.name, plane.index].items()
        }
        near = self._near(plane, stack)
        places = {
            name: plane.native.index_from_world(points[near])[:, [-1, -2]] for name, points in self.points.items()
        }
        scale = scale_of(drawing, plane.native.shape[-2:])
        for name, at in places.items():
            marks[f"dots_{name}"] = dot_path(at, scale)
            if name != "fixed" and "fixed" in places:
                marks[f"arrows_{name}"] = arrow_path(at, places["fixed"], scale)
        return {"marks": marks}

    def _near(self, plane: Plane, stack: Sequence[Plane]) -> NDArray[np.bool_]:
        """Tell which landmarks are drawn on a slice: those no other slice that can be looked at is nearer to."""
        if not self.points:
            return np.zeros(0, dtype=bool)
        anchors = self.points["fixed"] if "fixed" in self.points else self.points["after"]
        if plane.native.ndim == 2:
            return np.ones(len(anchors), dtype=bool)
        # Slices of a stack share their first axis; index 0 along it is the slice of the plane itself.
        place = plane.native.index_from_world(anchors)[:, 0] + plane.index
        nearest = np.argmin(np.abs(place[:, None] - [p.index for p in stack]), axis=1)
        return np.asarray([stack[k].index == plane.index for k in nearest])


def _boundaries(maps: Mapping[Any, Mapping[str, NDArray[np.float32]]]) -> tuple[Array, Array]:
    """Return the labels of all maps, largest first, and how many pixel edges long the boundary of each is."""
    inside, edges = [np.zeros(0)], [np.zeros(0)]
    for labels in (labels for named in maps.values() for labels in named.values()):
        inside.append(labels[labels != 0])
        for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            apart = one != other
            edges += [one[apart], other[apart]]
    ids, sizes = np.unique(np.concatenate(inside), return_counts=True)
    bounding, counts = np.unique(np.concatenate([*edges, ids]), return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    return ids[order], counts[np.searchsorted(bounding, ids)][order].astype(np.float64)


def _landmarks(report: ReportInput) -> dict[str, Array]:
    """Return the places of landmarks in fixed world: the fixed ones, the moving ones before and after."""
    fixed, moving = report.points
    places = {} if fixed is None else {"fixed": fixed[:DRAWN_LANDMARKS]}
    if moving is not None:
        moving = moving[:DRAWN_LANDMARKS]
        back = report.transform.inverse() if report.inverse is None else report.inverse
        places["before"] = moving if report.start is None else report.start.inverse().map_points(moving)
        places["after"] = back.map_points(moving)
    return places
