"""`apply` and `convert`."""

from __future__ import annotations

import shutil

import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
import torch

from app.scenes import answer, bent, fails, files_in, run, volume_grid
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine, DisplacementField
from roireg.io import (
    PointSet,
    read_image,
    read_labels,
    read_pairs,
    read_points,
    read_transform,
    write_image,
    write_pairs,
    write_points,
    write_transform,
)
from support import make_grid, rotation

PLACES = np.random.default_rng(0).uniform(-30, 30, size=(50, 3))


def test_apply_warps_the_moving_image_back_onto_the_fixed_one(volume, tmp_path):
    out = tmp_path / "w.nii.gz"
    assert run("apply", volume.truth, volume.moving, "--reference", volume.fixed, "-o", out).exit_code == 0
    warped, fixed = read_image(out), read_image(volume.fixed)
    assert warped.grid.is_close(fixed.grid)
    inner = (slice(None), *(slice(3, -3),) * 3)
    torch.testing.assert_close(warped.data[inner], fixed.data[inner], atol=0.02, rtol=0)


def test_apply_inverse_undoes_apply(volume, tmp_path):
    out = tmp_path / "back.nii.gz"
    options = ("--reference", volume.moving, "--inverse", "-o", out)
    assert run("apply", volume.truth, volume.fixed, *options).exit_code == 0
    inner = (slice(None), *(slice(3, -3),) * 3)
    torch.testing.assert_close(read_image(out).data[inner], read_image(volume.moving).data[inner], atol=0.02, rtol=0)


def test_apply_to_labels_makes_no_new_label_and_keeps_integers(flat, tmp_path):
    out = tmp_path / "l.png"
    run("apply", flat.truth, flat.moving_labels, "--labels", "--reference", flat.fixed, "-o", out)
    warped, truth = read_labels(out).data, read_labels(flat.fixed_labels).data
    assert set(torch.unique(warped).tolist()) <= {0, 1, 2, 3}
    assert torch.equal(warped[:, 4:-4, 5:-5], truth[:, 4:-4, 5:-5])


def test_apply_doubts_a_label_map_that_is_not_called_one(flat, tmp_path):
    def told(image, *options):
        done = run("apply", flat.truth, image, "--reference", flat.fixed, "-o", tmp_path / "l.png", *options)
        assert done.exit_code == 0
        return "add --labels" in " ".join(done.stderr.split())

    write_image(
        tmp_path / "mask.png",
        Image.from_numpy(255 * (read_labels(flat.moving_labels).data[0].numpy() == 1).astype(np.uint8)),
    )
    assert told(flat.moving_labels)
    assert told(tmp_path / "mask.png")
    assert not told(flat.moving_labels, "--labels")
    assert not told(flat.moving_labels, "--interpolation", "nearest")
    assert not told(flat.moving)


def test_apply_maps_points_forward_and_back(flat, tmp_path):
    there, back = tmp_path / "there.csv", tmp_path / "back.csv"
    document = answer("apply", flat.truth, flat.fixed_points, "-o", there)
    assert document == {"out": str(there), "kind": "points", "count": 3}
    np.testing.assert_allclose(read_points(there).points, read_points(flat.moving_points).points, atol=1e-9)
    assert read_points(there).names == ("a", "b", "c")
    run("apply", flat.truth, there, "--inverse", "-o", back)
    np.testing.assert_allclose(read_points(back).points, read_points(flat.fixed_points).points, atol=1e-9)


def test_apply_fill_is_the_value_outside(flat, tmp_path):
    out = tmp_path / "f.png"
    far = tmp_path / "far.tfm"
    write_transform(far, Affine.translation([1000.0, 0]))
    run("apply", far, flat.moving, "--reference", flat.fixed, "--fill", 7, "-o", out)
    assert torch.unique(read_image(out).data).tolist() == [7]


