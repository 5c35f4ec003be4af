"""Multi-resolution fit of a stationary velocity field: the dense stage of every preset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from roireg.core.filters import resize
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import ROIPairs
from roireg.core.transforms import Affine, VelocityField
from roireg.fit.adam import Adam
from roireg.fit.level import FeatureFunction, Level, VelocityOptions, build_levels
from roireg.fit.signed_distance import signed_distances

__all__ = ["VelocityFit", "fit_levels", "fit_velocity"]


@dataclass(frozen=True, eq=False)
class VelocityFit:
    """Result of :func:`fit_velocity`.

    Attributes
    ----------
    transform : the fitted field; apply it before the initial affine.
    losses : objective at the start and after every level, (initial, final) per level.
    loss : objective of `transform` at the finest level.
    """

    transform: VelocityField
    losses: tuple[tuple[float, float], ...]
    loss: float


def fit_velocity(
    fixed: Image,
    moving: Image,
    *,
    initial: Affine,
    rest: VelocityField | None = None,
    reach: float | None = None,
    options: VelocityOptions | None = None,
    pairs: ROIPairs | None = None,
    features: FeatureFunction | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    progress: Progress = silent,
) -> VelocityFit:
    """Fit a velocity field v so that moving(initial(exp(v)(x))) agrees with fixed(x) (METHODS section 3).

    Parameters
    ----------
    fixed, moving : one-channel images, any grids in the same world.
    initial : affine from fixed to moving world, applied after the flow.
    rest : flow to begin with, from which deviations are smooth; None is no motion.
    reach : how far off that is at most, in mm: levels with larger voxels are left out. None: anything.
    pairs : corresponding regions for the region term, weighted by confidence.
    features : image -> dense features on the same grid, compared beside the intensities; None leaves them out.
    fixed_mask, moving_mask : one-channel images, > 0 where the images are to be compared.

    Returns
    -------
    The field, on the control lattice of the finest level. Where the optimum is no better than `rest` at the finest
    level, the field is that.
    """
    levels = build_levels(
        fixed,
        moving,
        options=options or VelocityOptions(),
        reach=reach,
        features=features,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
    )
    return fit_levels(levels, initial=initial, rest=rest, pairs=pairs, progress=progress)


def fit_levels(
    levels: Iterable[Level],
    *,
    initial: Affine,
    rest: VelocityField | None = None,
    pairs: ROIPairs | None = None,
    progress: Progress = silent,
) -> VelocityFit:
    """Fit a velocity field from level to level; a list of levels serves many fits, one after the other."""
    velocity: Tensor | None = None
    deviation = torch.zeros(0)
    regions: tuple[Tensor, Tensor, Tensor] | None = None
    losses = []
    for level in levels:
        if velocity is None:
            regions = _region_inputs(pairs, level.options)
        level.place(initial, rest)
        if regions is not None and pairs is not None:
            level.add_regions(pairs, *regions)

        def report(done: float, loss: float, level: Level = level) -> None:
            progress(
                ProgressEvent(
                    "fitting the deformation",
                    level.part[0] + done * (level.part[1] - level.part[0]),
                    f"loss {loss:.4f}",
                )
            )

        begin = level.rest if velocity is None else level.rest + resize(deviation, level.control.shape)
        velocity, first, last = _descend(level, begin, report)
        deviation = velocity - level.rest
        losses.append((first, last))
    assert velocity is not None
    with torch.no_grad():
        unmoved = float(level.loss(level.rest))
    loss = losses[-1][1]
    if not loss < unmoved:
        velocity, loss = level.rest, unmoved
    return VelocityFit(_extended(level.control, velocity), tuple(losses), loss)


def _extended(grid: Grid, velocity: Tensor) -> VelocityField:
    """Let the velocity fade to 0 outside the fixed image instead of stopping at its border.

    Points that flow out of the image would otherwise meet a jump, and the inverse would not bring them back. The
    margin is twice the largest displacement along each axis.
    """
    linear = torch.as_tensor(np.linalg.inv(grid.affine[:-1, :-1]), dtype=torch.float32, device=velocity.device)
    reach = torch.einsum("ij,j...->i...", linear, velocity).abs().flatten(1).amax(1)
    margin = [math.ceil(2 * float(r)) if float(r) > 0 else 0 for r in reach]
    for axis, width in enumerate(margin):
        n = velocity.shape[axis + 1]
        outside = torch.arange(-width, n + width, device=velocity.device)
        distance = torch.maximum(-outside, outside - (n - 1)).clamp(min=0)
        fade = torch.cos(0.5 * math.pi * distance / (width + 1)) ** 2
        index = outside.clamp(0, n - 1)
        shape = [1] * velocity.ndim
        shape[axis + 1] = -1
        velocity = velocity.index_select(axis + 1, index) * fade.reshape(shape)
    return VelocityField(grid.padded(margin, margin), velocity)


def _descend(level: Level, start: Tensor, report: Callable[[float, float], None]) -> tuple[Tensor, float, float]:
    """Adam from `start`; returns the smoothed velocity and the loss before and after."""
    parameters = start.detach().clone().requires_grad_()
    # The loss is a mean; counted per control point its gradient no longer depends on the size of the image, and
    # eps keeps places without evidence from moving on rounding noise.
    scale, steps = math.prod(level.control.shape) * level.step_mm, level.steps
    optimiser = Adam([parameters], rate=level.step_mm, steps=max(steps, 1), last=0.1, betas=(0.9, 0.99), eps=1e-3)
    first = last = float("nan")
    for i in range(steps):
        loss = level.loss(level.smooth(parameters))
        last = float(loss.detach())
        first = last if i == 0 else first
        optimiser.step(loss * scale)
        report((i + 1) / steps, last)
    return level.smooth(parameters.detach()), first, last


def _region_inputs(pairs: ROIPairs | None, options: VelocityOptions) -> tuple[Tensor, Tensor, Tensor] | None:
    """Signed distances of both sides and the weights of the active pairs, or None without a region term."""
    if pairs is None or options.region_weight == 0 or len(pairs.active) == 0:
        return None
    active = pairs.active
    # A user's own pairs always count, whatever their number.
    rank = sorted(active.pairs, key=lambda p: (p.status != "accepted", -p.confidence))
    kept = max(options.region_count, sum(p.status == "accepted" for p in rank))
    active = replace(active, pairs=tuple(rank[:kept]))
    reach = options.region_truncation * float(active.fixed.grid.extent.max())
    weight = torch.as_tensor(active.confidence, dtype=torch.float32, device=active.fixed.masks.device)
    return (
        signed_distances(active.fixed_masks(), truncation=reach),
        signed_distances(active.moving_masks(), truncation=reach),
        weight,
    )
