"""Pairs of phantom images whose true transform is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.seeds import generator
from roireg.core.transforms import Affine, Chain, Transform
from roireg.core.warp import slab_points
from roireg.synth.anatomy import LABEL_NAMES, Anatomy, draw_anatomy
from roireg.synth.deform import draw_affine, draw_bumps

__all__ = ["SECTIONS", "SyntheticPair", "as_raster", "make_pair", "trunk_grid"]

Array = NDArray[np.float64]

FIELD_OF_VIEW_MM = (384.0, 288.0, 256.0)
"""What a default image shows, (x, y, z): the whole width of the trunk, from the shoulders to the kidneys."""

SECTIONS = {"chest": 36.0, "abdomen": -54.0}
"""Level (z, mm) of the 2D phantoms."""


@dataclass(frozen=True, eq=False)
class SyntheticPair:
    """Two images of one person and everything that is true about them.

    Attributes
    ----------
    fixed, moving : the images, float32 intensities in 0..255.
    transform : maps fixed-world to moving-world points; exact in this direction (closed form), its inverse
        to 1e-6 mm.
    fixed_labels, moving_labels : uint8 label maps on the grids of the images, 0 is unlabelled tissue.
    fixed_points, moving_points : (N, d) corresponding landmarks, world mm, inside both images: the centre
        and the extreme points of every organ.
    label_names : label value -> organ, for the labels present in either map.
    """

    fixed: Image
    moving: Image
    transform: Transform
    fixed_labels: Image
    moving_labels: Image
    fixed_points: Array
    moving_points: Array
    label_names: dict[int, str]


def trunk_grid(
    ndim: int,
    *,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    oblique_deg: float = 0.0,
) -> Grid:
    """Return a grid over the trunk, centred on it.

    Parameters
    ----------
    ndim : 2 or 3.
    shape : storage order; None follows from the spacing, or is 192 x 256 or 64 x 96 x 128.
    spacing : mm, storage order; None spreads the shape over the whole field of view. A small shape with
        a fine spacing shows the middle of the trunk only.
    oblique_deg : angle by which the axes of the grid are turned, in 3D about the diagonal (1, 1, 1).

    Raises
    ------
    InputError
        When `ndim` is not 2 or 3, or shape or spacing have another number of axes.
    """
    if ndim not in (2, 3):
        raise InputError(f"phantoms have 2 or 3 dimensions, found {ndim}")
    view = np.array(FIELD_OF_VIEW_MM[:ndim][::-1])
    for name, values in (("shape", shape), ("spacing", spacing)):
        if values is not None and len(values) != ndim:
            raise InputError(f"the {name} of a {ndim}D phantom has {ndim} values, found {tuple(values)}")
    if shape is None:
        default = (192, 256) if ndim == 2 else (64, 96, 128)
        shape = default if spacing is None else tuple(int(n) for n in np.round(view / np.asarray(spacing)))
    steps = view / np.array(shape) if spacing is None else np.asarray(spacing, dtype=np.float64)
    angle = np.deg2rad(oblique_deg)
    if ndim == 2:
        direction = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    else:
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)  # Rodrigues' formula
        direction = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    linear = direction[:, ::-1] * steps
    affine = np.eye(ndim + 1)
    affine[:ndim, :ndim] = linear
    affine[:ndim, ndim] = -linear @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


def make_pair(
    ndim: int,
    *,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    oblique_deg: float = 0.0,
    moving_grid: Grid | None = None,
    max_displacement_mm: float = 14.0,
    rotation_deg: float = 4.0,
    translation_mm: float = 8.0,
    scale: float = 0.04,
    noise: float = 4.0,
    bias: float = 0.15,
    modality: str = "same",
    section: str = "chest",
) -> SyntheticPair:
    """Make two images of one trunk, the second deformed by a known transform.

    The fixed image is the anatomy itself. With T the true transform (bumps first, then affine), the moving
    image at y is the anatomy at the inverse of T(y): both are evaluated, none is interpolated.

    Parameters
    ----------
    ndim : 2 (one axial slice) or 3.
    seed : equal arguments and seeds give equal pairs; person, deformation and noise draw from own streams.
    shape, spacing, oblique_deg : the fixed grid, see :func:`trunk_grid`.
    moving_grid : None takes the fixed grid.
    max_displacement_mm : largest displacement of the nonrigid part; 0 leaves the affine part alone.
    rotation_deg, translation_mm, scale : limits of the affine part (scale 0.04 means 0.96 to 1.04 per axis).
    noise : standard deviation of the noise on the 0..255 scale, Rician as in magnitude images.
    bias : amplitude of the smooth multiplicative field, drawn for each image on its own.
    modality : "same", or "other" for a moving image with MR-like in place of CT-like intensities.
    section : "chest" or "abdomen", the level of a 2D phantom.

    Raises
    ------
    InputError
        When an option is not one of those named, or the displacement is too large to be free of folds.
    """
    if modality not in ("same", "other"):
        raise InputError(f'modality is "same" or "other", found {modality!r}')
    if section not in SECTIONS:
        raise InputError(f"section is one of {', '.join(SECTIONS)}, found {section!r}")
    grid = trunk_grid(ndim, shape=shape, spacing=spacing, oblique_deg=oblique_deg)
    moving_grid = moving_grid or grid
    if moving_grid.ndim != ndim:
        raise InputError(f"the moving grid of a {ndim}D phantom has {ndim} axes, found {moving_grid.ndim}")

    anatomy = draw_anatomy(seed)
    rng = generator(seed, stream="deformation")
    affine = draw_affine(rng, grid.center, rotation_deg=rotation_deg, translation_mm=translation_mm, scale=scale)
    transform: Transform = affine
    if max_displacement_mm > 0:
        half = np.array(FIELD_OF_VIEW_MM[:ndim]) / 2
        bumps = draw_bumps(rng, -half, half, max_displacement_mm=max_displacement_mm)
        transform = Chain((bumps, affine))

    level = SECTIONS[section] if ndim == 2 else None
    fixed, fixed_labels = _render(anatomy, grid, None, level, other=False, name="fixed")
    moving, moving_labels = _render(
        anatomy, moving_grid, transform.inverse(), level, other=modality == "other", name="moving"
    )
    points = _landmarks(fixed_labels)
    mapped = transform.map_points(points)
    shown = grid.contains(points) & moving_grid.contains(mapped)
    present = set(torch.unique(fixed_labels.data).tolist()) | set(torch.unique(moving_labels.data).tolist())
    return SyntheticPair(
        fixed=_degrade(fixed, generator(seed, stream="fixed noise"), noise, bias),
        moving=_degrade(moving, generator(seed, stream="moving noise"), noise, bias),
        transform=transform,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        fixed_points=points[shown],
        moving_points=mapped[shown],
        label_names={value: name for value, name in LABEL_NAMES.items() if value in present},
    )


def as_raster(pair: SyntheticPair) -> SyntheticPair:
    """Return a 2D pair as PNG files would hold it: world = pixel index, 8-bit values, unit px.

    The transform and the landmarks are those between the pixel coordinates.

    Raises
    ------
    InputError
        When the pair is 3D.
    """
    if pair.fixed.ndim != 2:
        raise InputError("only 2D pairs can become raster images")

    def mm_from_pixel(grid: Grid) -> Affine:
        matrix = np.eye(3)
        matrix[:, :2] = grid.affine[:, 1::-1]  # pixel coordinates are (x, y), indices (y, x)
        matrix[:2, 2] = grid.origin
        return Affine(matrix)

    def raster(image: Image) -> Image:
        data = image.data.round().to(torch.uint8) if image.data.is_floating_point() else image.data
        return replace(image, data=data, grid=Grid.pixels(image.grid.shape), unit="px", dtype="uint8")

    fixed, moving = mm_from_pixel(pair.fixed.grid), mm_from_pixel(pair.moving.grid)
    return replace(
        pair,
        fixed=raster(pair.fixed),
        moving=raster(pair.moving),
        transform=Chain((fixed, pair.transform, moving.inverse())),
        fixed_labels=raster(pair.fixed_labels),
        moving_labels=raster(pair.moving_labels),
        fixed_points=fixed.inverse().map_points(pair.fixed_points),
        moving_points=moving.inverse().map_points(pair.moving_points),
    )


def _render(
    anatomy: Anatomy, grid: Grid, to_anatomy: Transform | None, level: float | None, *, other: bool, name: str
) -> tuple[Image, Image]:
    values = torch.empty((1, *grid.shape), dtype=torch.float32)
    labels = torch.empty((1, *grid.shape), dtype=torch.uint8)
    softness = 0.6 * float(grid.spacing.min())
    for rows, points in slab_points(grid, torch.device("cpu")):
        at = points if to_anatomy is None else to_anatomy.map_points(points)
        if level is not None:
            at = torch.cat([at, torch.full((len(at), 1), level, dtype=at.dtype)], dim=1)
        painted, marked = anatomy.paint(at, softness_mm=softness, other=other)
        values[:, rows] = painted.reshape(1, -1, *grid.shape[1:])
        labels[:, rows] = marked.reshape(1, -1, *grid.shape[1:])
    return Image(values, grid, name), Image(labels, grid, f"{name} labels", dtype="uint8")


def _degrade(image: Image, rng: np.random.Generator, noise: float, bias: float) -> Image:
    """Multiply by a smooth field of about 1 +- bias, then add Rician noise."""
    shape = image.grid.shape
    log_field = torch.zeros(shape, dtype=torch.float64)
    for axis, n in enumerate(shape):
        at = torch.linspace(-1, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)
        tilt, bow, phase = rng.uniform(-1, 1, size=3)
        wave = 0.5 * tilt * at + 0.5 * bow * torch.cos(np.pi * (at + phase))
        log_field += wave.reshape([n if a == axis else 1 for a in range(len(shape))])
    values = image.data[0].double() * torch.exp(bias * log_field)
    real, imaginary = (torch.as_tensor(rng.normal(scale=noise, size=shape)) for _ in range(2))
    magnitude: Tensor = torch.sqrt((values + real) ** 2 + imaginary**2)
    return image.with_data(magnitude.clamp(0, 255).float()[None])


def _landmarks(labels: Image) -> Array:
    """(N, d) world points: of each label the mean and the extreme voxels along the world axes."""
    landmarks = []
    for value in torch.unique(labels.data).tolist():
        if value == 0:
            continue
        points = labels.grid.world_from_index(torch.nonzero(labels.data[0] == value).numpy())
        landmarks.append(points.mean(0))
        for axis in range(labels.ndim):
            landmarks += [points[points[:, axis].argmin()], points[points[:, axis].argmax()]]
    return np.array(landmarks, dtype=np.float64).reshape(-1, labels.ndim)
