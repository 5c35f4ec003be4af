"""One resolution level of the dense fit: images, terms and the loss of a velocity.

Per level the velocity lives on a lattice of every second voxel, is low-passed (a Sobolev-like metric), integrated
by scaling and squaring, brought to the level's voxels and judged there. Everything between velocity and coordinates
is linear and cheap on the coarse lattice; only the moving image is sampled at full level resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from roireg.core.filters import gaussian_smooth, resize
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.noise import noise_level
from roireg.core.pair import Pair
from roireg.core.transforms import Affine, VelocityField, exponential
from roireg.core.warp import resample, sample, slab_points, voxel_coords, warp
from roireg.features import FeatureExtractor
from roireg.fit.objectives import (
    FeatureDistance,
    LocalCorrelation,
    RegionAgreement,
    diffusion,
)
from roireg.fit.region_codes import CodedAgreement
from roireg.fit.region_pairs import RegionPairs

__all__ = ["PROPOSED_WEIGHT", "Level", "VelocityOptions", "build_levels", "level_spacings", "normalise"]

NATIVE_VOXELS = 200_000
"""Images of at most so many voxels are fitted at their own resolution."""

COARSER = 1.25
"""Voxel size of the finest level of larger images, in voxels of their finest axis: nothing is lost and half saved."""

FEATURE_VOXELS = 150_000
"""Levels with more voxels leave dense features out: intensities alone know where a border is."""

REGION_SAMPLES = 50_000
"""Most pairs times control points in the region term of a level where the images have a say, too."""

BLIND_SAMPLES = 3_000_000
"""The same where regions are all there is."""

BORDER_VOXELS, BORDER_STEPS = 8_000_000, 40
"""Most voxels and the steps of the level for borders: it samples images nowhere and is cheap for its size."""


PROPOSED_WEIGHT = 0.05
"""Weight of all proposed pairs together, unless settings say otherwise."""

BORDER_REACH = 6
"""Voxels over which the displacement of a border on that level fades to none."""


class VelocityOptions(BaseModel):
    """Settings of the dense fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["svf", "displacement"] = Field(
        "svf", description="diffeomorphic flow of a stationary velocity field, or plain displacement"
    )
    levels: int = Field(
        4, ge=1, description="largest number of resolution levels, each twice as fine as the one before"
    )
    iterations: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (40, 30, 25, 15),
        min_length=1,
        description="steps per level, coarse to fine; the last ones count for fewer levels",
    )
    max_voxels: int = Field(1_500_000, ge=1000, description="largest number of voxels at the finest level")
    min_length: int = Field(
        12, ge=2, description="least number of voxels along the longest axis, at the coarsest level"
    )
    correlation_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of the local correlation of intensities"
    )
    correlation_radius: int | None = Field(
        None, ge=1, description="radius of the correlation window in control steps; None: 1 in 3D, 2 in 2D"
    )
    features: str | None = Field(
        "mind", description="dense features compared beside the intensities; model: those of the network"
    )
    feature_weight: float = Field(
        0.25, ge=0, allow_inf_nan=False, description="weight of the distance of dense features"
    )
    region_weight: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="weight of all proposed region pairs together (0 leaves them out); null: 0.05, but none for "
        "pairs that are found in volumes without a network, where they changed no result",
    )
    accepted_weight: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="weight of all accepted pairs and prompts together; None: twice region_weight. Borders that were "
        "found in the images may stay apart by 1.5 % of the longest side",
    )
    label_weight: float = Field(
        3.0, ge=0, allow_inf_nan=False, description="weight of all pairs of label maps together"
    )
    class_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of all pairs of the classes of a segmenter together"
    )
    max_regions: int = Field(24, ge=1, description="largest number of proposed pairs, the most confident first")
    region_truncation: float = Field(
        0.06, gt=0, description="distance from a border up to which a region pulls, fraction of the longest side"
    )
    smoothness: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="weight of the squared gradient of the velocity (mm per mm)"
    )
    noise: float = Field(
        0.025,
        gt=0,
        description="noise, as a fraction of the range of intensities, at which the smoothness doubles",
    )
    low_pass: float = Field(1.0, ge=0, description="Gaussian low-pass of the velocity in control steps")
    step: float = Field(0.5, gt=0, allow_inf_nan=False, description="step of the optimiser in voxels of the level")

    @property
    def proposed_weight(self) -> float:
        """Weight of all proposed pairs together."""
        return PROPOSED_WEIGHT if self.region_weight is None else self.region_weight

    @property
    def own_weight(self) -> float:
        """Weight of all accepted pairs together."""
        return 2 * self.proposed_weight if self.accepted_weight is None else self.accepted_weight

    @property
    def blind(self) -> bool:
        """Whether no term looks at the images."""
        return self.correlation_weight == 0 and (self.features is None or self.feature_weight == 0)


