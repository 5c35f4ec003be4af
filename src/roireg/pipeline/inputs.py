"""What a call in Python names as values: images, label maps and transforms of every kind that is taken."""

from __future__ import annotations

from pathlib import Path

from roireg.core.ambient import ordinary
from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.core.words import INIT_WORDS
from roireg.io import ImageLike, LabelsLike, TransformLike, as_image, as_labels, as_transform

__all__ = ["images_of", "labels_of", "map_of", "start_of"]


def images_of(fixed: ImageLike, moving: ImageLike) -> tuple[Image, Image]:
    """Return (fixed, moving) images that gradients may be computed with; see `as_image`."""
    images = as_image(fixed, "fixed image"), as_image(moving, "moving image")
    return images[0].with_data(ordinary(images[0].data)), images[1].with_data(ordinary(images[1].data))


def labels_of(value: LabelsLike | None, image: Image, name: str) -> Image | None:
    """Return the label map of an image, None where there is none; see `as_labels`."""
    return None if value is None else as_labels(value, image, name)


def map_of(value: str | TransformLike, words: tuple[str, ...], name: str) -> str | Transform:
    """Return a transform, or a word as it is; a wrong one is refused later, by its name."""
    if isinstance(value, str) and (value in words or not Path(value).exists()):
        return value
    return as_transform(value, name)


def start_of(value: str | TransformLike) -> str | Transform:
    """Return the start of a registration: a word of `INIT_WORDS` or a transform."""
    return map_of(value, INIT_WORDS, "initial transform")
