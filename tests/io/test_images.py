"""Images: geometry and values through every format, and one clear sentence for every malformed file."""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
import torch

from roireg.core.errors import InputError, OutputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.io import (
    HeaderWarning,
    check_image,
    read_image,
    read_labels,
    read_pairs,
    sha256_of,
    write_image,
    write_labels,
)
from roireg.io._itk import to_itk_image

OBLIQUE = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


def _image(shape: tuple[int, ...], dtype: str = "int16", channels: int = 1, grid: Grid | None = None) -> Image:
    rng = np.random.default_rng(0)
    low, high = (-50, 100) if np.dtype(dtype).kind != "u" else (0, 120)
    values = rng.integers(low, high, (channels, *shape)).astype(np.float32)
    if np.dtype(dtype).kind == "f":
        values += 0.25
    return Image(torch.from_numpy(values), grid or Grid.pixels(shape), dtype=dtype)


# -- round trips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, "int64"])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_volume_round_trip(tmp_path: Path, extension: str, dtype: str) -> None:
    grid = Grid.from_itk((6, 5, 4), (0.7, 1.3, 3.1), (-100.25, 30.5, 700.125), OBLIQUE)
    image = _image((4, 5, 6), dtype, grid=grid)
    write_image(tmp_path / f"i{extension}", image)
    back = read_image(tmp_path / f"i{extension}")
    assert back.dtype == dtype
    assert back.unit == "mm"
    assert back.data.dtype == torch.float32
    assert torch.equal(back.data, image.data)
    assert back.grid.is_close(grid, tolerance=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [f"i{extension}"]


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("size", "direction"),
    [((6, 5), [0.6, -0.8, 0.8, 0.6]), ((6, 1), [1, 0, 0, 1]), ((6, 5, 1), OBLIQUE), ((1, 5, 4), np.eye(3))],
)
def test_plane_and_thin_round_trip(tmp_path: Path, extension: str, size: tuple[int, ...], direction: object) -> None:
    grid = Grid.from_itk(size, (0.5, 2.0, 3.0)[: len(size)], (1.0, 2.0, 3.0)[: len(size)], direction)  # type: ignore[arg-type]
    image = _image(size[::-1], grid=grid)
    write_image(tmp_path / f"i{extension}", image)
    back = read_image(tmp_path / f"i{extension}")
    assert torch.equal(back.data, image.data)
    assert back.grid.is_close(grid, tolerance=1e-4)


@pytest.mark.parametrize(
    ("order", "signs"), [(o, s) for o in permutations(range(3)) for s in product((1, -1), repeat=3)]
)
def test_every_axis_order(tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    direction = np.eye(3)[:, list(order)] * np.array(signs)
    grid = Grid.from_itk((4, 3, 2), (1.0, 2.0, 3.0), (10.0, -20.0, 30.0), direction)
    image = _image((2, 3, 4), grid=grid)
    for extension in (".nii.gz", ".nrrd", ".mha"):
        write_image(tmp_path / f"i{extension}", image)
        back = read_image(tmp_path / f"i{extension}")
        assert torch.equal(back.data, image.data)
        assert back.grid.is_close(grid, tolerance=1e-4)
    # The naive reference: ITK's own index-to-world map for one voxel.
    itk = sitk.ReadImage(str(tmp_path / "i.mha"))
    assert np.allclose(itk.TransformIndexToPhysicalPoint((3, 1, 1)), back.grid.world_from_index([1, 1, 3]), atol=1e-4)


@pytest.mark.parametrize(
    ("extension", "dtype", "channels"),
    [(".png", d, c) for d in ("uint8", "uint16") for c in (1, 3, 4)]
    + [(".tif", d, 1) for d in DTYPES]
    + [(".tiff", "uint8", 3), (".tif", "uint16", 3), (".tif", "uint8", 4)],
)
def test_raster_round_trip(tmp_path: Path, extension: str, dtype: str, channels: int) -> None:
    image = replace(_image((5, 6), dtype, channels), unit="px")
    write_image(tmp_path / f"i{extension}", image)
    back = read_image(tmp_path / f"i{extension}")
    assert back.dtype == dtype
    assert back.unit == "px"
    assert back.grid == Grid.pixels((5, 6))
    assert torch.equal(back.data, image.data)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_close(tmp_path: Path, channels: int) -> None:
    ramp = torch.linspace(0, 200, 32).expand(channels, 32, 32)
    write_image(tmp_path / "i.jpg", Image(ramp, Grid.pixels((32, 32)), dtype="uint8"))
    back = read_image(tmp_path / "i.jpg")
    assert back.channels == channels
    assert float((back.data - ramp).abs().max()) < 8


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_colour_volume_round_trip(tmp_path: Path, extension: str, dtype: str) -> None:
    image = _image((4, 5, 6), dtype, 3)
    write_image(tmp_path / f"i{extension}", image)
    back = read_image(tmp_path / f"i{extension}")
    assert torch.equal(back.data, image.data)


def test_integers_are_rounded_and_clipped(tmp_path: Path) -> None:
    values = torch.tensor([[[-3.0, 0.4, 0.6, 254.6, 300.0]]])
    write_image(tmp_path / "i.nii", Image(values, Grid.pixels((1, 5)), dtype="uint8"))
    assert read_image(tmp_path / "i.nii").data.tolist() == [[[0, 0, 1, 255, 255]]]
    write_image(tmp_path / "i.nii", Image(values * 1e30, Grid.pixels((1, 5)), dtype="int64"))
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "i.nii")))
    assert stored.min() == np.iinfo(np.int64).min
    assert stored.max() > 2**62


