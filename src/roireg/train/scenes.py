"""Endless generated scenes: two renderings of one anatomy whose true displacement is known.

A scene is a function of seed and number alone, so a stopped training goes on with the scenes that it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.warp import identity_coords, sample
from roireg.train.appearance import degrade, draw_look, draw_textures, related_look, rendered
from roireg.train.layouts import draw_layout, smooth_noise

__all__ = ["ScenePair", "SceneSource", "draw_scene", "looked_at"]

Matrix = NDArray[np.float64]

STRAIN = 0.5
"""Largest difference quotient of the deformation along an axis; below 1 nothing folds."""
WORLD = 1.25
"""Voxels of a whole scene per voxel of an image, along each axis."""


@dataclass(frozen=True, eq=False)
class ScenePair:
    """Two images of one scene, axes in storage order.

    Attributes
    ----------
    fixed, moving : (1, *shape) images in 0..1.
    fixed_labels, moving_labels : (*shape) int16 maps of the same labels.
    moving_from_fixed : (*shape, d) float32, the index in the moving image, components in storage order, of what each
        voxel of the fixed image shows.
    valid : (*shape) bool, where both images show it.
    """

    fixed: Tensor
    moving: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor
    moving_from_fixed: Tensor
    valid: Tensor


def draw_scene(
    rng: np.random.Generator, ndim: int, size: int, *, kind: str | None = None, affine: float = 1.0, bend: float = 1.0
) -> ScenePair:
    """Draw a scene and look at it twice.

    Parameters
    ----------
    ndim, size : dimension, and voxels of each image along every axis.
    kind : see `roireg.train.layouts.KINDS`; None draws one.
    affine, bend : see `looked_at`.
    """
    layout = draw_layout(rng, ndim, round(WORLD * size), kind=kind)
    textures = draw_textures(rng, layout.shape)
    look = draw_look(rng, layout)
    other = related_look(rng, layout, look)
    moving_world = rendered(layout, look, textures)
    fixed_world = rendered(layout, other, textures if rng.random() < 0.6 else draw_textures(rng, layout.shape))

    worlds = fixed_world, moving_world, torch.as_tensor(layout.labels)
    half, ground = layout.size / 2, float(look.gray[0])
    return looked_at(rng, *worlds, size=size, half=half, ground=ground, affine=affine, bend=bend)


def looked_at(
    rng: np.random.Generator,
    fixed_world: Tensor,
    moving_world: Tensor,
    labels: Tensor,
    *,
    size: int,
    half: float,
    centre: Sequence[float] | None = None,
    ground: float = 0.0,
    affine: float = 1.0,
    bend: float = 1.0,
) -> ScenePair:
    """Look twice at one thing: from two sides, through a deformation, with two scanners.

    Parameters
    ----------
    fixed_world, moving_world : (1, *shape) images of it, in the two appearances.
    labels : (*shape) of it.
    size : voxels of each view along every axis.
    half : voxels of the world per half of a view.
    centre : index of the voxel of the world in the middle of a view; None takes that of the world.
    ground : value beyond the world in one half of the pairs; in the other its border repeats.
    affine : how strong the affine part between the two views is; 1 leaves them to agree about nothing, below 1 is
        what a global registration leaves.
    bend : how strong the deformation is, in parts of the usual.
    """
    ndim = labels.ndim
    shape = (size,) * ndim
    places = (identity_coords(shape, torch.device("cpu")) + 0.5) * (2 / size) - 1
    bent = places + _deformation(rng, shape, bend)
    world_from_moving, moving_from_fixed = _view(rng, ndim), _displacement(rng, ndim, affine)
    in_moving = _mapped(moving_from_fixed, bent)
    # Centres of voxels, in indices of reversed storage order.
    moving_index = (in_moving + 1) * (size / 2) - 0.5
    middle = np.array(labels.shape) / 2 if centre is None else np.asarray(centre) + 0.5
    shift = torch.as_tensor(middle[::-1] - half - 0.5, dtype=torch.float32)
    fixed_at = (_mapped(world_from_moving, in_moving) + 1) * half + shift
    moving_at = (_mapped(world_from_moving, places) + 1) * half + shift
    surround = None if rng.random() < 0.5 else ground
    fixed, fixed_labels, fixed_shown = _seen(fixed_world, labels, fixed_at, surround)
    moving, moving_labels, moving_shown = _seen(moving_world, labels, moving_at, surround)
    fixed, aperture = _aperture(rng, fixed, places)
    inside = (moving_index > -0.5).all(-1) & (moving_index < size - 0.5).all(-1)
    valid = inside & fixed_shown & aperture & _at(moving_shown, moving_index)
    return ScenePair(
        degrade(rng, fixed),
        degrade(rng, moving),
        fixed_labels,
        moving_labels,
        moving_index.flip(-1).contiguous(),
        valid,
    )


def _view(rng: np.random.Generator, ndim: int) -> Matrix:
    """Which part of the scene the moving image shows: most of it, or a detail."""
    return _affine(rng, ndim, angle=0.2, scale=float(np.exp(rng.uniform(-0.65, 0.0))), shear=0.05, shift=0.1)


def _displacement(rng: np.random.Generator, ndim: int, part: float) -> Matrix:
    """The affine part between the images; as a whole so strong that they agree about nothing but what they show."""
    angle = np.pi if rng.random() < 0.05 and part >= 1 else 0.3 * part
    scale = float(np.exp(rng.normal(0, 0.17 * part)))
    return _affine(rng, ndim, angle=angle, scale=scale, shear=0.06 * part, shift=0.18 * part)


def _affine(rng: np.random.Generator, ndim: int, *, angle: float, scale: float, shear: float, shift: float) -> Matrix:
    skew = np.zeros((ndim, ndim))
    upper = np.triu_indices(ndim, 1)
    skew[upper] = rng.normal(0, angle, len(upper[0]))
    skew = skew - skew.T
    rotation = torch.linalg.matrix_exp(torch.as_tensor(skew)).numpy()
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = scale * rotation @ (np.eye(ndim) + rng.normal(0, shear, (ndim, ndim)))
    matrix[:ndim, ndim] = rng.normal(0, shift, ndim)
    return matrix


def _deformation(rng: np.random.Generator, shape: tuple[int, ...], part: float) -> Tensor:
    """(*shape, d) displacement in units of half an image, free of folds."""
    cells = int(rng.integers(2, 7))
    field = np.stack([smooth_noise(rng, shape, cells) for _ in shape], axis=-1)
    step = 2 / shape[0]
    steepest = max(float(np.abs(np.diff(field, axis=a)).max()) for a in range(len(shape))) / step
    amount = part * rng.uniform(0, 0.1)
    return torch.as_tensor(field * min(amount, STRAIN / len(shape) / max(steepest, 1e-6)), dtype=torch.float32)


def _mapped(matrix: Matrix, points: Tensor) -> Tensor:
    linear = torch.as_tensor(matrix[:-1, :-1], dtype=torch.float32)
    return points @ linear.T + torch.as_tensor(matrix[:-1, -1], dtype=torch.float32)


def _seen(world: Tensor, labels: Tensor, at: Tensor, surround: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Sample a scene at voxel coordinates: image, labels, and where there is a scene at all."""
    size = torch.tensor(labels.shape[::-1])
    shown = (at > -0.5).all(-1) & (at < size - 0.5).all(-1)
    image = sample(world[None], at[None])[0]
    if surround is not None:
        image = torch.where(shown, image, surround)
    return image, _at(labels, at), shown


