"""How the labels of a scene look in an image, and what a scanner does to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.filters import gaussian_smooth, gradient, resize
from roireg.train.layouts import Layout, smooth_noise

__all__ = ["Look", "degrade", "draw_look", "draw_textures", "related_look", "rendered"]

Array = NDArray[np.float32]

AMPLITUDES: Array = np.array([0.07, 0.04, 0.05, 0.05], np.float32)
"""Usual strength of the textures, from the gradient over the scene to the grain."""


@dataclass(frozen=True, eq=False)
class Look:
    """What each of L labels looks like: its gray value, and how much it shows of each of the textures.

    Attributes
    ----------
    gray : (L,) in about 0..1.
    texture : (L, textures) amplitudes.
    """

    gray: Array
    texture: Array


def draw_look(rng: np.random.Generator, layout: Layout) -> Look:
    """Draw a look in which most labels differ from the one below them."""
    count = len(layout.parents)
    tones = rng.uniform(0, 1, int(rng.integers(3, 9)))
    contrast = rng.choice([0.0, 0.06, 0.12, 0.25], p=[0.1, 0.35, 0.35, 0.2])
    gray = np.zeros(count, np.float32)
    for label, parent in enumerate(layout.parents):
        for _ in range(6):
            tone = rng.choice(tones) + rng.normal(0, 0.03) if rng.random() < 0.8 else rng.uniform(0, 1)
            if parent < 0 or abs(tone - gray[parent]) > contrast:
                break
        gray[label] = tone
    if rng.random() < 0.6:
        gray[0] = rng.choice([0.0, 0.0, 0.0, 1.0, 0.5])
    texture = np.abs(rng.standard_normal((count, 4), dtype=np.float32)) * AMPLITUDES
    texture *= rng.choice([0.0, 0.5, 1.0, 2.0], p=[0.2, 0.3, 0.35, 0.15]) * (rng.random((count, 4)) < 0.5)
    texture[rng.random(count) < 0.06] *= 3
    if gray[0] == 0 and rng.random() < 0.8:
        texture[0] = 0
    return Look(gray, texture.astype(np.float32))


def related_look(rng: np.random.Generator, layout: Layout, look: Look) -> Look:
    """Draw the look of the other image: a repeat, an inversion, another curve of grays, or another modality."""
    kind = rng.random()
    count = len(look.gray)
    if kind < 0.4:
        gray = look.gray + rng.normal(0, 0.04, count).astype(np.float32)
        return Look(gray, look.texture * np.float32(rng.uniform(0.5, 1.5)))
    if kind < 0.52:
        return replace(look, gray=1 - look.gray)
    if kind < 0.68:
        knots = np.linspace(-0.1, 1.1, 5)
        return replace(look, gray=np.interp(look.gray, knots, rng.uniform(0, 1, 5)).astype(np.float32))
    return draw_look(rng, layout)


def draw_textures(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw four textures, (4, *shape), from a gradient over the scene to grain of a voxel."""
    grain = torch.as_tensor(rng.standard_normal((1, *shape), dtype=np.float32))
    grain = gaussian_smooth(grain, float(rng.choice([0.5, 0.8, 1.2])))
    fine: NDArray[np.float32] = smooth_noise(rng, shape, int(rng.integers(14, 40)))
    if rng.random() < 0.35:
        fine = np.abs(fine) - np.float32(0.8)  # threads
    elif rng.random() < 0.3:
        fine = 2 * (fine > rng.uniform(0.3, 1.2)).astype(np.float32)  # spots
    middle = smooth_noise(rng, shape, int(rng.integers(5, 14)))
    return np.stack(
        [smooth_noise(rng, shape, int(rng.integers(1, 4))), middle, fine, (grain[0] / grain.std()).numpy()]
    )


def rendered(layout: Layout, look: Look, textures: Array) -> Tensor:
    """Return the (1, *shape) image of a layout, with hard edges and no noise."""
    image = look.gray[layout.labels]
    for amplitude, texture in zip(look.texture.T, textures, strict=True):
        if amplitude.any():
            image += amplitude[layout.labels] * texture
    return torch.as_tensor(image[None])


def degrade(rng: np.random.Generator, image: Tensor) -> Tensor:
    """Do to a (1, *shape) image what scanners do: thick slices, blur, bias, noise, another curve of grays."""
    shape, d = tuple(image.shape[1:]), image.ndim - 1
    if rng.random() < (0.4 if d == 3 else 0.1):
        thin = list(shape)
        axis = int(rng.integers(d))
        thin[axis] = max(4, round(shape[axis] / rng.uniform(1.5, 6.0)))
        sigma = np.zeros(d)
        sigma[axis] = 0.35 * shape[axis] / thin[axis]
        image = resize(resize(gaussian_smooth(image, sigma), thin), shape)
    blur = rng.choice([0.0, 0.5, 0.8, 1.3, 2.0], p=[0.2, 0.3, 0.25, 0.15, 0.1])
    image = gaussian_smooth(image, float(blur * rng.uniform(0.8, 1.2)))
    if rng.random() < 0.04:  # a drawing of the edges
        image = gradient(image)[0].square().sum(0, keepdim=True).sqrt()
    if rng.random() < 0.6:
        bias = torch.as_tensor(smooth_noise(rng, shape, int(rng.integers(1, 4))))[None]
        shift = rng.random() < 0.3
        image = image + 0.12 * rng.random() * bias if shift else image * torch.exp(0.3 * rng.random() * bias)
    if rng.random() < 0.85:
        image = _noisy(rng, image)
    if rng.random() < 0.15:
        image = -image
    image = stretched(image, float(rng.choice([0.5, 0.5, 2.0, 6.0])))
    if rng.random() < 0.5:
        image = image ** float(np.exp(rng.uniform(-0.6, 0.6)))
    return image


def _noisy(rng: np.random.Generator, image: Tensor) -> Tensor:
    """Add Gaussian noise, or make it Rician as in magnitude images, or speckle as in ultrasound; fine or coarse."""
    strength = float(np.exp(rng.uniform(np.log(0.004), np.log(0.12))))
    noise = torch.as_tensor(rng.standard_normal(image.shape, dtype=np.float32))
    if rng.random() < 0.4:
        noise = gaussian_smooth(noise, float(rng.uniform(0.5, 1.2)))
        noise = noise / noise.std()
    kind = rng.random()
    if kind < 0.55:
        return image + strength * noise
    if kind < 0.8:
        other = torch.as_tensor(rng.standard_normal(image.shape, dtype=np.float32))
        return ((image + strength * noise) ** 2 + (strength * other) ** 2).sqrt()
    return image * (1 + 2.5 * strength * noise)


def stretched(image: Tensor, percent: float = 0.5) -> Tensor:
    """Map the given lower and upper percentile to 0 and 1 and clip; a constant image becomes 0."""
    few = image.flatten()[:: max(1, image.numel() // 8192)].numpy()
    low, high = (float(v) for v in np.percentile(few, (percent, 100 - percent)))
    return ((image - low) / max(high - low, 1e-5)).clamp(0, 1)
