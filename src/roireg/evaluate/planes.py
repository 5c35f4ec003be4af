"""Planes through an image for people to look at: orientation, letters, and sampling of that plane alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.core.transforms import Transform, jacobian_determinant
from roireg.core.warp import sample, voxel_coords, warp

__all__ = ["Plane", "best_cut", "cut_profiles", "display_planes", "jacobian_on_plane", "sample_plane"]

Array = NDArray[np.float64]

LETTERS = ("RL", "AP", "IS")
"""Body direction at the negative and at the positive end of every LPS world axis."""

# Name, world axis across the plane, world axis and sign of the columns (rightwards) and of the rows (downwards)
# as radiologists hang them: the patient's right on the left of the screen, anterior or superior on top.
HANGINGS = (
    ("Axial", 2, (0, 1), (1, 1)),
    ("Coronal", 1, (0, 1), (2, -1)),
    ("Sagittal", 0, (1, 1), (2, -1)),
)

MAX_FINE_PIXELS = 4_000_000
"""Bounds the memory of one plane drawn from an image much finer than the screen."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One plane of an image, hung for display.

    Attributes
    ----------
    name : "Axial", "Coronal", "Sagittal", or "Image" in 2D.
    native : the voxels of the plane, (1, rows, columns) in 3D, (rows, columns) in 2D; rows run downwards and
        columns rightwards on the screen.
    display : the same box in square pixels.
    letters : body directions at the left, right, top and bottom edge; empty in 2D.
    axis, index, count : storage axis of the image across the plane, its slice along it, and how many there are;
        -1, 0 and 1 in 2D.
    unit : of world lengths.
    """

    name: str
    native: Grid
    display: Grid
    letters: tuple[str, str, str, str] = ("", "", "", "")
    axis: int = -1
    index: int = 0
    count: int = 1
    unit: str = "mm"

    @property
    def position(self) -> str:
        """Where the plane lies, in words ("z = 12.0 mm, slice 5/10"); empty in 2D."""
        if self.native.ndim == 2:
            return ""
        across = next(world for name, world, *_ in HANGINGS if name == self.name)
        value, spacing = self.native.center[across], self.native.spacing[0]
        place = f"{value:.1f}" if spacing >= 0.1 else f"{value:.4g}"
        return f"{'xyz'[across]} = {place} {self.unit}, slice {self.index + 1}/{self.count}"

    def at(self, index: int) -> Plane:
        """Return the parallel plane through another slice."""
        move = np.eye(self.native.ndim + 1)
        move[0, -1] = index - self.index
        native, display = (Grid(g.shape, g.affine @ move) for g in (self.native, self.display))
        return replace(self, native=native, display=display, index=index)

    def sampled(self, largest: int) -> Grid:
        """Return the voxels of the plane, joined along an axis that has over `largest` times its share of pixels."""
        pixel = self.native.extent[-2:].max() / largest
        shape = [
            min(n, max(1, round(e / pixel)))
            for n, e in zip(self.native.shape[-2:], self.native.extent[-2:], strict=True)
        ]
        return self.native.with_shape((*self.native.shape[:-2], *shape))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in world units (mm)."""
        height, width = self.native.extent[-2:]
        return float(width), float(height)