def _at(values: Tensor, at: Tensor) -> Tensor:
    """Return the values of the nearest voxels to coordinates in reversed storage order."""
    index = (at + 0.5).floor().long().flip(-1)
    return values[tuple(index[..., a].clamp(0, values.shape[a] - 1) for a in range(values.ndim))]


def _aperture(rng: np.random.Generator, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Show a round or angular part of the image only, sometimes; returns it and where it is shown."""
    everything = torch.ones(image.shape[1:], dtype=torch.bool)
    if rng.random() > 0.15:
        return image, everything
    power = float(rng.choice([2.0, 2.0, 8.0]))
    limit = float(rng.uniform(0.75, 1.1))
    shown = places.abs().pow(power).sum(-1) < limit**power
    return torch.where(shown, image, image.min()), shown


class SceneSource:
    """Numbered scenes of one seed.

    Parameters
    ----------
    ndim, size : see `draw_scene`.
    seed : equal seeds and numbers give equal scenes.
    stream : "scenes" to train on; another name gives others, such as those that are held out.
    affine, bend : see `looked_at`.

    Raises
    ------
    InputError
        When the dimension is not 2 or 3, or the size is below 32.
    """

    def __init__(
        self,
        ndim: int,
        size: int,
        *,
        seed: int = 0,
        stream: str = "scenes",
        affine: float = 1.0,
        bend: float = 1.0,
    ) -> None:
        if ndim not in (2, 3) or size < 32:
            raise InputError(f"scenes have 2 or 3 dimensions and sides of 32 or more, found {ndim}D of {size}")
        self.ndim, self.size, self.seed = ndim, size, seed
        self.stream = [*stream.encode()]
        self.affine, self.bend = affine, bend

    def __getitem__(self, number: int) -> ScenePair:
        """Return a scene by its number, 0 and up without end."""
        rng = np.random.default_rng([self.seed, number, self.ndim, *self.stream])
        return draw_scene(rng, self.ndim, self.size, affine=self.affine, bend=self.bend)
