"""A peer: greedy, affine and then deformable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import SimpleITK as sitk
import torch

from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, Transform
from roireg.io import from_itk
from roireg_bench.peers.base import Peer, itk_image
from roireg_bench.protocol import Modality

__all__ = ["GreedyPeer"]


@dataclass(frozen=True)
class GreedyPeer(Peer):
    """Greedy diffeomorphic registration (Yushkevich et al., Alzheimer's & Dementia 12(7), 2016).

    Stages, levels and start of its quick start: image centres together, affine, then the warp. A rigid stage before
    keeps the affine one on mutual information from running away; greedy draws its samples anew in every run. The
    metrics are those of its reference, without the weights and the log-demons of the newer quick start.

    Attributes
    ----------
    iterations : steps per level, coarse to fine, of every stage; thin images have fewer levels.
    least_voxels : along every axis at the coarsest level, without which greedy gives up.
    mono, multi : the metric for images of one modality and of two.
    """

    name: str = "greedy"
    iterations: tuple[int, ...] = (100, 50, 10)
    least_voxels: int = 4
    mono: str = "NCC"
    multi: str = "NMI"
    radius: int = 2
    package: ClassVar[str] = "picsl-greedy"
    modules: ClassVar[tuple[str, ...]] = ("picsl_greedy",)

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        from picsl_greedy import Greedy2D, Greedy3D

        d = fixed.ndim
        metric = self.mono if modality == "mono" else self.multi
        if metric == "NCC":
            metric += " " + "x".join([str(self.radius)] * d)
        smallest = min(*fixed.grid.shape, *moving.grid.shape)
        levels = sum(smallest // 2**level >= self.least_voxels for level in range(len(self.iterations)))
        steps = "x".join(map(str, self.iterations[: max(1, levels)]))
        common = f"-i fixed_image moving_image -m {metric} -n {steps} -threads {torch.get_num_threads()} -V 0"
        program = (Greedy2D if d == 2 else Greedy3D)()
        images = {"fixed_image": itk_image(fixed), "moving_image": itk_image(moving)}
        program.execute(f"{common} -a -dof 6 -ia-image-centers -o rigid_result", **images, rigid_result=None)
        program.execute(f"{common} -a -dof 12 -ia rigid_result -o affine_result", affine_result=None)
        program.execute(f"{common} -it affine_result -o warp_result", warp_result=None)
        # Matrices of greedy live in RAS, its warps in LPS.
        flip = np.diag([-1.0, -1.0, 1.0, 1.0][:d] + [1.0])
        affine = Affine(flip @ np.array(program["affine_result"]) @ flip)
        field = sitk.DisplacementFieldTransform(sitk.Cast(program["warp_result"], sitk.sitkVectorFloat64))
        return Chain((from_itk(field, name=self.name), affine))
