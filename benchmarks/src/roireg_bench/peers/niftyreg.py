"""A peer: NiftyReg, reg_aladin and then reg_f3d."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg_bench.peers.base import field_from_points, itk_image
from roireg_bench.peers.programs import ProgramPeer, run_program
from roireg_bench.protocol import Modality

__all__ = ["NiftyRegPeer"]


@dataclass(frozen=True)
class NiftyRegPeer(ProgramPeer):
    """Block matching (Modat et al., 2014) and fast free-form deformation (Modat et al., 2010), both as they come.

    Start: image centres together. The similarity of reg_f3d is normalised mutual information for all modalities, its
    default.
    """

    name: str = "niftyreg"
    package: ClassVar[str] = "NiftyReg"
    programs: ClassVar[tuple[str, ...]] = ("reg_aladin", "reg_f3d", "reg_transform")
    variable: ClassVar[str] = "ROIREG_NIFTYREG"

    def release(self, programs: Mapping[str, str]) -> str:
        command = [programs["reg_aladin"], "--version"]
        try:
            process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError:
            return ""
        return (process.stdout.split() or [""])[-1]

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        programs = self.paths()
        reference, floating = folder / "fixed.nii.gz", folder / "moving.nii.gz"
        sitk.WriteImage(itk_image(fixed), str(reference))
        sitk.WriteImage(itk_image(moving), str(floating))
        affine, spline, positions = folder / "affine.txt", folder / "spline.nii.gz", folder / "positions.nii.gz"
        threads = ("-omp", str(torch.get_num_threads()))
        images = ("-ref", reference, "-flo", floating, "-res", folder / "moved.nii.gz", *threads, "-voff")
        run_program([programs["reg_aladin"], *images, "-aff", affine], output=affine)
        run_program([programs["reg_f3d"], *images, "-aff", affine, "-cpp", spline], output=spline)
        positions_of = (programs["reg_transform"], *threads, "-ref", reference, "-def")
        run_program([*positions_of, spline, positions], output=positions)
        return field_from_points(fixed.grid, _points(positions, fixed.ndim))


def _points(file: Path, ndim: int) -> NDArray[np.float64]:
    """Read a deformation field of NiftyReg: (N, d) moving-world points, RAS in the file, LPS returned."""
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).astype(np.float64)
    points = values.reshape(-1, values.shape[-1])[:, :ndim]
    return np.asarray(points * ([-1.0, -1.0, 1.0][:ndim]))
