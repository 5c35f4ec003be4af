"""What a segmenter is, what it makes of an image, and the registry that names segmenters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.once import once
from roireg.core.registry import Registry
from roireg.core.rois import Prompt, ROISet

__all__ = [
    "Prepared",
    "PreparedRegions",
    "PromptableImage",
    "Segmenter",
    "available_segmenters",
    "make_segmenter",
    "as_promptable",
    "register_segmenter",
]


class Prepared(Protocol):
    """What a segmenter has computed for one image. Threads may share it."""

    @property
    def image(self) -> Image:
        """The image as it was given."""
        ...

    def regions(self) -> ROISet:
        """Return the candidate regions, most stable first; there may be none. They are found once.

        They may lie on a coarser grid over the same box of the world as the image.
        """
        ...


@runtime_checkable
class PromptableImage(Prepared, Protocol):
    """A prepared image that answers points and boxes."""

    def answer(self, prompt: Prompt) -> ROISet:
        """Return the regions that fit a prompt: the best first, then alternatives.

        Raises
        ------
        GeometryError
            When prompt and image differ in dimension.
        InputError
            When the prompt does not fit the image.
        """
        ...


class Segmenter(ABC):
    """Turns images into regions. It keeps nothing of an image: what it computes is in the value it returns."""

    @property
    def classed(self) -> bool:
        """Whether regions are named after classes, so that equal names in two images correspond."""
        return False

    @abstractmethod
    def prepare(self, image: Image) -> Prepared:
        """Compute what the regions of an image and prompts on it need.

        Raises
        ------
        GeometryError, InputError
            When the segmenter does not take the image.
        """

    def __call__(self, image: Image) -> ROISet:
        """Return the candidate regions of an image, see `Prepared.regions`."""
        return self.prepare(image).regions()


@dataclass(frozen=True, eq=False)
class PreparedRegions:
    """An image with candidate regions alone.

    Attributes
    ----------
    image : the image. find : image -> regions, called once.
    """

    image: Image
    find: Callable[[Image], ROISet]

    def regions(self) -> ROISet:
        """Return the candidate regions."""
        return self._regions

    @once
    def _regions(self) -> ROISet:
        return self.find(self.image)


def as_promptable(prepared: Prepared) -> PromptableImage:
    """Return a prepared image that answers prompts as one.

    Raises
    ------
    InputError
        When it does not answer prompts.
    """
    if not isinstance(prepared, PromptableImage):
        raise InputError(
            f"{prepared.image.name}: the segmenter finds regions but answers no prompts; use one that does, such as "
            "hierarchy or model"
        )
    return prepared


_SEGMENTERS: Registry[Segmenter] = Registry("segmenter")
register_segmenter = _SEGMENTERS.register
make_segmenter = _SEGMENTERS.make
available_segmenters = _SEGMENTERS.names