def level_spacings(
    grid: Grid, *, levels: int, max_voxels: int, min_length: int = 1, finest: float = 1.0
) -> list[NDArray[np.float64]]:
    """Voxel sizes (mm, storage order) of the levels, coarse to fine; axes are never sampled finer than they are.

    The finest level is `finest` times the finest axis and has at most about `max_voxels`; coarser ones double the
    spacing of the finest axes first, so thick slices stay as they are until the plane has caught up.
    """
    extent, native = grid.extent, grid.spacing

    def count(h: float) -> float:
        return float(np.prod(np.maximum(1, extent / np.maximum(native, h))))

    smallest = finest * float(native.min())
    while count(smallest) > max_voxels:
        smallest *= 1.05
    spacings = [smallest * 2**k for k in range(levels)]
    kept = [h for h in spacings if extent.max() / h >= min_length] or spacings[:1]
    return [np.maximum(native, h) for h in reversed(kept)]


def normalise(data: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scale intensities so that the 1st and 99th percentile (inside the mask, if any) become 0 and 1, clamped."""
    values = data if mask is None else data[mask.expand_as(data)]
    flat = values.reshape(-1)
    if flat.numel() > 500_000:
        flat = flat[:: flat.numel() // 250_000]
    low, high = torch.quantile(flat.float(), torch.tensor([0.01, 0.99], device=data.device))
    return ((data - low) / (high - low).clamp(min=1e-6)).clamp(-0.25, 1.25)


@dataclass(frozen=True, eq=False)
class _Pull:
    """Sampling positions in a source grid: base + linear @ u, all in voxels of the source."""

    base: Tensor  # (*shape, d)
    linear: Tensor  # (d, d), voxels of the source per world mm

    @classmethod
    def of(cls, grid: Grid, source: Grid, affine: Affine, device: torch.device) -> _Pull:
        parts = [voxel_coords(source, affine.map_points(points)).float() for _, points in slab_points(grid, device)]
        base = torch.cat(parts).reshape(*grid.shape, grid.ndim)
        linear = np.linalg.inv(source.affine[:-1, :-1])[::-1] @ affine.matrix[:-1, :-1]
        return cls(base, torch.as_tensor(linear.copy(), dtype=torch.float32, device=device))

    def __call__(self, data: Tensor, displacement: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Sample (C, *source) at the target points moved by a (d, *coarse) world displacement in mm."""
        moved = resize(torch.einsum("ij,j...->i...", self.linear, displacement), shape)
        return sample(data[None], (self.base + moved.movedim(0, -1))[None])[0]


class Level:
    """One resolution of a fit: lattices, images and terms, made once and used by every fit of the same images.

    :meth:`place` says where a fit begins and :meth:`add_regions` what else is known; then :meth:`loss` can be asked.
    The fit takes `steps` steps here, and is then done from `part[0]` to `part[1]`.

    Parameters
    ----------
    pair : one-channel images scaled to about 0..1, masks.
    spacing : (d,) voxel size of the level in mm, storage order.
    features : computed from the images at the voxels of the level; None leaves them out, as `encodings` does where it
        is given.
    encodings : feature maps (fixed, moving), each on a grid of its own.
    """

    def __init__(
        self,
        pair: Pair,
        spacing: NDArray[np.float64],
        steps: int,
        part: tuple[float, float],
        options: VelocityOptions,
        *,
        features: FeatureExtractor | None = None,
        encodings: tuple[Image, Image] | None = None,
        anchored: bool = False,
    ) -> None:
        self.options, self.steps, self.part, self.anchored = options, steps, part, anchored
        fixed, moving = pair.fixed, pair.moving
        self.grid = fixed.grid.with_spacing(spacing)
        finest = float(self.grid.spacing.min())
        step = np.clip(np.round(2 * finest / self.grid.spacing).astype(int), 1, self.grid.shape)
        self.control = self.grid.with_shape(
            tuple(math.ceil(n / s) for n, s in zip(self.grid.shape, step, strict=True))
        )
        self.step_mm = options.step * finest
        device = fixed.data.device
        self.low_pass = options.low_pass
        linear = self.control.affine[:-1, :-1][:, ::-1]
        self.world_from_voxel = torch.as_tensor(linear.copy(), dtype=torch.float32, device=device)
        self.voxel_from_world = torch.linalg.inv(self.world_from_voxel)
        self.correlation: LocalCorrelation | None = None
        self.distance: FeatureDistance | None = None
        self.regions: RegionAgreement | None = None
        self.codes: CodedAgreement | None = None
        self.moving_grid = moving.grid.with_spacing(np.maximum(moving.grid.spacing, spacing.min()))
        f, m = resample(fixed, self.grid), resample(moving, self.moving_grid)
        weight = None if pair.fixed_mask is None else resample(pair.fixed_mask, self.grid).data
        mask = pair.moving_mask
        self.moving_weight = None if mask is None else resample(mask, self.moving_grid).data
        if options.correlation_weight > 0:
            # At least a hundred voxels either way: fewer correlate by chance.
            steps = options.correlation_radius or (1 if self.grid.ndim == 3 else 2)
            radius = [steps if n > 1 else 0 for n in self.control.shape]
            # A window of a volume has voxels enough: there a floor for noise hides the texture of organs.
            noise = noise_level(f.data) if self.grid.ndim == 2 else 0.0
            self.correlation = LocalCorrelation(f.data, step=step.tolist(), radius=radius, weight=weight, noise=noise)
            self.moving = m.data
        if options.feature_weight == 0 or self.grid.size > FEATURE_VOXELS:
            return
        if encodings is not None:
            # No finer than the level, whose voxels are what is compared.
            coarser = [
                e.grid.with_spacing(np.maximum(e.grid.spacing, float(self.grid.spacing.min()))) for e in encodings
            ]
            maps = [resample(e, grid) for e, grid in zip(encodings, coarser, strict=True)]
        elif features is not None:
            maps = [features(f, self.grid), features(m, self.moving_grid)]
        else:
            return
        # In 3D, where sampling many channels costs most, one voxel in eight tells nearly as much as all.
        self.compared = self.control if self.grid.ndim == 3 else self.grid
        importance = None if weight is None else warp(f.with_data(weight), None, self.compared).data
        self.distance = FeatureDistance(warp(maps[0], None, self.compared).data, weight=importance)
        self.moving_features = maps[1]

    def place(self, affine: Affine, rest: VelocityField | None = None) -> None:
        """Begin a fit without regions, `affine` (fixed world -> moving world) to follow the flow.

        `rest` is the flow that costs nothing; None is no motion.
        """
        self.affine, self.regions, self.codes = affine, None, None
        self.low_pass = self.options.low_pass
        device = self.world_from_voxel.device
        self.rest = torch.zeros(self.grid.ndim, *self.control.shape, device=device)
        if rest is not None:
            parameters = rest.field.displacement if self.options.model == "displacement" else rest.velocity
            self.rest = warp(Image(parameters.to(device), rest.grid), None, self.control).data
        if self.correlation is not None:
            self.pull = _Pull.of(self.grid, self.moving_grid, affine, device)
        if self.distance is not None:
            self.feature_pull = _Pull.of(self.compared, self.moving_features.grid, affine, device)
            self.feature_mask_pull = _Pull.of(self.compared, self.moving_grid, affine, device)

    def add_regions(self, regions: RegionPairs) -> None:
        """Add the region term: signed distances, which pull from afar, and codes, which are exact at borders.

        The cost of distances grows with pairs times control points: fine levels of a fit that sees the images, which
        say themselves where borders are, keep the distances of a few pairs only. That of codes does not grow.
        """
        count = (BLIND_SAMPLES if self.options.blind else REGION_SAMPLES) // self.control.size
        if regions.codes is not None:
            # The last level sees borders as sharp as they are.
            spacing = float(self.grid.spacing.min()) if self.part[1] < 1 else 0.0
            self.codes = CodedAgreement(regions.codes.at(spacing), self.affine, self.control)
            # Borders that are known may bend the field more than what images suggest.
            self.low_pass = (0.5 if self.anchored else 0.75) * self.options.low_pass
            # Codes take over where distances to all of the borders cost too much.
            part = regions.first(len(regions.weights)) if count >= len(regions.weights) else None
        else:
            part = regions.first(max(4, count))
        if part is None:
            return
        on_control = warp(Image(part.fixed, part.fixed_grid), None, self.control).data
        self.regions = RegionAgreement(on_control, part.weights, tolerance=part.tolerance)
        # Distances are smooth: at the voxels of the level they are as good, and a small array is faster to sample.
        grid = part.moving_grid
        coarse = grid.with_spacing(np.maximum(grid.spacing, self.grid.spacing.min()))
        self.moving_regions = warp(Image(part.moving, grid), None, coarse).data
        self.region_pull = _Pull.of(self.control, coarse, self.affine, part.fixed.device)

    def smooth(self, parameters: Tensor) -> Tensor:
        """Return the velocity whose deviation from the flow at rest is low-passed."""
        sigma = self.low_pass * float(self.control.spacing.min()) / self.control.spacing
        return self.rest + gaussian_smooth(parameters - self.rest, np.where(sigma < 0.3, 0.0, sigma))

    def displacement(self, velocity: Tensor) -> Tensor:
        if self.options.model == "displacement":
            return velocity
        flow = exponential(torch.einsum("ij,j...->i...", self.voxel_from_world, velocity))
        return torch.einsum("ij,j...->i...", self.world_from_voxel, flow)

    def _moving_weight(self, pull: _Pull, displacement: Tensor, grid: Grid) -> Tensor | None:
        """Return the warped moving mask on a grid, if there is one; it does not pull on the field."""
        if self.moving_weight is None:
            return None
        return pull(self.moving_weight, displacement.detach(), grid.shape)

    def loss(self, velocity: Tensor) -> Tensor:
        o = self.options
        displacement = self.displacement(velocity)
        deviation = velocity - self.rest
        total = o.smoothness * diffusion(deviation, self.control.spacing)
        if self.anchored:
            # Smoothness alone would let everything shift along; so, away from borders, what was there returns.
            length = BORDER_REACH * float(self.grid.spacing.min())
            total = total + o.smoothness * deviation.square().sum(0).mean() / length**2
        if self.correlation is not None:
            warped = self.pull(self.moving, displacement, self.grid.shape)
            weight = self._moving_weight(self.pull, displacement, self.grid)
            total = total + o.correlation_weight * self.correlation(warped, weight)
        if self.distance is not None:
            warped = self.feature_pull(self.moving_features.data, displacement, self.compared.shape)
            weight = self._moving_weight(self.feature_mask_pull, displacement, self.compared)
            total = total + o.feature_weight * self.distance(warped, weight)
        if self.codes is not None:
            total = total + self.codes(displacement)
        if self.regions is not None:
            warped = self.region_pull(self.moving_regions, displacement, self.control.shape)
            total = total + self.regions(warped)
        return total


def build_levels(
    pair: Pair,
    *,
    options: VelocityOptions,
    features: FeatureExtractor | None = None,
    encodings: tuple[Image, Image] | None = None,
    uncertainty: float | None = None,
    bordered: bool = False,
) -> Iterator[Level]:
    """Yield the levels of a fit, coarse to fine, for :func:`fit_levels`.

    Parameters
    ----------
    pair : one-channel images of any intensities, masks > 0 where they are to be compared.
    features, encodings : see `Level`.
    uncertainty : mm, of the start; levels with larger voxels are left out. None keeps all.
    bordered : end with a level for borders of regions that are known, as fine as the images and blind to them: what
        the images say has been settled, and stays where no border asks for more.
    """
    pair = replace(
        pair,
        fixed=pair.fixed.with_data(normalise(pair.fixed.data, _inside(pair.fixed, pair.fixed_mask))),
        moving=pair.moving.with_data(normalise(pair.moving.data, _inside(pair.moving, pair.moving_mask))),
    )
    if not options.blind:
        # The noisier the images, the less their agreement says against the prior.
        noise = max(noise_level(pair.fixed.data), noise_level(pair.moving.data))
        options = options.model_copy(update={"smoothness": options.smoothness * (1 + noise / options.noise)})
    spacings = level_spacings(
        pair.fixed.grid,
        levels=options.levels,
        max_voxels=options.max_voxels,
        min_length=options.min_length,
        finest=COARSER if pair.fixed.grid.size > NATIVE_VOXELS else 1.0,
    )
    if uncertainty is not None:
        spacings = [s for s in spacings if s.min() <= uncertainty] or spacings[-1:]
    iterations = options.iterations[-len(spacings) :]
    iterations = (iterations[0],) * (len(spacings) - len(iterations)) + iterations
    count = len(spacings) + bordered
    for number, (spacing, steps) in enumerate(zip(spacings, iterations, strict=True)):
        part = (number / count, (number + 1) / count)
        yield Level(pair, spacing, steps, part, options, features=features, encodings=encodings)
    if bordered:
        blind = options.model_copy(update={"correlation_weight": 0.0, "feature_weight": 0.0})
        finest = level_spacings(pair.fixed.grid, levels=1, max_voxels=BORDER_VOXELS)[0]
        yield Level(pair, finest, BORDER_STEPS, (1 - 1 / count, 1.0), blind, anchored=True)


def _inside(image: Image, mask: Image | None) -> Tensor | None:
    """(1, *spatial) bool: where a mask on any grid counts, on the grid of the image."""
    if mask is None:
        return None
    return warp(mask, None, image.grid, mode="nearest").data > 0