def test_apply_says_what_is_missing_or_does_not_fit(flat, volume, tmp_path):
    out = tmp_path / "o.nii.gz"
    fails("apply", volume.truth, volume.moving, "-o", out, words=("--reference", "moving.nii.gz"))
    fails("apply", volume.truth, flat.fixed_points, "-o", out, words=("fixed_points.csv", "2D", "3D"))
    fails("apply", volume.truth, flat.moving, "--reference", flat.fixed, "-o", out, words=("2D", "truth.h5 is 3D"))
    fails(
        "apply", volume.moving, volume.moving, "--reference", volume.fixed, "-o", out, words=("displacement field",)
    )
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("name", ["t.h5", "t.tfm", "t.nii.gz"])
def test_convert_keeps_the_mapping(name, tmp_path):
    grid = make_grid((9, 8, 7), (3, 2, 4), rotation(3, 1), (-10, 5, 8))
    transform = bent(grid)
    write_transform(tmp_path / "in.h5", transform)
    assert run("convert", tmp_path / "in.h5", tmp_path / name).exit_code == 0
    # A sampled field is exact at its voxels; the composites are exact everywhere.
    points = grid.points() if name == "t.nii.gz" else PLACES
    mapped = read_transform(tmp_path / name).map_points(points)
    np.testing.assert_allclose(mapped, transform.map_points(points), atol=1e-4)


def test_convert_to_ants_and_back_by_prefix(tmp_path):
    grid = volume_grid()
    transform = bent(grid)
    write_transform(tmp_path / "in.h5", transform)
    written = answer("convert", tmp_path / "in.h5", "--ants", tmp_path / "x_")["written"]
    assert {p.rsplit("/", 1)[1] for p in written} == {
        "x_0GenericAffine.mat",
        "x_1Warp.nii.gz",
        "x_1InverseWarp.nii.gz",
    }
    run("convert", tmp_path / "x_", tmp_path / "back.h5")
    np.testing.assert_allclose(
        read_transform(tmp_path / "back.h5").map_points(PLACES), transform.map_points(PLACES), atol=1e-4
    )


def test_convert_inverse_of_an_affine_is_readable_by_itk(tmp_path):
    write_transform(tmp_path / "a.mat", Affine.translation([1.0, 2, 3]))
    run("convert", tmp_path / "a.mat", tmp_path / "i.tfm", "--inverse")
    assert sitk.ReadTransform(str(tmp_path / "i.tfm")).TransformPoint((0.0, 0, 0)) == (-1, -2, -3)


def test_convert_samples_an_affine_on_a_reference(volume, tmp_path):
    fails("convert", volume.truth, tmp_path / "w.mha", words=("w.mha", "no grid"))
    assert run("convert", volume.truth, tmp_path / "w.mha", "--reference", volume.fixed).exit_code == 0
    points = read_image(volume.fixed).grid.points()
    np.testing.assert_allclose(
        read_transform(tmp_path / "w.mha").map_points(points), points + volume.offset, atol=1e-4
    )


def test_convert_images_points_and_pairs(volume, tmp_path):
    run("convert", volume.fixed, tmp_path / "i.nrrd")
    assert torch.equal(read_image(tmp_path / "i.nrrd").data, read_image(volume.fixed).data)
    run("convert", volume.fixed_points, tmp_path / "p.mrk.json")
    np.testing.assert_allclose(read_points(tmp_path / "p.mrk.json").points, read_points(volume.fixed_points).points)
    masks = torch.zeros((1, 6, 6), dtype=torch.bool)
    masks[0, 2:4, 2:4] = True
    rois = ROISet(masks, Grid.pixels((6, 6)))
    write_pairs(tmp_path / "pairs", ROIPairs(rois, rois, (ROIPair(0, 0, 1.0, 0.5),)))
    run("convert", tmp_path / "pairs", tmp_path / "pairs.zip")
    assert read_pairs(tmp_path / "pairs.zip").pairs == read_pairs(tmp_path / "pairs").pairs


@pytest.mark.parametrize(("axis", "letter"), [(0, "z"), (1, "y"), (2, "x")])
def test_a_slice_keeps_its_voxels_spacing_and_place(axis, letter, tmp_path):
    grid = volume_grid()
    data = torch.arange(grid.size, dtype=torch.float32).reshape(1, *grid.shape)
    write_image(tmp_path / "v.nii.gz", Image(data, grid))
    assert run("convert", tmp_path / "v.nii.gz", tmp_path / "s.nii.gz", "--slice", f"{letter}=2").exit_code == 0
    found = read_image(tmp_path / "s.nii.gz")
    assert torch.equal(found.data, data.select(axis + 1, 2))
    np.testing.assert_allclose(found.grid.spacing, np.delete(grid.spacing, axis), rtol=1e-5)
    corner = [2 if a == axis else 0 for a in range(3)]
    across = int(np.abs(grid.direction[:, axis]).argmax())
    np.testing.assert_allclose(found.grid.origin, np.delete(grid.world_from_index(corner), across), atol=1e-4)


