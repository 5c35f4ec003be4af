"""Tiles give the values of strips, whatever the type and the width; what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from roireg.core.errors import InputError
from roireg.io import HeaderWarning, read_image

VALUES = np.random.default_rng(1).integers(0, 60000, (200, 250)).astype("uint16")


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float16", "float32", "float64", "uint32"])
@pytest.mark.parametrize("tile", [None, (128, 128), (64, 48)])
def test_values_of_tifffile(tmp_path: Path, dtype: str, tile: tuple[int, int] | None) -> None:
    values = (VALUES / 7).astype(dtype)
    tifffile.imwrite(tmp_path / "i.tif", values, tile=tile)
    image = read_image(tmp_path / "i.tif")
    assert image.dtype == dtype
    assert np.array_equal(image.data[0].numpy(), tifffile.imread(tmp_path / "i.tif").astype(np.float32))


def test_twelve_bits_keep_their_gray_levels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "i.tif", VALUES >> 4, tile=(128, 128))
    assert len(read_image(tmp_path / "i.tif").data.unique()) > 3500


@pytest.mark.parametrize("compression", ["zstd", "lzma", "zlib", "lzw"])
def test_compressed_tiles(tmp_path: Path, compression: str) -> None:
    tifffile.imwrite(tmp_path / "i.tif", VALUES, tile=(128, 128), compression=compression, predictor=True)
    assert np.array_equal(read_image(tmp_path / "i.tif").data[0].numpy(), VALUES)


def test_five_interleaved_and_planar_channels(tmp_path: Path) -> None:
    channels = np.stack([VALUES // k for k in range(1, 6)])
    for planar in ("contig", "separate"):
        stored = np.moveaxis(channels, 0, -1) if planar == "contig" else channels
        tifffile.imwrite(tmp_path / "i.tif", stored, photometric="minisblack", planarconfig=planar, tile=(64, 64))
        assert np.array_equal(read_image(tmp_path / "i.tif").data.numpy(), channels)


def test_orientation_tags_do_not_mirror(tmp_path: Path) -> None:
    for turn in (2, 4, 6):
        tifffile.imwrite(tmp_path / "i.tif", VALUES, tile=(128, 128), extratags=[(274, 3, 1, turn, True)])
        with pytest.warns(HeaderWarning, match="taken as stored"):
            assert np.array_equal(read_image(tmp_path / "i.tif").data[0].numpy(), VALUES)


def test_what_is_not_supported_is_not_called_damaged(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "i.tif", VALUES, tile=(128, 128))
    with tifffile.TiffFile(tmp_path / "i.tif", mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(65000)
    with pytest.raises(InputError, match="compression") as error:
        read_image(tmp_path / "i.tif")
    assert "damaged" not in str(error.value)