# -- 4D ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
def test_frame_of_a_series(tmp_path: Path, extension: str) -> None:
    volumes = [sitk.GetImageFromArray(np.full((3, 4, 5), i, np.int16)) for i in range(3)]
    for v in volumes:
        v.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / f"i{extension}"))
    image = read_image(tmp_path / f"i{extension}", frame=2)
    assert image.grid.shape == (3, 4, 5)
    assert float(image.data.min()) == float(image.data.max()) == 2
    assert image.grid.spacing.tolist() == [3, 2, 1]
    for frame in (None, 3, -1):
        with pytest.raises(InputError, match=r"4D .*with 3 frames.*--frame N, N from 0 to 2"):
            read_image(tmp_path / f"i{extension}", frame=frame)


def test_a_kind_that_itk_lacks_is_not_called_damaged(tmp_path: Path) -> None:
    header = (
        "NRRD0004\ntype: uint8\ndimension: 4\nspace: left-posterior-superior\nsizes: 4 5 6 2\nspace directions: "
        "(1,0,0) (0,1,0) (0,0,1) none\nkinds: domain domain domain time\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    (tmp_path / "i.nrrd").write_bytes(header.encode() + bytes(240))
    with pytest.raises(InputError, match=r"ITK has no such kind.*not supported") as error:
        read_image(tmp_path / "i.nrrd")
    assert "damaged" not in str(error.value)


def test_many_components_are_frames(tmp_path: Path) -> None:
    vectors = np.arange(6, dtype=np.int16) * np.ones((3, 4, 5, 6), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(vectors, isVector=True), str(tmp_path / "i.nrrd"))
    with pytest.raises(InputError, match="with 6 frames"):
        read_image(tmp_path / "i.nrrd")
    assert float(read_image(tmp_path / "i.nrrd", frame=4).data.mean()) == 4


# -- labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dtype"), [((0, 255), "uint8"), ((0, 256), "uint16"), ((0, 70000), "int32"), ((-1, 3), "int32")]
)
def test_labels_round_trip(tmp_path: Path, values: tuple[int, int], dtype: str) -> None:
    data = torch.tensor(values, dtype=torch.int32).reshape(1, 1, 2)
    write_labels(tmp_path / "l.nii.gz", Image(data, Grid.pixels((1, 2))))
    back = read_labels(tmp_path / "l.nii.gz")
    assert back.dtype == dtype
    assert back.data.dtype == torch.int32
    assert torch.equal(back.data, data)


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tif"])
def test_palette_gives_indices(tmp_path: Path, extension: str) -> None:
    indices = np.arange(30, dtype=np.uint8).reshape(5, 6) % 4
    picture = PIL.Image.fromarray(indices, "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 9])
    picture.save(tmp_path / f"l{extension}")
    assert np.array_equal(read_labels(tmp_path / f"l{extension}").data[0], indices)
    assert read_image(tmp_path / f"l{extension}").channels == 3


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64"])
def test_integers_that_are_rounded_are_told(tmp_path: Path, dtype: str) -> None:
    """Regions of an atlas of mice have numbers of nine digits."""
    values = np.full((4, 5, 6), 2**24 + 1, dtype)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4), dtype=values.dtype), tmp_path / "i.nii")
    with pytest.warns(HeaderWarning, match="integers of up to 16777217 are rounded"):
        read_image(tmp_path / "i.nii")
    assert set(read_labels(tmp_path / "i.nii").data.unique().tolist()) == {2**24 + 1}
    nibabel.save(nibabel.Nifti1Image(values - 1, np.eye(4), dtype=values.dtype), tmp_path / "i.nii")
    assert float(read_image(tmp_path / "i.nii").data.max()) == 2**24


