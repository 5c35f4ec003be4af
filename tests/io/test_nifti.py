"""NIfTI: voxels lie where the header says (nibabel is the reference), contradictions warn, nonsense is refused."""

from __future__ import annotations

import gzip
import struct
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.io import HeaderWarning, read_image, write_image
from support import axis_orders


def _nifti(path: Path, *edits: tuple[int, str, tuple[float, ...]]) -> Path:
    image = sitk.GetImageFromArray(np.arange(120, dtype=np.int16).reshape(4, 5, 6))
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(path))
    content = bytearray(path.read_bytes())
    for offset, layout, values in edits:
        struct.pack_into("<" + layout, content, offset, *values)
    path.write_bytes(content)
    return path


def _sform(*rows: float) -> tuple[int, str, tuple[float, ...]]:
    return (280, "12f", rows)


SFORM_ONLY = (252, "hh", (0, 1))
PLAIN = (-1.5, 0, 0, -1, 0, -2, 0, -2, 0, 0, 3, 3)


def test_ordinary_headers_are_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, edits in {
        "both": (),
        "s": (SFORM_ONLY, _sform(*PLAIN)),
        "micrometre": ((123, "B", (3,)),),
        "unused": ((92, "f", (float("nan"),)),),
        "rounded": (SFORM_ONLY, _sform(-1.5, 1e-5, 0, -1, 0, -2, 0, -2, 0, 0, 3, 3)),
    }.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = read_image(_nifti(tmp_path / f"{name}.nii", *edits))
        assert image.grid.shape == (4, 5, 6)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("edits", "message", "spacing"),
    [
        ((SFORM_ONLY, _sform(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)), r"sform gives voxels of 1 x 1 x 1", (3, 2, 1.5)),
        ((SFORM_ONLY, _sform(-1.5, 0.004, 0, 0, 0, -2, 0, 0, 0, 0, 3, 0)), "sheared by 0.11 degrees", (3, 2, 1.5)),
        ((_sform(-1.5, 0, 0, 50, 0, -2, 0, -2, 0, 0, 3, 3),), "different places .up to 51 mm", (3, 2, 1.5)),
        ((_sform(1.5, 0.8, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0),), "sform is sheared by 21.8 degrees, so", (3, 2, 1.5)),
        ((_sform(*[float("nan")] * 12),), "sform is not finite, so its qform says", (3, 2, 1.5)),
        (((256, "f", (float("nan"),)),), "qform is not finite, so its sform says", (3, 2, 1.5)),
        ((SFORM_ONLY, _sform(-3, 0, 0, 0, 0, -2, 0, 0, 0, 0, 3, 0)), "the sform is used, while ITK", (3, 2, 3)),
        (((112, "ff", (2.0, float("nan"))),), "intercept of its values is nan, read as 0", (3, 2, 1.5)),
        (((80, "f", (-1.5,)),), r"axis x is -1\.5, read as 1\.5", (3, 2, 1.5)),
        (((80, "f", (0.0,)), (252, "hh", (1, 0))), "axis x is 0, read as 1 mm", (3, 2, 1)),
        (((80, "f", (float("nan"),)), (252, "hh", (1, 0))), "axis x is nan, read as 1 mm", (3, 2, 1)),
    ],
)
@pytest.mark.filterwarnings("always::roireg.io.HeaderWarning")
def test_real_header_problems_warn(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    edits: tuple[tuple[int, str, tuple[float, ...]], ...],
    message: str,
    spacing: tuple[float, ...],
) -> None:
    file = _nifti(tmp_path / "i.nii", *edits)
    with pytest.warns(HeaderWarning, match=message) as caught:
        image = read_image(file)
    assert len(caught) == 1
    assert str(file) in str(caught[0].message)
    assert image.grid.spacing == pytest.approx(spacing, rel=1e-5)
    assert capfd.readouterr().err == ""