def display_planes(
    grid: Grid, point: ArrayLike, *, smallest: int = 256, largest: int = 400, unit: str = "mm"
) -> list[Plane]:
    """Return the planes of a grid through the voxel nearest to a world point, hung as radiologists expect.

    3D grids give up to three planes along their own voxel axes, each named after the anatomical plane it is
    closest to; planes that are a single line of voxels are left out as long as another one remains. 2D grids give
    one plane with x to the right and y downwards.

    Parameters
    ----------
    grid : grid of the image.
    point : (d,) world point the planes pass through; moved to the nearest voxel of the grid.
    smallest, largest : bounds of the longer side of the display grid, in pixels.
    """
    # Every storage axis goes to the world axis it runs along most; each world axis is used once.
    world, storage = linear_sum_assignment(-np.abs(grid.direction))
    axis_of = dict(zip(world.tolist(), storage.tolist(), strict=True))
    index = np.clip(np.round(grid.index_from_world(point)), 0, np.array(grid.shape) - 1).astype(int)
    if grid.ndim == 2:
        native = _hung(grid, index, None, (axis_of[1], 1), (axis_of[0], 1))
        return [Plane("Image", native, _square_pixels(native, smallest, largest), unit=unit)]
    planes = []
    for name, across, (column_axis, column_sign), (row_axis, row_sign) in HANGINGS:
        k = axis_of[across]
        native = _hung(grid, index, k, (axis_of[row_axis], row_sign), (axis_of[column_axis], column_sign))
        down, right = native.direction[:, 1], native.direction[:, 2]
        letters = (body_letters(-right), body_letters(right), body_letters(-down), body_letters(down))
        display = _square_pixels(native, smallest, largest)
        planes.append(Plane(name, native, display, letters, k, int(index[k]), grid.shape[k], unit))
    wide = [p for p in planes if min(p.native.shape[1:]) > 1]
    return wide or [max(planes, key=lambda p: p.native.size)]


def body_letters(direction: ArrayLike) -> str:
    """Return the body direction an LPS vector points to, such as "L", or "LP" when it is oblique by over 20°."""
    vector = np.asarray(direction, dtype=float)
    order = np.argsort(-np.abs(vector), kind="stable")
    return "".join(LETTERS[a][int(vector[a] > 0)] for a in order if abs(vector[a]) > 0.342)


def _hung(
    grid: Grid, index: NDArray[np.int64], across: int | None, row: tuple[int, int], column: tuple[int, int]
) -> Grid:
    """Cut a plane out of a grid with the wanted world signs of its rows and columns."""
    columns = [] if across is None else [grid.affine[:-1, across]]
    corner = index.astype(float)
    shape = [] if across is None else [1]
    for axis, sign in (row, column):
        world = int(np.argmax(np.abs(_assigned(grid)[:, axis])))
        flip = np.sign(grid.affine[world, axis]) != sign
        columns.append(grid.affine[:-1, axis] * (-1 if flip else 1))
        corner[axis] = grid.shape[axis] - 1 if flip else 0
        shape.append(grid.shape[axis])
    affine = np.eye(grid.ndim + 1)
    affine[:-1, :-1] = np.stack(columns, axis=1)
    affine[:-1, -1] = grid.world_from_index(corner)
    return Grid(tuple(shape), affine)


def _assigned(grid: Grid) -> Array:
    """Return the (d, d) matrix with 1 where a world axis (row) is the one a storage axis (column) stands for."""
    chosen = np.zeros((grid.ndim, grid.ndim))
    chosen[linear_sum_assignment(-np.abs(grid.direction))] = 1
    return chosen


def _square_pixels(native: Grid, smallest: int, largest: int) -> Grid:
    extent = native.extent[-2:]
    pixel = max(native.spacing[-2:].min(), extent.max() / largest)
    pixel = min(pixel, extent.max() / smallest)
    rows, columns = (max(1, round(e / pixel)) for e in extent)
    return native.with_shape((*native.shape[:-2], rows, columns))