def test_16_bit_index_png(tmp_path: Path) -> None:
    data = torch.tensor([[[0, 300, 65535]]], dtype=torch.int32)
    write_labels(tmp_path / "l.png", Image(data, Grid.pixels((1, 3))))
    back = read_labels(tmp_path / "l.png")
    assert torch.equal(back.data, data)
    assert back.unit == "px"


def test_float_file_with_whole_numbers_is_a_label_map(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[0.0, 2.0]])), str(tmp_path / "l.nii"))
    assert read_labels(tmp_path / "l.nii").data.tolist() == [[[0, 2]]]


def test_what_is_no_label_map(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[0.0, 2.5]])), str(tmp_path / "half.nii"))
    with pytest.raises(InputError, match="found 1 voxels with other values"):
        read_labels(tmp_path / "half.nii")
    write_image(tmp_path / "rgb.png", _image((4, 4), "uint8", 3))
    with pytest.raises(InputError, match="found 3 channels"):
        read_labels(tmp_path / "rgb.png")
    write_image(tmp_path / "l.jpg", _image((4, 4), "uint8"))
    with pytest.raises(InputError, match="JPEG alters label values"):
        read_labels(tmp_path / "l.jpg")
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[2**40]])), str(tmp_path / "big.nii"))
    with pytest.raises(InputError, match="fit 32-bit"):
        read_labels(tmp_path / "big.nii")
    with pytest.raises(InputError, match="one channel of integers"):
        write_labels(tmp_path / "x.nii", _image((4, 4)))
    with pytest.raises(InputError, match="JPEG alters"):
        write_labels(tmp_path / "x.jpg", Image(torch.zeros((1, 2, 2), dtype=torch.int32), Grid.pixels((2, 2))))


# -- malformed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".jpg", ".tif", ".bmp"])
def test_truncated_files(tmp_path: Path, capfd: pytest.CaptureFixture[str], extension: str) -> None:
    file = tmp_path / f"i{extension}"
    rng = np.random.default_rng(0)
    shape = (64, 64) if extension in (".png", ".jpg", ".tif", ".bmp") else (8, 32, 32)
    sitk.WriteImage(sitk.GetImageFromArray(rng.integers(0, 255, shape).astype(np.uint8)), str(file))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"truncated|damaged") as error:
        read_image(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.png", "a.jpg", "a.tif", "a.dcm", "a.txt", "a"]
)
@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 40, b"\x1f\x8b broken"])
def test_not_an_image(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"is empty|not an image|is not a|damaged") as error:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:.*no orientation:roireg.io.HeaderWarning")
@pytest.mark.parametrize("extension", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_no_flipped_bit_of_compressed_data_is_accepted(tmp_path: Path, extension: str, dtype: type) -> None:
    file = tmp_path / f"i{extension}"
    values = np.random.default_rng(0).integers(0, 100, (8, 16, 16)).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(file), useCompression=True)
    content = file.read_bytes()
    start = max(content.find(b"LOCAL"), content.find(b"\n\n")) + 12 if extension != ".nii.gz" else 12
    for place in np.linspace(start, len(content) - 11, 20).astype(int):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(place % 8)
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged|truncated") as error:
            read_image(file)
        assert str(error.value).startswith(str(file))
    file.write_bytes(content[:start] + bytes(len(content) - start))  # a sector of zeros
    with pytest.raises(InputError, match=r"damaged|truncated"):
        read_image(file)


