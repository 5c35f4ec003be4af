"""Where to start: candidate affine maps are judged on the images themselves, the best are refined.

Regions propose, dense features dispose: a hypothesis from matched regions is cheap to make and sometimes wrong;
local correlation on a coarse lattice costs milliseconds and tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from roireg.core.filters import box_mean
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine
from roireg.core.warp import resample, sample
from roireg.fit.adam import Adam
from roireg.fit.objectives import FLOOR
from roireg.fit.region_affine import plausible
from roireg.fit.velocity import level_spacings, normalise

__all__ = ["AffineOptions", "Candidate", "choose_affine", "refine_affine"]


class AffineOptions(BaseModel):
    """Settings of the choice and refinement of the global map."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("affine", pattern="^(translation|rigid|similarity|affine)$", description="freedom of the map")
    screen_voxels: int = Field(12_000, ge=100, description="voxels of the lattice on which candidates are judged")
    refine_voxels: int = Field(150_000, ge=100, description="voxels of the finest lattice of the refinement")
    keep: int = Field(4, ge=1, description="candidates that are refined before the best is chosen")
    iterations: int = Field(50, ge=0, description="steps per level of the refinement")
    window: int = Field(2, ge=1, description="radius of the correlation window in voxels of the lattice")
    chance: float = Field(0.15, ge=0, le=1, description="what a place without a counterpart counts for")
    max_scale: float = Field(2.0, gt=1, description="largest plausible stretch along any direction (and its inverse)")


@dataclass(frozen=True)
class Candidate:
    """An affine with the reason it is considered and how well the images agree under it (0..1)."""

    affine: Affine
    source: str
    score: float = float("nan")


class _Judge:
    """Texture-weighted local correlation of two images under an affine, on one lattice; differentiable."""

    def __init__(
        self,
        fixed: Image,
        moving: Image,
        voxels: int,
        options: AffineOptions,
        fixed_mask: Image | None,
        moving_mask: Image | None,
    ) -> None:
        def lattice(image: Image) -> Grid:
            return image.grid.with_spacing(level_spacings(image.grid, levels=1, max_voxels=voxels, min_length=1)[0])

        self.options = options
        self.grid = lattice(fixed)
        moving_grid = lattice(moving)
        self.fixed = normalise(resample(fixed, self.grid).data)
        self.moving = normalise(resample(moving, moving_grid).data)
        device = fixed.data.device
        inside = torch.ones_like(self.moving) if moving_mask is None else resample(moving_mask, moving_grid).data
        self.moving = torch.cat([self.moving, inside])
        self.weight = torch.ones_like(self.fixed) if fixed_mask is None else resample(fixed_mask, self.grid).data
        self.radius = [options.window if n > 1 else 0 for n in self.grid.shape]
        self.mean = box_mean(self.fixed, self.radius)
        self.variance = (box_mean(self.fixed**2, self.radius) - self.mean**2).clamp(min=0)
        self.points = torch.as_tensor(self.grid.points(), dtype=torch.float32, device=device)
        inverse = np.linalg.inv(moving_grid.affine)[::-1]
        self.to_voxel = torch.as_tensor(inverse[1:, :-1].copy(), dtype=torch.float32, device=device)
        self.offset = torch.as_tensor(inverse[1:, -1].copy(), dtype=torch.float32, device=device)
        self.size = torch.tensor(moving_grid.shape[::-1], dtype=torch.float32, device=device)

    def __call__(self, linear: Tensor, translation: Tensor) -> Tensor:
        """Score of x -> linear x + translation (world, mm): mean local correlation where textured; 0 is chance.

        Images of the same contrast correlate with the same sign everywhere, which chance does not; images of other
        contrasts only reach a squared correlation above what chance gives. The better of the two counts. Places
        that fall outside the moving image count as chance: a small overlap neither wins for being small nor loses
        for what nobody can see.
        """
        points = self.points @ linear.T + translation
        coords = points @ self.to_voxel.T + self.offset
        shape = self.grid.shape
        warped, mask = sample(self.moving[None], coords.reshape(1, *shape, len(shape)))[0].split(1)
        seen = ((coords >= -0.5) & (coords <= self.size - 0.5)).all(-1).reshape(1, *shape).to(warped.dtype)
        seen = seen * mask.detach()
        mean, square, product = box_mean(torch.cat([warped, warped**2, self.fixed * warped]), self.radius).split(1)
        variance = (square - mean**2).clamp(min=0)
        covariance = product - self.mean * mean + FLOOR
        cc = covariance**2 / ((self.variance + FLOOR) * (variance + FLOOR))
        texture_fixed = self.variance / (self.variance + 10 * FLOOR)
        texture = texture_fixed + seen * (1 - texture_fixed) * (variance / (variance + 10 * FLOOR)).detach()
        weight = texture * self.weight
        total = weight.sum().clamp(min=1e-6)
        signed = (weight * seen * cc * covariance.sign()).sum() / total
        unsigned = (weight * seen * (cc - self.options.chance)).sum() / total
        return torch.maximum(signed, unsigned)

    def score(self, affine: Affine) -> float:
        """Score of one affine without gradient."""
        matrix = torch.as_tensor(np.array(affine.matrix), dtype=torch.float32, device=self.fixed.device)
        with torch.no_grad():
            return float(self(matrix[:-1, :-1], matrix[:-1, -1]))