def test_a_slice_of_an_oblique_volume_keeps_its_spacing(tmp_path):
    grid = make_grid((4, 5, 6), (3, 2, 1.5), rotation(3, 3))
    write_image(tmp_path / "v.nii.gz", Image(torch.rand(1, 4, 5, 6), grid))
    run("convert", tmp_path / "v.nii.gz", tmp_path / "s.mha", "--slice", "z=3")
    np.testing.assert_allclose(
        read_image(tmp_path / "s.mha").grid.affine, np.array([[0, 1.5, 0], [2, 0, 0], [0, 0, 1]])
    )


def test_convert_names_mistakes(flat, volume, tmp_path):
    out = tmp_path / "o.nii.gz"
    fails("convert", volume.fixed, out, "--slice", "z=99", words=("z=99", "from 0 to 11"))
    fails("convert", volume.fixed, out, "--slice", "7", words=("z=10", "'7'"))
    fails("convert", flat.fixed, out, "--slice", "z=0", words=("2D already",))
    fails("convert", volume.fixed, words=("OUT", "--ants"))
    fails("convert", volume.fixed, out, "--kind", "movie", words=("--kind", "'movie'"))
    fails("convert", volume.fixed_points, tmp_path / "p.csv", "--frame", 1, words=("--frame", "points"))
    fails("convert", tmp_path / "none.h5", out, words=("none.h5", "no such file"))
    fails("convert", volume.fixed, tmp_path / "o.png", words=("o.png", "3D"))
    assert files_in(tmp_path) == set()


def test_names_of_points_survive(tmp_path):
    write_points(tmp_path / "a.csv", PointSet(np.ones((2, 3)), ("left", "right")))
    run("convert", tmp_path / "a.csv", tmp_path / "b.fcsv")
    assert read_points(tmp_path / "b.fcsv").names == ("left", "right")


def test_a_voxel_size_of_its_own(volume, tmp_path):
    out = tmp_path / "w.nii.gz"
    options = ("--reference", volume.fixed, "--spacing", "2,2,4", "-o", out)
    assert run("apply", volume.truth, volume.moving, *options).exit_code == 0
    fixed, found = read_image(volume.fixed).grid, read_image(out).grid
    np.testing.assert_allclose(found.extent, fixed.extent, rtol=1e-5)
    assert found.is_close(fixed.with_spacing([4, 2, 2]), tolerance=1e-4)
    odd = (*options[:3], "1.7", "-o", tmp_path / "odd.nii.gz")
    assert run("apply", volume.truth, volume.moving, *odd).exit_code == 0
    found = read_image(tmp_path / "odd.nii.gz").grid
    np.testing.assert_allclose(found.spacing, 1.7, rtol=1e-6)
    np.testing.assert_allclose(found.center, fixed.center, atol=1e-4)
    assert np.abs(found.extent - fixed.extent).max() <= 0.85
    for bad in ("0", "1,2", "-1,1,1"):
        fails("apply", volume.truth, volume.moving, "--reference", volume.fixed, "--spacing", bad, "-o", out, words=("--spacing",))  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(("interpolation", "worst"), [("bspline", 1e-3), ("lanczos", 5e-3), ("linear", 0.1)])
def test_higher_interpolations_follow_a_smooth_image(interpolation, worst, tmp_path):
    grid = make_grid((24, 24, 24))
    wave = torch.from_numpy(np.sin(grid.points() @ [0.5, 0.3, 0.4]).reshape(1, *grid.shape)).float()
    write_image(tmp_path / "wave.nii.gz", Image(wave, grid))
    write_transform(tmp_path / "half.tfm", Affine.translation([0.5, 0.5, 0.5]))
    out = tmp_path / "w.nii.gz"
    options = ("--reference", tmp_path / "wave.nii.gz", "--interpolation", interpolation, "-o", out)
    assert run("apply", tmp_path / "half.tfm", tmp_path / "wave.nii.gz", *options).exit_code == 0
    expected = np.sin((grid.points() + 0.5) @ [0.5, 0.3, 0.4]).reshape(grid.shape)
    inner = (slice(8, -8),) * 3
    assert np.abs(read_image(out).data[0].numpy() - expected)[inner].max() < worst


