"""Networks of classes that see a volume in windows, one after the other: what they are shown and how answers join.

Windows overlap by a half, and every answer counts by a Gaussian around the middle of its window (nnU-Net, Isensee et
al. 2021; MONAI's sliding window).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.core.image import Image
from roireg.core.warp import resample
from roireg.models.base import LoadReport, ModelCard
from roireg.models.classes import ClassNetwork, as_bytes
from roireg.models.preprocess import FAT

__all__ = ["Scaling", "VolumePlan", "WindowedNetwork", "clipped", "in_windows", "stretched", "to_range", "whitened"]

Scaling = Callable[[Tensor], Tensor]
"""Intensities of a whole (1, *shape) image -> what the network was trained on."""

VALUES = 250_000_000
"""Probabilities that are held at once; of larger volumes with many classes, blocks of voxels have one together."""


@dataclass(frozen=True)
class VolumePlan:
    """What a network sees of a volume.

    Attributes
    ----------
    spacing : mm per voxel of the storage axes (z, y, x); None for an axis that stays as it is.
    patch : voxels of a window, in the order of the network's axes.
    axes : where storage axes lead to, as `Grid.oriented` takes it; None leaves them as the file has them.
    order : the axes of the network, as numbers of storage axes; (2, 1, 0) is x, y, z.
    scalings : applied to the intensities one after the other.
    hounsfield : whether it was trained on CT in Hounsfield units.
    activation : whether classes exclude each other.
    overlap : of windows, as a part of their size.
    """

    spacing: tuple[float | None, float | None, float | None]
    patch: tuple[int, int, int]
    axes: str | None = "SAR"
    order: tuple[int, int, int] = (2, 1, 0)
    scalings: tuple[Scaling, ...] = ()
    hounsfield: bool = False
    activation: Literal["softmax", "sigmoid"] = "softmax"
    overlap: float = 0.5


class WindowedNetwork(ClassNetwork):
    """A network of classes in windows; see `ClassNetwork`. Its module has `names` and a `plan`."""

    def __init__(self, card: ModelCard, network: Any, size: int, *, key: str, report: LoadReport | None) -> None:
        super().__init__(card, network, size, key=key, report=report)
        self.plan: VolumePlan = network.plan

    def shown(self, image: Image) -> Image:
        """Return the image with the voxels, axes and intensities of the training."""
        gray, plan = image.gray(), self.plan
        lowest = float(gray.data.min())
        if plan.hounsfield and lowest > FAT:
            raise InputError(
                f"{image.name}: {self.card.name} reads CT in Hounsfield units (air -1000, fat -100), found "
                f"{lowest:g} as the lowest value; convert the image, or choose another segmenter"
            )
        grid = gray.grid if plan.axes is None else gray.grid.oriented(plan.axes)
        spacing = [
            float(own) if asked is None else asked for own, asked in zip(grid.spacing, plan.spacing, strict=True)
        ]
        shown = resample(gray, grid.with_spacing(spacing))
        data = shown.data.float()
        for scaling in plan.scalings:
            data = scaling(data)
        return shown.with_data(data)

    def probabilities(self, data: Tensor) -> Tensor:
        """Return (C, *shape) uint8 probabilities, of blocks of voxels where they would not fit into memory."""
        order = self.plan.order
        turned = data[0].permute(order)[None, None]
        softmax = self.plan.activation == "softmax"

        def answer(window: Tensor) -> Tensor:
            logits = self.network(window.to(self.dtype)).float()
            return logits.softmax(1)[:, 1:] if softmax else logits.sigmoid()

        result = in_windows(turned, answer, self.plan.patch, len(self.classes), overlap=self.plan.overlap)
        return as_bytes(result[0].permute(0, *(1 + np.argsort(order)).tolist()))


def in_windows(
    data: Tensor,
    answer: Callable[[Tensor], Tensor],
    patch: Sequence[int],
    count: int,
    *,
    overlap: float = 0.5,
) -> Tensor:
    """Return (1, count, *cells) answers to a (1, 1, *shape) volume, put together of windows of `patch` voxels.

    Parameters
    ----------
    answer : (1, 1, *patch) -> (1, count, *patch) probabilities.

    Returns
    -------
    Cells are voxels; where there are too many values, means over blocks of 2 or 4 voxels, ragged at the far ends.

    Raises
    ------
    OptionalDependencyError
        When MONAI, whose sliding window is used, is not installed.
    """
    try:
        slide = importlib.import_module("monai.inferers").sliding_window_inference
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            'networks that see a volume in windows need the package monai; run pip install "roireg[models]"'
        ) from error
    shape = tuple(data.shape[2:])
    block = 1
    while count * math.prod(shape) / block**3 > VALUES and block < 4 and not any(n % (2 * block) for n in patch):
        block *= 2
    ends = [p for n in reversed(shape) for p in (0, -n % block)]
    whole = F.pad(data, ends, mode="replicate") if any(ends) else data

    def pooled(window: Tensor) -> Tensor:
        result = answer(window)
        return F.avg_pool3d(result, block) if block > 1 else result

    return torch.as_tensor(
        slide(whole, tuple(patch), 1, pooled, overlap=overlap, mode="gaussian", padding_mode="replicate")
    )


# -- intensities ----------------------------------------------------------------------------------


def to_range(low: float, high: float, to_low: float, to_high: float, *, clip: bool) -> Scaling:
    """Scale so that two intensities become two others; `clip` cuts off what lies beyond."""

    def scale(data: Tensor) -> Tensor:
        out = (data - low) / max(high - low, 1e-6) * (to_high - to_low) + to_low
        return out.clamp(min(to_low, to_high), max(to_low, to_high)) if clip else out

    return scale


def stretched(to_low: float, to_high: float) -> Scaling:
    """Scale so that the lowest and highest intensity of an image become two others."""
    return lambda data: to_range(float(data.min()), float(data.max()), to_low, to_high, clip=False)(data)


def whitened(*, nonzero: bool, mean: float | None = None, deviation: float | None = None) -> Scaling:
    """Subtract a mean and divide by a deviation: those given, or those of the image.

    Parameters
    ----------
    nonzero : only voxels that are not 0 count and change.
    """

    def scale(data: Tensor) -> Tensor:
        there = data != 0 if nonzero else torch.ones_like(data, dtype=torch.bool)
        values = data[there]
        if not values.numel():
            return data
        centre = float(values.mean()) if mean is None else mean
        width = float(values.std(unbiased=False)) if deviation is None else deviation
        return torch.where(there, (data - centre) / max(width, 1e-8), data)

    return scale


def clipped(low: float, high: float) -> Scaling:
    """Cut off intensities beyond a range."""
    return lambda data: data.clamp(low, high)
