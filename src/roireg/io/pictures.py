"""PNG, JPEG, BMP, GIF and WebP: what Pillow reads better than ITK, which reads the rest (16-bit colour above all)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from roireg.core.errors import InputError, warn_header
from roireg.io.raster import choose, rgb_from_cmyk

__all__ = ["PICTURES", "through_pillow"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".jp2", ".gif", ".webp")
"""Extensions of pictures whose world is the pixel index."""

_ORIENTATION = 0x0112


def through_pillow(path: Path, *, frame: int | None, indices: bool) -> NDArray[Any] | None:
    """Read a picture that ITK does not read as it is meant; None leaves it to ITK.

    Palettes give their indices for label maps, alpha of gray is dropped, CMYK becomes RGB, and one frame of an
    animation is taken. JPEG and BMP files are decoded to notice a cut: ITK fills the missing part with gray. What
    EXIF says of turning the picture is told but not done.

    Parameters
    ----------
    frame : of an animation, from 0.
    indices : give the indices of a palette, not its colours.

    Returns
    -------
    (channel, y, x) values.

    Raises
    ------
    InputError
        When the file is cut off, or an animation without a choice.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's warnings are about size (whole-slide images are large) and tags, which are not used.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            picture = PIL.Image.open(path)
        with picture:
            _tell_turn(path, picture)
            count = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            if count > 1:
                picture.seek(choose(str(path), "frame", frame, count, holds=f"an animation of {count} frames"))
            values = _values(path, picture, indices=indices, all_kinds=count > 1)
            if values is None and picture.format in ("JPEG", "MPO", "BMP"):
                picture.load()
    except (PIL.UnidentifiedImageError, PIL.Image.DecompressionBombError):
        return None  # ITK knows some that Pillow does not, and says what is wrong with the rest
    except Exception as error:  # Pillow raises whatever its parsers meet
        if isinstance(error, InputError | MemoryError):
            raise
        raise InputError(f"{path}: the file is truncated or damaged ({error}); copy or export it again") from error
    return values


def _values(path: Path, picture: PIL.Image.Image, *, indices: bool, all_kinds: bool) -> NDArray[Any] | None:
    if picture.format == "PNG" and _start(path)[24:26] == b"\x10\x04":  # Pillow would halve its bits
        raise InputError(f"{path}: gray of 16 bits with alpha is not supported; save it without alpha")
    if picture.mode in ("1", "L", "I;16") and "transparency" in picture.info:  # ITK reads no gray that is transparent
        return _planes(picture.convert("L") if picture.mode == "1" else picture)
    if picture.mode == "LA":
        return np.array(picture.getchannel("L"), dtype=np.uint8)[None]
    if picture.mode == "P":
        if indices:
            return np.array(picture, dtype=np.uint8)[None]
        return _planes(picture.convert("RGB")) if all_kinds or picture.format in ("GIF", "WEBP") else None
    if picture.mode == "CMYK":
        return rgb_from_cmyk(_planes(picture))
    if picture.format == "BMP" and picture.mode in ("1", "L"):  # ITK reads no bits, and gray as colours
        return np.array(picture.convert("L"))[None]
    if all_kinds or picture.format in ("GIF", "WEBP"):
        return _planes(picture if picture.mode in ("L", "RGB", "RGBA", "I;16") else picture.convert("RGB"))
    return None


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(32)


def _planes(picture: PIL.Image.Image) -> NDArray[Any]:
    values = np.array(picture)
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)


def _tell_turn(path: Path, picture: PIL.Image.Image) -> None:
    turn = picture.getexif().get(_ORIENTATION, 1)
    if turn in range(2, 9):
        warn_header(str(path), f"EXIF asks viewers to turn it (orientation {turn}); the pixels are taken as stored")
