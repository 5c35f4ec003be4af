"""Label layouts of generated scenes: nested, layered, partitioned, tubular and thin things, alone and in a body.

Everything is drawn in a cube from -1 to 1 along every axis, in 2D and 3D by the same code. A layout is a map of
labels and, for each label, the label that it was painted onto.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.filters import apply_along

__all__ = ["KINDS", "Layout", "draw_layout", "smooth_noise"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[slice, ...]


@lru_cache(maxsize=256)
def _spline(n: int, cells: int) -> torch.Tensor:
    """(n, cells + 3) values of the cubic B-splines of `cells` intervals at n voxel centres."""
    at = (torch.arange(n, dtype=torch.float64) + 0.5) / n * cells
    knots = torch.arange(cells + 3, dtype=torch.float64) - 1
    x = (at[:, None] - knots[None]).abs()
    near = 2 / 3 - x**2 + x**3 / 2
    far = (2 - x).clamp(min=0) ** 3 / 6
    return torch.where(x < 1, near, far).float()


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Array:
    """Return a cubic spline through random coefficients: mean 0, deviation 1, about `cells` waves along an axis."""
    field = torch.as_tensor(rng.standard_normal((1, *[cells + 3] * len(shape)), dtype=np.float32))
    for axis, n in enumerate(shape):
        field = apply_along(field, _spline(n, cells), axis)
    values: Array = field[0].numpy()
    return (values - values.mean()) / (values.std() + 1e-6)


class Layout:
    """A map of labels that shapes are painted into.

    Parameters
    ----------
    rng : where the shapes come from.
    ndim, size : dimension, and voxels along every axis.

    Attributes
    ----------
    labels : int16 (size, ...) map; 0 is the surround.
    parents : for each label the one below it; -1 for the surround.
    """

    def __init__(self, rng: np.random.Generator, ndim: int, size: int) -> None:
        self.rng, self.ndim, self.size = rng, ndim, size
        self.shape = (size,) * ndim
        self.labels = np.zeros(self.shape, np.int16)
        self.parents = [-1]
        axis = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
        straight = np.stack(np.meshgrid(*[axis] * ndim, indexing="ij"))
        # Shapes are plain in bent coordinates, and natural in straight ones.
        self.bends = [straight]
        for cells, strength in ((int(rng.integers(2, 5)), 0.1), (int(rng.integers(5, 9)), 0.04)):
            amount = float(rng.uniform(0.3, 1.0)) * strength
            bend = np.stack([smooth_noise(rng, self.shape, cells) for _ in range(ndim)])
            self.bends.append(straight + amount * bend)

    # -- what is there --------------------------------------------------------------------------

    def family(self, label: int) -> Mask:
        """Tell of each label whether it is `label` or was painted into it."""
        inside = np.zeros(len(self.parents), bool)
        inside[label] = True
        for child in range(label + 1, len(self.parents)):
            inside[child] = self.parents[child] >= 0 and inside[self.parents[child]]
        return inside

    def some_label(self) -> int:
        """Draw a label, larger ones more often."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.parents)).astype(float)
        weights = np.sqrt(np.where(counts > 0.003 * self.labels.size, counts, 0))
        return 0 if weights.sum() == 0 else int(self.rng.choice(len(weights), p=weights / weights.sum()))

    def paint(self, mask: Mask, parent: int, box: Box | None = None) -> int | None:
        """Give the voxels of a mask a new label; None when there are too few."""
        if np.count_nonzero(mask) < 2 * self.ndim or len(self.parents) > 400:
            return None
        self.parents.append(parent)
        (self.labels if box is None else self.labels[box])[mask] = len(self.parents) - 1
        return len(self.parents) - 1

    def _spot(self, host: int, *, overlap: bool) -> NDArray[np.int64] | None:
        """Draw the index of a voxel of a label."""
        for _ in range(40):
            at = self.rng.integers(0, self.size, self.ndim)
            label = self.labels[tuple(at)]
            if label == host or (overlap and self.family(host)[label]):
                return at
        return None

    def _box(self, at: NDArray[np.int64], reach: float) -> Box:
        cells = int(np.ceil(reach * self.size / 2)) + 1
        return tuple(slice(max(0, i - cells), min(self.size, i + cells + 1)) for i in at)

    def _allowed(self, host: int, box: Box, *, overlap: bool) -> Mask:
        inside = self.family(host) if overlap else np.arange(len(self.parents)) == host
        return np.asarray(inside[self.labels[box]])

    # -- shapes ---------------------------------------------------------------------------------

    def level(self, at: NDArray[np.int64], radius: float, *, long: float = 1.6) -> tuple[Array, Box]:
        """Return a function that is 1 on the surface of a blob, and the box that it is given in."""
        rng, bend = self.rng, self.bends[int(self.rng.integers(len(self.bends)))]
        ratios = np.exp(rng.uniform(-np.log(long), np.log(long), self.ndim) / 2)
        radii = radius * ratios / np.prod(ratios) ** (1 / self.ndim)
        box = self._box(at, float(radii.max()) + 0.12)
        offset = bend[(slice(None), *box)] - bend[(slice(None), *at)].reshape(-1, *[1] * self.ndim)
        turn = np.linalg.qr(rng.standard_normal((self.ndim, self.ndim)))[0] / radii[:, None]
        local = np.tensordot(turn.astype(np.float32), offset, 1)
        power = rng.choice([2.0, 2.0, 2.0, 1.4, 4.0])
        if power == 2.0:
            return np.sqrt(np.square(local).sum(0)), box
        return np.power(np.power(np.abs(local), power).sum(0), 1 / power), box

    def blob(self, host: int, radius: float, *, overlap: bool = False, shells: int = 0) -> int | None:
        """Paint a blob somewhere in a label, with inner shells as a cortex and a marrow have them."""
        at = self._spot(host, overlap=overlap)
        if at is None:
            return None
        value, box = self.level(at, radius)
        allowed = self._allowed(host, box, overlap=overlap)
        label = self.paint((value < 1) & allowed, host, box)
        limit = 1.0
        for _ in range(shells if label is not None else 0):
            limit -= float(self.rng.uniform(0.08, 0.35))
            inner = self.paint((value < limit) & allowed, label or host, box)
            label = label if inner is None else inner
        return label

    def mirrored(self, host: int, radius: float) -> None:
        """Paint a blob and its mirror image on the other side of the last axis."""
        at = self._spot(host, overlap=False)
        if at is None:
            return
        value, box = self.level(at, radius)
        self.paint((value < 1) & self._allowed(host, box, overlap=False), host, box)
        other = (*box[:-1], slice(self.size - box[-1].stop, self.size - box[-1].start))
        self.paint((value[..., ::-1] < 1) & self._allowed(host, other, overlap=False), host, other)

    def row(self, host: int, count: int, radius: float) -> None:
        """Paint like blobs along an arc: vertebrae, ribs, teeth."""
        rng = self.rng
        centre, reach = rng.uniform(-0.25, 0.25, self.ndim), rng.uniform(0.25, 0.7)
        first, second = np.linalg.qr(rng.standard_normal((self.ndim, self.ndim)))[0][:2]
        start, span = rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 2 * np.pi)
        squash = rng.uniform(0.3, 1.0)
        for k in range(count):
            angle = start + span * k / count
            spot = centre + reach * (np.cos(angle) * first + squash * np.sin(angle) * second)
            at = np.clip(((spot + 1) / 2 * self.size).astype(int), 0, self.size - 1)
            value, box = self.level(at, radius, long=1.3)
            self.paint((value < 1) & self._allowed(host, box, overlap=True), host, box)

    def split(self, host: int, codes: NDArray[np.int64]) -> None:
        """Give the parts of a label that a map of codes makes labels of their own; code 0 keeps it."""
        mask = self.labels == host
        for code in np.unique(codes[mask]):
            if code > 0:
                self.paint(mask & (codes == code), host)

    def partition(self, host: int, count: int) -> None:
        """Split a label into the cells of random seeds."""
        seeds = self.rng.uniform(-1, 1, (count, self.ndim)).astype(np.float32)
        points = self.bends[int(self.rng.integers(1, 3))].reshape(self.ndim, -1)
        distance = np.square(seeds).sum(1)[:, None] - 2 * seeds @ points
        groups = self.rng.integers(0, max(2, count // int(self.rng.integers(1, 4))), count)
        self.split(host, groups[distance.argmin(0)].reshape(self.shape))

    def levels(self, host: int, count: int) -> None:
        """Split a label at levels of a smooth field."""
        field = smooth_noise(self.rng, self.shape, int(self.rng.integers(2, 9)))
        self.split(host, np.digitize(field, np.sort(self.rng.uniform(-1.3, 1.3, count))))

    def layers(self, host: int, count: int) -> None:
        """Split a label into layers across a random direction, or around a random centre."""
        rng = self.rng
        bend = self.bends[int(rng.integers(1, 3))]
        if rng.random() < 0.6:
            way = rng.standard_normal(self.ndim).astype(np.float32)
            height = np.tensordot(way / np.linalg.norm(way), bend, 1)
        else:
            centre = rng.uniform(-1.2, 1.2, self.ndim).astype(np.float32).reshape(-1, *[1] * self.ndim)
            height = np.sqrt(np.square(bend - centre).sum(0))
        low, high = np.percentile(height[(slice(None, None, 2),) * self.ndim], (5, 95))
        self.split(host, np.digitize(height, np.sort(rng.uniform(low, high, count))))

    def sheet(self, host: int) -> None:
        """Paint a thin curved sheet: a fissure, a fascia, a septum."""
        rng = self.rng
        way = rng.standard_normal(self.ndim).astype(np.float32)
        bend = self.bends[int(rng.integers(1, 3))]
        height: NDArray[Any] = np.tensordot(way / np.linalg.norm(way), bend, 1) - rng.uniform(-0.4, 0.4)
        if rng.random() < 0.4:
            height = 0.5 * smooth_noise(rng, self.shape, int(rng.integers(1, 5))) - rng.uniform(-0.3, 0.3)
        thick = rng.uniform(0.8, 2.0) * 2 / self.size
        self.paint((np.abs(height) < thick) & self.family(host)[self.labels], host)

    def tree(self, host: int, segments: int, radius: float) -> None:
        """Paint a branching tube: vessels, bronchi."""
        rng = self.rng
        at = self._spot(host, overlap=True)
        if at is None:
            return
        origin: NDArray[np.float64] = (at + 0.5) / self.size * 2 - 1
        tips = [(origin, rng.standard_normal(self.ndim), radius)]
        mask = np.zeros(self.shape, bool)
        thinnest = 0.7 * 2 / self.size
        straight = self.bends[0]
        for _ in range(segments):
            if not tips:
                break
            start, way, width = tips.pop(0)
            way = way / np.linalg.norm(way) + rng.normal(0, 0.3, self.ndim)
            way /= np.linalg.norm(way)
            length = rng.uniform(0.06, 0.18)
            end = start + length * way
            middle = np.clip((((start + end) / 2 + 1) / 2 * self.size).astype(int), 0, self.size - 1)
            box = self._box(middle, length / 2 + width)
            offset = straight[(slice(None), *box)] - start.astype(np.float32).reshape(-1, *[1] * self.ndim)
            along = np.clip(np.tensordot(way.astype(np.float32), offset, 1), 0, length)
            gap = np.square(offset).sum(0) - 2 * along * np.tensordot(way.astype(np.float32), offset, 1) + along**2
            mask[box] |= gap < width * width
            if np.abs(end).max() > 1.05:
                continue
            tips.append((end, way, max(thinnest, width * 0.97)))
            if rng.random() < 0.35:
                tips.append((end, way + rng.normal(0, 0.8, self.ndim), max(thinnest, width * rng.uniform(0.5, 0.9))))
        self.paint(mask & self.family(host)[self.labels], host)

    # -- whole layouts --------------------------------------------------------------------------

    def body(self) -> int:
        """Paint the outline of a body with skin and fat; returns its inside."""
        rng = self.rng
        at = np.clip(rng.normal(self.size / 2, self.size / 14, self.ndim).astype(int), 0, self.size - 1)
        value, box = self.level(at, float(rng.uniform(0.55, 1.0)), long=2.2)
        label = self.paint(value < 1, 0, box) or 0
        limit = 1.0
        for _ in range(int(rng.integers(0, 4))):
            limit -= float(rng.uniform(0.02, 0.13))
            label = self.paint(value < limit, label, box) or label
        return label

    def organs(self, host: int) -> None:
        """Fill a label with organs of many sizes, in pairs and rows, with vessels between them."""
        rng = self.rng
        large = rng.random() < 0.6
        for _ in range(int(rng.integers(2, 7)) if large else int(rng.integers(5, 14))):
            radius = float(np.exp(rng.uniform(np.log(0.07), np.log(0.5 if large else 0.25))))
            if rng.random() < 0.25:
                self.mirrored(host, radius)
            else:
                self.blob(host, radius, shells=int(rng.integers(0, 3)) if rng.random() < 0.4 else 0)
        if rng.random() < 0.4:
            self.row(host, int(rng.integers(3, 14)), float(rng.uniform(0.03, 0.1)))
        if rng.random() < 0.35:
            self.tree(host, int(rng.integers(10, 40)), float(rng.uniform(0.02, 0.07)))
        if rng.random() < 0.3:
            for _ in range(int(rng.integers(4, 16))):
                self.blob(host, float(rng.uniform(0.025, 0.08)), overlap=True)

    def refine(self, label: int) -> None:
        """Give a label an inside."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.2:
            self.levels(label, int(rng.integers(1, 5)))
        elif kind < 0.35:
            self.layers(label, int(rng.integers(1, 6)))
        elif kind < 0.5:
            self.partition(label, int(rng.integers(3, 14)))
        elif kind < 0.65:
            self.tree(label, int(rng.integers(8, 36)), float(rng.uniform(0.012, 0.05)))
        elif kind < 0.75:
            self.sheet(label)
        else:
            for _ in range(int(rng.integers(1, 8))):
                self.blob(label, float(np.exp(rng.uniform(np.log(0.03), np.log(0.2)))), overlap=rng.random() < 0.3)


def _organs(layout: Layout) -> None:
    layout.organs(layout.body() if layout.rng.random() < 0.85 else 0)


def _partition(layout: Layout) -> None:
    layout.partition(0, int(np.exp(layout.rng.uniform(np.log(4), np.log(40)))))


def _layers(layout: Layout) -> None:
    layout.layers(layout.body() if layout.rng.random() < 0.5 else 0, int(layout.rng.integers(3, 12)))


def _levels(layout: Layout) -> None:
    layout.levels(layout.body() if layout.rng.random() < 0.4 else 0, int(layout.rng.integers(2, 8)))


def _crowd(layout: Layout) -> None:
    host = layout.body() if layout.rng.random() < 0.5 else 0
    small = float(layout.rng.uniform(0.03, 0.12))
    for _ in range(int(layout.rng.integers(12, 50))):
        layout.blob(host, small * float(layout.rng.uniform(0.6, 1.6)))


def _vessels(layout: Layout) -> None:
    host = layout.body() if layout.rng.random() < 0.6 else 0
    for _ in range(int(layout.rng.integers(1, 5))):
        layout.tree(host, int(layout.rng.integers(25, 90)), float(layout.rng.uniform(0.012, 0.05)))
    layout.blob(host, float(layout.rng.uniform(0.06, 0.2)), overlap=True)


def _nested(layout: Layout) -> None:
    host = layout.body()
    for _ in range(int(layout.rng.integers(2, 6))):
        inner = layout.blob(host, float(layout.rng.uniform(0.15, 0.6)), shells=int(layout.rng.integers(0, 4)))
        host = inner if inner is not None and layout.rng.random() < 0.6 else host


KINDS: dict[str, tuple[float, Callable[[Layout], None]]] = {
    "organs": (0.46, _organs),
    "nested": (0.1, _nested),
    "partition": (0.1, _partition),
    "layers": (0.09, _layers),
    "levels": (0.08, _levels),
    "crowd": (0.08, _crowd),
    "vessels": (0.09, _vessels),
}
"""Kinds of layouts: how often each is drawn, and what paints it."""


def draw_layout(rng: np.random.Generator, ndim: int, size: int, *, kind: str | None = None) -> Layout:
    """Draw a layout of a kind, or of a random one, and give some of its labels an inside."""
    layout = Layout(rng, ndim, size)
    if kind is None:
        kind = str(rng.choice(list(KINDS), p=[share for share, _ in KINDS.values()]))
    KINDS[kind][1](layout)
    for _ in range(int(rng.integers(0, 6))):
        layout.refine(layout.some_label())
    return layout
