"""An image: channels on a grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid

__all__ = ["LARGE", "Image", "extremes", "intensities", "real_numbers", "stored_values"]

LARGE = 16_000_000
"""How many values a picture of bytes has before it is kept, and warped, as bytes."""


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

    @classmethod
    def from_numpy(
        cls,
        array: NDArray[Any] | Tensor,
        *,
        spacing: ArrayLike | None = None,
        origin: ArrayLike | None = None,
        direction: ArrayLike | None = None,
        channel_axis: int | None = None,
        name: str = "image",
    ) -> Image:
        """Return an image with the values of an array or tensor, which are copied.

        >>> import numpy as np
        >>> array = np.zeros((20, 64, 48), np.int16)
        >>> Image.from_numpy(array, spacing=(3, 1, 1), origin=(-24, -32, 90)).grid
        Grid(48 x 64 x 20 voxels of 1 x 1 x 3 mm, x first)

        Parameters
        ----------
        array : real numbers or truth values; 2 or 3 spatial axes in storage order, (y, x) or (z, y, x), and one of
            channels where `channel_axis` says so.
        spacing, origin, direction : where the voxels lie, see `Grid.of_array`. Spacings follow the axes of the array:
            (z, y, x). Without any of the three it is a picture whose world is the pixel index, unit "px".
        channel_axis : axis of the colours or other channels, as in scikit-image; None has none.
        name : how messages refer to the image.

        Raises
        ------
        InputError
            When the values are no real numbers.
        GeometryError
            When the array has another number of axes, or the geometry does not fit it.
        """
        values = real_numbers(array, name)
        if channel_axis is not None and not -values.ndim <= channel_axis < values.ndim:
            raise GeometryError(f"{name}: an array of shape {values.shape} has no axis {channel_axis}")
        values = values[None] if channel_axis is None else np.moveaxis(values, channel_axis, 0)
        placed = not (spacing is None and origin is None and direction is None)
        try:
            grid = Grid.of_array(
                values.shape[1:], spacing=1.0 if spacing is None else spacing, origin=origin, direction=direction
            )
        except GeometryError as error:
            raise GeometryError(f"{name}: {error}") from error
        return cls(intensities(values), grid, name=name, unit="mm" if placed else "px", dtype=str(values.dtype.name))

    def to_numpy(self) -> NDArray[Any]:
        """Return the values in the stored pixel type: (*spatial), or (*spatial, channel) where there are several.

        A copy, with integers rounded and clipped to the range of their type.

        Raises
        ------
        InputError
            When NaN or infinite values would have to become integers.
        """
        values = np.array(stored_values(self))
        return values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)

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

        Other numbers of channels, and channels that the file names as such (stains), are averaged.
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


def intensities(array: NDArray[Any], *, copy: bool = True) -> Tensor:
    """Return (channel, *spatial) values as an `Image` holds them.

    They become float32. Large pictures of bytes, which would take four times the memory, stay bytes and without
    `copy` share the memory of a writeable array.
    """
    if array.dtype == np.uint8 and array.ndim == 3 and array.size > LARGE:
        return torch.from_numpy(array.copy() if copy or not array.flags.writeable else array)
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def extremes(data: Tensor) -> tuple[float, float]:
    """Return the lowest and the highest value; NaN where there is one.

    Of colours that are stored pixel by pixel torch would make a copy, twenty times as slowly.
    """
    values = data.detach().cpu().numpy()
    return float(values.min()), float(values.max())


def real_numbers(array: NDArray[Any] | Tensor, name: str) -> NDArray[Any]:
    """Return an array or tensor as an array in its own type.

    Raises
    ------
    InputError
        When its values are no real numbers or truth values, or some are masked.
    """
    if isinstance(array, Tensor):
        tensor = array.detach().cpu().resolve_conj().resolve_neg()
        # numpy has no bfloat16.
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise InputError(f"{name}: {array.size - int(array.count())} values are masked; fill them first")
    values = np.asarray(array)
    if values.dtype.kind not in "buif":
        raise InputError(f"{name}: an image holds real numbers, found an array of type {values.dtype}")
    return values


def stored_values(image: Image) -> NDArray[Any]:
    """Return (channel, *spatial) values in the stored pixel type; integers are rounded and clipped to its range.

    Raises
    ------
    InputError
        When NaN or infinite values would have to become integers.
    """
    dtype = np.dtype("uint8" if image.dtype == "bool" else image.dtype)
    if dtype == np.float16:
        dtype = np.dtype(np.float32)
    values = image.data.detach().cpu().numpy()
    if dtype.kind == "f" or values.dtype == dtype:
        return np.asarray(values.astype(dtype, copy=False))
    if not np.isfinite(values).all():
        raise InputError(
            f"{image.name}: {int((~np.isfinite(values)).sum())} voxels are NaN or infinite, which {dtype} cannot hold"
        )
    limits = np.iinfo(dtype)
    # The largest 64-bit integer has no float neighbour below 2^63, so clip to the last one that fits.
    high = float(limits.max) if int(float(limits.max)) <= limits.max else float(np.nextafter(float(limits.max), 0))
    wide = values.astype(np.float64) if values.dtype.kind == "f" else values
    return np.asarray(np.clip(np.round(wide), float(limits.min), high).astype(dtype))