def test_unusable_orientation(tmp_path: Path) -> None:
    file = _nifti(tmp_path / "i.nii", SFORM_ONLY, _sform(1.5, 0.8, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0))
    with pytest.raises(GeometryError, match=r"i\.nii: .*sheared by 21\.8 degrees"):
        read_image(file)
    file = _nifti(tmp_path / "j.nii", SFORM_ONLY, _sform(*[0.0] * 12))
    with pytest.raises(GeometryError, match=r"j\.nii: .*only orientation, the sform, is singular"):
        read_image(file)
    file = _nifti(tmp_path / "n.nii", (252, "hh", (1, 0)), (256, "f", (float("nan"),)))
    with pytest.raises(GeometryError, match=r"n\.nii: .*only orientation, the qform, is not finite"):
        read_image(file)
    file = _nifti(tmp_path / "o.nii", (256, "f", (float("nan"),)), _sform(*[0.0] * 12))
    with pytest.raises(GeometryError, match=r"o\.nii: its sform is singular and its qform is not finite"):
        read_image(file)
    sheared = sitk.Image([4, 4, 4], sitk.sitkUInt8)
    sheared.SetDirection((1, 0.3, 0, 0, 1, 0, 0, 0, 1))
    for name in ("k.nrrd", "k.mha"):
        sitk.WriteImage(sheared, str(tmp_path / name))
        with pytest.raises(GeometryError, match=r"sheared by 16\.7 degrees"):
            read_image(tmp_path / name)
    grid = Grid((4, 4), np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]))
    with pytest.raises(GeometryError, match="sheared axes"):
        write_image(tmp_path / "l.nii", Image(torch.zeros((1, 4, 4)), grid))


@pytest.mark.filterwarnings("ignore:.*no orientation:roireg.io.HeaderWarning")
@pytest.mark.parametrize("size", [348, 540])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_nifti_versions_and_byte_orders_are_understood(tmp_path: Path, size: int, order: str) -> None:
    """A header written field by field, after nifti1.h and nifti2.h; the voxels are cut off."""
    content = bytearray(size + 4)
    one = size == 348
    struct.pack_into(f"{order}i", content, 0, size)
    struct.pack_into(f"{order}{'8h' if one else '8q'}", content, 40 if one else 16, 3, 6, 5, 4, 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", content, 70 if one else 12, 4, 16)
    struct.pack_into(f"{order}{'4f' if one else '4d'}", content, 76 if one else 104, 1, 1.5, 2, 3)
    struct.pack_into(f"{order}{'f' if one else 'q'}", content, 108 if one else 168, size + 4)
    content[344 if one else 4 : (344 if one else 4) + 4] = b"n+1\0" if one else b"n+2\0"
    (tmp_path / "i.nii").write_bytes(content + bytes(100))
    with pytest.raises(InputError, match=f"announces {size + 4 + 240} bytes, found {size + 104}"):
        read_image(tmp_path / "i.nii")


# -- where the voxels lie: headers that tools write, in all 48 orientations, against nibabel ------------------------

SIZE = (5, 4, 3)
SPACING = (1.25, 2.0, 3.5)
RAS = np.diag([-1.0, -1.0, 1.0])
VALUES = np.arange(60, dtype=np.int16).reshape(SIZE)


def _affine(orientation: np.ndarray, *, shear: float = 0.0, angle: float = 0.0) -> np.ndarray:
    """RAS from voxel (i, j, k): an orientation, tilted about x, its z axis leaning towards y by `shear` degrees."""
    t = np.deg2rad(angle)
    tilt = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])
    lean = np.eye(3)
    lean[1, 2] = np.tan(np.deg2rad(shear))
    affine = np.eye(4)
    affine[:3, :3] = orientation @ tilt @ lean @ np.diag(SPACING)
    affine[:3, 3] = (-90.5, 126.25, -72.0)
    return affine


def _last(image: Image) -> np.ndarray:
    return image.grid.world_from_index(np.array(image.grid.shape) - 1)


def _written(
    path: Path,
    qform: np.ndarray | None,
    sform: np.ndarray | None,
    codes: tuple[int, int],
    kind: type = nibabel.Nifti1Image,
    values: np.ndarray = VALUES,
    **fields: object,
) -> Path:
    image = kind(values, None)
    image.header.set_zooms(SPACING[: values.ndim] + (1.0,) * (values.ndim - 3))
    for matrix, code, form in ((qform, codes[0], "qform"), (sform, codes[1], "sform")):
        if matrix is not None:
            getattr(image, f"set_{form}")(matrix, code)
    for field, value in fields.items():
        image.header[field] = value
    if sform is not None and qform is None:
        image.header["qform_code"] = 0
    nibabel.save(image, path)
    return path


