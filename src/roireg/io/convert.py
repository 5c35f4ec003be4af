"""Images and transforms of other libraries as values of this one, and back.

Taken are files, arrays with their voxel size, images of SimpleITK, nibabel and Pillow, tensors of torch and MONAI.
World is LPS mm, as everywhere here; nibabel and MONAI count in RAS.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import nibabel
import numpy as np
import PIL.Image
import SimpleITK as sitk
import torch
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError, InputTypeError
from roireg.core.grid import Grid
from roireg.core.image import Image, real_numbers, stored_values
from roireg.core.transforms import DisplacementField, Transform
from roireg.io._itk import check_shear, grid_from_itk, to_itk_image
from roireg.io.images import image_of, labels_of, read_image, read_labels
from roireg.io.nifti import header_of, layout_of
from roireg.io.nifti_place import RAS_FROM_LPS, grid_of_header
from roireg.io.raster import Stored
from roireg.io.transforms import from_itk, read_transform, to_itk

__all__ = [
    "ImageLike",
    "LabelsLike",
    "TransformLike",
    "as_image",
    "as_labels",
    "as_transform",
    "to_nibabel",
    "to_sitk",
]

Array: TypeAlias = NDArray[Any] | torch.Tensor

ImageLike: TypeAlias = (
    Image
    | str
    | os.PathLike[str]
    | Array
    | tuple[Array, float | Sequence[float] | NDArray[Any]]
    | SpatialImage
    | PIL.Image.Image
    | sitk.Image
)
"""What is taken as an image, see `as_image`."""

LabelsLike: TypeAlias = ImageLike
"""What is taken as a label map or mask, see `as_labels`."""

TransformLike: TypeAlias = Transform | str | os.PathLike[str] | sitk.Transform
"""What is taken as a transform, see `as_transform`."""

TAKEN = (
    "a path, a roireg.Image, (array, spacing) with a numpy array or torch tensor, an image of SimpleITK, nibabel or "
    "Pillow, or a 2D array"
)


# -- to values ------------------------------------------------------------------------------------


def as_image(value: ImageLike, name: str = "image") -> Image:
    """Return an image of what stands for one.

    Parameters
    ----------
    value : one of

        - an `Image`, returned as it is;
        - a path, see `read_image`; NaN is kept, as in all other forms;
        - ``(array, spacing)``: a numpy array or torch tensor and the voxel size in mm, one number or one per spatial
          axis in the order of the array, (z, y, x) or (y, x). The last axis runs along x, index 0 lies at 0. With one
          axis more than spacings, the last axis of an array (the first of a tensor) holds channels.
          `Image.from_numpy` takes origin and direction besides;
        - a 2D array, a (y, x, 3 or 4) array or a (1, 3 or 4, y, x) tensor alone: a picture, world = pixel index;
        - an image of SimpleITK; of nibabel (RAS becomes LPS; a NIfTI header counts as in a file); a MetaTensor of
          MONAI; a picture of Pillow.
    name : how messages refer to what is no file.

    Raises
    ------
    InputTypeError
        When the type is none of these; also a TypeError.
    InputError
        When an array does not say how large its voxels are, or the values are no real numbers; see `read_image`.
    GeometryError
        When the geometry is unusable.
    """
    if isinstance(value, Image):
        return value
    if isinstance(value, str | os.PathLike):
        return read_image(Path(value), finite=False)
    return image_of(name, _stored(value, name))


def as_labels(value: LabelsLike, image: Image | None = None, name: str = "label map") -> Image:
    """Return a label map of what stands for one, int32.

    Parameters
    ----------
    value : as `as_image` takes it; an array alone, of the shape of its image, lies on the grid of the image.
    image : the image it belongs to, where there is one.
    name : how messages refer to what is no file.

    Raises
    ------
    InputTypeError, InputError, GeometryError
        As `as_image`, and where values are no whole numbers.
    """
    if isinstance(value, Image):
        return value
    if isinstance(value, str | os.PathLike):
        return read_labels(Path(value))
    if image is not None and isinstance(value, np.ndarray | torch.Tensor) and not _is_meta(value):
        if tuple(value.shape) != image.grid.shape:
            raise GeometryError(
                f"{name}: the array has the shape {tuple(value.shape)} but {image.name} {image.grid.shape}; give one "
                "of that shape, or (array, spacing)"
            )
        return labels_of(name, Stored(real_numbers(value, name)[None], image.grid, image.unit))
    return labels_of(name, _stored(value, name))


def as_transform(value: TransformLike, name: str = "transform") -> Transform:
    """Return a transform (fixed to moving points, LPS mm) of one of SimpleITK or of a file; see `read_transform`.

    Raises
    ------
    InputTypeError
        When the type is another one; also a TypeError.
    InputError
        When the file or the kind of transform cannot be read.
    """
    if isinstance(value, Transform):
        return value
    if isinstance(value, str | os.PathLike):
        return read_transform(Path(value))
    if isinstance(value, sitk.Transform):
        return from_itk(value)
    raise InputTypeError(
        f"{name}: expected a path, a transform of roireg or a transform of SimpleITK, found {_kind(value)}"
    )


def _stored(value: Any, name: str) -> Stored:
    if isinstance(value, sitk.Image):
        return _of_sitk(value, name)
    if isinstance(value, SpatialImage):
        return _of_nibabel(value, name)
    if isinstance(value, PIL.Image.Image):
        picture = value if value.mode in ("L", "RGB", "RGBA", "F", "I", "I;16") else value.convert("RGB")
        return _picture(np.asarray(picture), name)
    if _is_meta(value):
        return _of_meta(value, name)
    if isinstance(value, np.ndarray | torch.Tensor):
        return _picture(value, name)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], np.ndarray | torch.Tensor):
        if _is_meta(value[0]):
            raise InputError(f"{name}: a MetaTensor says where its voxels lie; give it without a spacing")
        return _placed(*value, name)
    raise InputTypeError(f"{name}: expected {TAKEN}, found {_kind(value)}")


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(v).__name__ for v in value)}"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


# -- arrays ---------------------------------------------------------------------------------------


def _picture(array: Array, name: str) -> Stored:
    """Take an array alone: a gray or colour picture, nothing else."""
    shape = tuple(array.shape)
    channels: int | None = None
    if len(shape) == 3:
        channels = 0 if isinstance(array, torch.Tensor) and shape[0] in (1, 3, 4) else None
        channels = -1 if isinstance(array, np.ndarray) and shape[-1] in (3, 4) else channels
    if len(shape) != 2 and channels is None:
        raise InputError(
            f"{name}: an array of shape {shape} does not say how large its voxels are; give (array, spacing) with "
            "the spacing in mm in the order of its axes, or roireg.Image.from_numpy(array, spacing=...)"
        )
    values = real_numbers(array, name)
    values = values[None] if channels is None else np.moveaxis(values, channels, 0)
    return Stored(values, Grid.pixels(values.shape[1:]), "px")


def _placed(array: Array, spacing: Any, name: str) -> Stored:
    values = real_numbers(array, name)
    try:
        sizes = np.asarray(spacing, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputTypeError(
            f"{name}: the spacing beside an array is a number or one number per axis, found {spacing!r}"
        ) from None
    if sizes.ndim == 1 and len(sizes) == values.ndim - 1:
        values = np.moveaxis(values, 0 if isinstance(array, torch.Tensor) else -1, 0)
    else:
        values = values[None]
    try:
        grid = Grid.of_array(values.shape[1:], spacing=sizes)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from error
    return Stored(values, grid, "mm")


# -- other libraries ------------------------------------------------------------------------------


def _of_sitk(image: sitk.Image, name: str) -> Stored:
    if image.GetDimension() > 3:
        raise InputError(
            f"{name}: expected a 2D or 3D image, found {image.GetDimension()} axes; take one volume, image[..., 0]"
        )
    array = sitk.GetArrayFromImage(image)
    array = np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[None]
    grid = grid_from_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), name)
    return Stored(real_numbers(array, name), grid, "mm")


def _of_nibabel(image: SpatialImage, name: str) -> Stored:
    if isinstance(image, nibabel.Nifti1Pair):
        return _of_nifti(image, name)
    array = np.asanyarray(image.dataobj)
    if (frames := math.prod(array.shape[3:])) > 1:
        raise InputError(f"{name}: the image has {frames} volumes; take one, image.slicer[..., 0]")
    return _of_ras(array.reshape(*array.shape[:3], 1), image.affine, name)


def _of_nifti(image: Any, name: str) -> Stored:
    header = image.header
    shape, components, frames = layout_of(image.shape, int(header["intent_code"]), int(header["datatype"]))
    if frames > 1:
        raise InputError(f"{name}: the image has {frames} volumes; take one, image.slicer[..., 0]")
    grid, placed = grid_of_header(header, shape, name)
    values = np.asanyarray(image.dataobj)
    if values.dtype.names:  # colours
        values = np.stack([values[channel] for channel in values.dtype.names], axis=-1)
    return Stored(_reversed_axes(real_numbers(values.reshape(*shape, components), name)), grid, "mm", placed)


def _reversed_axes(array: NDArray[Any]) -> NDArray[Any]:
    """Return (x, y[, z], channel) as (channel, [z,] y, x) and back."""
    return np.transpose(array, range(array.ndim)[::-1])


def _is_meta(value: object) -> bool:
    """Tell whether a tensor is one of MONAI that knows its place; MONAI itself is an extra."""
    return isinstance(value, torch.Tensor) and hasattr(value, "affine") and hasattr(value, "meta")


def _of_meta(tensor: Any, name: str) -> Stored:
    space = str(getattr(tensor.meta.get("space", "RAS"), "value", tensor.meta.get("space", "RAS")))
    if space not in ("RAS", "LPS") or tensor.ndim != 4:
        raise InputError(
            f"{name}: expected a MetaTensor (channel, x, y, z) in RAS or LPS, found the shape {tuple(tensor.shape)} "
            f"in {space}"
        )
    affine = np.asarray(tensor.affine.detach().cpu().numpy(), dtype=np.float64)
    values = real_numbers(tensor.as_tensor(), name)
    ras = affine if space == "RAS" else RAS_FROM_LPS @ affine
    return _of_ras(np.moveaxis(values, 0, -1), ras, name)


def _of_ras(array: NDArray[Any], affine: NDArray[Any], name: str) -> Stored:
    """Take (x, y, z, channel) values and the matrix from an index (x, y, z) to RAS mm."""
    values = real_numbers(array, name)
    lps = RAS_FROM_LPS @ np.asarray(affine, dtype=np.float64)
    size, linear = values.shape[:3], lps[:3, :3]
    lengths = np.linalg.norm(linear, axis=0)
    direction = (linear / np.where(lengths > 0, lengths, 1)).ravel().tolist()
    grid = grid_from_itk(size, lengths.tolist(), lps[:3, 3].tolist(), direction, name)
    return Stored(_reversed_axes(values), grid, "mm")


# -- back -----------------------------------------------------------------------------------------


@overload
def to_sitk(value: Image) -> sitk.Image: ...
@overload
def to_sitk(value: Transform) -> sitk.CompositeTransform: ...
def to_sitk(value: Image | Transform) -> sitk.Image | sitk.CompositeTransform:
    """Return an image or a transform as one of SimpleITK.

    An image keeps its pixel type; channels become components. A transform maps fixed to moving points, what
    `sitk.Resample` takes; outside a field it moves nothing.

    Raises
    ------
    InputTypeError
        When the value is neither.
    InputError
        When a transform of your own has no counterpart, or NaN would have to become integers.
    GeometryError
        When the axes of the image are sheared.
    """
    if isinstance(value, Image):
        return to_itk_image(stored_values(value), value.grid)
    if isinstance(value, Transform):
        return to_itk(value)
    raise InputTypeError(f"expected a roireg.Image or a transform, found {_kind(value)}")


def to_nibabel(value: Image | Transform, *, grid: Grid | None = None) -> nibabel.Nifti1Image:
    """Return an image, or a transform as a displacement field, as a NIfTI image of nibabel (world RAS).

    Several channels, and the components of a field, are the fifth axis with the intent code of vectors, as in the
    files of ITK and ANTs; the components of a field are LPS mm.

    Parameters
    ----------
    value : the image, in its pixel type, or the transform.
    grid : where a transform is sampled, as a rule the grid of the fixed image; a single field has its own.

    Raises
    ------
    InputTypeError
        When the value is neither.
    InputError
        When a transform has no grid to be sampled on, or NaN would have to become integers.
    GeometryError
        When the axes are sheared.
    """
    if isinstance(value, Image):
        array, grid = stored_values(value), value.grid
    elif isinstance(value, Transform):
        if grid is None and not isinstance(value, DisplacementField):
            raise InputError("a transform is sampled on a grid to be a NIfTI image; give grid=fixed.grid")
        grid = value.grid if grid is None and isinstance(value, DisplacementField) else grid
        assert grid is not None
        array = value.displacement_on(grid).numpy()
    else:
        raise InputTypeError(f"expected a roireg.Image or a transform, found {_kind(value)}")
    check_shear(grid)
    header = header_of(array, grid)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return kind(_reversed_axes(array).reshape(header.get_data_shape()), None, header)