def test_points_go_through_the_first_transform_first_as_in_ants(tmp_path):
    write_transform(tmp_path / "stretch.tfm", Affine(np.diag([2.0, 1, 1, 1])))
    write_transform(tmp_path / "shift.tfm", Affine.translation([10.0, 0, 0]))
    write_points(tmp_path / "p.csv", PointSet(np.array([[1.0, 2, 3]])))
    out = tmp_path / "o.csv"
    names = ("-t", tmp_path / "stretch.tfm", "-t", tmp_path / "shift.tfm")
    assert run("apply", tmp_path / "p.csv", *names, "-o", out).exit_code == 0
    assert read_points(out).points.tolist() == [[12, 2, 3]]
    assert run("apply", out, *names, "--inverse", "-o", tmp_path / "back.csv").exit_code == 0
    np.testing.assert_allclose(read_points(tmp_path / "back.csv").points, [[1, 2, 3]], atol=1e-12)
    names = ("-t", f"i:{tmp_path / 'shift.tfm'}", "-t", tmp_path / "stretch.tfm")
    assert run("apply", tmp_path / "p.csv", *names, "-o", out).exit_code == 0
    assert read_points(out).points.tolist() == [[-18, 2, 3]]
    fails("apply", tmp_path / "stretch.tfm", tmp_path / "p.csv", *names, "-o", out, words=("IMAGE beside -t",))
    fails("apply", tmp_path / "p.csv", "-o", out, words=("TRANSFORM and IMAGE",))


def test_a_matrix_of_flirt_takes_the_images_at_hand(volume, tmp_path):
    """FLIRT's identity lays the first voxels on each other, as far as the voxel sizes go."""
    (tmp_path / "f.mat").write_text("1  0  0  0  \n0  1  0  0  \n0  0  1  0  \n0  0  0  1  \n")
    out = tmp_path / "w.nii.gz"
    options = ("--reference", volume.fixed, "-o", out)
    assert run("apply", f"fsl:{tmp_path / 'f.mat'}", volume.moving, *options).exit_code == 0
    torch.testing.assert_close(read_image(out).data, read_image(volume.moving).data, atol=1e-3, rtol=0)
    assert (
        run("convert", f"fsl:{tmp_path / 'f.mat'}", tmp_path / "f.h5", "--fixed", volume.fixed, "--moving", volume.moving).exit_code == 0  # noqa: E501
    )  # fmt: skip
    fails("convert", f"fsl:{tmp_path / 'f.mat'}", tmp_path / "g.h5", words=("--fixed", "--moving"))
    fails("apply", tmp_path / "f.mat", volume.moving, *options, words=("ras:FILE",))


def test_a_value_the_type_cannot_hold_is_refused(flat, volume, tmp_path):
    out = tmp_path / "o.png"
    for fill in ("nan", "1e12", "0.5"):
        options = ("--labels", "--reference", flat.fixed, "--fill", fill, "-o", out)
        fails("apply", flat.truth, flat.moving_labels, *options, words=("--fill", "labels are int32"))
    fails(
        "apply", flat.truth, flat.moving, "--reference", flat.fixed, "--fill", 300, "-o", out, words=("uint8", "255")
    )
    fails("apply", flat.truth, flat.moving, "--reference", flat.fixed, "--fill", "sky", "-o", out, words=("auto",))
    fails("apply", flat.truth, flat.moving_labels, "--labels", "--interpolation", "linear", "--reference", flat.fixed, "-o", out, words=("nearest label",))  # fmt: skip  # noqa: E501
    assert files_in(tmp_path) == set()


def test_points_beyond_a_field_are_told(tmp_path):
    grid = make_grid((8, 8, 8))
    write_transform(tmp_path / "f.nii.gz", DisplacementField(grid, torch.full((3, 8, 8, 8), 5.0)))
    write_points(tmp_path / "p.csv", PointSet(np.array([[1.0, 2, 3], [90, 0, 0]]), ("in", "far")))
    done = run("apply", tmp_path / "f.nii.gz", tmp_path / "p.csv", "-o", tmp_path / "o.csv")
    assert done.exit_code == 0
    assert "does not move them: far" in " ".join(done.stderr.split())
    assert read_points(tmp_path / "o.csv").points.tolist() == [[6, 7, 8], [90, 0, 0]]


