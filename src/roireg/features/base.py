"""What a feature extractor is, and the registry that names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image

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


_FACTORIES: dict[str, Callable[..., FeatureExtractor]] = {}


def register_extractor(name: str, factory: Callable[..., FeatureExtractor]) -> None:
    """Make an extractor known by name; the factory takes the extractor's parameters as keywords.

    Raises
    ------
    InputError
        When another factory already has the name.
    """
    if _FACTORIES.get(name, factory) is not factory:
        raise InputError(f"a feature extractor named {name!r} is already registered; choose another name")
    _FACTORIES[name] = factory


def make_extractor(name: str, **params: object) -> FeatureExtractor:
    """Build a registered extractor.

    Raises
    ------
    InputError
        When the name is unknown or a parameter does not exist.
    """
    if name not in _FACTORIES:
        raise InputError(f"features {name!r} are unknown; use one of {', '.join(available_extractors())}")
    try:
        return _FACTORIES[name](**params)
    except TypeError as error:
        raise InputError(f"features {name!r} do not take these parameters ({error})") from error


def available_extractors() -> tuple[str, ...]:
    """Return the registered names in alphabetical order."""
    return tuple(sorted(_FACTORIES))
