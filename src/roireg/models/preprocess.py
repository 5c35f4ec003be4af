"""From image intensities to what a network sees, and from its masks back: windows, sizes, padding, half pixels.

Everything is torch and differs per model only in the values of a `Preprocessing`. Coordinates are indices with pixel
centres at whole numbers, so that an image of n pixels reaches from -0.5 to n - 0.5; resizing by s maps i to
s (i + 0.5) - 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from roireg.core.errors import InputError

__all__ = [
    "CT_WINDOWS",
    "Frame",
    "Preprocessing",
    "VolumeInput",
    "Window",
    "to_raster",
    "usual_window",
    "window_range",
]

Window = str | tuple[float, float] | None

CT_WINDOWS: dict[str, tuple[float, float]] = {
    "abdomen": (50.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (60.0, 160.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft-tissue": (40.0, 400.0),
}
"""Usual windows of computed tomography: level and width in Hounsfield units."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

AIR = -500.0
"""An image with values at or below this is taken for CT in Hounsfield units."""

FAT = -100.0
"""An image without a value at or below this is no CT in Hounsfield units, or one of which nothing is left."""


def to_raster(data: Tensor, *, window: Window = None, percentiles: tuple[float, float] = (0.5, 99.5)) -> Tensor:
    """Turn intensities of any range into the (3, *spatial) float32 raster with values 0..255 that models encode.

    Parameters
    ----------
    data : (channel, *spatial); one channel becomes three equal ones, of RGBA the first three are used, and other
        channel counts are averaged.
    window : name in `CT_WINDOWS`; (level, width); "none" for values that are 0..255 already; or None: whole numbers
        from 0 to 255 (8-bit images) are kept, all else is stretched between the percentiles.
    percentiles : lower and upper percentile of the finite values, of all channels together so that colours stay.

    Raises
    ------
    InputError
        When the window is unknown or not wide, or no value is finite.
    """
    data = data.float()
    if data.shape[0] > 4 or data.shape[0] == 2:
        data = data.mean(0, keepdim=True)
    data = data[:3].expand(3, *data.shape[1:]) if data.shape[0] == 1 else data[:3]
    window = usual_window(data, percentiles) if window is None else window
    if window == "none":
        return data.nan_to_num(0.0, 255.0, 0.0).clamp(0.0, 255.0)
    low, high = window_range(window)
    return ((data.nan_to_num(low, high, low) - low) * (255.0 / (high - low))).clamp(0.0, 255.0)


def usual_window(data: Tensor, percentiles: tuple[float, float] = (0.5, 99.5)) -> str | tuple[float, float]:
    """Return the window that `to_raster` takes where none is named: "none" or (level, width).

    Raises
    ------
    InputError
        When no value is finite.
    """
    values = data[torch.isfinite(data)].detach().float().cpu().numpy()
    if not values.size:
        raise InputError("the image has no finite value; check the file")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 1 < high <= 255 and bool((values == np.round(values)).all()):
        return "none"
    inner_low, inner_high = (float(v) for v in np.percentile(values, percentiles))
    if inner_high > inner_low:
        low, high = inner_low, inner_high
    # A constant image is shown black.
    width = high - low if high > low else 1.0
    return low + width / 2, width


def window_range(window: str | tuple[float, float]) -> tuple[float, float]:
    """Return the lowest and highest intensity of a window: a name in `CT_WINDOWS`, or level and width.

    Raises
    ------
    InputError
        When the name is unknown or the width is not positive.
    """
    if isinstance(window, str):
        if window not in CT_WINDOWS:
            raise InputError(
                f"window {window!r} is unknown; use one of {', '.join(CT_WINDOWS)}, none, or a level and a width"
            )
        window = CT_WINDOWS[window]
    level, width = window
    if not (math.isfinite(level) and math.isfinite(width) and width > 0):
        raise InputError(f"window {window}: the width must be a positive number; give (level, width)")
    return level - width / 2, level + width / 2


