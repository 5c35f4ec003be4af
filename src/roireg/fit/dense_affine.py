"""Where to start: candidate affine maps are judged on the images themselves and the best are refined.

Regions propose, dense features dispose: a hypothesis from matched regions is cheap to make and sometimes wrong;
local correlation on a coarse lattice takes milliseconds and decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from roireg.core.filters import box_mean
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.transforms import Affine
from roireg.core.warp import resample, sample
from roireg.fit.adam import Adam
from roireg.fit.level import level_spacings, normalise
from roireg.fit.objectives import FLOOR
from roireg.fit.region_affine import plausible
from roireg.fit.stage import Candidate

__all__ = ["AffineOptions", "choose_affine", "refine_affine"]

AT_ONCE = 16
"""How many candidates are judged in one go; on a coarse lattice the calls cost more than the voxels."""


CHANCE = 0.15
"""Squared local correlation that windows without a common structure reach by chance."""


class AffineOptions(BaseModel):
    """Settings of the choice and refinement of the global map."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["translation", "rigid", "similarity", "affine"] = Field("affine", description="freedom of the map")
    screen_voxels: int = Field(12_000, ge=100, description="voxels of the lattice on which candidates are judged")
    refine_voxels: int = Field(40_000, ge=100, description="voxels of the finest lattice of the refinement")
    keep: int = Field(4, ge=1, description="candidates that are refined before the best is chosen")
    iterations: int = Field(50, ge=0, description="steps per level of the refinement")
    correlation_radius: int = Field(2, ge=1, description="radius of the correlation window in voxels of the lattice")
    max_scale: float = Field(2.0, gt=1, description="largest plausible stretch along any direction (and its inverse)")


class _Judge:
    """Texture-weighted local correlation of two images under an affine, on one lattice; differentiable."""

    def __init__(self, pair: Pair, voxels: int, options: AffineOptions) -> None:
        def lattice(image: Image) -> Grid:
            return image.grid.with_spacing(level_spacings(image.grid, levels=1, max_voxels=voxels, min_length=1)[0])

        fixed, moving = pair.fixed, pair.moving
        self.options = options
        self.grid = lattice(fixed)
        moving_grid = lattice(moving)
        self.fixed = normalise(resample(fixed, self.grid).data)
        self.moving = normalise(resample(moving, moving_grid).data)
        device = fixed.data.device
        if pair.moving_mask is not None:
            self.moving = torch.cat([self.moving, resample(pair.moving_mask, moving_grid).data])
        mask = pair.fixed_mask
        self.weight = torch.ones_like(self.fixed) if mask is None else resample(mask, self.grid).data
        self.radius = [options.correlation_radius if n > 1 else 0 for n in self.grid.shape]
        self.mean = box_mean(self.fixed, self.radius)
        self.variance = (box_mean(self.fixed**2, self.radius) - self.mean**2).clamp(min=0)
        self.points = torch.as_tensor(self.grid.points(), dtype=torch.float32, device=device)
        inverse = np.linalg.inv(moving_grid.affine)[::-1]
        self.to_voxel = torch.as_tensor(inverse[1:, :-1].copy(), dtype=torch.float32, device=device)
        self.offset = torch.as_tensor(inverse[1:, -1].copy(), dtype=torch.float32, device=device)
        self.size = torch.tensor(moving_grid.shape[::-1], dtype=torch.float32, device=device)

    def __call__(self, linear: Tensor, translation: Tensor) -> Tensor:
        """(B,) scores of x -> linear x + translation (world, mm), (B, d, d) and (B, d).

        The score is the mean local correlation where textured; 0 is chance. Images of the same contrast correlate
        with the same sign everywhere, which chance does not; images of other contrasts only reach a squared
        correlation above what chance gives. The better of the two counts. Places that fall outside the moving image
        count as chance: a small overlap neither wins for being small nor loses for what nobody can see.
        """
        count, shape = len(linear), self.grid.shape
        matrix, offset = self.to_voxel @ linear, translation @ self.to_voxel.T + self.offset
        coords = torch.baddbmm(offset[:, None], self.points.expand(count, -1, -1), matrix.mT)
        values = sample(self.moving.expand(count, *self.moving.shape), coords.reshape(count, *shape, len(shape)))
        warped = values[:, 0]
        visible = ((coords >= -0.5) & (coords <= self.size - 0.5)).all(-1).reshape(warped.shape).to(warped.dtype)
        if len(self.moving) > 1:
            visible = visible * values[:, 1].detach()
        mean, square, product = box_mean(torch.cat([warped, warped**2, self.fixed * warped]), self.radius).split(
            count
        )
        variance = (square - mean**2).clamp(min=0)
        covariance = product - self.mean * mean + FLOOR
        cc = covariance**2 / ((self.variance + FLOOR) * (variance + FLOOR))
        texture_fixed = self.variance / (self.variance + 10 * FLOOR)
        texture = texture_fixed + visible * (1 - texture_fixed) * (variance / (variance + 10 * FLOOR)).detach()
        weight = texture * self.weight
        total = weight.flatten(1).sum(1).clamp(min=1e-6)
        signed = (weight * visible * cc * covariance.sign()).flatten(1).sum(1) / total
        unsigned = (weight * visible * (cc - CHANCE)).flatten(1).sum(1) / total
        return torch.maximum(signed, unsigned)

    def scores(self, affines: Sequence[Affine]) -> list[float]:
        """Scores of affines without gradient."""
        values: list[float] = []
        with torch.no_grad():
            for first in range(0, len(affines), AT_ONCE):
                matrix = self.matrices(affines[first : first + AT_ONCE])
                values += self(matrix[:, :-1, :-1], matrix[:, :-1, -1]).tolist()
        return values

    def matrices(self, affines: Sequence[Affine]) -> Tensor:
        """(B, d + 1, d + 1) float32 matrices on the device of the images."""
        return torch.as_tensor(np.stack([a.matrix for a in affines]), dtype=torch.float32, device=self.fixed.device)


