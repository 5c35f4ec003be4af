"""Images and transforms of other libraries: voxels keep their place and value, on the way in and back."""

from __future__ import annotations

import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
import torch

from roireg.core.errors import GeometryError, InputError, InputTypeError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, DisplacementField
from roireg.io import as_image, as_labels, as_transform, read_image, to_nibabel, to_sitk, write_image
from support import axis_orders, rotation

RNG = np.random.default_rng(0)
VALUES = RNG.integers(-500, 1500, (4, 5, 6)).astype(np.int16)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def oblique(channels: int = 1) -> Image:
    grid = Grid.from_itk((6, 5, 4), (0.7, 1.5, 3.0), (12.0, -30.0, 7.0), rotation(3, 1))
    values = torch.from_numpy(RNG.integers(-500, 1500, (channels, 4, 5, 6)).astype(np.float32))
    return Image(values, grid, dtype="int16")


def same_image(a: Image, b: Image) -> None:
    assert a.grid.is_close(b.grid, tolerance=1e-5)
    assert a.dtype == b.dtype
    assert torch.equal(a.data, b.data)


# -- arrays ---------------------------------------------------------------------------------------


def test_spacings_follow_the_axes_of_the_array():
    image = as_image((VALUES, (3.0, 1.5, 0.7)), "scan")
    assert image.unit == "mm" and image.dtype == "int16" and image.name == "scan"
    np.testing.assert_allclose(image.grid.world_from_index([1, 2, 3]), [3 * 0.7, 2 * 1.5, 1 * 3.0])
    assert image.data[0, 1, 2, 3] == VALUES[1, 2, 3]


def test_one_spacing_is_that_of_all_axes():
    np.testing.assert_allclose(as_image((VALUES, 2)).grid.spacing, [2, 2, 2])


def test_origin_and_direction_place_an_array():
    turn = rotation(3, 2)
    image = Image.from_numpy(VALUES, spacing=(3, 2, 1), origin=(5, 6, 7), direction=turn)
    index = np.array([2.0, 1.0, 4.0])
    np.testing.assert_allclose(image.grid.world_from_index(index), [5, 6, 7] + turn @ (index * [3, 2, 1]))


def test_the_values_are_copied_and_come_back():
    array = VALUES.copy()
    image = Image.from_numpy(array, spacing=1.0)
    array[:] = 0
    np.testing.assert_array_equal(image.to_numpy(), VALUES)
    assert image.to_numpy().dtype == np.int16
    image.to_numpy()[:] = 0
    np.testing.assert_array_equal(image.to_numpy(), VALUES)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "uint16", "float64", "float16", ">i2"])
def test_every_number_is_taken(dtype):
    array = (VALUES[0] > 0).astype(dtype)
    image = as_image(array)
    assert image.unit == "px" and image.grid == Grid.pixels((5, 6))
    np.testing.assert_array_equal(image.to_numpy(), array)


def test_colours_are_the_last_axis_of_an_array_and_the_first_of_a_tensor():
    picture = RNG.integers(0, 255, (5, 6, 3)).astype(np.uint8)
    expected = torch.from_numpy(np.moveaxis(picture, -1, 0).astype(np.float32))
    for value in (picture, torch.from_numpy(picture).movedim(-1, 0), PIL.Image.fromarray(picture)):
        assert torch.equal(as_image(value).data, expected)
    assert torch.equal(as_image((picture, (2.0, 1.0))).data, expected)
    assert torch.equal(Image.from_numpy(picture, channel_axis=2).data, expected)
    np.testing.assert_array_equal(as_image(picture).to_numpy(), picture)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.bool])
def test_tensors_are_taken_in_every_type(dtype):
    tensor = (torch.from_numpy(VALUES) > 0).to(dtype)
    image = as_image((tensor, (3.0, 1.0, 1.0)))
    np.testing.assert_array_equal(image.data[0].numpy(), (VALUES > 0).astype(np.float32))


