"""Every class of bad input through the command line: a clear sentence, exit code 2, nothing written."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
import torch

from app.scenes import Scene, fails, files_in, run, volume_grid
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine
from roireg.io import PointSet, read_image, write_image, write_labels, write_pairs, write_points, write_transform
from roireg.jobs.files import check_image
from support import blobs


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a test writes its bad inputs; the output goes beside it."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    return folder


def refused(tmp_path: Path, *arguments: object, words: tuple[str, ...], out: Path | None = None) -> str:
    """Register, expecting a refusal that leaves every file of `tmp_path` as it was."""
    before = files_in(tmp_path)
    line = fails("register", *arguments, "-o", out or tmp_path / "new" / "out", words=words)
    assert files_in(tmp_path) == before
    return line


def moved(image: Image, offset: tuple[float, ...]) -> Image:
    affine = image.grid.affine.copy()
    affine[:-1, -1] += offset
    return image.with_data(image.data, Grid(image.grid.shape, affine))


# -- files ----------------------------------------------------------------------------------------


def test_missing_file(flat, tmp_path):
    refused(tmp_path, flat.fixed, tmp_path / "none.png", words=("none.png", "no such file", "check the path"))


def test_not_an_image(flat, place, tmp_path):
    (place / "notes.nii.gz").write_text("this is no image")
    refused(tmp_path, flat.fixed, place / "notes.nii.gz", words=("notes.nii.gz", "the file is text", "expected"))
    (place / "noise.nii.gz").write_bytes(np.random.default_rng(0).bytes(400))
    refused(tmp_path, flat.fixed, place / "noise.nii.gz", words=("noise.nii.gz", "not a .nii.gz image", "expected"))


@pytest.mark.parametrize("text", ["{}", "x,y\n1,2\n", "Schädel, Seite links", "ä" * 300, "\ufeffnotes"])
def test_text_is_no_image_before_anything_is_loaded(text, place):
    (place / "notes.dat").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="the file is text"):
        check_image(place / "notes.dat")


@pytest.mark.parametrize(
    "first",
    [
        b"NRRD0004\n",
        b"ObjectType = Image\n",
        b"# vtk DataFile Version 3.0\n",
        b"\x89PNG\r\n",
        b"hello\0",
        b"\xff\xfe",
    ],
)
def test_headers_in_text_and_bytes_are_left_to_the_readers(first, place):
    (place / "image").write_bytes(first)
    check_image(place / "image")


def test_empty_file(flat, place, tmp_path):
    (place / "empty.png").touch()
    refused(tmp_path, place / "empty.png", flat.moving, words=("empty.png", "the file is empty", "again"))


@pytest.mark.parametrize("value", [-np.inf, np.inf])
@pytest.mark.parametrize("name", ["bad.nii.gz", "bad.mha"])
def test_values_that_are_not_finite(value, name, volume, place, tmp_path):
    image = read_image(volume.moving)
    data = image.data.clone()
    data[0, 3, 4, 5] = value
    write_image(place / name, image.with_data(data))
    refused(tmp_path, volume.fixed, place / name, words=(name, "1 infinite", "replace them"))


def test_constant_image(flat, place, tmp_path):
    image = read_image(flat.moving)
    write_image(place / "flat.png", image.with_data(torch.full_like(image.data, 7)))
    refused(tmp_path, flat.fixed, place / "flat.png", words=("flat.png", "every voxel has the value 7"))


def test_dicom_folder_with_two_series(volume, place, tmp_path):
    _dicom(place, "1.2.3.1", "T1")
    _dicom(place, "1.2.3.2", "T2")
    line = refused(tmp_path, volume.fixed, place, words=("2 DICOM series", "1.2.3.1", "1.2.3.2", "T1", "::"))
    assert str(place) in line


def _dicom(folder: Path, uid: str, description: str) -> None:
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(3):
        plane = sitk.GetImageFromArray(np.full((8, 8), 10 * k, dtype=np.int16))
        tags = {
            "0008|0060": "MR",
            "0008|103e": description,
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0032": f"0\\0\\{2 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k),
            "0008|0018": f"{uid}.{k + 1}",
        }
        for key, value in tags.items():
            plane.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{description}_{k}.dcm"))
        writer.Execute(plane)


def test_a_volume_of_no_slices(volume, place, tmp_path):
    # No library writes such files, so the headers are made by hand (nifti1.h, NRRD and MetaImage as text).
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 8, 8, 0, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = b"n+1\0"
    (place / "none.nii").write_bytes(bytes(header) + bytes(128))
    (place / "none.mha").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 8 8 0\nElementType = MET_SHORT\nElementSpacing = 1 1 1\n"
        "ElementDataFile = LOCAL\n"
    )
    (place / "none.nrrd").write_text("NRRD0004\ntype: short\ndimension: 3\nsizes: 8 8 0\nencoding: raw\n\n")
    refused(tmp_path, volume.fixed, place / "none.nii", words=("none.nii",))
    refused(tmp_path, volume.fixed, place / "none.mha", words=("none.mha", "at least one voxel"))
    refused(tmp_path, volume.fixed, place / "none.nrrd", words=("none.nrrd", "at least one voxel"))


# -- dimensions -----------------------------------------------------------------------------------


def four_d(path: Path, image: Image, frames: int = 3) -> None:
    stack = [sitk.GetImageFromArray(image.data[0].numpy() * (1 + 0.1 * k)) for k in range(frames)]
    for one in stack:
        _, spacing, origin, direction = image.grid.itk
        one.SetSpacing(spacing)
        one.SetOrigin(origin)
        one.SetDirection(direction)
    sitk.WriteImage(sitk.JoinSeries(stack), str(path))


def test_4d_volume(volume, place, tmp_path):
    four_d(place / "cine.nii.gz", read_image(volume.moving))
    words = ("cine.nii.gz", "4D", "3 frames", "--frame N")
    refused(tmp_path, volume.fixed, place / "cine.nii.gz", words=words)
    refused(tmp_path, volume.fixed, place / "cine.nii.gz", "--frame", 3, words=("no frame 3", "from 0 to 2"))
    refused(tmp_path, volume.fixed, place / "cine.nii.gz", "--frame", "x", words=("--frame", "'x'"))


def test_4d_volume_with_a_frame_works(volume, place, tmp_path, quick):
    four_d(place / "cine.nii.gz", read_image(volume.moving))
    arguments = (volume.fixed, place / "cine.nii.gz", "--frame", 1, *quick, "-o", tmp_path / "out")
    assert run("register", *arguments).exit_code in (0, 3)
    assert (tmp_path / "out" / "transform.h5").is_file()


def test_2d_against_3d(flat, volume, tmp_path):
    words = ("fixed.png is 2D (56 x 48 pixels)", "3D (16 x 20 x 12 voxels)", "--slice z=N")
    refused(tmp_path, flat.fixed, volume.moving, words=words)
    refused(tmp_path, volume.moving, flat.fixed, words=words)


@pytest.mark.parametrize(("axis", "letter"), [(0, "z"), (2, "x")])
def test_single_slice(axis, letter, volume, place, tmp_path):
    image = read_image(volume.moving)
    shape = [n if a != axis else 1 for a, n in enumerate(image.grid.shape)]
    data = image.data.narrow(axis + 1, 4, 1).clone()
    write_image(place / "one.nii.gz", image.with_data(data, Grid(tuple(shape), image.grid.affine)))
    line = refused(tmp_path, volume.fixed, place / "one.nii.gz", words=("one.nii.gz", "single slice", "convert"))
    # The advice in the message must work as it is printed.
    advice = line.split("`")[1].replace("slice.nii.gz", str(tmp_path / "slice.nii.gz")).split()
    assert advice[-1] == f"{letter}=0"
    assert run(*advice[1:]).exit_code == 0
    assert read_image(tmp_path / "slice.nii.gz").ndim == 2


def test_one_pixel_wide(flat, place, tmp_path):
    image = read_image(flat.moving)
    write_image(place / "line.png", image.with_data(image.data[:, :, :1].clone(), Grid.pixels((48, 1))))
    refused(tmp_path, flat.fixed, place / "line.png", words=("line.png", "one voxel wide along x"))


# -- masks, labels, points ------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_empty_mask(side, flat, place, tmp_path):
    grid = Grid.pixels((48, 56))
    write_labels(place / "mask.png", Image(torch.zeros((1, 48, 56), dtype=torch.int32), grid))
    arguments = (flat.fixed, flat.moving, f"--{side}-mask", place / "mask.png")
    refused(tmp_path, *arguments, words=("mask.png", f"mask of the {side} image is empty"))


def _half(place: Path, name: str, columns: slice) -> Path:
    data = torch.zeros((1, 48, 56), dtype=torch.int32)
    data[:, :, columns] = 1
    write_labels(place / name, Image(data, Grid.pixels((48, 56))))
    return place / name


def test_masks_without_overlap(flat, place, tmp_path):
    left, right = _half(place, "left.png", slice(0, 20)), _half(place, "right.png", slice(30, 56))
    arguments = (flat.fixed, flat.moving, "--fixed-mask", left, "--moving-mask", right)
    refused(tmp_path, *arguments, words=("left.png", "right.png", "no voxel in common", "--init FILE"))


@pytest.mark.parametrize("option", ["--fixed-labels", "--fixed-mask", "--fixed-rois"])
def test_label_map_with_another_grid_than_its_image(option, volume, place, tmp_path):
    _, labels = blobs(volume_grid())
    write_labels(place / "shifted.nii.gz", moved(labels, (0, 0, 3.0)))
    arguments = (volume.fixed, volume.moving, option, place / "shifted.nii.gz")
    if option == "--fixed-rois":
        arguments += ("--moving-rois", volume.moving_labels)
    words = ("shifted.nii.gz", "another grid than its image", "fixed.nii.gz", "3 mm apart", "resample")
    refused(tmp_path, *arguments, words=words)
    _, coarse = blobs(volume_grid().with_shape((12, 20, 8)))
    write_labels(place / "coarse.nii.gz", coarse)
    arguments = tuple(place / "coarse.nii.gz" if a == place / "shifted.nii.gz" else a for a in arguments)
    refused(tmp_path, *arguments, words=("coarse.nii.gz", "8 x 20 x 12 voxels against 16 x 20 x 12"))


def test_label_map_of_another_dimension(flat, volume, tmp_path):
    arguments = (volume.fixed, volume.moving, "--moving-labels", flat.moving_labels)
    refused(tmp_path, *arguments, words=("moving_labels.png", "2D", "3D"))


def test_regions_of_one_side_alone_and_regions_that_share_no_label(flat, place, tmp_path):
    arguments = (flat.fixed, flat.moving, "--fixed-rois", flat.fixed_labels)
    refused(tmp_path, *arguments, words=("fixed_labels.png", "--moving-rois"))
    _, labels = blobs(Grid.pixels((48, 56)))
    write_labels(place / "other.png", labels.with_data(torch.where(labels.data > 0, labels.data + 10, 0)))
    arguments += ("--moving-rois", place / "other.png")
    refused(tmp_path, *arguments, words=("share no label", "fixed 1, 2, 3", "moving 11, 12, 13"))


def test_points_of_another_dimension_or_number(flat, volume, place, tmp_path):
    arguments = (flat.fixed, flat.moving, "--fixed-points", volume.fixed_points)
    refused(tmp_path, *arguments, words=("fixed_points.csv", "3 coordinates", "2D", "x,y"))
    write_points(place / "two.csv", PointSet(np.ones((2, 2))))
    arguments = (flat.fixed, flat.moving, "--fixed-points", flat.fixed_points, "--moving-points", place / "two.csv")
    refused(tmp_path, *arguments, words=("two.csv", "2 points", "3 in"))


# -- the start ------------------------------------------------------------------------------------


def test_images_without_overlap_offer_the_centers_start(volume, place, tmp_path, quick):
    write_image(place / "far.nii.gz", moved(read_image(volume.moving), (500.0, 0, 0)))
    words = ("fixed.nii.gz", "far.nii.gz", "share no part of space", "--init centers", "x -20.75 to 3.25")
    refused(tmp_path, volume.fixed, place / "far.nii.gz", words=words)
    arguments = (volume.fixed, place / "far.nii.gz", "--init", "centers", *quick, "-o", tmp_path / "out")
    assert run("register", *arguments).exit_code in (0, 3)
    assert (tmp_path / "out" / "transform.h5").is_file()


def test_a_start_that_leads_away(volume, place, tmp_path):
    write_transform(place / "away.tfm", Affine.translation([0, 900.0, 0]))
    arguments = (volume.fixed, volume.moving, "--init", place / "away.tfm")
    refused(tmp_path, *arguments, words=("under the initial transform", "fixed points to moving points"))


def test_singular_initial_transform(volume, place, tmp_path):
    text = "\n".join(
        [
            "#Insight Transform File V1.0",
            "#Transform 0",
            "Transform: AffineTransform_double_3_3",
            "Parameters: 1 0 0 0 1 0 0 0 0 1 2 3",
            "FixedParameters: 0 0 0",
            "",
        ]
    )
    (place / "flat.tfm").write_text(text)
    arguments = (volume.fixed, volume.moving, "--init", place / "flat.tfm")
    refused(tmp_path, *arguments, words=("flat.tfm", "singular"))


def test_initial_transform_of_another_dimension_or_name(flat, volume, tmp_path):
    arguments = (volume.fixed, volume.moving, "--init", flat.truth)
    refused(tmp_path, *arguments, words=("the initial transform is 2D", "3D"))
    refused(tmp_path, volume.fixed, volume.moving, "--init", "middle", words=("--init", "centers", "'middle'"))
    refused(tmp_path, volume.fixed, volume.moving, "--init", tmp_path / "no.tfm", words=("no.tfm", "no such file"))


# -- pairs, settings, output ----------------------------------------------------------------------


def _pairs(place: Path, fixed: Grid, moving: Grid, status: str = "proposed") -> Path:
    rois = [ROISet.from_labels(blobs(grid)[1].data[0], grid) for grid in (moving, fixed)]
    write_pairs(place / "pairs", ROIPairs(rois[0], rois[1], (ROIPair(0, 0, 1.0, 1.0, status=status),)))
    return place / "pairs"


def test_pairs_that_do_not_fit(flat, place, tmp_path):
    grid, other = Grid.pixels((48, 56)), Grid.pixels((30, 40))
    arguments = (flat.fixed, flat.moving, "--pairs")
    words = ("pairs do not fit", "moving.png", "40 x 30", "56 x 48")
    refused(tmp_path, *arguments, _pairs(place, grid, other), words=words)
    none = (_pairs(place, grid, grid, "rejected"), "--pairs-only")
    refused(tmp_path, *arguments, *none, words=("every ROI pair is rejected", "leave --pairs-only out"))
    refused(tmp_path, *arguments, place / "none", words=("none", "no such file or folder"))
    refused(tmp_path, *arguments, tmp_path, words=("pairs.json",))


def test_pairs_with_sides_swapped(volume, place, tmp_path):
    near = volume_grid()
    far = moved(read_image(volume.moving), (5.0, 0, 0))
    write_image(place / "far.nii.gz", far)
    arguments = (volume.fixed, place / "far.nii.gz", "--pairs", _pairs(place, far.grid, near))
    refused(tmp_path, *arguments, words=("fixed.nii.gz", "look swapped"))


def test_unknown_preset(flat, tmp_path):
    refused(tmp_path, flat.fixed, flat.moving, "--preset", "best", words=("'best'", "default", "samreg"))


def test_bad_config_names_the_entry(flat, place, tmp_path):
    (place / "settings.yaml").write_text("colour: blue\n")
    arguments = (flat.fixed, flat.moving, "--config")
    refused(tmp_path, *arguments, place / "settings.yaml", words=("settings.yaml", "colour"))
    (place / "broken.yaml").write_text("fit: [1, 2\n")
    refused(tmp_path, *arguments, place / "broken.yaml", words=("broken.yaml",))
    refused(tmp_path, *arguments, place / "none.yaml", words=("none.yaml", "no such file or folder"))


def test_an_image_in_the_place_of_a_label_map(place, tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    PIL.Image.fromarray(values).save(place / "scan.png")
    scan = place / "scan.png"
    words = ("scan.png", "values or more that change from voxel to voxel", "expected one value")
    refused(tmp_path, scan, scan, "--fixed-rois", scan, "--moving-rois", scan, words=words)
    refused(tmp_path, scan, scan, "--moving-labels", scan, words=words)


def test_unknown_output_and_device(flat, tmp_path):
    refused(tmp_path, flat.fixed, flat.moving, "--only", "film", words=("--only", "report", "film"))
    refused(tmp_path, flat.fixed, flat.moving, "--device", "abacus", words=("'abacus'", "cpu"))


def test_output_that_is_a_file_or_below_one(flat, place, tmp_path):
    (place / "out").write_text("mine")
    refused(tmp_path, flat.fixed, flat.moving, words=("inputs/out", "a file has this name"), out=place / "out")
    refused(
        tmp_path, flat.fixed, flat.moving, words=("out/deeper", "cannot write here"), out=place / "out" / "deeper"
    )
    assert (place / "out").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a file system that takes no files (/proc)")
def test_output_where_no_file_can_be_made(flat, tmp_path):
    refused(tmp_path, flat.fixed, flat.moving, words=("cannot write here",), out=Path("/proc/roireg_out"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions bind neither root nor Windows")
def test_output_without_permission(flat, place, tmp_path):
    place.chmod(0o500)
    refused(tmp_path, flat.fixed, flat.moving, words=("Permission denied",), out=place / "out")
    place.chmod(0o700)


# -- the same from a shell and from Python --------------------------------------------------------


def test_from_a_shell(flat, tmp_path):
    command = [sys.executable, "-m", "roireg.app.cli", "register", str(flat.fixed), "none.png", "-o", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: none.png: no such file or folder; check the path\n"
    assert files_in(tmp_path) == set()


def test_python_raises_the_same_sentences(flat: Scene, volume: Scene, tmp_path):
    import roireg

    fixed, moving = roireg.read(flat.fixed), roireg.read(volume.moving)
    line = refused(tmp_path, flat.fixed, volume.moving, words=("2D", "3D"))
    with pytest.raises(GeometryError) as caught:
        roireg.register(fixed, moving)
    # What to do is said in the words of either.
    assert line.partition(": take one slice")[0] == f"error: {caught.value}".partition(": take one slice")[0]
    with pytest.raises(InputError, match="'middle'"):
        roireg.register(fixed, fixed, init="middle")