def _check_places(file: Path, ras_from_voxel: np.ndarray, scale: float = 1.0) -> Image:
    image = read_image(file)
    voxels = np.stack(np.meshgrid(*map(range, SIZE), indexing="ij"), -1).reshape(-1, 3)
    expected = nibabel.affines.apply_affine(ras_from_voxel, voxels) @ RAS * scale
    assert np.abs(image.grid.world_from_index(voxels[:, ::-1]) - expected).max() < 1e-3 * max(scale, 1)
    assert np.array_equal(image.data[0].numpy(), VALUES.T)
    return image


@pytest.mark.parametrize("orientation", axis_orders(3), ids=lambda m: "".join("xyz"[i] for i in np.abs(m).argmax(0)))
def test_voxels_lie_where_the_header_puts_them(tmp_path: Path, orientation: np.ndarray) -> None:
    plain, tilted = _affine(orientation), _affine(orientation, angle=20)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for matrix in (plain, tilted):
            for number, (q, s, codes) in enumerate(
                [(None, matrix, (0, 1)), (None, matrix, (0, 2)), (matrix, None, (1, 0)), (matrix, matrix, (1, 1))]
            ):
                file = _written(tmp_path / f"{number}.nii", q, s, codes, kind)
                _check_places(file, nibabel.load(file).affine)
    # Another byte order, and units other than mm, which nibabel leaves to its users.
    big = nibabel.Nifti1Image(VALUES, tilted, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(big, tmp_path / "big.nii")
    _check_places(tmp_path / "big.nii", tilted)
    for unit, scale in ((1, 1e3), (2, 1.0), (3, 1e-3), (0, 1.0)):
        _check_places(_written(tmp_path / "u.nii", tilted, tilted, (1, 1), xyzt_units=unit), tilted, scale)
    # A longer quaternion than 1 and a negative size, as some writers have them.
    _check_places(_written(tmp_path / "p.nii", plain, None, (1, 0)), plain)


@pytest.mark.parametrize("orientation", axis_orders(3)[::5])
@pytest.mark.parametrize("shear", [0.001, 0.01, 0.05, 0.3, 1.0])
@pytest.mark.filterwarnings("ignore:.*sheared by:roireg.io.HeaderWarning")
def test_a_shear_by_rounding_is_kept(tmp_path: Path, orientation: np.ndarray, shear: float) -> None:
    sheared = _affine(orientation, shear=shear, angle=20)
    image = _check_places(_written(tmp_path / "s.nii", None, sheared, (0, 1)), sheared)
    _check_places(_written(tmp_path / "b.nii", _affine(orientation, angle=20), sheared, (1, 1)), sheared)
    # What is written on such a grid has the same place for everybody who takes the sform, and nearly so for ITK.
    for name in ("w.nii.gz", "w.mha", "w.nrrd"):
        write_image(tmp_path / name, image)
        assert read_image(tmp_path / name).grid.is_close(image.grid, tolerance=1e-4)
    itk = sitk.ReadImage(str(tmp_path / "w.nii.gz"))
    corner = np.array([4, 3, 2])
    there = np.array(itk.TransformIndexToPhysicalPoint(corner.tolist()))
    assert np.abs(there - image.grid.world_from_index(corner[::-1])).max() < 0.2


@pytest.mark.parametrize(
    ("codes", "used"), [((1, 1), "sform"), ((2, 1), "sform"), ((1, 2), "qform"), ((2, 4), "qform"), ((1, 4), "qform")]
)
@pytest.mark.parametrize("orientation", axis_orders(3)[::7])
@pytest.mark.filterwarnings("ignore:.*different places:roireg.io.HeaderWarning")
def test_where_both_orientations_differ_that_of_itk_is_used(
    tmp_path: Path, orientation: np.ndarray, codes: tuple[int, int], used: str
) -> None:
    qform, sform = _affine(orientation), _affine(orientation, angle=10)
    sform[:3, 3] += (7.0, 0.0, -3.0)
    file = _written(tmp_path / "d.nii", qform, sform, codes)
    image = _check_places(file, getattr(nibabel.load(file), f"get_{used}")())
    assert image.metadata["placed by"].startswith(f"{used} (")
    assert "puts voxels up to" in image.metadata["placed by"]
    itk = sitk.ReadImage(str(file))
    assert np.allclose(itk.TransformIndexToPhysicalPoint((4, 3, 2)), _last(image), atol=1e-3)


def test_a_header_without_orientation_is_read_as_itk_reads_it(tmp_path: Path) -> None:
    file = _written(tmp_path / "n.nii", None, None, (0, 0))
    with pytest.warns(HeaderWarning, match="no orientation"):
        image = read_image(file)
    assert image.metadata["placed by"] == "voxel sizes alone, the header has no orientation"
    itk = sitk.ReadImage(str(file))
    assert np.allclose(itk.TransformIndexToPhysicalPoint((4, 3, 2)), _last(image), atol=1e-4)


def test_a_quaternion_that_is_too_long_is_shortened(tmp_path: Path) -> None:
    half_turn = np.diag([-SPACING[0], SPACING[1], -SPACING[2], 1.0])
    file = _written(tmp_path / "q.nii", half_turn, None, (1, 0))
    content = bytearray(file.read_bytes())
    struct.pack_into("<3f", content, 256, 0.0, 1.0001, 0.0)
    file.write_bytes(content)
    _check_places(file, half_turn)


# -- values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "i.img", "i.hdr"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_type_of_value(tmp_path: Path, kind: type, name: str, dtype: str) -> None:
    pair = {nibabel.Nifti1Image: nibabel.Nifti1Pair, nibabel.Nifti2Image: nibabel.Nifti2Pair}
    maker = pair[kind] if name.endswith(("img", "hdr")) else kind
    values = (np.arange(60).reshape(SIZE) + (0.5 if dtype[0] == "f" else 0)).astype(dtype)
    nibabel.save(maker(values, np.diag([2.0, 2, 2, 1]), dtype=values.dtype), tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.dtype == str(values.dtype)
    assert np.array_equal(image.data[0].numpy(), values.T)


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, 3.0), (-2.0, 0.0), (1.0, 7.5), (0.0, 9.0), (np.nan, np.nan)])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_slope_and_intercept(tmp_path: Path, slope: float, intercept: float, dtype: str) -> None:
    image = nibabel.Nifti1Image(VALUES.astype(dtype), np.eye(4))
    nibabel.save(image, tmp_path / "i.nii")
    content = bytearray((tmp_path / "i.nii").read_bytes())
    struct.pack_into("<2f", content, 112, slope, intercept)
    (tmp_path / "i.nii").write_bytes(content)
    expected = nibabel.load(tmp_path / "i.nii").get_fdata()
    found = read_image(tmp_path / "i.nii")
    assert np.allclose(found.data[0].numpy(), expected.T)
    scaled = np.isfinite(slope) and slope != 0
    assert found.dtype == (("float64" if dtype == "i4" else "float32") if scaled else str(np.dtype(dtype)))


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "i.img"])
def test_planes_series_colours_and_vectors(tmp_path: Path, name: str) -> None:
    maker = nibabel.Nifti1Pair if name.endswith("img") else nibabel.Nifti1Image
    series = np.arange(5 * 4 * 3 * 7, dtype=np.int16).reshape(5, 4, 3, 7)
    nibabel.save(maker(series, np.eye(4)), tmp_path / name)
    for frame in range(7):
        assert np.array_equal(read_image(tmp_path / name, frame=frame).data[0].numpy(), series[..., frame].T)
    with pytest.raises(InputError, match=r"4D \(5 x 4 x 3 x 7\) with 7 frames.*--frame N"):
        read_image(tmp_path / name)
    plane = maker(series[:, :, 0, 0], np.diag([2.0, 3.0, 1, 1]))
    nibabel.save(plane, tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.grid.shape == (4, 5)
    assert image.grid.spacing.tolist() == [3, 2]
    assert np.array_equal(image.data[0].numpy(), series[:, :, 0, 0].T)
    for letters in ("RGB", "RGBA"):
        colour = np.dtype([(letter, "u1") for letter in letters])
        bytes_of = np.arange(60 * len(letters), dtype=np.uint8).reshape(*SIZE, len(letters))
        nibabel.save(maker(bytes_of.copy().view(colour)[..., 0], np.eye(4)), tmp_path / name)
        image = read_image(tmp_path / name)
        assert image.dtype == "uint8"
        assert np.array_equal(image.data.numpy(), np.moveaxis(bytes_of, -1, 0).transpose(0, 3, 2, 1))
    vectors = maker(np.arange(180, dtype=np.float32).reshape(*SIZE, 1, 3), np.eye(4))
    vectors.header.set_intent("vector")
    nibabel.save(vectors, tmp_path / name)
    image = read_image(tmp_path / name)
    assert np.array_equal(
        image.data.numpy(), np.moveaxis(vectors.get_fdata()[..., 0, :], -1, 0).transpose(0, 3, 2, 1)
    )


def test_written_files_are_those_of_itk_and_nibabel(tmp_path: Path) -> None:
    grid = Grid.from_itk((6, 5, 4), (0.7, 1.3, 3.1), (-100.25, 30.5, 700.125), np.eye(3)[:, [2, 0, 1]])
    last = grid.world_from_index((3, 4, 5))
    for channels, dtype in ((1, "int16"), (3, "uint8"), (3, "float32")):
        values = (torch.arange(channels * 120.0) % 251).reshape(channels, 4, 5, 6)
        write_image(tmp_path / "i.nii.gz", Image(values, grid, dtype=dtype))
        itk = sitk.ReadImage(str(tmp_path / "i.nii.gz"))
        array = sitk.GetArrayFromImage(itk)
        assert np.array_equal(array if channels == 1 else np.moveaxis(array, -1, 0), values.numpy().squeeze())
        assert itk.GetSpacing() == pytest.approx((0.7, 1.3, 3.1), rel=1e-6)
        assert itk.TransformIndexToPhysicalPoint((5, 4, 3)) == pytest.approx(last, abs=1e-4)
        loaded = nibabel.load(tmp_path / "i.nii.gz")
        assert loaded.header.get_xyzt_units()[0] == "mm"
        assert RAS @ nibabel.affines.apply_affine(loaded.affine, (5, 4, 3)) == pytest.approx(last, abs=1e-4)
    first = (tmp_path / "i.nii.gz").read_bytes()
    write_image(tmp_path / "i.nii.gz", Image(values, grid, dtype=dtype))
    assert (tmp_path / "i.nii.gz").read_bytes() == first
    long = Image(torch.zeros((1, 2, 40000)), Grid.pixels((2, 40000)), dtype="uint8")
    write_image(tmp_path / "long.nii", long)
    assert read_image(tmp_path / "long.nii").grid == long.grid


# -- nonsense ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ((108, "f", (float("nan"),)), "voxels begin at byte nan"),
        ((108, "f", (float("inf"),)), "voxels begin at byte inf"),
        ((108, "f", (-8.0,)), "voxels begin at byte -8"),
        ((108, "f", (1e30,)), r"voxels begin at byte 1e\+30"),
        ((40, "h", (9,)), "announces (9|2304) axes"),
        ((40, "h", (0,)), "announces 0 axes"),
        ((40, "hh", (1, 6)), "found 1 spatial axis"),
        ((42, "h", (0,)), "0 x 5 x 4 voxels"),
        ((42, "h", (-6,)), "-6 x 5 x 4 voxels"),
        ((42, "hhh", (30000, 30000, 30000)), "truncated: its header announces 54000000000352 bytes"),
        ((70, "h", (1,)), "NIfTI type 1 "),
        ((70, "h", (99,)), "NIfTI type 99 "),
        ((70, "h", (32,)), "complex"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_headers_that_make_no_sense(
    tmp_path: Path, edit: tuple[int, str, tuple[float, ...]], message: str, zipped: bool
) -> None:
    file = _nifti(tmp_path / "i.nii", edit)
    if zipped:
        content = file.read_bytes()
        file = tmp_path / "i.nii.gz"
        file.write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=message) as error:
        read_image(file)
    assert str(error.value).startswith(str(file))


def test_a_pair_needs_both_of_its_files(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(VALUES, np.eye(4)), tmp_path / "i.img")
    assert np.array_equal(read_image(tmp_path / "i.hdr").data, read_image(tmp_path / "i.img").data)
    (tmp_path / "i.img").unlink()
    with pytest.raises(InputError, match=r"i\.hdr: its voxels are expected beside it in i\.img"):
        read_image(tmp_path / "i.hdr")
