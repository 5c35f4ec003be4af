"""Implicit shapes in world space: everything a phantom is painted from.

A shape answers with a first-order signed distance in mm, negative inside: f / |grad f| of its implicit
function (Taubin, IEEE PAMI 1994). Union is the minimum, intersection the maximum of distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Ellipsoid", "Tree", "Waves", "grow_tree"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Waves:
    """A smooth random function with mean 0 and variance 1: a sum of plane waves.

    Attributes
    ----------
    vectors : (M, 3) wave vectors, radians per mm.
    phases : (M,) radians.
    """

    vectors: Array
    phases: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, shortest_mm: float, longest_mm: float) -> Waves:
        """Draw waves of random direction, wavelengths log-uniform between the limits."""
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = np.exp(rng.uniform(np.log(shortest_mm), np.log(longest_mm), size=(count, 1)))
        return cls(2 * np.pi / lengths * directions, rng.uniform(0, 2 * np.pi, size=count))

    def __call__(self, points: Tensor, shift: float = 0.0) -> Tensor:
        """(N,) values at (N, 3) points; another `shift` (mm) gives an unrelated part of the same function."""
        vectors, phases = (torch.as_tensor(v).to(points) for v in (self.vectors, self.phases))
        angles = torch.addmm(phases, points + shift, vectors.T)
        return torch.cos(angles).sum(1) * float(np.sqrt(2 / len(self.phases)))


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """A superellipsoid, turned about the z axis.

    Attributes
    ----------
    center, radii : (3,) mm, (x, y, z).
    turn_deg : rotation about z.
    power : 2 is an ellipsoid, larger is boxier.
    """

    center: Array
    radii: Array
    turn_deg: float = 0.0
    power: float = 2.0

    def __call__(self, points: Tensor) -> Tensor:
        """(N,) first-order signed distance in mm at (N, 3) points, negative inside."""
        angle = np.deg2rad(self.turn_deg)
        c, s = np.cos(angle), np.sin(angle)
        turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]).to(points)
        radii = torch.as_tensor(self.radii).to(points)
        u = ((points - torch.as_tensor(self.center).to(points)) @ turn / radii).abs()
        m = self.power
        level = u.pow(m).sum(1).pow(1 / m).clamp(min=1e-6)
        slope = ((u / level[:, None]).pow(m - 1) / radii).norm(dim=1).clamp(min=1e-6)
        return (level - 1) / slope

    def near(self, points: Tensor, margin_mm: float) -> Tensor:
        """(M,) indices of the points whose distance along every axis from the box of the shape is below a margin."""
        reach = np.array(self.radii)
        if self.turn_deg:
            reach[:2] = np.hypot(*self.radii[:2]) if self.power > 2 else self.radii[:2].max()
        offset = (points - torch.as_tensor(self.center).to(points)).abs()
        return torch.nonzero((offset < torch.as_tensor(reach + margin_mm).to(points)).all(1))[:, 0]


@dataclass(frozen=True, eq=False)
class Tree:
    """Round tubes: a union of segments, each with a radius.

    Attributes
    ----------
    starts, ends : (S, 3) mm.
    radii : (S,) mm.
    """

    starts: Array
    ends: Array
    radii: Array

    def __call__(self, points: Tensor) -> Tensor:
        """(N,) signed distance in mm at (N, 3) points, negative inside."""
        nearest = torch.full_like(points[:, 0], np.inf)
        for start, end, radius in zip(self.starts, self.ends, self.radii, strict=True):
            along = torch.as_tensor(end - start).to(points)
            offset = points - torch.as_tensor(start).to(points)
            t = (offset @ along / along.square().sum()).clamp(0, 1)
            nearest = torch.minimum(nearest, (offset - t[:, None] * along).norm(dim=1) - float(radius))
        return nearest


def grow_tree(
    rng: np.random.Generator, root: Array, target: Array, *, length_mm: float, radius_mm: float, levels: int
) -> Tree:
    """Grow a tree that forks in two at every level, from `root` toward `target` ((3,) mm each)."""
    first = (target - root) / np.linalg.norm(target - root)
    tips = [(root, first)]
    starts, ends, radii = [], [], []
    for level in range(levels):
        grown = []
        for tip, direction in tips:
            end = tip + direction * length_mm * 0.8**level * rng.uniform(0.8, 1.2)
            starts.append(tip)
            ends.append(end)
            radii.append(radius_mm * 0.8**level)
            for _ in range(2):
                bent = direction + rng.normal(scale=0.55, size=3)
                grown.append((end, bent / np.linalg.norm(bent)))
        tips = grown
    return Tree(np.array(starts), np.array(ends), np.array(radii))
