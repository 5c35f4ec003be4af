"""A peer: elastix, its default affine and B-spline parameter maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from roireg.core.image import Image
from roireg.core.transforms import DisplacementField, Transform
from roireg_bench.peers.base import Peer, gray_array
from roireg_bench.protocol import Modality

__all__ = ["ElastixPeer"]


@dataclass(frozen=True)
class ElastixPeer(Peer):
    """Adaptive stochastic gradient descent on mutual information (Klein et al., IEEE TMI 29(1), 2010).

    The default parameter maps of elastix one after the other, four levels each, the same for all modalities; the
    bending penalty of the B-spline is part of its default map. elastix seeds its sampler itself.

    Attributes
    ----------
    maps : names of default parameter maps.
    resolutions, steps : levels, and steps per level; the values are the default ones.
    """

    name: str = "elastix"
    maps: tuple[str, ...] = ("affine", "bspline")
    resolutions: int = 4
    steps: int = 256
    package: ClassVar[str] = "itk-elastix"
    modules: ClassVar[tuple[str, ...]] = ("itk",)

    def load(self) -> None:
        import itk

        # ITK loads its modules when a class is first named; this takes some ten seconds.
        assert itk.ElastixRegistrationMethod is not None

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        import itk

        parameters = itk.ParameterObject.New()
        for name in self.maps:
            parameter_map = parameters.GetDefaultParameterMap(name, self.resolutions)
            parameter_map["MaximumNumberOfIterations"] = [str(self.steps)]
            parameters.AddParameterMap(parameter_map)
        # elastix counts threads for itself from the environment; its own setting crashes.
        _, transform = itk.elastix_registration_method(
            _elastix_image(fixed), _elastix_image(moving), parameter_object=parameters, log_to_console=False
        )
        # Without a folder it writes a file where the process runs.
        field = itk.transformix_deformation_field(
            _elastix_image(moving), transform, log_to_console=False, output_directory=str(folder)
        )
        vectors = np.moveaxis(itk.array_from_image(field), -1, 0).astype(np.float32)
        return DisplacementField(fixed.grid, torch.from_numpy(np.ascontiguousarray(vectors)))


def _elastix_image(image: Image) -> Any:
    import itk

    _, spacing, origin, _ = image.grid.itk
    result = itk.image_from_array(gray_array(image))
    result.SetSpacing(list(spacing))
    result.SetOrigin(list(origin))
    result.SetDirection(itk.matrix_from_array(np.ascontiguousarray(image.grid.direction[:, ::-1])))
    return result
