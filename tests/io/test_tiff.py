"""TIFF files of every kind against ``tifffile.imread``, and a sentence that names what cannot be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.io import HeaderWarning, read_image, read_labels, write_image

TYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]


def _values(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    rng = np.random.default_rng(0)
    if dtype == "bool":
        return rng.random(shape) > 0.5
    kind = np.dtype(dtype)
    low, high = (-100, 120) if kind.kind in "if" else (0, 250 if kind.itemsize == 1 else 60000)
    return rng.integers(low, high, shape).astype(kind)


def _same(image: Image, expected: np.ndarray) -> bool:
    return bool(np.array_equal(image.data.numpy(), expected.astype(np.float32)))


# -- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("tile", [None, (32, 16)])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_every_type_in_strips_and_tiles(tmp_path: Path, dtype: str, tile: Any, byteorder: str) -> None:
    values = _values((41, 50), dtype)
    tifffile.imwrite(tmp_path / "i.tif", values, tile=tile, rowsperstrip=None if tile else 7, byteorder=byteorder)
    image = read_image(tmp_path / "i.tif")
    assert _same(image, values[None])
    assert image.dtype == ("uint8" if dtype == "bool" else dtype)
    assert (image.grid, image.unit) == (Grid.pixels((41, 50)), "px")


@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "zstd", "lzma", "lerc", "jpegxl", "jpeg2000"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_compressions_and_planes(tmp_path: Path, compression: str, planar: str) -> None:
    values = _values((3, 40, 48), "uint16")
    stored = values if planar == "separate" else np.moveaxis(values, 0, -1)
    options = {"compressionargs": {"lossless": True}} if compression == "jpegxl" else {}
    if compression == "jpeg2000":
        options = {"compressionargs": {"reversible": True, "level": 0}}
    tifffile.imwrite(
        tmp_path / "i.tif",
        stored,
        photometric="rgb",
        planarconfig=planar,
        compression=compression,
        tile=(16, 16),
        **options,
    )
    assert np.array_equal(np.squeeze(tifffile.imread(tmp_path / "i.tif")), stored)
    assert _same(read_image(tmp_path / "i.tif"), values)


@pytest.mark.parametrize("bits", [1, 10, 12, 14])
def test_packed_bits(tmp_path: Path, bits: int) -> None:
    values = _values((12, 16), "uint16") % 2**bits
    values = values.astype("uint8") if bits == 1 else values
    tifffile.imwrite(tmp_path / "i.tif", values, bitspersample=bits, photometric="minisblack")
    assert _same(read_image(tmp_path / "i.tif"), values[None])


def test_jpeg_colours(tmp_path: Path) -> None:
    ramp = np.linspace(0, 200, 64 * 64 * 3).reshape(64, 64, 3).astype("uint8")
    tifffile.imwrite(tmp_path / "i.tif", ramp, photometric="rgb", compression="jpeg", tile=(32, 32))
    image = read_image(tmp_path / "i.tif")
    assert _same(image, np.moveaxis(tifffile.imread(tmp_path / "i.tif"), -1, 0))
    assert float((image.data - torch.from_numpy(np.moveaxis(ramp, -1, 0)).float()).abs().max()) < 16


def test_palette_and_ink_become_rgb(tmp_path: Path) -> None:
    indices = _values((6, 8), "uint8") % 4
    table = np.zeros((3, 256), "uint16")
    table[:, :4] = np.array([[0, 255, 0, 9], [0, 0, 255, 9], [0, 0, 0, 9]]) * 257
    tifffile.imwrite(tmp_path / "p.tif", indices, photometric="palette", colormap=table)
    image = read_image(tmp_path / "p.tif")
    assert image.dtype == "uint8"
    assert _same(image, (table // 257)[:, indices])
    assert np.array_equal(read_labels(tmp_path / "p.tif").data[0].numpy(), indices)
    ink = _values((6, 8, 4), "uint8")
    tifffile.imwrite(tmp_path / "c.tif", ink, photometric="separated")
    with PIL.Image.open(tmp_path / "c.tif") as picture:
        assert picture.mode == "CMYK"
        reference = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
    assert np.abs(read_image(tmp_path / "c.tif").data.numpy() - reference).max() <= 1


@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
def test_luma_and_chroma_become_rgb(tmp_path: Path, compression: str | None) -> None:
    colours = _values((6, 8, 3), "uint8")
    stored = np.asarray(PIL.Image.fromarray(colours).convert("YCbCr"))
    tifffile.imwrite(tmp_path / "y.tif", stored, photometric="ycbcr", compression=compression)
    image = read_image(tmp_path / "y.tif")
    assert image.dtype == "uint8"
    assert np.abs(image.data.numpy() - np.moveaxis(colours.astype(int), -1, 0)).max() <= 3  # both ways are rounded
    tifffile.imwrite(tmp_path / "d.tif", stored.astype("uint16"), photometric="ycbcr", compression=compression)
    with pytest.raises(InputError, match="YCbCr colours are read as three samples of 8 bits; convert it to RGB"):
        read_image(tmp_path / "d.tif")


def test_other_luma_and_chroma_are_refused_by_name(tmp_path: Path) -> None:
    file, values = tmp_path / "y.tif", _values((6, 8, 3), "uint8")
    tifffile.imwrite(file, values, photometric="ycbcr")
    with tifffile.TiffFile(file, mode="r+") as tiff:
        tiff.pages[0].tags["YCbCrSubSampling"].overwrite((2, 2))
    with pytest.raises(
        InputError, match="chroma at fewer places than its luma, which is not read; convert it to RGB"
    ):
        read_image(file)
    rec709 = (529, 5, 3, (2126, 10000, 7152, 10000, 722, 10000), True)
    tifffile.imwrite(file, values, photometric="ycbcr", extratags=[rec709])
    with pytest.raises(InputError, match=r"YCbCrCoefficients are \(0.2126.*convert it to RGB"):
        read_image(file)


def test_orientation_tag_does_not_turn_the_pixels(tmp_path: Path) -> None:
    values = _values((5, 6), "uint8")
    for turn in range(2, 9):
        tifffile.imwrite(tmp_path / "i.tif", values, extratags=[(274, 3, 1, turn, True)])
        with pytest.warns(HeaderWarning, match=f"orientation tag {turn} .* taken as stored"):
            assert _same(read_image(tmp_path / "i.tif"), values[None])


# -- axes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("imagej", [False, True])
def test_axes_are_what_the_file_says(tmp_path: Path, imagej: bool) -> None:
    def image(axes: str, shape: tuple[int, ...], **chosen: Any) -> Image:
        values = _values(shape)
        name = tmp_path / ("i.tif" if imagej else "i.ome.tif")
        tifffile.imwrite(name, values, imagej=imagej, metadata={"axes": axes}, photometric="minisblack")
        read = read_image(name, **chosen)
        expected = values
        if "T" in axes:
            expected = expected[chosen["frame"]]
            axes = axes[1:]
        if "C" not in axes:
            expected = expected[None]
        elif axes[0] == "Z":
            expected = np.moveaxis(expected, 1, 0)
        if "channel" in chosen:
            expected = expected[chosen["channel"]][None]
        assert _same(read, expected)
        return read

    assert image("CYX", (3, 20, 30)).ndim == 2
    assert image("ZYX", (3, 20, 30)).ndim == 3
    assert image("TYX", (3, 20, 30), frame=2).metadata == {"frame": "2 of 0 to 2"}
    order = ("ZCYX", (4, 3, 20, 30)) if imagej else ("CZYX", (3, 4, 20, 30))
    assert image(*order).grid.shape == (4, 20, 30)
    assert image(*order, channel=1).metadata == {"channel": "1 of 0 to 2"}
    both = ("T" + order[0], (2, *order[1]))
    assert image(*both, frame=1, channel=2).channels == 1
    with pytest.raises(InputError, match=r"time series of 2 frames.*--frame N, N from 0 to 1"):
        image(*both)


def test_channels_by_name(tmp_path: Path) -> None:
    values = _values((3, 8, 9))
    names = ["DAPI", "FITC", "Cy5"]
    tifffile.imwrite(tmp_path / "i.ome.tif", values, metadata={"axes": "CYX", "Channel": {"Name": names}})
    image = read_image(tmp_path / "i.ome.tif", channel="Cy5")
    assert _same(image, values[2:])
    assert image.metadata == {"channel": "2 of 0 to 2, Cy5"}
    assert read_image(tmp_path / "i.ome.tif").metadata == {"channels": "DAPI, FITC, Cy5"}
    with pytest.raises(InputError, match=r"no channel 'RFP', found 'DAPI', 'FITC', 'Cy5'"):
        read_image(tmp_path / "i.ome.tif", channel="RFP")
    with pytest.raises(InputError, match=r"3 channels and no channel 3"):
        read_image(tmp_path / "i.ome.tif", channel=3)


def test_pages_without_meaning_are_a_question(tmp_path: Path) -> None:
    values = _values((3, 5, 6), "uint8")
    pages = [PIL.Image.fromarray(v) for v in values]
    pages[0].save(tmp_path / "i.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"3 pages that it does not call slices.*--page N.*--page all"):
        read_image(tmp_path / "i.tif")
    assert _same(read_image(tmp_path / "i.tif", page=2), values[2:])
    volume = read_image(tmp_path / "i.tif", page="all")
    assert _same(volume, values[None])
    assert volume.metadata == {"page": "all, stacked as slices"}
    with pytest.raises(InputError, match="no page 3"):
        read_image(tmp_path / "i.tif", page=3)
    with pytest.raises(InputError, match="a number from 0 or all, found 'some'"):
        read_image(tmp_path / "i.tif", page="some")


def test_pages_of_different_sizes(tmp_path: Path) -> None:
    values = [_values((20, 30), "uint8"), _values((7, 9), "uint16"), _values((20, 30), "uint8") // 2]
    with tifffile.TiffWriter(tmp_path / "i.tif") as writer:
        for plane in values:
            writer.write(plane, metadata=None)
    for number, plane in enumerate(values):
        assert _same(read_image(tmp_path / "i.tif", page=number), plane[None])
    with pytest.raises(InputError, match=r"0: 30 x 20 uint8; 1: 9 x 7 uint16; 2: 30 x 20 uint8"):
        read_image(tmp_path / "i.tif")
    with pytest.raises(InputError, match="needs pages of one size"):
        read_image(tmp_path / "i.tif", page="all")


def test_slide_is_read_without_its_label(tmp_path: Path) -> None:
    slide, label = _values((64, 80, 3), "uint8"), _values((20, 30, 3), "uint8")
    with tifffile.TiffWriter(tmp_path / "i.ome.tif") as writer:
        writer.write(slide, photometric="rgb", metadata={"Name": "scan"})
        writer.write(label, photometric="rgb", metadata={"Name": "label image"})
    image = read_image(tmp_path / "i.ome.tif")
    assert _same(image, np.moveaxis(slide, -1, 0))
    assert image.metadata["page"] == "0 of 0 to 1, scan 80 x 64 uint8"
    assert _same(read_image(tmp_path / "i.ome.tif", page=1), np.moveaxis(label, -1, 0))


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("size", [None, 0.5])
def test_levels_share_the_world_of_the_full_image(tmp_path: Path, nested: bool, size: float | None) -> None:
    full = _values((130, 161), "uint8")
    levels = [full, full[:130:2, :160:2], full[:128:4, :160:4]]
    details: Any = {"axes": "YX"}
    if size is not None:
        details |= {f"PhysicalSize{a}": size for a in "XY"}
    with tifffile.TiffWriter(tmp_path / "i.ome.tif", ome=size is not None) as writer:
        described = details if size is not None else None
        writer.write(full, tile=(32, 32), subifds=2 if nested else None, metadata=described)
        for level in levels[1:]:
            writer.write(level, tile=(32, 32), subfiletype=1, metadata=None)
    if size is not None and not nested:
        return  # OME levels are nested
    unit = 1.0 if size is None else size / 1000
    for number, level in enumerate(levels):
        image = read_image(tmp_path / "i.ome.tif", level=number)
        assert _same(image, level[None])
        assert image.unit == ("px" if size is None else "mm")
        assert image.metadata["level"].startswith(f"{number} of 0 to 2, ")
        # Pixel 3 of a level covers these pixels of the full image; its centre is their mean.
        covered = np.arange(3 * 2**number, 4 * 2**number)
        assert image.grid.world_from_index([3, 3]) == pytest.approx([covered.mean() * unit] * 2)
    with pytest.raises(InputError, match=r"no level 3, found 3 \(0: 161 x 130 uint8; 1: 80 x 65"):
        read_image(tmp_path / "i.ome.tif", level=3)


# -- size of a pixel --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "spacing"),
    [
        ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "um", "axes": "YX"}}, (0.0005, 0.00025)),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "mm", "axes": "YX"}}, (0.25, 0.25)),
        ({"imagej": True, "resolution": (72, 72), "metadata": {"unit": "inch", "axes": "YX"}}, None),
        ({"imagej": True, "metadata": {"axes": "YX"}}, None),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (40000, 20000), "resolutionunit": "CENTIMETER"}, (0.0005, 0.00025)),
        ({"resolution": (10, 10), "resolutionunit": "CENTIMETER"}, None),
        (
            {"description": "Aperio Image Library v11\r\n6 x 5|AppMag = 20|MPP = 0.4990", "metadata": None},
            (499e-6,) * 2,
        ),
    ],
)
def test_physical_size_where_it_is_meant(tmp_path: Path, options: dict[str, Any], spacing: Any) -> None:
    tifffile.imwrite(tmp_path / "i.tif", _values((5, 6), "uint16"), **options)
    image = read_image(tmp_path / "i.tif")
    assert image.unit == ("px" if spacing is None else "mm")
    assert image.grid.spacing == pytest.approx(spacing or (1, 1))


def test_ome_sizes_in_any_unit(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(tmp_path / "i.ome.tif", _values((4, 5, 6)), metadata={"axes": "ZYX", **sizes})
    assert read_image(tmp_path / "i.ome.tif").grid.spacing == pytest.approx((0.002, 0.0005, 0.00025))
    del sizes["PhysicalSizeZ"]
    tifffile.imwrite(tmp_path / "i.ome.tif", _values((4, 5, 6)), metadata={"axes": "ZYX", **sizes})
    assert read_image(tmp_path / "i.ome.tif").unit == "px"


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6)])
@pytest.mark.parametrize("unit", ["px", "mm"])
def test_round_trip_keeps_axes_and_size(tmp_path: Path, channels: int, shape: tuple[int, ...], unit: str) -> None:
    values = torch.from_numpy(_values((channels, *shape), "uint16").astype(np.float32))
    spacing = [0.5, 0.25, 2.0][: len(shape)] if unit == "mm" else [1.0] * len(shape)
    grid = Grid.from_itk(shape[::-1], spacing, [0.0] * len(shape), np.eye(len(shape)))
    write_image(tmp_path / "i.tif", Image(values, grid, unit=unit, dtype="uint16"))
    back = read_image(tmp_path / "i.tif")
    assert torch.equal(back.data, values)
    assert back.grid.is_close(grid)
    assert (back.unit, back.dtype) == (unit, "uint16")


# -- what cannot be read ----------------------------------------------------------------------------


def test_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "i.tif"
    tifffile.imwrite(file, _values((8, 9), "float32") * 1j)
    with pytest.raises(InputError, match="complex"):
        read_image(file)
    tifffile.imwrite(file, _values((8, 9), "uint8"))
    with tifffile.TiffFile(file, mode="r+") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(4711)
    with pytest.raises(InputError, match=r"compression 4711 is not supported") as error:
        read_image(file)
    assert "damaged" not in str(error.value)
    tifffile.imwrite(file, _values((8, 9, 3), "uint8"), photometric="cielab")
    with pytest.raises(InputError, match="colour space CIELAB is not supported"):
        read_image(file)


def test_several_pages_of_a_cut_file_are_not_fewer(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "i.tif", _values((6, 40, 50)), metadata=None, photometric="minisblack")
    content = (tmp_path / "i.tif").read_bytes()
    for part in (0.2, 0.5, 0.9, 0.999):
        (tmp_path / "i.tif").write_bytes(content[: int(len(content) * part)])
        with pytest.raises(InputError, match="truncated or damaged"):
            read_image(tmp_path / "i.tif", page=0)


def test_planes_of_another_file_that_is_not_there_are_not_zeros(tmp_path: Path) -> None:
    values = _values((2, 24, 20), "uint8")
    parts = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{c}.ome.tif">urn:uuid:{c:08d}-0000-0000-0000-'
        "000000000000</UUID></TiffData>"
        for c in (0, 1)
    )
    for c in (0, 1):
        text = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{c:08d}-0000-0000-0000-000000000000"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            'DimensionOrder="XYCZT" Type="uint8" SizeX="20" SizeY="24" SizeC="2" SizeZ="1" SizeT="1">'
            f'<Channel ID="C:0"/><Channel ID="C:1"/>{parts}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / f"{c}.ome.tif", values[c], description=text, metadata=None)
    assert _same(read_image(tmp_path / "1.ome.tif"), values)
    (tmp_path / "1.ome.tif").unlink()
    with pytest.raises(InputError, match="1 of 2 planes that its OME metadata announce are neither in the file nor"):
        read_image(tmp_path / "0.ome.tif")
    assert _same(read_image(tmp_path / "0.ome.tif", channel=0), values[:1])


def test_sizes_that_no_machine_holds(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "i.tif", _values((16, 16), "uint8"), tile=(16, 16))
    with tifffile.TiffFile(tmp_path / "i.tif", mode="r+") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[tag].overwrite(2**23, dtype="I")
    with pytest.raises(InputError, match=r"unpacks to 6.55e\+04 GiB|truncated or damaged"):
        read_image(tmp_path / "i.tif")


def test_without_the_extra_codecs(tmp_path: Path) -> None:
    """LZW and JPEG, the common ones, go through libtiff; the rest names the extra."""
    values = _values((40, 48, 3), "uint8")
    for compression in ("lzw", "jpeg", "zlib", "jpegxl"):
        tifffile.imwrite(tmp_path / f"{compression}.tif", values, photometric="rgb", compression=compression)
    tifffile.imwrite(tmp_path / "gray.tif", _values((40, 48), "uint16"), compression="lzw", predictor=True)
    script = """