def choose_affine(
    fixed: Image,
    moving: Image,
    candidates: Sequence[Candidate],
    *,
    options: AffineOptions | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
) -> list[Candidate]:
    """Judge candidates on the images, refine the best few, and return those best first.

    Parameters
    ----------
    fixed, moving : one-channel images.
    candidates : what to consider; implausible ones are left out.

    Returns
    -------
    At most `options.keep` refined candidates with their scores, best first. An earlier candidate wins a tie.
    """
    options = options or AffineOptions()
    judge = _Judge(fixed, moving, options.screen_voxels, options, fixed_mask, moving_mask)
    scored = [
        Candidate(c.affine, c.source, judge.score(c.affine))
        for c in candidates
        if plausible(c.affine, max_scale=options.max_scale)
    ]
    corners = judge.grid.corners()
    near = 0.03 * float(np.linalg.norm(np.ptp(corners, axis=0)))
    distinct: list[Candidate] = []
    for c in sorted(scored, key=lambda c: -c.score):
        mapped = c.affine.map_points(corners)
        if all(np.abs(mapped - o.affine.map_points(corners)).max() > near for o in distinct):
            distinct.append(c)
        if len(distinct) == options.keep:
            break
    refined = []
    for c in distinct:
        affine = _ascend(judge, c.affine, options.model, options.iterations // 2, options)
        score = judge.score(affine)
        refined.append(Candidate(affine, c.source, score) if score > c.score else c)
    return sorted(refined, key=lambda c: -c.score)


def refine_affine(
    fixed: Image,
    moving: Image,
    start: Affine,
    *,
    options: AffineOptions | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
) -> Candidate:
    """Climb from `start` to the best agreement on a finer lattice; returns `start` where that is already best."""
    options = options or AffineOptions()
    judge = _Judge(fixed, moving, options.refine_voxels, options, fixed_mask, moving_mask)
    before = judge.score(start)
    affine = _ascend(judge, start, options.model, options.iterations, options)
    after = judge.score(affine)
    return Candidate(affine, "refined", after) if after > before else Candidate(start, "start", before)


def _ascend(judge: _Judge, start: Affine, model: str, steps: int, options: AffineOptions) -> Affine:
    """Adam on the generator of a map applied before `start`, about the middle of the fixed image.

    Steps are in units of one lattice voxel at the rim of the image, for every parameter alike.
    """
    d = start.ndim
    device = judge.fixed.device
    centre = torch.as_tensor(judge.grid.center, dtype=torch.float32, device=device)
    radius = 0.5 * float(np.linalg.norm(judge.grid.extent) / np.sqrt(d))
    voxel = float(judge.grid.spacing.min())
    matrix = torch.as_tensor(np.array(start.matrix), dtype=torch.float32, device=device)
    basis = _generators(d, model).to(device)
    turn = torch.zeros(len(basis), device=device, requires_grad=True)
    shift = torch.zeros(d, device=device, requires_grad=True)
    parameters = [shift] if len(basis) == 0 else [shift, turn]
    optimiser = Adam(parameters, rate=0.5 * voxel, steps=max(steps, 1), last=0.04, betas=(0.9, 0.95))

    def current() -> tuple[Tensor, Tensor]:
        # x -> c + E (x - c) + shift, then start.
        local = torch.eye(d, device=device)
        if len(basis):
            local = torch.matrix_exp(torch.einsum("k,kij->ij", turn / radius, basis))
        linear = matrix[:-1, :-1] @ local
        return linear, matrix[:-1, :-1] @ (centre + shift - local @ centre) + matrix[:-1, -1]

    best, best_score = start, -1.0
    for _ in range(steps):
        linear, translation = current()
        score = judge(linear, translation)
        if float(score.detach()) > best_score:
            candidate = np.eye(d + 1)
            candidate[:-1, :-1] = linear.detach().cpu().double().numpy()
            candidate[:-1, -1] = translation.detach().cpu().double().numpy()
            if not plausible(Affine(candidate), max_scale=options.max_scale):
                break
            best, best_score = Affine(candidate), float(score.detach())
        optimiser.step(-score * radius)
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
