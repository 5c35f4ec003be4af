"""Transforms from files to core values and back.

Everything here keeps the convention of ITK, ANTs and core: LPS mm, fixed points to moving points. The one
difference is order: `Chain.transforms[0]` is applied first, an ITK composite applies the transform added last
first, so the order is reversed between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, Chain, DisplacementField, Transform, VelocityField
from roireg.io._itk import extension, grid_from_itk, itk_reason, quiet, to_itk_image
from roireg.io.files import atomic_path
from roireg.io.nifti import is_nifti, read_nifti

__all__ = ["AntsFiles", "from_itk", "read_transform", "to_itk", "write_ants", "write_transform"]

HDF5 = (".h5", ".hdf5")
TEXT = (".tfm", ".txt")
FIELD = (".nii", ".nii.gz", ".mha", ".nrrd")

BSPLINE_VOXELS = 4_000_000
"""Upper limit for the samples a B-spline transform is converted to."""


@dataclass(frozen=True)
class AntsFiles:
    """Files for ``antsApplyTransforms``, in the order to give them to ``-t``.

    Attributes
    ----------
    forward : maps fixed points to moving points; the first file is applied first.
    inverse : (file, invert) for the way back; `invert` asks ANTs to invert an affine (``-t [file,1]``).
    """

    forward: tuple[Path, ...]
    inverse: tuple[tuple[Path, bool], ...]


# -- between core and ITK -------------------------------------------------------------------------


def to_itk(transform: Transform) -> sitk.CompositeTransform:
    """Return an ITK composite transform that maps points as `transform` does (outside a field: no motion)."""
    composite = sitk.CompositeTransform(transform.ndim)
    for part in reversed(_parts(transform)):
        composite.AddTransform(_affine_to_itk(part) if isinstance(part, Affine) else _field_to_itk(part))
    return composite


def from_itk(transform: sitk.Transform, *, name: str = "transform") -> Transform:
    """Convert an ITK transform: any linear one, displacement field, B-spline, or a composite of them.

    A B-spline becomes a displacement field on its domain, sampled up to 16 times per mesh cell (fewer where that
    would give more than four million samples). A composite of one transform gives that transform.

    Raises
    ------
    GeometryError
        When a linear part is singular, or a field has values that are not finite.
    InputError
        When the transform is of another type, or neither 2D nor 3D.
    """
    if transform.GetDimension() not in (2, 3):
        raise InputError(f"{name}: expected a 2D or 3D transform, found {transform.GetDimension()}D")
    parts = _from_itk(transform, name)
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def _from_itk(transform: sitk.Transform, name: str) -> list[Transform]:
    kind = transform.GetName()
    if kind == "CompositeTransform":
        composite = sitk.CompositeTransform(transform)
        parts: list[Transform] = []
        for i in reversed(range(composite.GetNumberOfTransforms())):
            parts.extend(_from_itk(composite.GetNthTransform(i), name))
        return parts or [Affine.identity(transform.GetDimension())]
    if kind == "DisplacementFieldTransform":
        return [_field_from_image(sitk.DisplacementFieldTransform(transform).GetDisplacementField(), name)]
    if kind == "BSplineTransform":
        return [_bspline(sitk.BSplineTransform(transform), name)]
    if transform.IsLinear():
        return [_affine_from_itk(transform, name)]
    raise InputError(
        f"{name}: transforms of type {kind} are not supported; expected an affine, a displacement field, a B-spline "
        "or a composite of them"
    )


def _affine_from_itk(transform: sitk.Transform, name: str) -> Affine:
    d = transform.GetDimension()
    matrix = np.eye(d + 1)
    matrix[:d, d] = transform.TransformPoint([0.0] * d)
    for axis in range(d):
        # Directions are mapped as vectors, so that a far centre of rotation costs no digits.
        matrix[:d, axis] = transform.TransformVector(np.eye(d)[axis].tolist(), [0.0] * d)
    try:
        return Affine(matrix)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from error


def _affine_to_itk(affine: Affine) -> sitk.AffineTransform:
    d = affine.ndim
    itk = sitk.AffineTransform(d)
    itk.SetMatrix(affine.matrix[:d, :d].ravel().tolist())
    itk.SetTranslation(affine.matrix[:d, d].tolist())
    return itk


def _field_to_itk(field: DisplacementField) -> sitk.DisplacementFieldTransform:
    vectors = field.displacement.detach().cpu().numpy().astype(np.float64)
    return sitk.DisplacementFieldTransform(to_itk_image(vectors, field.grid))


def _field_from_image(image: sitk.Image, name: str) -> DisplacementField:
    grid = grid_from_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), name)
    vectors = sitk.GetArrayViewFromImage(image)
    return _field(
        np.moveaxis(vectors, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else vectors[None], grid, name
    )


def _field_from_nifti(path: Path) -> DisplacementField:
    found = read_nifti(path, field=True)
    return _field(found.array, found.grid, str(path))


def _field(vectors: NDArray[Any], grid: Grid, name: str) -> DisplacementField:
    """Return a field from (component, *spatial) vectors in LPS mm."""
    if len(vectors) != grid.ndim:
        raise InputError(
            f"{name}: a {grid.ndim}D displacement field has {grid.ndim} components per voxel, found {len(vectors)}; "
            "it may be an image instead of a transform"
        )
    displacement = torch.from_numpy(np.array(vectors, dtype=np.float32, order="C"))
    wrong = int((~torch.isfinite(displacement)).any(dim=0).sum())
    if wrong:
        raise GeometryError(f"{name}: the displacement is NaN or infinite at {wrong} voxels; compute the field again")
    return DisplacementField(grid, displacement)


def _bspline(spline: sitk.BSplineTransform, name: str) -> DisplacementField:
    mesh = np.array(spline.GetTransformDomainMeshSize())
    per_cell = 16
    while per_cell > 1 and np.prod(mesh * per_cell + 1.0) > BSPLINE_VOXELS:
        per_cell -= 1
    cells = mesh * per_cell
    spacing = np.array(spline.GetTransformDomainPhysicalDimensions()) / cells
    field = sitk.TransformToDisplacementField(
        spline,
        sitk.sitkVectorFloat64,
        [int(n) + 1 for n in cells],
        spline.GetTransformDomainOrigin(),
        spacing.tolist(),
        spline.GetTransformDomainDirection(),
    )
    return _field_from_image(field, name)


def _parts(transform: Transform) -> list[Affine | DisplacementField]:
    """Return the affines and fields of a transform, first applied first; velocity fields are integrated."""
    parts: list[Affine | DisplacementField] = []
    for part in transform.transforms if isinstance(transform, Chain) else (transform,):
        if isinstance(part, VelocityField):
            part = part.field
        if not isinstance(part, Affine | DisplacementField):
            raise InputError(f"a transform of type {type(part).__name__} cannot be written to a file")
        parts.append(part)
    return parts


# -- writing --------------------------------------------------------------------------------------


def write_transform(path: str | Path, transform: Transform, *, grid: Grid | None = None) -> None:
    """Write a transform; the extension chooses the format.

    .h5, .hdf5 : ITK composite of affines and displacement fields, exact; read by ITK, ANTs and Slicer.
    .tfm, .txt : the same as text, for affines and small fields.
    .mat : one affine, as ITK and ANTs write it; a chain of affines is multiplied out.
    .nii, .nii.gz, .mha, .nrrd : one displacement field in LPS mm, as ITK and ANTs write it. Whatever is not a
        single field is sampled on `grid`, or on the grid of the first field in it.

    Raises
    ------
    InputError
        When the extension is unknown, a .mat is asked for a transform that is not affine, or a field is asked for
        an affine without `grid`.
    GeometryError
        When the grid of a field has sheared axes.
    OutputError
        When the place cannot be written.
    """
    target = Path(path)
    kind = extension(target)
    parts = _parts(transform)
    if kind in HDF5:
        for part in parts:
            if isinstance(part, DisplacementField):
                to_itk_image(np.zeros((1, *[1] * part.ndim), dtype=np.uint8), part.grid)  # refuses sheared axes
        with atomic_path(target) as temporary:
            _write_hdf5(temporary, parts)
    elif kind in TEXT:
        composite = to_itk(transform)
        with atomic_path(target) as temporary:
            _write_itk(temporary, target, composite)
    elif kind == ".mat":
        affine = _single_affine(target, parts)
        with atomic_path(target) as temporary:
            _write_itk(temporary, target, _affine_to_itk(affine))
    elif kind in FIELD:
        field = _single_field(target, transform, parts, grid)
        image = to_itk_image(field.displacement.detach().cpu().numpy().astype(np.float32), field.grid)
        with atomic_path(target) as temporary, quiet():
            sitk.WriteImage(image, str(temporary), useCompression=True)
    else:
        known = ", ".join((*HDF5, *TEXT, ".mat", *FIELD))
        raise InputError(f"{target}: cannot write a transform with the extension {kind!r}; use one of {known}")


def write_ants(prefix: str | Path, transform: Transform) -> AntsFiles:
    """Write one file per affine and field, numbered as ``antsRegistration`` does (last applied has number 0).

    A field followed by an affine gives ``prefix0GenericAffine.mat``, ``prefix1Warp.nii.gz`` and
    ``prefix1InverseWarp.nii.gz``. Affines that follow each other are multiplied out.

    Raises
    ------
    OutputError
        When the place cannot be written.
    """
    steps: list[tuple[Affine | DisplacementField, Transform]] = []
    for source in transform.transforms if isinstance(transform, Chain) else (transform,):
        part = _parts(source)[0]
        if isinstance(part, Affine) and steps and isinstance(steps[-1][0], Affine):
            part = Affine(part.matrix @ steps[-1][0].matrix)
            steps[-1] = (part, part)
        else:
            steps.append((part, source))
    forward: list[Path] = []
    inverse: list[tuple[Path, bool]] = []
    for number, (part, source) in zip(reversed(range(len(steps))), steps, strict=True):
        if isinstance(part, Affine):
            file = Path(f"{prefix}{number}GenericAffine.mat")
            inverse.insert(0, (file, True))
        else:
            file = Path(f"{prefix}{number}Warp.nii.gz")
            back = Path(f"{prefix}{number}InverseWarp.nii.gz")
            # The velocity, where there is one, has an exact inverse; the field alone is inverted by iteration.
            write_transform(back, source.inverse())
            inverse.insert(0, (back, False))
        write_transform(file, part)
        forward.append(file)
    return AntsFiles(tuple(forward), tuple(inverse))


def _single_affine(target: Path, parts: Sequence[Affine | DisplacementField]) -> Affine:
    affines = [p for p in parts if isinstance(p, Affine)]
    if len(affines) != len(parts):
        raise InputError(
            f"{target}: a .mat file holds an affine alone, found a displacement field; use .h5 or write_ants"
        )
    return Affine(reduce(lambda first, second: second @ first, [a.matrix for a in affines]))


def _single_field(
    target: Path, transform: Transform, parts: Sequence[Affine | DisplacementField], grid: Grid | None
) -> DisplacementField:
    fields = [p for p in parts if isinstance(p, DisplacementField)]
    if grid is None and not fields:
        raise InputError(
            f"{target}: an affine has no grid to be sampled on as a displacement field; give the fixed image's grid, "
            "or write .h5 or .mat"
        )
    if grid is None and len(parts) == 1:
        return fields[0]
    chosen = fields[0].grid if grid is None else grid
    return DisplacementField(chosen, transform.displacement_on(chosen))


def _write_itk(temporary: Path, target: Path, transform: sitk.Transform) -> None:
    with quiet():
        try:
            sitk.WriteTransform(transform, str(temporary))
        except RuntimeError as error:
            raise InputError(f"{target}: the transform cannot be written ({itk_reason(error)})") from error


def _write_hdf5(path: Path, parts: Sequence[Affine | DisplacementField]) -> None:
    """Write ITK's HDF5 layout (itkHDF5TransformIO): one group per transform, the composite's own first.

    ITK's writer stores fields as uncompressed float64 with the time of day in the file; this one stores what is
    there (float32) compressed and gives the same bytes for the same transform.
    """
    d = parts[0].ndim
    with h5py.File(path, "w", track_order=False) as file:
        for key, value in (("ITKVersion", "5.4.0"), ("HDFVersion", "HDF5"), ("OSName", "any"), ("OSVersion", "any")):
            _text(file, key, value)
        root = file.create_group("TransformGroup")
        _text(root.create_group("0"), "TransformType", f"CompositeTransform_double_{d}_{d}")
        for number, part in enumerate(reversed(parts), start=1):
            group = root.create_group(str(number))
            if isinstance(part, Affine):
                kind = "AffineTransform"
                fixed = np.zeros(d)  # the centre of rotation
                values = np.concatenate([part.matrix[:d, :d].ravel(), part.matrix[:d, d]])
            else:
                kind = "DisplacementFieldTransform"
                size, spacing, origin, direction = part.grid.itk
                fixed = np.concatenate([np.asarray(v, dtype=np.float64) for v in (size, origin, spacing, direction)])
                values = np.moveaxis(part.displacement.detach().cpu().numpy(), 0, -1).astype(np.float32).ravel()
            _text(group, "TransformType", f"{kind}_double_{d}_{d}")
            group.create_dataset("TransformFixedParameters", data=fixed, track_times=False)
            small = values.size < 4096
            group.create_dataset(
                "TransformParameters",
                data=values,
                track_times=False,
                chunks=None if small else (min(values.size, 1 << 18),),
                compression=None if small else "gzip",
                compression_opts=None if small else 1,
                shuffle=not small,
            )


def _text(group: h5py.Group, key: str, value: str) -> None:
    group.create_dataset(
        key, data=np.array([value], dtype=object), dtype=h5py.string_dtype("ascii"), track_times=False
    )


# -- reading --------------------------------------------------------------------------------------


def read_transform(path: str | Path) -> Transform:
    """Read an ITK transform (.h5, .tfm, .txt, .mat ...) or a displacement field image in LPS mm.

    Linear ITK transforms of every kind (Euler, versor, similarity, affine, translation), ANTs' GenericAffine.mat
    and Warp.nii.gz, composites, and B-splines (converted as `from_itk` says) are understood.

    Raises
    ------
    InputError
        When the file is missing, damaged or no transform.
    GeometryError
        When an affine is singular or a field is not finite.
    """
    place = Path(path)
    if not place.is_file():
        raise InputError(f"{place}: no such file; check the path of the transform")
    name = str(place)
    if extension(place) in (*FIELD, ".mhd", ".nhdr"):
        if is_nifti(place):
            return _field_from_nifti(place)
        with quiet():
            try:
                image = sitk.ReadImage(name)
            except RuntimeError as error:
                raise InputError(
                    f"{name}: the displacement field cannot be read ({itk_reason(error)}); expected vectors"
                ) from error
        return _field_from_image(image, name)
    with quiet():
        try:
            transform = sitk.ReadTransform(name)
        except RuntimeError as error:
            raise InputError(
                f"{name}: this is not a transform that ITK can read ({itk_reason(error)}); expected .h5, .tfm, .txt "
                "or .mat of ITK or ANTs, or a displacement field image"
            ) from error
        return from_itk(transform, name=name)
