"""Pictures as text that an HTML page can hold."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

__all__ = ["data_uri", "data_uris"]


def data_uri(picture: NDArray[np.uint8], *, quality: int = 86) -> str:
    """Return a (rows, columns, 3) picture as a JPEG data URI; gray pictures take a third of the space."""
    gray = bool((picture[..., :1] == picture).all())
    image = PillowImage.fromarray(picture[..., 0] if gray else picture)
    buffer = BytesIO()
    # Full chroma resolution: thin coloured outlines would bleed otherwise. Not optimised: Pillow gives that a buffer
    # of fixed size, which colourful noise overflows.
    image.save(buffer, "JPEG", quality=quality, **({} if gray else {"subsampling": 0}))
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def data_uris(pictures: Sequence[NDArray[np.uint8]], *, most: int) -> list[str]:
    """Return pictures as JPEG data URIs of at most `most` characters together.

    The finest quality that fits is taken; where none does, the pictures are halved (down to one pixel).
    """
    for quality in (86, 74, 60, 45):
        uris: list[str] = []
        length = 0
        for picture in pictures:
            uris.append(data_uri(picture, quality=quality))
            length += len(uris[-1])
            if length > most:
                break
        else:
            return uris
    if max(max(p.shape[:2]) for p in pictures) == 1:
        return [data_uri(picture, quality=45) for picture in pictures]
    return data_uris([_halved(picture) for picture in pictures], most=most)


def _halved(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = (max(1, n // 2) for n in picture.shape[:2])
    return np.asarray(PillowImage.fromarray(picture).resize((columns, rows), PillowImage.Resampling.BOX))
