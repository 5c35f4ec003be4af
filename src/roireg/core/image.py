"""An image: channels on a grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from roireg.core.errors import GeometryError
from roireg.core.grid import Grid

__all__ = ["Image"]


@dataclass(frozen=True, eq=False)
class Image:
    """Intensities on a grid.

    Parameters
    ----------
    data : (channel, *spatial) tensor, spatial axes in storage order; float32, but large pictures of bytes stay uint8.
    grid : where the voxels lie.
    name : how messages refer to the image, usually its path.
    unit : "mm", or "px" for raster images whose pixels have no physical size.
    dtype : numpy name of the stored pixel type ("uint8", "int16", "float32" ...), used when writing.
    metadata : what the file says; ``channels`` names channels that are stains and the like, not colours.
    """

    data: Tensor
    grid: Grid
    name: str = "image"
    unit: str = "mm"
    dtype: str = "float32"
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data.ndim != self.grid.ndim + 1 or tuple(self.data.shape[1:]) != self.grid.shape:
            raise GeometryError(
                f"{self.name}: data of shape {tuple(self.data.shape)} does not fit a grid of shape "
                f"{self.grid.shape}; expected (channel, *spatial)"
            )

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.grid.ndim

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.data.shape[0])

    def with_data(self, data: Tensor, grid: Grid | None = None) -> Image:
        """Return the same image with other values and, if given, another grid."""
        return replace(self, data=data, grid=self.grid if grid is None else grid)

    def gray(self) -> Image:
        """Return one channel: the image itself, or the Rec. 601 luma of an RGB(A) image.

        Other channel counts, and channels that the file calls so (stains), are averaged.
        """
        if self.channels == 1:
            return self
        if self.channels in (3, 4) and "channels" not in self.metadata:
            weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32, device=self.data.device)
            rows = self.data.shape[1] if self.data.is_floating_point() else 256
            parts = [
                torch.einsum("c,c...->...", weights, part.float()) for part in torch.split(self.data[:3], rows, dim=1)
            ]
            return self.with_data(torch.cat(parts)[None])
        return self.with_data(self.data.float().mean(0, keepdim=True))

    def to(self, device: torch.device | str) -> Image:
        """Return the image on another device."""
        return self.with_data(self.data.to(device))

    def __repr__(self) -> str:
        return f"Image({self.name!r}, {self.channels} channel(s), {self.grid!r}, {self.dtype})"