def test_a_tensor_with_a_gradient_is_taken_without_it():
    assert not as_image(torch.ones((4, 5), requires_grad=True)).data.requires_grad


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (VALUES, InputError, "does not say how large"),
        (VALUES.astype(complex)[0], InputError, "real numbers"),
        (np.array([["a", "b"]]), InputError, "real numbers"),
        (np.ma.masked_less(VALUES[0], 0), InputError, "masked"),
        ((VALUES, (1.0, -1.0, 1.0)), GeometryError, "positive"),
        ((VALUES, (1.0, 1.0, 1.0, 1.0)), GeometryError, "spacing of shape"),
        ((VALUES, "wide"), InputTypeError, "one number per axis"),
        (VALUES[0].tolist(), InputTypeError, "expected a path"),
        ((VALUES, 1.0, 1.0), InputTypeError, "a tuple of ndarray, float, float"),
        (None, InputTypeError, "found NoneType"),
        (3.0, TypeError, "found float"),
    ],
    ids=str,
)
def test_what_is_no_image_is_refused_by_what_it_is(value, error, words):
    with pytest.raises(error, match=words) as caught:
        as_image(value, "fixed image")
    assert str(caught.value).startswith("fixed image: ")


# -- label maps -----------------------------------------------------------------------------------


def test_an_array_of_the_shape_of_its_image_lies_on_its_grid():
    image = oblique()
    labels = as_labels(VALUES > 300, image)
    assert labels.grid == image.grid and labels.data.dtype == torch.int32
    np.testing.assert_array_equal(labels.data[0].numpy(), VALUES > 300)


def test_labels_keep_numbers_that_float32_cannot_hold():
    large = np.full((4, 5, 6), 2**24 + 1)
    assert torch.equal(as_labels(large, oblique()).data, torch.full((1, 4, 5, 6), 2**24 + 1, dtype=torch.int32))


def test_labels_are_whole_numbers_in_the_shape_of_the_image():
    with pytest.raises(InputError, match="whole numbers"):
        as_labels(VALUES / 7, oblique())
    with pytest.raises(GeometryError, match=r"\(3, 5, 6\) but image \(4, 5, 6\)"):
        as_labels(VALUES[:3], oblique())


# -- SimpleITK ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_simpleitk_images_go_there_and_back(channels):
    image = oblique(channels)
    itk = to_sitk(image)
    index = (2, 1, 3)
    np.testing.assert_allclose(itk.TransformIndexToPhysicalPoint(index), image.grid.world_from_index(index[::-1]))
    assert np.ravel(itk[index]).tolist() == image.data[:, 3, 1, 2].tolist()
    assert itk.GetPixelID() in (sitk.sitkInt16, sitk.sitkVectorInt16)
    same_image(as_image(itk), image)


def test_simpleitk_of_more_axes_is_refused():
    with pytest.raises(InputError, match="4 axes"):
        as_image(sitk.Image([4, 4, 4, 2], sitk.sitkFloat32))


def test_transforms_of_simpleitk_map_the_same_points():
    grid = Grid.pixels((8, 9))
    field = DisplacementField(grid, torch.from_numpy(RNG.normal(size=(2, 8, 9)).astype(np.float32)))
    chain = Chain((field, Affine.translation([2.0, -3.0])))
    itk = to_sitk(chain)
    points = [[2.5, 3.0], [4.0, 6.25]]
    expected = chain.map_points(points)
    np.testing.assert_allclose([itk.TransformPoint(p) for p in points], expected, atol=1e-4)
    np.testing.assert_allclose(as_transform(itk).map_points(points), expected, atol=1e-4)
    with pytest.raises(InputTypeError, match="transform"):
        as_transform(np.eye(3))


# -- nibabel --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(48))
def test_nibabel_images_lie_where_their_affine_says(order):
    affine = np.eye(4)
    affine[:3, :3] = axis_orders(3)[order] * [0.7, 1.5, 3.0]
    affine[:3, 3] = [10, -20, 30]
    array = VALUES.T.copy()
    image = as_image(nibabel.Nifti1Image(array, affine))
    i, j, k = 4, 2, 1
    world = RAS @ affine @ [i, j, k, 1]
    np.testing.assert_allclose(image.grid.world_from_index([k, j, i]), world[:3], atol=1e-5)
    assert image.data[0, k, j, i] == array[i, j, k]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.MGHImage])
