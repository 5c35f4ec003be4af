"""A peer: symmetric normalisation (SyN) of ANTs, as the scripts that ANTs recommends run it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from roireg.core.image import Image
from roireg.core.transforms import Chain, Transform
from roireg.io import read_transform
from roireg_bench.peers.base import Peer, gray_array
from roireg_bench.protocol import Modality

__all__ = ["AntsPeer"]

SEED = "1"


@dataclass(frozen=True)
class AntsPeer(Peer):
    """SyN (Avants et al., Medical Image Analysis 12(1), 2008) after a rigid and an affine stage.

    Start: centres of mass together. Same modality: the settings of ``antsRegistrationSyN.sh`` (local correlation,
    radius 2 in antspyx, 100x70x50x20 steps) or ``antsRegistrationSyNQuick.sh`` (mutual information, 100x70x50x0).
    Across modalities the quick one stays, the other one has mutual information in place of the correlation.
    """

    quick: bool = False
    package: ClassVar[str] = "antspyx"
    modules: ClassVar[tuple[str, ...]] = ("ants",)

    @property
    def settings(self) -> Mapping[str, Any]:
        arguments = {modality: self._arguments(modality) for modality in ("mono", "multi")}
        return {**super().settings, "seed": SEED, **arguments}

    def _arguments(self, modality: str) -> dict[str, Any]:
        if self.quick:
            return {"type_of_transform": "antsRegistrationSyNQuick[s]"}
        if modality == "mono":
            return {"type_of_transform": "antsRegistrationSyN[s]"}
        return {
            "type_of_transform": "SyNRA",
            "syn_metric": "mattes",
            "syn_sampling": 32,
            "reg_iterations": (100, 70, 50, 20),
        }

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        import ants

        # Read by ITK's samplers inside ANTs.
        os.environ["ANTS_RANDOM_SEED"] = SEED
        prefix = str(folder / "ants_")
        ants.registration(_ants_image(fixed), _ants_image(moving), outprefix=prefix, **self._arguments(modality))
        # The affine leads on from the space that the warp ends in.
        return Chain((read_transform(f"{prefix}1Warp.nii.gz"), read_transform(f"{prefix}0GenericAffine.mat")))


def _ants_image(image: Image) -> Any:
    import ants

    _, spacing, origin, _ = image.grid.itk
    # antspyx orders array axes x first.
    values = gray_array(image).transpose()
    return ants.from_numpy(
        values, origin=list(origin), spacing=list(spacing), direction=image.grid.direction[:, ::-1]
    )