import sys
sys.modules["imagecodecs"] = None
import numpy as np, pathlib
from roireg.core.errors import InputError
from roireg.io import read_image
folder = pathlib.Path(sys.argv[1])
for file in sorted(folder.glob("*.tif")):
    try:
        np.save(file.with_suffix(".npy"), read_image(file).data.numpy())
    except InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"{tmp_path / 'jpegxl.tif'}: its compression JPEGXL needs the extra codecs; install it with "
        "pip install 'roireg[codecs]'\n"
    )
    for name in ("lzw", "zlib", "gray"):
        expected = tifffile.imread(tmp_path / f"{name}.tif")
        expected = np.moveaxis(expected, -1, 0) if expected.ndim == 3 else expected[None]
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), expected)
    jpeg = np.moveaxis(tifffile.imread(tmp_path / "jpeg.tif"), -1, 0)
    assert np.abs(np.load(tmp_path / "jpeg.npy") - jpeg).max() <= 3


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_large_pictures_are_written_in_tiles(tmp_path: Path, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.from_numpy(_values((channels, 300, 41), "uint8"))
    monkeypatch.setattr("roireg.io.tiff_writing.LARGE", 0)
    monkeypatch.setattr("roireg.io.tiff_writing.BAND", 128)
    with monkeypatch.context() as patch:
        # The whole picture is not read back beside what is in memory.
        patch.delattr(tifffile.TiffFile, "asarray")
        write_image(tmp_path / "i.tif", Image(values, Grid.pixels((300, 41)), unit="px", dtype="uint8"))
    assert np.array_equal(read_image(tmp_path / "i.tif").data.numpy(), values.numpy())
    with tifffile.TiffFile(tmp_path / "i.tif") as file:
        assert len(file.pages[0].dataoffsets) == 3
