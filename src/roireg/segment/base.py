"""What a segmenter is, and the registry that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet

__all__ = ["PromptableSegmenter", "Segmenter", "available_segmenters", "make_segmenter", "register_segmenter"]


@runtime_checkable
class Segmenter(Protocol):
    """Turns an image into candidate regions, most stable first.

    The regions may lie on a coarser grid over the same box of the world as the image.
    """

    def __call__(self, image: Image) -> ROISet:
        """Return the candidate regions of an image; the set may be empty."""
        ...


@runtime_checkable
class PromptableSegmenter(Segmenter, Protocol):
    """A segmenter that also answers points and boxes.

    What is expensive happens once per image, in `prepare` or in the first call that needs it, and is kept for
    the images used last; every further prompt on the same `Image` object is cheap.
    """

    def prepare(self, image: Image) -> object:
        """Compute and keep what prompts on this image need."""
        ...

    def segment(self, image: Image, prompt: Prompt) -> ROISet:
        """Return the regions that fit a prompt: the best first, then alternatives."""
        ...


_FACTORIES: dict[str, Callable[..., Segmenter]] = {}


def register_segmenter(name: str, factory: Callable[..., Segmenter]) -> None:
    """Make a segmenter known by name; the factory takes the segmenter's parameters as keywords.

    Raises
    ------
    InputError
        When another factory already has the name.
    """
    if _FACTORIES.get(name, factory) is not factory:
        raise InputError(f"a segmenter named {name!r} is already registered; choose another name")
    _FACTORIES[name] = factory


def make_segmenter(name: str, **params: object) -> Segmenter:
    """Build a registered segmenter.

    Raises
    ------
    InputError
        When the name is unknown or a parameter does not exist.
    """
    if name not in _FACTORIES:
        raise InputError(f"segmenter {name!r} is unknown; use one of {', '.join(available_segmenters())}")
    try:
        return _FACTORIES[name](**params)
    except TypeError as error:
        raise InputError(f"segmenter {name!r} does not take these parameters ({error})") from error


def available_segmenters() -> tuple[str, ...]:
    """Return the registered names in alphabetical order."""
    return tuple(sorted(_FACTORIES))
