"""Pictures as text that an HTML page can hold."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

__all__ = ["data_uri"]


def data_uri(picture: NDArray[np.uint8], *, quality: int = 86) -> str:
    """Return a (rows, columns, 3) picture as a JPEG data URI; gray pictures take a third of the space."""
    gray = bool((picture[..., :1] == picture).all())
    image = PillowImage.fromarray(picture[..., 0] if gray else picture)
    buffer = BytesIO()
    # Full chroma resolution: thin coloured outlines would bleed otherwise. Not optimised: Pillow gives that a buffer
    # of fixed size, which colourful noise overflows.
    image.save(buffer, "JPEG", quality=quality, **({} if gray else {"subsampling": 0}))
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