@dataclass(frozen=True)
class Frame:
    """Where a raster lies in the input of a network.

    Attributes
    ----------
    shape : (y, x) of the raster.
    resized : (y, x) after resizing; lies in the upper left corner of the input, the rest is padding.
    size : (y, x) of the input.
    """

    shape: tuple[int, int]
    resized: tuple[int, int]
    size: tuple[int, int]

    @property
    def scale(self) -> np.ndarray:
        """Input pixels per raster pixel, (y, x)."""
        return np.array(self.resized) / np.array(self.shape)

    def to_input(self, points: Tensor) -> Tensor:
        """Map (..., 2) raster coordinates (y, x) to input coordinates in the order (x, y)."""
        points = points.float()
        return ((points + 0.5) * points.new_tensor(self.scale.tolist()) - 0.5).flip(-1)

    def cells(self, stride: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """Return scale and offset from raster index to cell index, and how many cells show the raster."""
        scale = self.scale / stride
        covered = (math.ceil(self.resized[0] / stride), math.ceil(self.resized[1] / stride))
        return scale, 0.5 * scale - 0.5, covered

    def upscale(self, maps: Tensor) -> Tensor:
        """Bring (P, K, h, w) maps that cover the whole input onto the raster, (P, K, y, x).

        One bilinear interpolation from cell centres to pixel centres, which undoes resizing and padding at once.
        """
        pixels_per_cell = [
            size / (cells * scale)
            for size, cells, scale in zip(self.size, maps.shape[-2:], self.scale.tolist(), strict=True)
        ]
        # One more cell than the input has: the product of size and factor must not fall short by rounding.
        padded = F.pad(maps, (0, 1, 0, 1), mode="replicate")
        out = F.interpolate(
            padded,
            scale_factor=pixels_per_cell,
            mode="bilinear",
            align_corners=False,
            recompute_scale_factor=False,
        )
        return out[..., : self.shape[0], : self.shape[1]]


@dataclass(frozen=True)
class Preprocessing:
    """How one model wants its images.

    Attributes
    ----------
    size : side of the input in pixels; for layout "patches" the longest side.
    layout : "pad" keeps the aspect ratio and pads with zeros at the bottom and right (SAM); "stretch" resizes to a
        square (SAM 2, MedSAM, SAM-Med2D); "patches" resizes to the nearest multiples of `patch` (DINO).
    mean, std : per channel, for values 0..255; None scales every image to [0, 1] by its own extremes (MedSAM).
    resampling : how to resize; bilinear and bicubic with antialiasing, as PIL has it, nearest from pixel centres.
    patch : see `layout`.
    """

    size: int
    layout: Literal["pad", "stretch", "patches"] = "pad"
    mean: tuple[float, float, float] | None = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resampling: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    patch: int = 1

    @property
    def tag(self) -> str:
        """What is done, but for sizes, in one word: models with equal tags see an image alike."""
        return f"{self.layout}-{self.resampling}{'-extremes' if self.mean is None else ''}"

    @property
    def words(self) -> str:
        """The same in words, for people."""
        layout = {
            "pad": f"longest side {self.size} px, padded to a square",
            "stretch": f"stretched to {self.size} x {self.size} px",
            "patches": f"longest side {self.size} px, multiples of {self.patch} px",
        }[self.layout]
        if self.mean is None:
            return f"{layout} ({self.resampling}), intensities from 0 to 1 by the extremes of each image"
        usual = (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD)
        values = "ImageNet mean and deviation" if usual else f"mean {self.mean}, deviation {self.std}"
        return f"{layout} ({self.resampling}), {values}"

    def frame(self, shape: tuple[int, ...]) -> Frame:
        """Return where a raster of this (y, x) shape will lie."""
        height, width = shape
        if self.layout == "stretch":
            return Frame((height, width), (self.size, self.size), (self.size, self.size))
        scale = self.size / max(height, width)
        if self.layout == "pad":
            resized = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
            return Frame((height, width), resized, (self.size, self.size))
        sides = [max(1, round(n * scale / self.patch)) * self.patch for n in (height, width)]
        return Frame((height, width), (sides[0], sides[1]), (sides[0], sides[1]))

    def __call__(self, raster: Tensor) -> tuple[Tensor, Frame]:
        """Return the (1, 3, y, x) float32 input of a (1 or 3, y, x) raster with values 0..255, and its frame.

        Raises
        ------
        InputError
            When the raster is not 2D with one or three channels.
        """
        if raster.ndim != 3 or raster.shape[0] not in (1, 3) or 0 in raster.shape:
            raise InputError(
                f"a raster of shape {tuple(raster.shape)} cannot be encoded; expected (3, y, x) or (1, y, x)"
            )
        frame = self.frame(tuple(raster.shape[1:]))
        image = raster.float().expand(3, -1, -1)[None]
        if frame.resized != frame.shape:
            image = self._resize(image, frame.resized)
        if self.mean is None:
            low, high = image.amin(), image.amax()
            # Rounding in an even image is not contrast.
            image = (image - low) / (high - low).clamp_min(1e-2)
        else:
            mean, std = (image.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
            image = (image - mean) / std
        below, right = frame.size[0] - frame.resized[0], frame.size[1] - frame.resized[1]
        return F.pad(image, (0, right, 0, below)), frame

    def _resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        if self.resampling == "nearest":
            return F.interpolate(image, size, mode="nearest-exact")
        image = F.interpolate(image, size, mode=self.resampling, align_corners=False, antialias=True)
        # A cubic overshoots at edges; no raster has such values.
        return image.clamp(0.0, 255.0)


@dataclass(frozen=True)
class VolumeInput:
    """The grid and the intensities that a 3D network was trained on.

    Attributes
    ----------
    spacing : mm per voxel, equal along all axes; None takes the image's own voxels.
    patch : side in voxels of the cube that is encoded at once; None encodes the whole image.
    window : Hounsfield units that become 0 and 255, values outside are cut off; None keeps the zero of the image
        (networks that take positive values for foreground) and only scales it.
    """

    spacing: float | None
    patch: int | None
    window: tuple[float, float] | None = None

    @property
    def words(self) -> str:
        """The same in words, for people."""
        voxels = "the image's own voxels" if self.spacing is None else f"{self.spacing:g} mm voxels"
        view = "all at once" if self.patch is None else f"cubes of {self.patch} voxels"
        window = "" if self.window is None else f", CT window {self.window[0]:.0f} to {self.window[1]:.0f} HU"
        return f"{voxels}, {view}{window}"

    def raster(self, data: Tensor, *, name: str, window: tuple[float, float] | None = None) -> Tensor:
        """Scale (1, *shape) intensities for `PromptableModel.encode`.

        Without a window the largest magnitude becomes 255 and negative values stay negative; CT is limited to
        +-1000 HU first, the range SAM-Med3D was trained on.

        Parameters
        ----------
        name : what messages call the image.
        window : intensities to use in place of the network's own window, in the units of the image.

        Raises
        ------
        InputError
            When the network has a window of its own and the image is no CT in Hounsfield units.
        """
        data = data.float()
        lowest = float(data.min())
        if window is None and self.window is not None and lowest > FAT:
            raise InputError(
                f"{name}: this network reads CT in Hounsfield units (air -1000, fat -100), found {lowest:g} as the "
                "lowest value; convert the image, choose another model, or give the window of intensities to use"
            )
        if (limits := window or self.window) is not None:
            low, high = limits
            return ((data - low) / (high - low)).clamp(0, 1) * 255
        if lowest <= AIR:
            data = data.clamp(-1000, 1000)
        largest = float(data.abs().max())
        return data * (255 / largest) if largest > 0 else data
