"""`roireg.apply`: the same image as by the command and as by SimpleITK, from every form of a transform."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import roireg
from cheaper import UNJUDGED
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine
from roireg.core.warp import warp
from roireg.io import write_image, write_transform

SHIFT = Affine.translation([2.0, -1.0, 3.0])


@pytest.fixture(scope="module")
def moving() -> roireg.Image:
    values = np.random.default_rng(0).integers(0, 900, (7, 9, 11)).astype(np.int16)
    values[0] = values[-1] = 0
    return roireg.Image.from_numpy(values, spacing=(3.0, 2.0, 1.0), origin=(5, 6, 7), name="scan")


@pytest.fixture(scope="module")
def fixed() -> roireg.Image:
    return roireg.Image.from_numpy(np.zeros((6, 8, 10), np.uint8), spacing=(2.5, 2.0, 1.5), origin=(4, 7, 6))


def test_it_is_what_simpleitk_resamples(fixed, moving):
    moved = roireg.to_sitk(roireg.apply(SHIFT, moving, fixed, fill=-7))
    expected = sitk.Resample(
        sitk.Cast(roireg.to_sitk(moving), sitk.sitkFloat32),
        roireg.to_sitk(fixed),
        roireg.to_sitk(SHIFT),
        sitk.sitkLinear,
        -7.0,
    )
    assert moved.GetPixelID() == sitk.sitkInt16 and moved.GetOrigin() == expected.GetOrigin()
    assert np.abs(sitk.GetArrayFromImage(moved) - sitk.GetArrayFromImage(expected)).max() <= 0.51


def test_every_form_of_a_transform_is_one(fixed, moving, tmp_path):
    write_transform(tmp_path / "shift.tfm", SHIFT)
    expected = roireg.apply(SHIFT, moving, fixed).data
    half = Affine.translation([1.0, -0.5, 1.5])
    for form in (
        str(tmp_path / "shift.tfm"),
        tmp_path / "shift.tfm",
        roireg.to_sitk(SHIFT),
        [half, half],
    ):
        assert torch.allclose(roireg.apply(form, moving, fixed).data, expected, atol=1e-3)


def test_the_inverse_of_several_goes_back_in_the_other_order(fixed, moving):
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    moved = roireg.apply([SHIFT, Affine(turn)], fixed, moving, inverse=True, fill=0)
    back = Affine(np.linalg.inv(turn @ SHIFT.matrix))
    assert torch.equal(moved.data, warp(fixed, back, moving.grid, fill=0).data)


def test_results_and_their_folders_are_transforms(moving, tmp_path):
    config = roireg.Config(stages=(), verdict=UNJUDGED)
    shifted = roireg.Image.from_numpy(moving.to_numpy(), spacing=(3.0, 2.0, 1.0), origin=(6, 6, 7))
    result = roireg.register(shifted, moving, config=config, init=Affine.translation([-1.0, 0, 0]))
    result.save(tmp_path / "out", only=["transform", "result"])
    for form in (result, roireg.load(tmp_path / "out"), tmp_path / "out", str(tmp_path / "out")):
        assert torch.allclose(roireg.apply(form, moving, shifted).data, moving.data, atol=1e-2)
        assert torch.allclose(roireg.apply(form, shifted, moving, inverse=True).data, moving.data, atol=1e-2)


def test_label_maps_get_no_new_labels(fixed, moving):
    labels = np.where(moving.to_numpy() > 400, 7, 3).astype(np.uint8)
    moved = roireg.apply(SHIFT, (labels, (3.0, 2.0, 1.0)), fixed, labels=True)
    assert moved.data.dtype == torch.int32
    assert set(np.unique(moved.data)) <= {0, 3, 7}


def test_files_grids_and_spacing(fixed, moving, tmp_path):
    write_image(tmp_path / "moving.nii.gz", moving)
    write_image(tmp_path / "fixed.nii.gz", fixed)
    expected = roireg.apply(SHIFT, moving, fixed)
    by_file = roireg.apply(SHIFT, tmp_path / "moving.nii.gz", str(tmp_path / "fixed.nii.gz"))
    assert torch.allclose(by_file.data, expected.data, atol=1e-2)
    assert torch.equal(roireg.apply(SHIFT, moving, fixed.grid).data, expected.data)
    np.testing.assert_allclose(roireg.apply(SHIFT, moving, fixed, spacing=(5, 4, 3)).grid.spacing, [5, 4, 3])
    np.testing.assert_allclose(roireg.apply(SHIFT, moving, fixed, spacing=1.1).grid.spacing, [1.1, 1.1, 1.1])


def test_outside_is_what_lies_around_the_object(fixed, moving):
    far = Affine.translation([1e4, 0, 0])
    assert set(np.unique(roireg.apply(far, moving, fixed).data)) == {0}
    air = moving.with_data(moving.data - 1024)
    assert set(np.unique(roireg.apply(far, air, fixed).data)) == {-1024}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"interpolation": "cubic"}, "interpolation is nearest"),
        ({"labels": True, "interpolation": "linear"}, "nearest label"),
        ({"fill": "black"}, "'auto' or a number"),
        ({"fill": 1e9}, "int16"),
        ({"spacing": -1}, "positive number"),
        ({"spacing": (1, 2)}, "each of 3 axes"),
        ({"spacing": 1e-9}, "voxels of the reference"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(fixed, moving, options, words):
    with pytest.raises(InputError, match=words):
        roireg.apply(SHIFT, moving, fixed, **options)


def test_wrong_inputs_are_refused(fixed, moving):
    with pytest.raises(GeometryError, match="3D but the transform is 2D"):
        roireg.apply(Affine.identity(2), moving, fixed)
    with pytest.raises(TypeError, match="transform of SimpleITK"):
        roireg.apply(np.eye(4), moving, fixed)
    with pytest.raises(InputError, match="at least one"):
        roireg.apply([], moving, fixed)
    with pytest.raises(InputError, match="no such file"):
        roireg.apply("nowhere.h5", moving, Grid.pixels((4, 4, 4)))
