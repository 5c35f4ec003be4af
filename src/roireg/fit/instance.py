"""Instance optimisation: a flow that makes dense features agree, by gradient descent (METHODS section 4.4).

The last step of SAME++ and of ConvexAdam. Features are compared at the control points of the field, so a step costs
little; a search before it (`convex`, `coarse`) has to bring things near.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from roireg.core.filters import box_mean, gaussian_smooth
from roireg.core.grid import Grid
from roireg.core.progress import ProgressEvent
from roireg.core.transforms import Chain, Transform, VelocityField, exponential
from roireg.core.warp import identity_coords, sample
from roireg.fit.adam import Adam
from roireg.fit.compared import Compared, compared
from roireg.fit.convex import MARGIN, lattice
from roireg.fit.flow import faded
from roireg.fit.objectives import bending, diffusion
from roireg.fit.stage import Problem, Stage

__all__ = ["Instance"]

WIDTH = 0.5
"""Low-pass of the features before they are compared, in control steps."""


class Instance(Stage):
    """Smooth deformation by gradient descent on the distance of dense features, before the start."""

    title: ClassVar[str] = "optimising the deformation"

    stage: Literal["instance"] = "instance"
    features: tuple[str, ...] = Field(
        ("mind",), min_length=1, description="dense features that are compared; model: those of the network"
    )
    distance: Literal["cosine", "ssd"] = Field(
        "ssd", description="of two feature vectors: one minus the cosine, or the squared difference"
    )
    max_voxels: int = Field(1_000_000, ge=1000, description="largest number of voxels at which features are computed")
    step: int = Field(2, ge=1, description="distance of control points in voxels")
    iterations: int = Field(50, ge=1, description="steps of the optimiser")
    rate: float = Field(0.05, gt=0, allow_inf_nan=False, description="step of the optimiser in control steps")
    smoothness: float = Field(1.0, ge=0, allow_inf_nan=False, description="weight of the roughness of the velocity")
    penalty: Literal["diffusion", "bending"] = Field(
        "diffusion", description="roughness: squared first or second differences of the velocity"
    )
    smoothings: int = Field(
        3, ge=0, description="how many times the velocity is averaged over its neighbours before use"
    )

    def __call__(self, problem: Problem, start: Transform) -> Transform:
        grid, block = lattice(problem.pair.fixed.grid, step=self.step, max_voxels=self.max_voxels)
        control = grid.with_shape([n // b for n, b in zip(grid.shape, block, strict=True)])
        margin = [b * round(MARGIN * n) if n > 1 else 0 for n, b in zip(control.shape, block, strict=True)]
        fit = _Fit(compared(problem, start, self.features, grid, margin), control, block, self)
        velocity = fit.descend(problem)
        return start if velocity is None else Chain((VelocityField(*faded(control, velocity)), start))


class _Fit:
    """Features on control points, and the loss of a velocity in control steps (x, y[, z])."""

    def __init__(self, both: Compared, control: Grid, block: Sequence[int], options: Instance) -> None:
        self.control, self.options = control, options
        device = both.fixed.device
        # Interpolation smooths, most of all half way between voxels, and what is smooth is less far from anything:
        # maps that are not smooth already pull every point there.
        sigma = [WIDTH * b if n > 1 else 0.0 for n, b in zip(control.shape, block, strict=True)]
        self.moving = gaussian_smooth(torch.cat([both.moving, both.moving_weight]), sigma)
        self.step = torch.tensor(block[::-1], dtype=torch.float32, device=device)
        first = 0.5 * (self.step - 1) + torch.tensor(both.margin[::-1], dtype=torch.float32, device=device)
        self.base = identity_coords(control.shape, device) * self.step + first
        fixed = gaussian_smooth(torch.cat([both.fixed, both.fixed_weight]), sigma)
        self.fixed, self.fixed_weight = sample(fixed[None], self.base[None])[0].split([len(fixed) - 1, 1])
        # Steps of the lattice in units of the finest axis, components as in the world's order of storage axes.
        self.relative = control.spacing / control.spacing.min()
        self.radius = [1 if n > 1 else 0 for n in control.shape]
        self.moves = torch.tensor([float(n > 1) for n in control.shape[::-1]], device=device)
        self.scale = torch.as_tensor(self.relative[::-1].copy(), dtype=torch.float32, device=device)

    def smooth(self, parameters: Tensor) -> Tensor:
        """Return the velocity, in voxels of the control lattice, of parameters in steps of its finest axis."""
        for _ in range(self.options.smoothings):
            parameters = box_mean(parameters, self.radius)
        unit = (self.moves / self.scale).reshape(-1, *[1] * self.control.ndim)
        return parameters * unit

    def loss(self, velocity: Tensor) -> Tensor:
        flow = exponential(velocity).movedim(0, -1)
        values = sample(self.moving[None], (self.base + flow * self.step)[None])[0]
        warped, weight, fixed = values[:-1], values[-1:].detach() * self.fixed_weight, self.fixed
        if self.options.distance == "ssd":
            apart = (warped - fixed).square().sum(0)
        else:
            apart = 1 - torch.nn.functional.cosine_similarity(warped, fixed, dim=0, eps=1e-6)
        total = (apart * weight[0]).sum() / weight.sum().clamp(min=1e-6)
        rough = bending if self.options.penalty == "bending" else diffusion
        # In steps of the finest axis on a lattice of that unit: dimensionless, as mm per mm.
        length = velocity * self.scale.reshape(-1, *[1] * self.control.ndim)
        return total + self.options.smoothness * rough(length, self.relative)

    def descend(self, problem: Problem) -> Tensor | None:
        """Return the velocity in mm (world components); None where no velocity is better than none."""
        o = self.options
        parameters = torch.zeros(self.control.ndim, *self.control.shape, device=self.fixed.device, requires_grad=True)
        optimiser = Adam([parameters], rate=o.rate, steps=o.iterations, last=0.1, eps=1e-3)
        first = float("nan")
        for i in range(o.iterations):
            loss = self.loss(self.smooth(parameters))
            first = float(loss.detach()) if i == 0 else first
            optimiser.step(loss * self.control.size)
            if i % 5 == 0:
                problem.progress(
                    ProgressEvent(Instance.title, (i + 1) / o.iterations, f"loss {float(loss.detach()):.4f}")
                )
        with torch.no_grad():
            velocity = self.smooth(parameters)
            if not float(self.loss(velocity)) < first:
                return None
        linear = np.array(self.control.affine[:-1, :-1][:, ::-1])
        return torch.einsum("ij,j...->i...", torch.as_tensor(linear, dtype=torch.float32), velocity)
