"""What a segmenter is, and the registry that names them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from roireg.core.image import Image
from roireg.core.registry import Registry
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


_SEGMENTERS: Registry[Segmenter] = Registry("segmenter")
register_segmenter = _SEGMENTERS.register
make_segmenter = _SEGMENTERS.make
available_segmenters = _SEGMENTERS.names
