"""A peer: deeds, linear and then deformable, on one isotropic grid for both images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.core.warp import resample
from roireg_bench.peers.base import field_from_points, itk_image
from roireg_bench.peers.convexadam import isotropic_grid
from roireg_bench.peers.programs import ProgramPeer, run_program
from roireg_bench.protocol import Modality

__all__ = ["DeedsPeer", "common_grid"]

COARSEST, FINEST = 8, 4
"""Spacing of the control points at the first and at the last level, voxels."""


@dataclass(frozen=True)
class DeedsPeer(ProgramPeer):
    """Dense displacement search on self-similarities (Heinrich et al., IEEE TMI 32(7), 2013), its defaults.

    The programs know no spacing and need two images of one shape; see `common_grid`. The transform is read off by
    letting deeds deform three images that hold voxel indices, so it stops at the border of the common grid.
    """

    name: str = "deeds"
    max_voxels: int = 8_000_000
    package: ClassVar[str] = "deedsBCV"
    programs: ClassVar[tuple[str, ...]] = ("linearBCV", "deedsBCV", "applyBCVfloat")
    variable: ClassVar[str] = "ROIREG_DEEDS"
    dimensions: ClassVar[tuple[int, ...]] = (3,)

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        programs = self.paths()
        grid = common_grid(fixed.grid, self.max_voxels)
        files = {"-F": folder / "fixed.nii.gz", "-M": folder / "moving.nii.gz"}
        for file, image in zip(files.values(), (fixed, moving), strict=True):
            sitk.WriteImage(itk_image(resample(image.gray(), grid)), str(file))
        images = [part for pair in files.items() for part in pair]
        linear, warp = folder / "linear", folder / "warp"
        matrix = folder / "linear_matrix.txt"
        run_program([programs["linearBCV"], *images, "-O", linear], output=matrix)
        field = folder / "warp_displacements.dat"
        run_program([programs["deedsBCV"], *images, "-O", warp, "-A", matrix], output=field)
        mapped = [
            self._deformed(programs["applyBCVfloat"], index, grid, warp, matrix, folder)
            for index in np.indices(grid.shape, dtype=np.float32)
        ]
        return field_from_points(grid, grid.world_from_index(np.stack(mapped, axis=-1)))

    def _deformed(
        self, program: str, index: NDArray[np.float32], grid: Grid, warp: Path, matrix: Path, folder: Path
    ) -> NDArray[np.float64]:
        source, result = folder / "index.nii.gz", folder / "index_deformed.nii.gz"
        result.unlink(missing_ok=True)
        sitk.WriteImage(itk_image(Image(torch.from_numpy(index)[None], grid)), str(source))
        run_program([program, "-M", source, "-O", warp, "-D", result, "-A", matrix], output=result)
        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(result))), dtype=np.float64).ravel()


def common_grid(grid: Grid, max_voxels: int) -> Grid:
    """Return an `isotropic_grid`, continued until all its axes are multiples of the finest spacing of control points.

    applyBCVfloat finds that spacing from the number of voxels per control point; with remainders it may find another.
    No axis is shorter than the coarsest spacing, without which deeds has no control point.
    """
    fine = isotropic_grid(grid, max_voxels)
    return Grid(tuple(max(COARSEST, -(-n // FINEST) * FINEST) for n in fine.shape), fine.affine)