def choose_affine(
    pair: Pair, candidates: Sequence[Candidate], *, options: AffineOptions | None = None
) -> list[Candidate]:
    """Judge candidates on the images, refine the best few, and return those best first.

    Parameters
    ----------
    pair : one-channel images, masks.
    candidates : what to consider; implausible ones are left out.

    Returns
    -------
    At most `options.keep` refined candidates with their scores, best first. An earlier candidate wins a tie.
    """
    options = options or AffineOptions()
    judge = _Judge(pair, options.screen_voxels, options)
    possible = [c for c in candidates if plausible(c.affine, max_scale=options.max_scale)]
    scores = judge.scores([c.affine for c in possible])
    scored = [replace(c, score=s) for c, s in zip(possible, scores, strict=True)]
    corners = judge.grid.corners()
    near = 0.03 * float(np.linalg.norm(np.ptp(corners, axis=0)))
    distinct: list[Candidate] = []
    for c in sorted(scored, key=lambda c: -c.score):
        mapped = c.affine.map_points(corners)
        if all(np.abs(mapped - o.affine.map_points(corners)).max() > near for o in distinct):
            distinct.append(c)
        if len(distinct) == options.keep:
            break
    if not distinct:
        return []
    climbed = _ascend(judge, [c.affine for c in distinct], options.iterations // 2)
    refined = [
        replace(c, affine=affine, score=score) if score > c.score else c
        for c, affine, score in zip(distinct, climbed, judge.scores(climbed), strict=True)
    ]
    return sorted(refined, key=lambda c: -c.score)


def refine_affine(pair: Pair, start: Affine, *, options: AffineOptions | None = None) -> Candidate:
    """Climb from `start` to the best agreement on a finer lattice; returns `start` where that is already best."""
    options = options or AffineOptions()
    judge = _Judge(pair, options.refine_voxels, options)
    (affine,) = _ascend(judge, [start], options.iterations)
    before, after = judge.scores([start, affine])
    return Candidate(affine, "refined", after) if after > before else Candidate(start, "start", before)


def _ascend(judge: _Judge, starts: Sequence[Affine], steps: int) -> list[Affine]:
    """Adam on the generator of a map applied before each start, about the middle of the fixed image.

    Steps are in units of one lattice voxel at the rim of the image, for every parameter alike. Returns the best of
    every climb; a climb that leaves the plausible maps ends there.
    """
    options, device = judge.options, judge.fixed.device
    d, count = judge.grid.ndim, len(starts)
    centre = torch.as_tensor(judge.grid.center, dtype=torch.float32, device=device)
    radius = 0.5 * float(np.linalg.norm(judge.grid.extent) / np.sqrt(d))
    voxel = float(judge.grid.spacing.min())
    matrix = judge.matrices(starts)
    basis = _generators(d, options.model).to(device)
    turn = torch.zeros(count, len(basis), device=device, requires_grad=True)
    shift = torch.zeros(count, d, device=device, requires_grad=True)
    parameters = [shift] if len(basis) == 0 else [shift, turn]
    optimiser = Adam(parameters, rate=0.5 * voxel, steps=max(steps, 1), last=0.04, betas=(0.9, 0.95))

    def current() -> tuple[Tensor, Tensor]:
        # x -> c + E (x - c) + shift, then start.
        local = torch.eye(d, device=device).expand(count, d, d)
        if len(basis):
            local = torch.matrix_exp(torch.einsum("bk,kij->bij", turn / radius, basis))
        moved = centre + shift - local @ centre
        return matrix[:, :-1, :-1] @ local, (matrix[:, :-1, :-1] @ moved[..., None])[..., 0] + matrix[:, :-1, -1]

    best, best_score, climbing = list(starts), [-1.0] * count, [True] * count
    for _ in range(steps):
        linear, translation = current()
        scores = judge(linear, translation)
        for k, score in enumerate(scores.tolist()):
            if climbing[k] and score > best_score[k]:
                candidate = np.eye(d + 1)
                candidate[:-1, :-1] = linear[k].detach().cpu().double().numpy()
                candidate[:-1, -1] = translation[k].detach().cpu().double().numpy()
                climbing[k] = plausible(Affine(candidate), max_scale=options.max_scale)
                if climbing[k]:
                    best[k], best_score[k] = Affine(candidate), score
        if not any(climbing):
            break
        optimiser.step(-scores.sum() * radius)
    return best


def _generators(d: int, model: str) -> Tensor:
    """(k, d, d) basis of the linear maps that a model allows: turns, then scale, then the other stretches."""
    basis = []
    if model != "translation":
        for i in range(d):
            for j in range(i + 1, d):
                turn = torch.zeros(d, d)
                turn[i, j], turn[j, i] = 1, -1
                basis.append(turn)
    if model in ("similarity", "affine"):
        basis.append(torch.eye(d))
    if model == "affine":
        for i in range(d - 1):
            stretch = torch.zeros(d, d)
            stretch[i, i], stretch[i + 1, i + 1] = 1, -1
            basis.append(stretch)
        for i in range(d):
            for j in range(i + 1, d):
                shear = torch.zeros(d, d)
                shear[i, j], shear[j, i] = 1, 1
                basis.append(shear)
    return torch.stack(basis) if basis else torch.zeros(0, d, d)