def test_convert_deletes_nothing_of_others(flat, tmp_path):
    (tmp_path / "pp").mkdir()
    (tmp_path / "pp" / "mine.txt").write_text("precious")
    rois = ROISet(torch.ones((1, 6, 6), dtype=torch.bool), Grid.pixels((6, 6)))
    write_pairs(tmp_path / "pairs", ROIPairs(rois, rois, (ROIPair(0, 0, 1.0, 0.5),)))
    run("convert", tmp_path / "pairs", tmp_path / "pp")
    assert (tmp_path / "pp" / "mine.txt").read_text(encoding="utf-8") == "precious"
    before = flat.truth.read_bytes()
    fails("convert", flat.truth, flat.truth, words=("truth.h5",))
    assert flat.truth.read_bytes() == before


def test_a_file_that_is_read_is_not_replaced_by_any_of_its_names(flat, tmp_path):
    image, points = tmp_path / "a.png", tmp_path / "p.csv"
    shutil.copy(flat.fixed, image)
    shutil.copy(flat.fixed_points, points)
    (tmp_path / "hard.png").hardlink_to(image)
    (tmp_path / "soft.png").symlink_to(image)
    (tmp_path / "other.png").symlink_to(flat.moving)
    run("convert", flat.truth, "--ants", tmp_path / "x_")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for name in ("a.png", "hard.png", "soft.png"):
        fails("convert", image, tmp_path / name, words=(name, "is an input"))
        fails("apply", flat.truth, flat.moving, "--reference", image, "-o", tmp_path / name, words=("is an input",))
    fails("convert", image, tmp_path / "other.png", words=("other.png", "is a link", "moving.png"))
    fails("apply", points, "-t", flat.truth, "-o", points, words=("p.csv", "is an input"))
    matrix = tmp_path / "x_0GenericAffine.mat"
    fails("convert", tmp_path / "x_", matrix, words=("is an input",))
    fails("convert", f"i:{matrix}", "--ants", tmp_path / "x_", words=("is an input",))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_part_of_a_result_is_not_replaced(flat, tmp_path, quick):
    out = tmp_path / "out"
    assert run("register", flat.fixed, flat.moving, "-o", out, *quick).exit_code == 0
    fails("convert", flat.truth, out / "transform.h5", words=("transform.h5", "part of the result"))
    for _ in range(2):
        assert run("apply", out, flat.fixed_points, "-o", out / "moved.csv").exit_code == 0


def test_transform_of_thumbnails_on_full_images(tmp_path):
    """A shift of 3 thumbnail pixels is one of 15 pixels of images five times as large."""
    rng = np.random.default_rng(0)
    full = rng.integers(0, 255, (100, 150)).astype(np.uint8)
    PIL.Image.fromarray(full).save(tmp_path / "moving.png")
    PIL.Image.fromarray(full[:, :100]).save(tmp_path / "fixed.png")
    field = DisplacementField(Grid.pixels((20, 20)), torch.stack([torch.full((20, 20), 3.0), torch.zeros(20, 20)]))
    write_transform(tmp_path / "thumb.h5", field)
    base = ["apply", tmp_path / "thumb.h5", tmp_path / "moving.png", "--reference", tmp_path / "fixed.png", "-o"]
    done = run(*base, tmp_path / "x.png", "--fixed-scale", "5", "--moving-scale", "5")
    assert done.exit_code == 0, done.output
    assert np.array_equal(read_image(tmp_path / "x.png").data[0].numpy(), full[:, 15:115])
    assert "fixed-scale" not in done.output
    unscaled = run(*base, tmp_path / "y.png")
    assert "about 5 times as large" in " ".join(unscaled.output.split())
    (tmp_path / "p.csv").write_text("x,y\n30,40\n")
    run("apply", tmp_path / "thumb.h5", tmp_path / "p.csv", "-o", tmp_path / "q.csv", *["--fixed-scale", "5"])
    assert read_points(tmp_path / "q.csv").points[0] == pytest.approx(
        ((30 + 0.5) / 5 - 0.5 + 3, (40 + 0.5) / 5 - 0.5)
    )
    wrong = run(*base, tmp_path / "z.png", "--moving-scale", "0")
    assert wrong.exit_code == 2
    assert "moving scale is a positive number" in wrong.output
