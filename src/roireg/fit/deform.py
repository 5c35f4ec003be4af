"""A trained network deforms: one look at both images gives the field (METHODS section 4.3)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import ProgressEvent
from roireg.core.transforms import Chain, DisplacementField, Transform, VelocityField
from roireg.core.warp import resample, warp
from roireg.features.embedding import shown_values, without_gaps, world_ordered
from roireg.fit.flow import faded
from roireg.fit.stage import Problem, Stage
from roireg.models.deformers import check_deformer, load_deformer

__all__ = ["Deform"]

MOST_VOXELS = 8_000_000
"""That a network is shown; images that have more at the spacing of its training are shown coarser."""


class Deform(Stage):
    """Deformation by a trained network (`roireg train deform`), before the start.

    The moving image is brought through the start first, so that the network sees what it was trained on: a pair whose
    large motion is gone. A network that gives a velocity leaves a flow, any other a displacement, which may fold.
    """

    title: ClassVar[str] = "deforming by a network"

    stage: Literal["deform"] = "deform"
    weights: str | None = Field(
        description="file of a trained network, with its card beside it; null leaves the stage out"
    )
    size: int | None = Field(
        None,
        ge=8,
        description="voxels that the network sees along the longest axis; null: as trained, or at the spacing it was "
        "trained at",
    )
    rounds: int = Field(1, ge=1, le=10, description="how often it looks, each time at what its last field has left")

    @property
    def idle(self) -> bool:
        return self.weights is None

    def check(self, ndim: int) -> None:
        if self.weights is not None:
            check_deformer(self.weights, ndim)

    def __call__(self, problem: Problem, start: Transform) -> Transform:
        if self.weights is None:
            return start
        fixed = problem.pair.fixed
        model = load_deformer(self.weights, device=fixed.data.device)
        grid = self.lattice(fixed.grid, model.size, model.spacing)
        transform = start
        for number in range(self.rounds):
            field = model.field(
                *(shown_on(grid, image, t) for image, t in ((fixed, None), (problem.pair.moving, transform)))
            )
            transform = Chain((_as_transform(grid, fixed.grid, field, flow=model.network.squarings > 0), transform))
            problem.progress(ProgressEvent(self.title, (number + 1) / self.rounds))
        return transform

    def lattice(self, grid: Grid, size: int, spacing: float | None) -> Grid:
        """Return what the network sees of a fixed grid: isotropic voxels along the axes of the world."""
        turned = world_ordered(grid)
        longest = float(turned.extent.max())
        step = longest / (self.size or size) if self.size or spacing is None else spacing
        return turned.with_spacing(step).coarsened(MOST_VOXELS)


def shown_on(grid: Grid, image: Image, transform: Transform | None) -> Tensor:
    """Return (1, *shape) intensities of 0..1 of an image on a lattice, low-passed to its spacing."""
    gray = without_gaps(image)
    step = float(grid.spacing.min())
    coarse = resample(gray, gray.grid.with_spacing(np.maximum(gray.grid.spacing, step)))
    # Scaled before it is moved: what a start shows of an image does not change how bright it is.
    scaled = coarse.with_data(shown_values(coarse.data))
    return warp(scaled, transform, grid, fill=None if transform is None else 0.0).data


def _as_transform(lattice: Grid, fixed: Grid, field: Tensor, *, flow: bool) -> Transform:
    """Return a field in voxels of a lattice as a transform; along axes of one voxel nothing moves."""
    linear = np.array(lattice.affine[:-1, :-1][:, ::-1])
    world = torch.einsum("ij,j...->i...", torch.as_tensor(linear, dtype=torch.float32), field.cpu())
    for axis, count in enumerate(fixed.shape):
        if count == 1:
            along = torch.as_tensor(np.array(fixed.direction[:, axis]), dtype=torch.float32)
            world = world - along.reshape(-1, *[1] * fixed.ndim) * torch.einsum("i,i...->...", along, world)
    kind = VelocityField if flow else DisplacementField
    return kind(*faded(lattice, world))
