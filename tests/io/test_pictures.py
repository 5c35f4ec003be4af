"""PNG, JPEG and the like: values of ITK where it reads them as meant, and what it does not."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.io import HeaderWarning, read_image, read_labels

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 255, (20, 30)).astype(np.uint8)
COLOUR = RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)
FOUR = np.concatenate([COLOUR, GRAY[..., None]], axis=-1)


def _channels(values: np.ndarray) -> np.ndarray:
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)


@pytest.mark.parametrize("extension", [".png", ".bmp", ".jp2", ".webp"])
@pytest.mark.parametrize("values", [GRAY, COLOUR], ids=["gray", "colour"])
def test_bytes(tmp_path: Path, extension: str, values: np.ndarray) -> None:
    PIL.Image.fromarray(values).save(
        tmp_path / f"i{extension}", **({"lossless": True} if extension == ".webp" else {})
    )
    image = read_image(tmp_path / f"i{extension}")
    # WebP has colours alone.
    assert np.array_equal(image.data.numpy(), np.broadcast_to(_channels(values), image.data.shape))
    assert image.channels == (3 if extension == ".webp" else len(_channels(values)))
    assert (image.grid, image.unit, image.dtype) == (Grid.pixels((20, 30)), "px", "uint8")


@pytest.mark.parametrize("values", [GRAY, COLOUR, FOUR], ids=["gray", "colour", "alpha"])
def test_sixteen_bits_are_kept(tmp_path: Path, values: np.ndarray) -> None:
    deep = values.astype(np.uint16) * 251 + 7
    sitk.WriteImage(sitk.GetImageFromArray(deep, isVector=deep.ndim == 3), str(tmp_path / "i.png"))
    image = read_image(tmp_path / "i.png")
    assert image.dtype == "uint16"
    assert np.array_equal(image.data.numpy(), _channels(deep))


def test_palette(tmp_path: Path) -> None:
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 9]], np.uint8)
    picture = PIL.Image.fromarray(GRAY % 4, "P")
    picture.putpalette(table.ravel().tolist())
    for name in ("i.png", "i.bmp", "i.gif"):
        picture.save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name).data.numpy(), _channels(table[GRAY % 4]))
    assert np.array_equal(read_labels(tmp_path / "i.png").data[0].numpy(), GRAY % 4)


def test_alpha_of_gray_is_dropped_and_of_colour_kept(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.stack([GRAY, GRAY // 2], -1), "LA").save(tmp_path / "la.png")
    assert np.array_equal(read_image(tmp_path / "la.png").data.numpy(), GRAY[None])
    PIL.Image.fromarray(FOUR).save(tmp_path / "rgba.png")
    assert np.array_equal(read_image(tmp_path / "rgba.png").data.numpy(), _channels(FOUR))


def test_gray_with_a_transparent_value(tmp_path: Path) -> None:
    for values in (GRAY, GRAY.astype(np.uint16) * 257):
        PIL.Image.fromarray(values).save(tmp_path / "i.png", transparency=int(values[0, 0]))
        image = read_image(tmp_path / "i.png")
        assert image.dtype == str(values.dtype)
        assert np.array_equal(image.data.numpy(), values[None])


def test_gray_of_16_bits_with_alpha_is_named(tmp_path: Path) -> None:
    """Written by hand: Pillow has no such mode."""
    rows = b"".join(b"\0" + bytes(4 * 5) for _ in range(3))
    parts = [(b"IHDR", struct.pack(">2I5B", 5, 3, 16, 4, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    (tmp_path / "i.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(InputError, match="gray of 16 bits with alpha is not supported"):
        read_image(tmp_path / "i.png")


def test_inks_become_rgb(tmp_path: Path) -> None:
    smooth = np.stack(np.meshgrid(np.linspace(0, 200, 32), np.linspace(0, 120, 32)), -1)
    ink = np.concatenate([smooth, smooth[..., ::-1] / 3], -1).astype(np.uint8)
    PIL.Image.fromarray(ink, "CMYK").save(tmp_path / "i.jpg", quality=98, subsampling=0)
    with PIL.Image.open(tmp_path / "i.jpg") as picture:
        expected = np.asarray(picture.convert("RGB"))
    image = read_image(tmp_path / "i.jpg")
    assert image.channels == 3
    assert np.abs(image.data.numpy() - _channels(expected)).max() <= 1


def test_one_bit(tmp_path: Path) -> None:
    for name in ("i.png", "i.bmp"):
        PIL.Image.fromarray(GRAY > 100).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name).data.numpy(), (GRAY > 100)[None] * 255)


@pytest.mark.parametrize("extension", [".png", ".gif", ".webp"])
def test_animations_are_a_question(tmp_path: Path, extension: str) -> None:
    frames = [PIL.Image.fromarray(np.full((8, 9, 3), value, np.uint8)) for value in (20, 120, 220)]
    more = {"lossless": True} if extension == ".webp" else {}
    frames[0].save(tmp_path / f"i{extension}", save_all=True, append_images=frames[1:], **more)
    with pytest.raises(InputError, match=r"an animation of 3 frames.*--frame N, N from 0 to 2"):
        read_image(tmp_path / f"i{extension}")
    assert read_image(tmp_path / f"i{extension}", frame=1).data.unique().tolist() == [120]


def test_resolution_tags_are_ignored_and_turns_told(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(GRAY)
    picture.save(tmp_path / "i.png", dpi=(72, 72))
    assert read_image(tmp_path / "i.png").grid == Grid.pixels((20, 30))
    exif = picture.getexif()
    exif[274] = 6
    for name in ("i.png", "i.jpg"):
        picture.save(tmp_path / name, exif=exif)
        with pytest.warns(HeaderWarning, match=r"orientation 6\); the pixels are taken as stored"):
            assert read_image(tmp_path / name).grid == Grid.pixels((20, 30))


def test_other_options_are_for_tiff(tmp_path: Path) -> None:
    PIL.Image.fromarray(GRAY).save(tmp_path / "i.png")
    assert read_image(tmp_path / "i.png", level=0, page=0, channel=0).channels == 1
    for option in ("level", "page", "channel"):
        with pytest.raises(InputError, match=f"--{option} 1 is for TIFF files with several"):
            read_image(tmp_path / "i.png", **{option: 1})