def sample_plane(
    data: Tensor,
    grid: Grid,
    plane: Grid,
    transform: Transform | None = None,
    *,
    fill: float = 0.0,
    mode: str = "linear",
    channels: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Sample an image, or bool masks, on one plane through a pull-back transform.

    Only the box of voxels that the plane reaches is read, so that neither the volume nor a stack of masks is
    copied. Where a pixel spans several voxels they are averaged in the plane.

    Parameters
    ----------
    data : (channel, *shape) tensor on `grid`.
    plane : `Plane.display`, (1, rows, columns) or (rows, columns).
    transform : maps world points of the plane to world points of the image; None is the identity.
    fill : value outside the image.
    channels : which channels to sample; None is all.

    Returns
    -------
    (channel, rows, columns) float32.
    """
    picked = list(range(data.shape[0])) if channels is None else list(channels)
    rows, columns = plane.shape[-2:]
    factor = _joined(grid, plane) if mode == "linear" else 1
    fine = plane.with_shape((*plane.shape[:-2], rows * factor, columns * factor))
    points = torch.from_numpy(fine.points())
    coords = voxel_coords(grid, points if transform is None else transform.map_points(points))
    size = torch.tensor(grid.shape[::-1])
    low = coords.amin(dim=0).floor().sub(1).clamp(min=0).long()
    high = coords.amax(dim=0).ceil().add(2).minimum(size).long()
    if not picked or bool((high <= low).any()):
        return np.full((len(picked), rows, columns), fill, dtype=np.float32)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low.flip(0), high.flip(0), strict=True))
    part = data[(slice(None), *box)][picked].cpu()
    part = part.double() if part.dtype in (torch.int32, torch.int64) else part.float()
    place = (coords - low).reshape(1, *fine.shape, grid.ndim).to(part.dtype)
    values = sample(part[None], place, mode=mode)[0]
    # A voxel reaches half a voxel beyond its centre.
    outside = ((coords < -0.5) | (coords > size - 0.5)).any(dim=-1).reshape(fine.shape)
    values = values.masked_fill(outside, fill).reshape(len(picked), rows, factor, columns, factor)
    return np.asarray(values.mean(dim=(2, 4)).float().numpy(), dtype=np.float32)


def _joined(grid: Grid, plane: Grid) -> int:
    """Return over how many points along either axis a pixel is averaged: as many as it spans voxels of the image."""
    step = np.abs(np.linalg.inv(grid.affine[:-1, :-1]) @ plane.affine[:-1, -3:-1]).max()
    most = int(np.sqrt(MAX_FINE_PIXELS / np.prod(plane.shape[-2:])))
    return max(1, min(round(float(step)), most))


def jacobian_on_plane(
    transform: Transform, plane: Plane, display: Grid | None = None
) -> tuple[Array, NDArray[np.bool_]]:
    """Return det J on the pixels of a plane, (rows, columns), and where a voxel of it folds (det J ≤ 0).

    `display` is the grid of the pixels, that of the plane if None.

    Differences are taken between neighbouring voxels, also across the plane; planes of over 4 million voxels
    use the display pixels in their place.
    """
    display = plane.display if display is None else display
    native = plane.native if plane.native.size <= MAX_FINE_PIXELS else display
    thick = native.padded((1, 0, 0), (1, 0, 0)) if native.ndim == 3 else native
    determinant = jacobian_determinant(transform, thick)
    image = (determinant[1:2] if native.ndim == 3 else determinant)[None]
    smooth = warp(Image(image, native), None, display).data[0]
    folded = warp(Image((image <= 0).float(), native), None, display, mode="nearest").data[0] > 0.5
    shape = display.shape[-2:]
    return np.asarray(smooth.double().reshape(shape).numpy()), np.asarray(folded.reshape(shape).numpy())


def cut_profiles(rois: ROISet, members: Sequence[int], weights: Sequence[float]) -> list[Array]:
    """Return for every storage axis how well a slice at each index shows the chosen regions, (n,) >= 0.

    A region counts with its weight times the square root of the share of its largest cross-section along that
    axis: being cut at all matters most, being cut in the middle more than being grazed.
    """
    profiles = [np.zeros(n) for n in rois.grid.shape]
    for member, weight in zip(members, weights, strict=True):
        mask = rois.masks[member].cpu().numpy()
        for axis, profile in enumerate(profiles):
            area = np.count_nonzero(mask, axis=tuple(a for a in range(mask.ndim) if a != axis))
            profile += weight * np.sqrt(area / area.max())
    return profiles


def best_cut(rois: ROISet, members: Sequence[int], weights: Sequence[float]) -> Array:
    """Return the (d,) world point whose planes along the grid axes cut the most, and heaviest, of the regions."""
    profiles = cut_profiles(rois, members, weights)
    return rois.grid.world_from_index([int(np.argmax(p)) for p in profiles])
