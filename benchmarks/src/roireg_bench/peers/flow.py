"""Peers for 2D: scikit-image's optical flow, iterative Lucas-Kanade and TV-L1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.core.warp import warp
from roireg_bench.peers.base import Peer, field_from_voxels, gray_array
from roireg_bench.protocol import Modality

__all__ = ["FlowPeer"]


@dataclass(frozen=True)
class FlowPeer(Peer):
    """ILK (Le Besnerais and Champagnat, ICIP 2005) or TV-L1 (Zach et al., DAGM 2007), scikit-image's defaults.

    The moving image is resampled onto the fixed grid; both are scaled by the range of the fixed image to 0..1, as in
    scikit-image's examples.
    """

    name: str = "ilk"
    algorithm: Literal["ilk", "tvl1"] = "ilk"
    package: ClassVar[str] = "scikit-image"
    modules: ClassVar[tuple[str, ...]] = ("skimage.registration",)
    dimensions: ClassVar[tuple[int, ...]] = (2,)

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        from skimage.registration import optical_flow_ilk, optical_flow_tvl1

        source = moving.gray()
        target, other = gray_array(fixed), gray_array(warp(source, None, fixed.grid, fill=float(source.data.min())))
        low, high = target.min(), target.max()
        flow = (optical_flow_ilk if self.algorithm == "ilk" else optical_flow_tvl1)(
            (target - low) / (high - low), (other - low) / (high - low)
        )
        return field_from_voxels(fixed.grid, flow)
