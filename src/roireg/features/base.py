"""What a feature extractor is, and the registry that names those that are no network."""

from __future__ import annotations

from typing import Protocol

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.registry import Registry

__all__ = ["FeatureExtractor", "available_extractors", "register_extractor", "registered_extractor"]


class FeatureExtractor(Protocol):
    """A function from an image to its dense feature map, an `Image` whose channels are features.

    Features are computed at the resolution of the grid asked for. Extractors with a resolution of their own (patch
    encoders) may return another grid over the same world; callers use the grid of the result. Nothing of an image is
    kept: equal images and grids give equal features, in any thread.
    """

    def __call__(self, image: Image, grid: Grid) -> Image:
        """Return the (C, *shape) features of `image` at the resolution of `grid`."""
        ...


_EXTRACTORS: Registry[FeatureExtractor] = Registry("feature extractor")
register_extractor = _EXTRACTORS.register
registered_extractor = _EXTRACTORS.make
available_extractors = _EXTRACTORS.names
