"""How much of what an image shows is noise."""

from __future__ import annotations

from torch import Tensor

__all__ = ["noise_level"]


def noise_level(data: Tensor) -> float:
    """Estimate the standard deviation of the noise of a (1, *spatial) image, in units of its intensities.

    Second differences along two axes at once leave noise and corners (Immerkaer, CVIU 1996); their median absolute
    value does not see the few corners. Where they are exactly 0 the image was cut out or clipped and shows no noise.
    Axes of fewer than 3 voxels are left out.
    """
    long = [axis for axis, n in enumerate(data.shape) if axis > 0 and n >= 3]
    scale = 1.0
    for axis in long[-2:]:
        n = data.shape[axis] - 2
        data = data.narrow(axis, 0, n) - 2 * data.narrow(axis, 1, n) + data.narrow(axis, 2, n)
        scale *= 6.0
    size = data.abs().flatten()
    size = size[:: max(1, size.numel() // 1_000_000)]
    size = size[size > 1e-6]
    return float(size.median()) / 0.6745 / scale**0.5 if long and len(size) else 0.0