def test_gzip_files_of_several_members_and_with_padding(tmp_path: Path) -> None:
    image = _image((4, 5, 6))
    write_image(tmp_path / "i.nii", image)
    content = (tmp_path / "i.nii").read_bytes()
    for padding in (b"", bytes(7), b"made by some archive"):
        zipped = gzip.compress(content[:100]) + gzip.compress(content[100:]) + padding
        (tmp_path / "i.nii.gz").write_bytes(zipped)
        assert torch.equal(read_image(tmp_path / "i.nii.gz").data, image.data)


META = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nendian: little\n\n"


@pytest.mark.parametrize(
    ("name", "text", "change", "message"),
    [
        ("i.mha", META, ("NDims = 3", f"NDims = {2**63}"), "NDims 9223372036854775808, expected whole numbers"),
        ("i.mha", META, ("NDims = 3", "NDims = -1"), "NDims -1, expected"),
        ("i.mha", META, ("NDims = 3", "NDims = 2"), "NDims 2 but DimSize 4 4 4"),
        (
            "i.mha",
            META,
            ("4 4 4", "30000 30000 30000"),
            "announces 54000000000000 bytes of voxels",
        ),
        ("i.mha", META, ("4 4 4", "0 4 4"), "DimSize 0 4 4, expected whole numbers"),
        ("i.mha", META, ("4 4 4", "4 4 5"), "announces 160 bytes of voxels"),
        ("i.mha", META, ("LOCAL", "other.raw"), "expected (beside it )?in other.raw"),
        ("i.nrrd", NRRD, ("dimension: 3", f"dimension: {2**63}"), "dimension 9223372036854775808, expected"),
        ("i.nrrd", NRRD, ("4 4 4", "1500 1500 1500"), "announces 6750000000 bytes of voxels"),
        ("i.nrrd", NRRD, ("4 4 4", "4 4 nan"), "sizes 4 4 nan, expected whole numbers"),
        ("i.nrrd", NRRD, ("raw", "gzip"), "the file is damaged"),
    ],
)
def test_sizes_that_the_file_cannot_hold(
    tmp_path: Path, name: str, text: str, change: tuple[str, str], message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode() + np.arange(64, dtype=np.int16).tobytes())
    assert read_image(file).data[0, 3, 3, 3] == 63
    file.write_bytes(text.replace(*change).encode() + np.arange(64, dtype=np.int16).tobytes())
    with pytest.raises(InputError, match=message) as error:
        read_image(file)
    assert str(error.value).startswith(str(file))


