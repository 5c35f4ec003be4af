"""Networks that give every voxel a class: the same classes in both images are regions that correspond.

A network of this kind says how probable each of its classes is. It brings images to the voxels and intensities it was
trained on itself, because these differ from network to network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.image import Image
from roireg.core.warp import block_grid
from roireg.models.base import ModelCard
from roireg.models.network import Network

__all__ = ["ClassModel", "ClassNetwork", "as_bytes"]


@runtime_checkable
class ClassModel(Protocol):
    """A network that gives every voxel a class."""

    card: ModelCard
    key: str
    """Identifies card, weights and precision: equal keys and images give equal probabilities."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, background left out."""
        ...

    @property
    def sided(self) -> frozenset[str]:
        """Classes that a left and a right structure of the body share."""
        ...

    def class_map(self, image: Image) -> Image:
        """Return how probable every class is: (C, *shape) uint8, 255 for certain, in the order of `classes`.

        The map lies on a grid over the image, or over what the network sees of it.

        Raises
        ------
        GeometryError, InputError
            When the network does not take the image.
        """
        ...


class ClassNetwork(Network, ABC):
    """What networks of classes share; see `Network` and `ClassModel`.

    The module has the attribute `names`: the classes of its channels, background first.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, background left out."""
        return tuple(self.network.names[1:])

    @property
    def sided(self) -> frozenset[str]:
        """Classes that a left and a right structure of the body share; none unless a network says otherwise."""
        return frozenset()

    def class_map(self, image: Image) -> Image:
        """Return how probable every class is, see `ClassModel.class_map`."""
        if image.ndim != self.card.ndim:
            raise GeometryError(
                f"{image.name}: {self.card.name} takes {self.card.ndim}D images, found {image.ndim}D; choose a "
                f"segmenter for {image.ndim}D images, see `roireg models list`"
            )
        if not bool(torch.isfinite(image.data).all()):
            raise InputError(f"{image.name}: the image has NaN or infinite values; replace them before segmenting")
        shown = self.shown(image)
        with self.encoding():
            data = self.probabilities(shown.data.to(self.device, torch.float32))
        return shown.with_data(data.cpu(), block_grid(shown.grid, tuple(data.shape[1:])))

    @abstractmethod
    def shown(self, image: Image) -> Image:
        """Return what the network sees of an image: voxels, order of axes and intensities of its training."""

    @abstractmethod
    def probabilities(self, data: Tensor) -> Tensor:
        """Return (C, *shape) uint8 probabilities of what the network sees, background left out.

        Where there are fewer of them, each is that of a block of voxels, ragged at the far ends.
        """


def as_bytes(probabilities: Tensor) -> Tensor:
    """Return probabilities 0..1 as uint8, 255 for certain."""
    return (probabilities * 255).round_().to(torch.uint8)
