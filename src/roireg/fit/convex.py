"""Coupled convex search: all displacements are compared at once and made smooth by a convex coupling.

Heinrich et al. (WBIR 2014), as ConvexAdam and the convex variant of SAME++ use it (METHODS section 4.6). A gradient
follows the nearest edge; here all displacements within reach are compared, so large motion and unlike images have no
local optimum to get lost in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.filters import box_mean
from roireg.core.grid import Grid
from roireg.core.progress import ProgressEvent
from roireg.core.transforms import Chain, DisplacementField, Transform, VelocityField
from roireg.core.warp import identity_coords, sample
from roireg.fit.compared import Compared, compared
from roireg.fit.flow import flow_of
from roireg.fit.stage import Problem, Stage

__all__ = ["Convex", "MARGIN", "consistent", "cost_volume", "coupled", "lattice"]

LARGEST = 200_000_000
"""Control points times displacements at most; more is a setting that nobody means."""

MARGIN = 1 / 8
"""How far beyond the fixed image the moving one is looked at, part of every axis."""


class Convex(Stage):
    """Smooth deformation by exhaustive search: every displacement within reach is compared on dense features.

    The field is a flow, before the start, which stays a part of the result. Where there is no evidence the field is
    the smooth continuation of its surroundings.
    """

    title: ClassVar[str] = "searching the deformation"

    stage: Literal["convex"] = "convex"
    features: tuple[str, ...] = Field(
        ("mind",), min_length=1, description="dense features that are compared; model: those of the network"
    )
    max_voxels: int = Field(400_000, ge=1000, description="largest number of voxels at which features are computed")
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (4, 2), min_length=1, description="distance of control points in voxels, search after search"
    )
    reach: tuple[Annotated[int, Field(ge=1, le=12)], ...] = Field(
        (4, 2), min_length=1, description="largest displacement in control steps, search after search"
    )
    coupling: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        min_length=1,
        description="how strongly a displacement is pulled towards its neighbours, round after round",
    )
    consistent: bool = Field(
        True, description="search from the moving image to the fixed one, too, and take what both ways agree on"
    )

    @model_validator(mode="after")
    def _one_reach_per_search(self) -> Convex:
        if len(self.steps) != len(self.reach):
            raise ValueError("steps and reach must have one value for every search")
        return self

    def __call__(self, problem: Problem, start: Transform) -> Transform:
        current: Transform = start
        fields: list[VelocityField] = []
        for number, (step, reach) in enumerate(zip(self.steps, self.reach, strict=True)):
            fields.insert(0, self._search(problem, current, step, reach))
            current = Chain((*fields, start))
            problem.progress(ProgressEvent(self.title, (number + 1) / len(self.steps)))
        if not any(bool(f.velocity.any()) for f in fields):
            return start
        # One flow on the finest lattice: what follows can look through it, and it inverts.
        joined = flow_of(Chain(tuple(fields)), Chain(tuple(fields)).inverse(), fields[0].grid)
        return Chain((joined, start))

    def _search(self, problem: Problem, start: Transform, step: int, reach: int) -> VelocityField:
        grid, block = lattice(problem.pair.fixed.grid, step=step, max_voxels=self.max_voxels)
        control = grid.with_shape([n // b for n, b in zip(grid.shape, block, strict=True)])
        # The same distance along every axis, as far as its control points are apart; none along axes of one voxel.
        far = reach * float(control.spacing.min())
        span = tuple(
            0 if n == 1 else max(1, round(far / s)) for n, s in zip(control.shape, control.spacing, strict=True)
        )
        labels = int(np.prod([2 * r + 1 for r in span]))
        if control.size * labels > LARGEST:
            raise InputError(
                f"the convex search would compare {control.size} control points at {labels} displacements each; "
                "set its steps larger or its reach smaller"
            )
        around = [b * min(r, math.ceil(MARGIN * n)) for r, n, b in zip(span, control.shape, block, strict=True)]
        both = compared(problem, start, self.features, grid, around).pooled(block)
        forward = coupled(cost_volume(both, span), span, self.coupling)
        if not self.consistent:
            return _flow(control, forward, -forward)
        back = coupled(cost_volume(both.swapped, span), span, self.coupling)
        return _flow(control, *consistent(forward, back))


def lattice(grid: Grid, *, step: int, max_voxels: int) -> tuple[Grid, tuple[int, ...]]:
    """Return a lattice of whole blocks over the box of a grid, and the voxels of a block along every axis.

    Blocks are `step` voxels along the finest axis and about as long in mm along the others, at least one voxel.
    """
    fine = grid.coarsened(max_voxels)
    block = np.clip(np.round(step * fine.spacing.min() / fine.spacing).astype(int), 1, fine.shape)
    shape = [int(-(-n // b) * b) for n, b in zip(fine.shape, block, strict=True)]
    return fine.with_shape(shape), tuple(int(b) for b in block)


def displacements(span: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """(L, d) displacements in control steps, storage order, the last axis fastest."""
    axes = [torch.arange(-r, r + 1, dtype=torch.float32, device=device) for r in span]
    return torch.stack([a.reshape(-1) for a in torch.meshgrid(*axes, indexing="ij")], dim=-1)


def cost_volume(both: Compared, span: Sequence[int]) -> Tensor:
    """(L, *shape) what every displacement of every point over the fixed image costs, smoothed over the neighbours.

    Squared distance of features, in units of its mean over all points and displacements. Where the moving side shows
    nothing, a displacement costs what it costs on average at that point; where the fixed side shows nothing, all cost
    the same.

    Parameters
    ----------
    both : features on control points.
    span : largest displacement along every axis.
    """
    fixed, counts = both.inside(both.fixed), both.inside(both.fixed_weight)[0]
    shape = fixed.shape[1:]
    # Beside the margin nothing is shown.
    extra = [r - m for r, m in zip(span, both.margin, strict=True)]
    pads = [p for e in reversed(extra) for p in (max(e, 0), max(e, 0))]
    moving, weight = F.pad(both.moving, pads), F.pad(both.moving_weight, pads)
    skip = [max(-e, 0) for e in extra]
    cost = fixed.new_empty(int(np.prod([2 * r + 1 for r in span])), *shape)
    seen = torch.empty_like(cost)
    for k, shift in enumerate(product(*(range(2 * r + 1) for r in span))):
        part = (slice(None), *(slice(o + i, o + i + n) for o, i, n in zip(skip, shift, shape, strict=True)))
        torch.sum((moving[part] - fixed).square_(), 0, out=cost[k])
        seen[k] = weight[part][0]
    typical = (cost * seen).sum(0) / seen.sum(0).clamp(min=1e-6)
    cost.sub_(typical).mul_(seen).mul_(counts)
    scale = float((typical * counts).sum() / counts.sum().clamp(min=1e-6))
    return box_mean(cost, [1 if n > 1 else 0 for n in shape]) / max(scale, 1e-6)


def coupled(cost: Tensor, span: Sequence[int], coupling: Sequence[float]) -> Tensor:
    """(d, *shape) smooth displacement in control steps, storage order, of least cost.

    In every round each control point takes the displacement of least cost plus `coupling` times its squared distance
    from the smooth field, which is then the mean over the neighbours of what was taken.

    Parameters
    ----------
    cost : (L, *shape), see `cost_volume`.
    """
    d, shape = len(span), cost.shape[1:]
    moves = displacements(span, cost.device)
    length = moves.square().sum(1, keepdim=True)
    flat = cost.reshape(len(moves), -1)
    radius = [1 if n > 1 else 0 for n in shape]
    field = torch.zeros(d, flat.shape[1], device=cost.device)
    # Of equal costs the shortest displacement.
    weights = (1e-6, *coupling)
    for weight in weights:
        penalised = torch.addmm(flat + weight * length, moves, field, alpha=-2 * weight)
        taken = moves[penalised.argmin(0)].T.reshape(d, *shape)
        field = box_mean(box_mean(taken, radius), radius).reshape(d, -1)
    return field.reshape(d, *shape)


def consistent(forward: Tensor, back: Tensor, *, rounds: int = 15) -> tuple[Tensor, Tensor]:
    """Return two fields, each nearly the inverse of the other, half way between what each says and the other implies.

    Parameters
    ----------
    forward, back : (d, *shape) displacements in steps of the lattice, storage order.
    """
    identity = identity_coords(tuple(forward.shape[1:]), forward.device)

    def at(field: Tensor, other: Tensor) -> Tensor:
        return sample(field[None], (identity + other.movedim(0, -1).flip(-1))[None])[0]

    for _ in range(rounds):
        forward, back = 0.5 * (forward - at(back, forward)), 0.5 * (back - at(forward, back))
    return forward, back


def _flow(control: Grid, forward: Tensor, back: Tensor) -> VelocityField:
    linear = torch.as_tensor(np.array(control.affine[:-1, :-1]), dtype=torch.float32, device=forward.device)
    there, back_again = (
        DisplacementField(control, torch.einsum("ij,j...->i...", linear, f)) for f in (forward, back)
    )
    return flow_of(there, back_again, control)
