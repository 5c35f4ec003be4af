"""`apply` and `convert`."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from app.scenes import answer, bent, fails, files_in, run, volume_grid
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine
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
