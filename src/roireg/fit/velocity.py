"""Multi-resolution fit of a stationary velocity field: the dense stage of every preset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.filters import resize
from roireg.core.grid import Grid
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import ROIPairs
from roireg.core.transforms import (
    Affine,
    Chain,
    DisplacementField,
    Transform,
    VelocityField,
    jacobian_determinant,
)
from roireg.features import make_extractor
from roireg.fit.adam import Adam
from roireg.fit.flow import faded
from roireg.fit.level import PROPOSED_WEIGHT, Level, VelocityOptions, build_levels, level_spacings
from roireg.fit.plain import plain_affine
from roireg.fit.refinement import Refine
from roireg.fit.region_affine import overlaps_of
from roireg.fit.region_pairs import FOUND, RegionPairs
from roireg.fit.search import ALIKE, Evidence, evidence_of
from roireg.fit.stage import Problem, Stage

__all__ = ["Velocity", "VelocityFit", "fit_levels", "fit_velocity"]

TITLE = "fitting the deformation"

STRETCH_VOXELS = 100_000
"""Most voxels at which the change of volume is looked at."""

UNLIKE_GAIN = 0.12
"""Least gain in structure of a deformation between unlike contrasts."""

CONTRAST_GAIN = 0.15
"""Gain in contrast that speaks for such a deformation: bringing chance edges together has none."""

WORTH, WORTH_ALONE = 0.36, 0.6
"""Least gain in structure over the standard deviation of log det J, with a gain in contrast and without one."""

SUPPLIED, WORTH_ALIKE = 0.42, 0.4
"""Between pictures of one contrast: least share that a deformation supplies of the structure a global map lacks, or
least gain in structure over its standard deviation of log det J."""

TOO_LITTLE = "a deformation explains too little of what differs"

TOGETHER, TOUCHING = 0.8, 0.4
"""Dice of every kept pair from which on a start is as good as the borders of regions tell: exact ones, and, between
alike images, those found in the images, which differ in shape by as much even where nothing moved (0.39: two discs
whose centres lie on each other's border)."""

TORN = 0.8
"""Standard deviation of log det J between unlike contrasts above which a field follows chance; bodies reach 0.5."""


class Velocity(VelocityOptions, Stage):
    """Dense deformation: a smooth field that makes images, features and paired regions agree (METHODS section 3)."""

    title: ClassVar[str] = TITLE
    uses_pairs: ClassVar[bool] = True

    stage: Literal["velocity"] = "velocity"
    checked: bool = Field(
        True,
        description="keep the deformation only if the orientations of edges, which it does not see, agree no worse, "
        "and between unlike contrasts, and in pictures, so much better that its stretch is worth it; an affine map "
        "that explains every part of the image as well takes its place",
    )

    def __call__(self, problem: Problem, start: Transform) -> Transform:
        fit = fit_velocity(problem, start, options=self)
        pairs = problem.active_pairs
        # Whoever gives kept pairs more weight than usual means their borders.
        usual = self.own_weight <= 2 * PROPOSED_WEIGHT
        if not self.checked or self.blind or fit.field is None or _asked_for(pairs, start, images_decide=usual):
            return fit.transform
        before, after = (evidence_of(problem.search, t) for t in (start, fit.transform))
        alike = after.contrast >= ALIKE
        if not alike and _asked_for(pairs, start, images_decide=False):
            return fit.transform
        stretch = _stretch(fit.transform, start, problem.pair.fixed.grid)
        torn = not alike and stretch > TORN
        if not torn and _confirmed(before, after, stretch):
            affine = plain_affine(problem, fit.transform, after)
            if affine is not None:
                return _unmoved(fit.field, affine)
            flow, given = split(start)
            doubtful = alike and start.ndim == 2 and flow is None and given is not None
            if not doubtful or _worth_while(before, after, stretch):
                return fit.transform
            problem.trace.notes.append(
                "a deformation explains too little of what differs; the global map alone is kept"
            )
        if not alike:
            kept = "a rigid" if torn else "the global"
            problem.trace.notes.append(f"the images are too unlike to tell a deformation; {kept} map alone is kept")
        if split(start)[0] is not None:
            return start
        # What tears tissue apart has bent the affine map before.
        return _unmoved(fit.field, Refine(type="rigid")(problem, start) if torn else start)


@dataclass(frozen=True, eq=False)
class VelocityFit:
    """Result of a dense fit.

    Attributes
    ----------
    transform : fixed world -> moving world; the fitted field first, then the start.
    field : the fitted field alone, None where there is nothing to fit to.
    losses : objective at the start and after every level, (initial, final) per level.
    loss : objective of `field` at the finest level.
    """

    transform: Transform
    field: VelocityField | DisplacementField | None
    losses: tuple[tuple[float, float], ...]
    loss: float


def fit_velocity(problem: Problem, start: Transform, *, options: VelocityOptions | None = None) -> VelocityFit:
    """Fit a velocity field v so that moving(start(exp(v)(x))) agrees with fixed(x) (METHODS section 3).

    A start that is an affine map, or a flow and then an affine map, is looked through: the images are sampled once,
    and the field takes the place of that flow, from which its deviation is smooth. Any other start is kept as it is;
    the moving image is brought through it first, and the field comes before it.

    Parameters
    ----------
    problem : images, masks, region pairs and encodings; levels with voxels larger than `problem.trace.uncertainty`
        are left out.
    start : fixed world -> moving world.

    Returns
    -------
    The field lives on the control lattice of the finest level. Where the optimum is no better than the start at the
    finest level, it is the start.

    Raises
    ------
    InputError
        When the features of a network are asked for and there is none, or a feature map does not exist.
    """
    options = options or VelocityOptions()
    flow, affine = split(start)
    rest: tuple[Transform, ...] = (start,) if affine is None else (affine,)
    if affine is None:
        problem, affine = problem.moved(start), Affine.identity(start.ndim)
    regions = RegionPairs.of(problem.active_pairs, options)
    if options.blind and regions is None:
        return VelocityFit(start, None, (), float("nan"))
    levels = build_levels(
        problem.pair,
        options=options,
        uncertainty=problem.trace.uncertainty,
        bordered=regions is not None and regions.codes is not None and not options.blind,
        **_features(problem, options),
    )
    fit = fit_levels(levels, affine=affine, rest=flow, regions=regions, progress=problem.progress)
    assert fit.field is not None
    return replace(fit, transform=Chain((fit.field, *rest)))


def _asked_for(pairs: ROIPairs | None, start: Transform, *, images_decide: bool) -> bool:
    """Tell whether given regions need a deformation: classes of label maps, or kept pairs that lie apart.

    Parameters
    ----------
    images_decide : whether regions that were found, and nearly lie together, leave it to the images.
    """
    if pairs is None:
        return False
    if any(p.source == "labels" for p in pairs.pairs):
        return True
    kept = tuple(p for p in pairs.pairs if p.status == "accepted")
    if not kept:
        return False
    least = [TOUCHING if images_decide and p.source in FOUND else TOGETHER for p in kept]
    return bool((overlaps_of(replace(pairs, pairs=kept), start) < least).any())


def _confirmed(before: Evidence, after: Evidence, stretch: float) -> bool:
    """Tell whether evidence that a fit does not see speaks for its deformation.

    Between images of one contrast, structure must not fall. Unlike ones have chance edges, which any field can bring
    together: there the gain has to be worth the stretch, and a small one needs intensities that explain each other
    better, too.

    Parameters
    ----------
    before, after : of the start and of the fit.
    stretch : standard deviation of log det J of the fit.
    """
    gain = after.structure - before.structure
    if after.contrast >= ALIKE:
        return gain >= 0
    worth = WORTH if after.contrast - before.contrast >= CONTRAST_GAIN else WORTH_ALONE
    return gain >= max(UNLIKE_GAIN, worth * stretch)


def _worth_while(before: Evidence, after: Evidence, stretch: float) -> bool:
    """Tell whether a deformation of a picture onto one of the same contrast explains enough; structure does not fall.

    Bodies that moved or differ leave little unexplained, or gain much by little. Pictures of one place at two times
    are alike, too, and differ by what no deformation brings. Volumes are of bodies.
    """
    gain = after.structure - before.structure
    return gain >= SUPPLIED * (1 - before.structure) or gain >= WORTH_ALIKE * stretch


def _stretch(fit: Transform, start: Transform, grid: Grid) -> float:
    """Standard deviation of the log of the change of volume beyond that of the start, on a coarse lattice."""
    coarse = grid.with_spacing(level_spacings(grid, levels=1, max_voxels=STRETCH_VOXELS)[0])
    changes = [jacobian_determinant(t, coarse).clamp(min=1e-3).log() for t in (fit, start)]
    return float((changes[0] - changes[1]).std())


def _unmoved(field: VelocityField | DisplacementField, start: Transform) -> Chain:
    """A field that moves nothing keeps the shape of the result, and says what grid it was made for."""
    return Chain((DisplacementField(field.grid, torch.zeros_like(_parameters(field))), start))


def _parameters(field: VelocityField | DisplacementField) -> Tensor:
    return field.velocity if isinstance(field, VelocityField) else field.displacement


def split(start: Transform) -> tuple[VelocityField | None, Affine | None]:
    """Return the flow and the affine map that a start consists of; the map is None if it is anything else."""
    parts = start.transforms if isinstance(start, Chain) else (start,)
    flow = parts[0] if isinstance(parts[0], VelocityField) else None
    rest = parts if flow is None else parts[1:]
    matrix = np.eye(start.ndim + 1)
    for part in rest:
        if not isinstance(part, Affine):
            return None, None
        matrix = part.matrix @ matrix
    return flow, rest[0] if len(rest) == 1 and isinstance(rest[0], Affine) else Affine(matrix)


def _features(problem: Problem, options: VelocityOptions) -> dict[str, Any]:
    """What `build_levels` is to compare beside the intensities."""
    if options.features is None or options.feature_weight == 0:
        return {}
    if options.features != "model":
        return {"features": make_extractor(options.features)}
    if problem.encodings is None:
        raise InputError(
            "the dense fit asks for the features of a network, but no network is named; set network.model"
        )
    return {"encodings": problem.encodings}


def fit_levels(
    levels: Iterable[Level],
    *,
    affine: Affine,
    rest: VelocityField | None = None,
    regions: RegionPairs | None = None,
    progress: Progress = silent,
) -> VelocityFit:
    """Fit a field from level to level; the same levels can serve many fits, one after the other.

    Parameters
    ----------
    levels : coarse to fine.
    affine : from fixed to moving world, applied after the field.
    rest : flow to begin with, from which deviations are smooth; None is no motion.
    regions : corresponding regions.

    Returns
    -------
    A fit whose transform is the field, then `affine`.
    """
    velocity: Tensor | None = None
    deviation = torch.zeros(0)
    losses = []
    for level in levels:
        level.place(affine, rest)
        if level.anchored and velocity is not None:
            level.rest = resize(velocity, level.control.shape)
            deviation = torch.zeros_like(level.rest)
        if regions is not None:
            level.add_regions(regions)

        def report(done: float, loss: float, level: Level = level) -> None:
            fraction = level.part[0] + done * (level.part[1] - level.part[0])
            progress(ProgressEvent(TITLE, fraction, f"loss {loss:.4f}"))

        begin = (
            level.rest if velocity is None or level.anchored else level.rest + resize(deviation, level.control.shape)
        )
        velocity, first, last = _descend(level, begin, report)
        deviation = velocity - level.rest
        losses.append((first, last))
    assert velocity is not None
    with torch.no_grad():
        unmoved = float(level.loss(level.rest))
    loss = losses[-1][1]
    if not loss < unmoved:
        velocity, loss = level.rest, unmoved
    kind = DisplacementField if level.options.model == "displacement" else VelocityField
    field = kind(*faded(level.control, velocity))
    return VelocityFit(Chain((field, affine)), field, tuple(losses), loss)


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
