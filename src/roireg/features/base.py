"""What a feature extractor is, and the registry that names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.registry import Registry

__all__ = ["FeatureExtractor", "available_extractors", "make_extractor", "register_extractor"]


@runtime_checkable
class FeatureExtractor(Protocol):
    """Turns an image into a dense feature map, an `Image` whose channels are features.

    The result is computed at the resolution of the grid asked for. Extractors with a resolution of their own
    (patch encoders) may return another grid over the same world; callers use the grid of the result.
    `name` and `params` identify the computation: equal name, params, image and grid give equal features.
    """

    @property
    def name(self) -> str:
        """Registry name."""
        ...

    @property
    def params(self) -> Mapping[str, object]:
        """Every parameter that changes the result, as plain JSON values."""
        ...

    def __call__(self, image: Image, grid: Grid) -> Image:
        """Return the (C, *shape) features of `image` at the resolution of `grid`."""
        ...


_EXTRACTORS: Registry[FeatureExtractor] = Registry("feature extractor")
register_extractor = _EXTRACTORS.register
make_extractor = _EXTRACTORS.make
available_extractors = _EXTRACTORS.names
