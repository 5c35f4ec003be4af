"""A peer: ConvexAdam with MIND features, on one isotropic grid for both images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.core.warp import resample
from roireg_bench.peers.base import Peer, field_from_voxels
from roireg_bench.protocol import Modality

__all__ = ["ConvexAdamPeer", "isotropic_grid"]


@dataclass(frozen=True)
class ConvexAdamPeer(Peer):
    """Coupled convex search and Adam on MIND-SSC (Siebert et al., 2024), the package's default settings.

    There is no affine stage; the search reaches `grid_sp * disp_hw` voxels of the common grid. Both images are
    resampled to isotropic voxels as fine as the finest axis of the fixed image, coarser where that would be more
    than `max_voxels`.
    """

    name: str = "convexadam"
    mind_r: int = 1
    mind_d: int = 2
    lambda_weight: float = 1.25
    grid_sp: int = 6
    disp_hw: int = 4
    selected_niter: int = 80
    selected_smooth: int = 0
    grid_sp_adam: int = 2
    ic: bool = True
    max_voxels: int = 8_000_000
    package: ClassVar[str] = "convexAdam"
    modules: ClassVar[tuple[str, ...]] = ()
    dimensions: ClassVar[tuple[int, ...]] = (3,)

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        # The package switches all warnings off when it is imported.
        with warnings.catch_warnings():
            from convexAdam.convex_adam_MIND import convex_adam_pt

        grid = isotropic_grid(fixed.grid, self.max_voxels)
        images = [resample(image.gray(), grid).data[0].float() for image in (fixed, moving)]
        flow = convex_adam_pt(
            *images,
            mind_r=self.mind_r,
            mind_d=self.mind_d,
            lambda_weight=self.lambda_weight,
            grid_sp=self.grid_sp,
            disp_hw=self.disp_hw,
            selected_niter=self.selected_niter,
            selected_smooth=self.selected_smooth,
            grid_sp_adam=self.grid_sp_adam,
            ic=self.ic,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        return field_from_voxels(grid, np.moveaxis(flow, -1, 0))


def isotropic_grid(grid: Grid, max_voxels: int) -> Grid:
    """Return a grid of cubic voxels along the axes of another that covers its box and begins at the same corner.

    Parameters
    ----------
    max_voxels : the voxels are as fine as the finest axis, or as this allows.
    """
    spacing = float(grid.spacing.min())
    while np.prod(np.ceil(grid.extent / spacing - 1e-6)) > max_voxels:
        spacing *= 1.02
    shape = tuple(int(n) for n in np.ceil(grid.extent / spacing - 1e-6))
    affine = np.eye(grid.ndim + 1)
    affine[:-1, :-1] = grid.direction * spacing
    corner = grid.world_from_index(np.full(grid.ndim, -0.5))
    affine[:-1, -1] = corner + affine[:-1, :-1].sum(axis=1) / 2
    return Grid(shape, affine)