@pytest.mark.skipif(os.name != "posix", reason="named pipes are a thing of POSIX")
def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    for read in (read_image, read_labels, sha256_of, read_pairs):
        with pytest.raises(InputError, match=r"pipe\.nii\.gz: this is a named pipe, expected a file"):
            read(tmp_path / "pipe.nii.gz")
        with pytest.raises(InputError, match=r"/dev/null: this is a device"):
            read("/dev/null")
    with pytest.raises(InputError, match=r"pipe\.nii\.gz: this is a named pipe"):
        read_image(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no file names that are not UTF-8")
@pytest.mark.parametrize("extension", [".nii.gz", ".mha", ".nrrd", ".mhd", ".png"])
@pytest.mark.parametrize("name", [b"gr\xc3\xbc\xc3\x9f", b"\xff\xfe bad"])
def test_names_of_any_bytes(tmp_path: Path, extension: str, name: bytes) -> None:
    image = _image((5, 6), "uint8")
    folder = tmp_path / os.fsdecode(name)
    file = folder / os.fsdecode(name + extension.encode())
    if extension == ".mhd":
        folder.mkdir()
        sitk.WriteImage(to_itk_image(np.uint8(image.data.numpy()), image.grid), str(tmp_path / "data.mhd"))
        (tmp_path / "data.raw").rename(folder / "data.raw")
        (tmp_path / "data.mhd").rename(file)
    else:
        write_image(file, image)
    assert torch.equal(read_image(file).data, image.data)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder; check the path"):
        read_image(tmp_path / "missing.nii.gz")
    (tmp_path / "brain.mgz").write_bytes(b"\x1f\x8b0")
    with pytest.raises(InputError, match="mri_convert"):
        read_image(tmp_path / "brain.mgz")
    with pytest.raises(InputError, match="holds no DICOM series"):
        read_image(tmp_path)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".mha", ".tif"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_are_no_numbers(tmp_path: Path, extension: str, dtype: type) -> None:
    values = np.zeros((6, 5), np.float32 if extension == ".tif" else dtype)
    values[1, :3] = np.nan
    values[2, :2] = (np.inf, -np.inf)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"i{extension}"))
    with pytest.raises(InputError, match="found 3 NaN and 2 infinite voxels"):
        read_image(tmp_path / f"i{extension}")


def test_check_image() -> None:
    grid = Grid.pixels((2, 2))
    check_image(Image(torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), grid))
    with pytest.raises(InputError, match="scan: every voxel has the value 3"):
        check_image(Image(torch.full((1, 2, 2), 3.0), grid, name="scan"))
    with pytest.raises(InputError, match="scan: found 1 NaN and 0 infinite"):
        check_image(Image(torch.tensor([[[0.0, 1.0], [float("nan"), 0.0]]]), grid, name="scan"))
    check_image(Image(torch.tensor([[[3e38, 3e38], [3e38, 0.0]]]), grid))  # their sum overflows, they do not


def test_complex_values(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([4, 4], sitk.sitkComplexFloat32), str(tmp_path / "i.nii"))
    with pytest.raises(InputError, match="complex"):
        read_image(tmp_path / "i.nii")


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("i.png", _image((4, 4, 4), "uint8"), r"3D image does not fit a \.png"),
        ("i.jpg", _image((4, 4, 4), "uint8"), r"3D image does not fit a \.jpg"),
        (
            "i.tif",
            _image((4, 4, 4), "uint8", grid=Grid.from_itk((4, 4, 4), (1, 1, 1), (5, 0, 0), OBLIQUE)),
            r"3D image does not fit a \.tif",
        ),
        ("i.png", _image((4, 4), "float32"), "holds uint8 or uint16, found float32"),
        ("i.jpg", _image((4, 4), "uint16"), "holds uint8, found uint16"),
        ("i.png", _image((4, 4), "uint8", 2), "found 2"),
        ("i.jpg", _image((4, 4), "uint8", 4), "found 4"),
        ("i.mhd", _image((4, 4), "uint8"), r"extension '\.mhd'; use one of"),
        ("i", _image((4, 4), "uint8"), "extension ''; use one of"),
        ("i.nii", Image(torch.full((1, 2, 2), float("nan")), Grid.pixels((2, 2)), dtype="int16"), "4 voxels are NaN"),
    ],
)
def test_what_a_format_cannot_hold(tmp_path: Path, name: str, image: Image, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_image(tmp_path / name, image)
    assert not list(tmp_path.iterdir())


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write here"):
        write_image(tmp_path / "file" / "i.nii", _image((4, 4)))


def test_what_libraries_print_stays_out_of_sight(tmp_path, capfd):
    # libjpeg in ITK prints to the output, where `--json` has its document.
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "a.jpg")
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    data[-40:-20] = b"\xff" * 20
    (tmp_path / "a.jpg").write_bytes(data)
    with contextlib.suppress(InputError):
        read_image(tmp_path / "a.jpg")
    assert capfd.readouterr() == ("", "")
