"""A peer: FireANTs on the CPU, affine and then greedy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg_bench.peers.base import Peer, field_from_points, itk_image
from roireg_bench.protocol import Modality

__all__ = ["FireAntsPeer"]


@dataclass(frozen=True)
class FireAntsPeer(Peer):
    """Riemannian Adam on diffeomorphisms (Jena et al., 2024), on the documented settings.

    Metric, window, rates and smoothing are those of the quick start; levels and steps are those of the example for
    its command line, which has a level more. Image centres are put together first: both examples begin in one space,
    and the affine, whose translation moves by the rate per step (in mm), cannot get far from there.

    Attributes
    ----------
    scales : factor per level, coarse to fine, of both stages.
    affine_steps, affine_rate, greedy_steps, greedy_rate : steps per level and learning rate.
    mono, multi : the loss for images of one modality and of two; intensities are scaled to 0..1.
    window : of the local correlation, voxels.
    deformation : "compositive", a general diffeomorphism, or "geodesic", a stationary velocity.
    start : of the affine; "cof" puts image centres together.
    smooth_grad_sigma : smoothing of the gradient, voxels.
    """

    name: str = "fireants"
    scales: tuple[int, ...] = (8, 4, 2, 1)
    affine_steps: tuple[int, ...] = (100, 50, 25, 10)
    affine_rate: float = 3e-3
    greedy_steps: tuple[int, ...] = (100, 70, 50, 20)
    greedy_rate: float = 0.5
    mono: str = "cc"
    multi: str = "mi"
    window: int = 5
    deformation: str = "compositive"
    start: str = "cof"
    smooth_grad_sigma: float = 1.0
    package: ClassVar[str] = "fireants"
    modules: ClassVar[tuple[str, ...]] = ("fireants.registration.greedy", "fireants.registration.affine")
    # It asks for one old version of SimpleITK; with --no-deps it runs on the newer one.
    install: ClassVar[str] = "pip install --no-deps fireants"

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        from fireants.registration.affine import AffineRegistration
        from fireants.registration.greedy import GreedyRegistration

        target, source = _batch(fixed), _batch(moving)
        loss = {
            "loss_type": self.mono if modality == "mono" else self.multi,
            "cc_kernel_size": self.window,
            "optimizer": "Adam",
            "progress_bar": False,
        }
        scales = list(self.scales)
        affine = AffineRegistration(
            scales,
            list(self.affine_steps),
            target,
            source,
            optimizer_lr=self.affine_rate,
            init_rigid=self.start,
            **loss,
        )
        affine.optimize()
        warp = GreedyRegistration(
            scales,
            list(self.greedy_steps),
            target,
            source,
            deformation_type=self.deformation,
            smooth_grad_sigma=self.smooth_grad_sigma,
            optimizer_lr=self.greedy_rate,
            init_affine=affine.get_affine_matrix().detach(),
            **loss,
        )
        warp.optimize()
        # Coordinates in the moving image, -1 and 1 at the centres of its outermost voxels, x first.
        coordinates = warp.get_warped_coordinates(target, source).detach().reshape(-1, fixed.ndim).double().numpy()
        index = (coordinates[:, ::-1] + 1) / 2 * (np.array(moving.grid.shape) - 1)
        return field_from_points(fixed.grid, moving.grid.world_from_index(index))


def _batch(image: Image) -> Any:
    from fireants.io.image import BatchedImages
    from fireants.io.image import Image as FireImage

    values = image.gray().data.float()
    low, high = values.min(), values.max()
    return BatchedImages([FireImage(itk_image(image.with_data((values - low) / (high - low))), device="cpu")])