def test_every_kind_of_nibabel_is_taken(kind):
    affine = np.diag([-2.0, 1.0, 3.0, 1.0])
    image = as_image(kind(VALUES.T.astype(np.float32), affine))
    np.testing.assert_allclose(image.grid.world_from_index([1, 1, 1]), [2, -1, 3], atol=1e-5)
    np.testing.assert_array_equal(image.data[0].numpy(), VALUES)


@pytest.mark.parametrize("channels", [1, 3])
def test_nibabel_images_go_there_and_back(channels):
    image = oblique(channels)
    back = to_nibabel(image)
    assert back.get_data_dtype() == np.int16
    same_image(as_image(back), image)


def test_an_image_in_memory_is_that_of_its_file(tmp_path):
    write_image(tmp_path / "a.nii.gz", oblique())
    same_image(as_image(nibabel.load(tmp_path / "a.nii.gz")), read_image(tmp_path / "a.nii.gz"))
    same_image(as_image(tmp_path / "a.nii.gz"), as_image(str(tmp_path / "a.nii.gz")))


def test_scaled_values_are_those_that_nibabel_gives(tmp_path):
    scaled = nibabel.Nifti1Image(VALUES.T, np.eye(4))
    scaled.header.set_slope_inter(0.5, 100)
    nibabel.save(scaled, tmp_path / "a.nii")
    loaded = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_allclose(as_image(loaded).data[0].numpy(), loaded.get_fdata().T)


def test_several_volumes_are_refused():
    four = np.zeros((4, 4, 4, 2), np.float32)
    for kind in (nibabel.Nifti1Image, nibabel.MGHImage):
        with pytest.raises(InputError, match="2 volumes"):
            as_image(kind(four, np.eye(4)))


def test_a_transform_is_a_displacement_field_in_lps_mm():
    grid = oblique().grid
    shift = Affine.translation([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="grid"):
        to_nibabel(shift)
    field = to_nibabel(shift, grid=grid)
    assert field.shape == (6, 5, 4, 1, 3) and int(field.header["intent_code"]) == 1007
    np.testing.assert_allclose(np.asarray(field.dataobj)[2, 3, 1, 0], [1, 2, 3], atol=1e-5)


def test_the_field_of_nibabel_is_the_one_that_itk_reads(tmp_path):
    grid = oblique().grid
    displacement = torch.from_numpy(RNG.normal(size=(3, *grid.shape)).astype(np.float32))
    nibabel.save(to_nibabel(DisplacementField(grid, displacement)), tmp_path / "warp.nii.gz")
    itk = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "warp.nii.gz"), sitk.sitkVectorFloat64))
    points = grid.world_from_index([[1, 2, 3], [2, 2, 2]])
    moved = [itk.TransformPoint(p) for p in points.tolist()]
    np.testing.assert_allclose(moved, points + displacement[:, [1, 2], [2, 2], [3, 2]].numpy().T, atol=1e-4)


def test_what_cannot_go_back_is_refused():
    for back in (to_sitk, to_nibabel):
        with pytest.raises(InputTypeError, match=r"found numpy\.ndarray"):
            back(VALUES)


# -- MONAI ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_meta_tensors_lie_where_they_say(space):
    monai_data = pytest.importorskip("monai.data")
    affine = np.array([[0, 2.0, 0, 5], [1.0, 0, 0, 6], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    tensor = monai_data.MetaTensor(torch.from_numpy(VALUES.T.copy())[None].float(), affine=torch.from_numpy(affine))
    tensor.meta["space"] = space
    image = as_image(tensor)
    expected = (RAS if space == "RAS" else np.eye(4)) @ affine @ [3, 2, 1, 1]
    np.testing.assert_allclose(image.grid.world_from_index([1, 2, 3]), expected[:3])
    assert image.data[0, 1, 2, 3] == VALUES[1, 2, 3]
    with pytest.raises(InputError, match="without a spacing"):
        as_image((tensor, 1.0))
