"""A multi-scale intensity, gradient and texture descriptor with position; needs no training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.filters import gaussian_smooth, gradient
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import resample

__all__ = ["IntensityFeatures", "foreground_mask", "normalise_intensity"]


def normalise_intensity(data: Tensor, *, percentiles: tuple[float, float] = (0.5, 99.5)) -> Tensor:
    """Map the given percentiles of a tensor to 0 and 1 and clip; a constant tensor becomes 0."""
    low, high = np.percentile(data.detach().cpu().numpy(), percentiles)
    if high <= low:
        low, high = float(data.min()), float(data.max())
    if high <= low:
        return torch.zeros_like(data, dtype=torch.float32)
    return ((data.float() - float(low)) / float(high - low)).clamp(0, 1)


def foreground_mask(data: Tensor) -> Tensor:
    """(*spatial) bool: the Otsu class that touches the border of a (1, *spatial) image less.

    Works for bright objects on dark ground and the reverse. Where one class would hold less than 2 % of the
    voxels (an image without background), everything is foreground.
    """
    values = data[0]
    if float(values.max()) <= float(values.min()):
        return torch.ones_like(values, dtype=torch.bool)
    bright = values > float(threshold_otsu(values.detach().cpu().numpy()))
    border = torch.zeros_like(bright)
    for axis, n in enumerate(values.shape):
        if n > 2:
            border.index_fill_(axis, torch.tensor([0, n - 1], device=values.device), True)
    if bool(border.any()) and float(bright[border].float().mean()) > 0.5:
        bright = ~bright
    share = float(bright.float().mean())
    return bright if 0.02 <= share <= 0.98 else torch.ones_like(bright)


@dataclass(frozen=True)
class IntensityFeatures:
    """Intensity, edges, texture and position at several scales.

    Per scale: intensity, gradient magnitude, local standard deviation and local contrast (difference to the
    next coarser scale); then the world position relative to the foreground. Every appearance channel is
    centred on its median and divided by its spread over the image and clipped, so that a unit means
    the same in all channels, cosines spread over [-1, 1], and a linear change of contrast changes nothing.

    Parameters
    ----------
    scales : Gaussian scales as fractions of the geometric mean of the grid's extents (axes of one voxel left out);
        raised where the grid is too coarse for them.
    position : weight of the position channels; one unit is one standard deviation of the foreground. 0 leaves
        them out.
    absolute : use only parts that do not depend on the sign of the contrast: intensity becomes the distance
        from the median, local contrast its magnitude.

    Raises
    ------
    InputError
        When no scale is given or one is not positive, or the position weight is negative.
    """

    scales: tuple[float, ...] = (0.01, 0.03, 0.08)
    position: float = 0.5
    absolute: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(float(s) for s in self.scales))
        if not self.scales or min(self.scales) <= 0 or self.position < 0:
            raise InputError(
                f"intensity features need positive scales and a position weight of at least 0, "
                f"found {self.scales} and {self.position}"
            )

    def __call__(self, image: Image, grid: Grid) -> Image:
        """Return the (4 * scales [+ d], *grid.shape) features; see the class for the channel order."""
        gray = normalise_intensity(resample(image.gray(), grid).data)
        long = grid.extent[np.array(grid.shape) > 1]
        size = float(np.exp(np.log(long).mean())) if len(long) else 1.0
        # The coarser neighbour of the last scale, only needed for its local contrast.
        ladder = [*self.scales, self.scales[-1] * 2]
        # Never below the resolution of the grid, and always coarser than the level before.
        widths = [max(s * size, 0.7 * 2**i * float(grid.spacing.min())) for i, s in enumerate(ladder)]
        smooth = [gaussian_smooth(gray, w / grid.spacing) for w in widths]
        channels: list[Tensor] = []
        for i in range(len(self.scales)):
            level = smooth[i]
            slope = gradient(level, grid.spacing).square().sum(1).sqrt()
            variance = gaussian_smooth(gray**2, widths[i] / grid.spacing) - level**2
            contrast = level - smooth[i + 1]
            if self.absolute:
                level = (level - _median(level)).abs()
                contrast = contrast.abs()
            channels += [_scaled(c) for c in (level, slope, variance.clamp(min=0).sqrt(), contrast)]
        if self.position > 0:
            channels.append(self.position * _position(foreground_mask(gray), grid))
        return image.with_data(torch.cat(channels), grid)


def _scaled(channel: Tensor) -> Tensor:
    """Centre on the median, divide by the standard deviation, clip to 3; a constant channel becomes 0."""
    centred = channel - _median(channel)
    spread = centred.square().mean().sqrt()
    if float(spread) < 1e-6:
        return torch.zeros_like(channel)
    return (centred / spread).clamp(-3, 3)


def _median(channel: Tensor) -> float:
    # Not Tensor.median, which takes the lower of two middle values and so depends on the sign of the contrast.
    return float(np.median(channel.detach().cpu().numpy()))


def _position(foreground: Tensor, grid: Grid) -> Tensor:
    """(d, *shape) world position (x, y[, z]) relative to the foreground, in its standard deviations.

    One common scale for all directions keeps the feature independent of the choice of axes.
    """
    points = grid.points()
    inside = points[foreground.cpu().numpy().ravel()]
    spread = np.sqrt(max(float(inside.var(axis=0).mean()), 1e-12))
    relative = (points - inside.mean(axis=0)) / spread
    return torch.as_tensor(relative.T.reshape(grid.ndim, *grid.shape).copy(), dtype=torch.float32).to(
        foreground.device
    )
