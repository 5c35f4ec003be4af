"""The published ROI-to-displacement objective of SAMReg, as printed and as the authors' code states it.

Printed (equation 10): squared error plus Dice of every pair, and λ times the squared gradient of the displacement.
Released: Dice plus 0.1 cross-entropy over all masks flattened into one vector, and bending energy. Both with a dense
displacement in [-1, 1] coordinates and Adam 1e-3. Kept for comparison: high region overlap with folding and little
true motion (METHODS 1.3).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import ROIPairs
from roireg.core.transforms import Chain, DisplacementField, Transform
from roireg.core.warp import identity_coords, resample, sample, warp
from roireg.fit.adam import Adam
from roireg.fit.stage import Problem, Stage

__all__ = ["Published", "bending_energy", "fit_published"]

TITLE = "fitting the deformation"


class Published(Stage):
    """Deformation from the region pairs alone, by the objective of the SAMReg code or of the paper."""

    title: ClassVar[str] = TITLE
    uses_pairs: ClassVar[bool] = True

    stage: Literal["published"] = "published"
    objective: Literal["released", "printed"] = Field(
        "released", description="released: Dice, cross-entropy, bending; printed: squared error, Dice, gradient"
    )
    iterations: int = Field(1000, ge=1, description="steps of the optimiser; released with 10⁴ to 10⁵")
    smoothness: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of the bending energy or the gradient"
    )
    rate: float = Field(1e-3, gt=0, allow_inf_nan=False, description="step of the optimiser in half image lengths")
    max_voxels: int = Field(100_000, ge=1, description="largest number of voxels of the field")

    def __call__(self, problem: Problem, start: Transform) -> Transform:
        pairs = problem.active_pairs
        if pairs is None:
            return start
        field = fit_published(
            pairs,
            problem.pair.fixed.grid,
            start=start,
            objective=self.objective,
            iterations=self.iterations,
            smoothness=self.smoothness,
            rate=self.rate,
            max_voxels=self.max_voxels,
            progress=problem.progress,
        )
        return Chain((field, start))


def bending_energy(field: Tensor) -> Tensor:
    """Mean squared second difference (mixed terms twice) of a (d, *spatial) field, unit steps."""
    d = field.ndim - 1
    total = field.new_zeros(())
    for i in range(d):
        for j in range(i, d):
            if min(field.shape[i + 1], field.shape[j + 1]) < 3:
                continue
            first = torch.gradient(field, dim=i + 1)[0]
            second = torch.gradient(first, dim=j + 1)[0]
            total = total + (1 if i == j else 2) * second.square().mean()
    return total


def squared_gradient(field: Tensor) -> Tensor:
    """Mean squared first difference of a (d, *spatial) field, unit steps, summed over axes and components."""
    total = field.new_zeros(())
    for axis in range(1, field.ndim):
        if field.shape[axis] > 1:
            total = total + field.diff(dim=axis).square().sum(0).mean()
    return total


def released_loss(warped: Tensor, fixed: Tensor) -> Tensor:
    """Dice plus 0.1 cross-entropy of (K, *spatial) soft masks in one vector: large ones outvote small ones."""
    a, b = warped.reshape(-1), fixed.reshape(-1)
    dice = 1 - 2 * (a * b).sum() / (a.sum() + b.sum()).clamp(min=1e-6)
    return dice + 0.1 * torch.nn.functional.binary_cross_entropy(a.clamp(1e-6, 1 - 1e-6), b)


def printed_loss(warped: Tensor, fixed: Tensor) -> Tensor:
    """Mean squared error plus Dice of (K, *spatial) soft masks, equally weighted, summed over the pairs."""
    a, b = warped.flatten(1), fixed.flatten(1)
    dice = 1 - 2 * (a * b).sum(1) / (a.sum(1) + b.sum(1)).clamp(min=1e-6)
    return ((a - b).square().mean(1) + dice).sum()


def fit_published(
    pairs: ROIPairs,
    grid: Grid,
    *,
    start: Transform,
    objective: Literal["released", "printed"] = "released",
    iterations: int = 1000,
    smoothness: float = 1.0,
    rate: float = 1e-3,
    max_voxels: int = 100_000,
    progress: Progress = silent,
) -> DisplacementField:
    """Fit a dense displacement to region pairs by the published objective.

    Parameters
    ----------
    pairs : corresponding regions; at least one active.
    grid : the fixed image's grid; the field lives on a grid over the same box with at most `max_voxels`.
    start : fixed world -> moving world, applied after the field.

    Raises
    ------
    InputError
        When there is no active pair.
    """
    active = pairs.active
    if not len(active):
        raise InputError("there is no region pair to fit a deformation to")
    lattice = grid.coarsened(max_voxels)
    fixed = resample(Image(active.fixed_masks().masks.float(), active.fixed.grid), lattice).data
    source = Image(active.moving_masks().masks.float(), active.moving.grid)
    moving = warp(source, start, lattice)
    identity = identity_coords(lattice.shape, fixed.device)
    half = torch.tensor([n / 2 for n in lattice.shape[::-1]], device=fixed.device)
    field = torch.zeros(grid.ndim, *lattice.shape, device=fixed.device, requires_grad=True)  # [-1, 1] units
    optimiser = Adam([field], rate=rate, steps=iterations)
    for i in range(iterations):
        warped = sample(moving.data[None], (identity + field.movedim(0, -1) * half)[None])[0]
        if objective == "printed":
            loss = printed_loss(warped, fixed) + smoothness * squared_gradient(field)
        else:
            loss = released_loss(warped, fixed) + smoothness * bending_energy(field)
        optimiser.step(loss)
        if i % 20 == 0:
            progress(ProgressEvent(TITLE, (i + 1) / iterations, f"loss {float(loss.detach()):.4f}"))
    voxels = field.detach() * half.reshape(-1, *[1] * grid.ndim)
    linear = torch.as_tensor(np.array(lattice.affine[:-1, :-1][:, ::-1]), dtype=torch.float32, device=fixed.device)
    return DisplacementField(lattice, torch.einsum("ij,j...->i...", linear, voxels))
