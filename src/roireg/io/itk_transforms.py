"""Transforms of ITK and of core, converted into each other.

Both keep LPS mm and map fixed points to moving points. The one difference is order: `Chain.transforms[0]` is applied
first, an ITK composite applies the transform added last first, so the order is reversed between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from roireg.core.bspline import BSpline
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, Chain, DisplacementField, Transform, VelocityField
from roireg.io._itk import grid_from_itk, itk_reason, to_itk_image

__all__ = [
    "Part",
    "Record",
    "field_from_image",
    "field_from_vectors",
    "from_itk",
    "from_records",
    "parts_of",
    "to_itk",
    "to_record",
]

Array = NDArray[np.float64]
Part = Affine | DisplacementField | BSpline

EXPECTED = "expected a linear transform, a displacement field, a B-spline or a composite of them"

NESTED = 16
"""More composites within each other than this are one that holds itself."""


@dataclass(frozen=True)
class Record:
    """One transform as ITK's files hold it.

    Attributes
    ----------
    kind : name of the class with scalar type and dimensions, such as ``AffineTransform_double_3_3``.
    parameters, fixed : flat numbers, in the order of that class.
    """

    kind: str
    parameters: NDArray[Any]
    fixed: Array


# -- core to ITK ----------------------------------------------------------------------------------


def parts_of(transform: Transform) -> list[Part]:
    """Return the affines, fields and splines of a transform, first applied first; velocity fields are integrated.

    Raises
    ------
    InputError
        When a part is of another type, which no file can hold.
    """
    parts: list[Part] = []
    for part in transform.transforms if isinstance(transform, Chain) else (transform,):
        if isinstance(part, VelocityField):
            part = part.field
        if not isinstance(part, Part):
            raise InputError(f"a transform of type {type(part).__name__} cannot be written to a file")
        parts.append(part)
    return parts


def to_record(part: Part) -> Record:
    """Return what ITK's files hold of an affine, a field (float32) or a spline."""
    d = part.ndim
    if isinstance(part, Affine):
        values = np.concatenate([part.matrix[:d, :d].ravel(), part.matrix[:d, d]])
        return Record(f"AffineTransform_double_{d}_{d}", values, np.zeros(d))  # the centre of rotation is 0
    size, spacing, origin, direction = part.grid.itk
    fixed = np.concatenate([np.asarray(v, dtype=np.float64) for v in (size, origin, spacing, direction)])
    if isinstance(part, BSpline):
        # ITK keeps all x first, then all y ...; of a field x, y (and z) of one voxel after the other.
        degree = "" if part.order == 3 else f"_{part.order}"
        values = part.coefficients.detach().cpu().numpy().ravel()
        return Record(f"BSplineTransform_double_{d}_{d}{degree}", values, fixed)
    values = np.moveaxis(part.displacement.detach().cpu().numpy(), 0, -1).astype(np.float32).ravel()
    return Record(f"DisplacementFieldTransform_double_{d}_{d}", values, fixed)


def to_itk(transform: Transform) -> sitk.CompositeTransform:
    """Return an ITK composite transform that maps points as `transform` does (outside a field: no motion)."""
    composite = sitk.CompositeTransform(transform.ndim)
    for part in reversed(parts_of(transform)):
        composite.AddTransform(_part_to_itk(part))
    return composite


def _part_to_itk(part: Part) -> sitk.Transform:
    d = part.ndim
    if isinstance(part, DisplacementField):
        vectors = part.displacement.detach().cpu().numpy().astype(np.float64)
        return sitk.DisplacementFieldTransform(to_itk_image(vectors, part.grid))
    record = to_record(part)
    itk = sitk.AffineTransform(d) if isinstance(part, Affine) else sitk.BSplineTransform(d, part.order)
    itk.SetFixedParameters(record.fixed.tolist())
    itk.SetParameters(record.parameters.tolist())
    return itk


# -- ITK to core ----------------------------------------------------------------------------------


def from_itk(transform: sitk.Transform, *, name: str = "transform") -> Transform:
    """Convert an ITK transform: any linear one, displacement field, B-spline, or a composite of them.

    A composite of linear transforms is multiplied out; a composite of one transform gives that transform.

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


def _from_itk(transform: sitk.Transform, name: str, depth: int = 0) -> list[Transform]:
    # Asked first: SimpleITK calls every class it does not know a composite, which then holds itself.
    if transform.IsLinear():
        return [_affine_from_itk(transform, name)]
    if depth > NESTED:
        raise InputError(f"{name}: transforms of a type that SimpleITK does not know are not supported; {EXPECTED}")
    kind = transform.GetName()
    if kind == "CompositeTransform":
        composite = sitk.CompositeTransform(transform)
        members = [composite.GetNthTransform(i) for i in reversed(range(composite.GetNumberOfTransforms()))]
        return [part for member in members for part in _from_itk(member, name, depth + 1)]
    if kind == "DisplacementFieldTransform":
        return [field_from_image(sitk.DisplacementFieldTransform(transform).GetDisplacementField(), name)]
    if kind == "BSplineTransform":
        spline = sitk.BSplineTransform(transform)
        order = spline.GetOrder()
        fixed, values = np.array(spline.GetFixedParameters()), np.array(spline.GetParameters())
        return [_bspline(fixed, values, transform.GetDimension(), order, name)]
    raise InputError(f"{name}: transforms of type {kind} are not supported; {EXPECTED}")


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


def field_from_image(image: sitk.Image, name: str) -> DisplacementField:
    """Return the displacement field in the vectors (LPS mm) of an ITK image; see `field_from_vectors`."""
    grid = grid_from_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), name)
    vectors = sitk.GetArrayViewFromImage(image)
    several = image.GetNumberOfComponentsPerPixel() > 1
    return field_from_vectors(np.moveaxis(vectors, -1, 0) if several else vectors[None], grid, name)


def field_from_vectors(vectors: NDArray[Any], grid: Grid, name: str) -> DisplacementField:
    """Return the displacement field of (component, *spatial) vectors in LPS mm.

    Raises
    ------
    InputError
        When there is not one component per axis.
    GeometryError
        When values are not finite.
    """
    if len(vectors) != grid.ndim:
        raise InputError(
            f"{name}: a {grid.ndim}D displacement field has {grid.ndim} components per voxel, found {len(vectors)}; "
            "it may be an image instead of a transform"
        )
    return DisplacementField(grid, _finite(vectors, name))


def _finite(vectors: NDArray[Any], name: str) -> torch.Tensor:
    """Return (d, *shape) vectors as float32, refusing values that are no numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = torch.from_numpy(np.array(vectors, dtype=np.float32, order="C"))
    wrong = int((~torch.isfinite(values)).any(dim=0).sum())
    if wrong:
        raise GeometryError(f"{name}: the displacement is NaN or infinite at {wrong} voxels; compute the field again")
    return values


# -- records to core ------------------------------------------------------------------------------


def from_records(records: Sequence[Record], *, name: str) -> Transform:
    """Return the transform of a file: of several the one written last is applied first, as in ITK and ANTs.

    Raises
    ------
    InputError
        When a record is of an unknown kind, or has not the numbers its kind needs.
    GeometryError
        When a linear part is singular, dimensions differ, or a field has values that are not finite.
    """
    composite = bool(records) and records[0].kind.startswith("CompositeTransform_")
    if composite and len(records[0].parameters):
        raise InputError(
            f"{name}: the file holds the numbers of a composite without saying of which transforms, as ITK writes it "
            "into .mat; write it again as .h5"
        )
    members = records[1:] if composite else records
    if not members:
        if records and (match := _KIND.fullmatch(records[0].kind)):
            return Affine.identity(int(match["d"]))
        raise InputError(f"{name}: the file holds no transform")
    parts = tuple(_from_record(record, name) for record in reversed(members))
    if len({part.ndim for part in parts}) != 1:
        raise GeometryError(f"{name}: the file mixes 2D and 3D transforms; expected one dimension")
    return parts[0] if len(parts) == 1 else Chain(parts)


_KIND = re.compile(r"(?P<base>\w+?)_(?:double|float)_(?P<d>[23])_(?P=d)(?:_(?P<order>[123]))?")
_FIELDS = (
    "DisplacementFieldTransform",
    "GaussianSmoothingOnUpdateDisplacementFieldTransform",
    "BSplineSmoothingOnUpdateDisplacementFieldTransform",
)
_SPLINES = ("BSplineTransform", "BSplineDeformableTransform")


def _from_record(record: Record, name: str) -> Transform:
    match = _KIND.fullmatch(record.kind)
    if match is None:
        raise InputError(f"{name}: transforms of type {record.kind[:80]!r} are not supported; {EXPECTED}")
    base, d = match["base"], int(match["d"])
    if base in _FIELDS and match["order"] is None:
        grid = _gridded(record.fixed, record.parameters, d, "a displacement field", name)
        return DisplacementField(grid, _finite(np.moveaxis(record.parameters.reshape(*grid.shape, d), -1, 0), name))
    if base in _SPLINES:
        return _bspline(record.fixed, record.parameters, d, int(match["order"] or 3), name)
    kind = _linear_kinds(d).get(base)
    if kind is None or match["order"] is not None:
        raise InputError(f"{name}: transforms of type {record.kind[:80]} are not supported; {EXPECTED}")
    if len(record.parameters) != kind.parameters or len(record.fixed) not in kind.fixed:
        expected = " or ".join(map(str, kind.fixed))
        raise InputError(
            f"{name}: {record.kind} has {kind.parameters} parameters and {expected} fixed ones, found "
            f"{len(record.parameters)} and {len(record.fixed)}; write the file again"
        )
    if not (np.isfinite(record.parameters).all() and np.isfinite(record.fixed).all()):
        raise GeometryError(f"{name}: {record.kind} has parameters that are not finite; write the file again")
    itk = kind.make()
    try:
        values, center = kind.split(record.parameters, record.fixed)
        # Older files of Euler3DTransform leave out the fourth, the order of the turns.
        count = len(itk.GetFixedParameters())
        if count:
            itk.SetFixedParameters(np.append(center, np.zeros(count))[:count].tolist())
        itk.SetParameters(values.tolist())
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except RuntimeError as error:
        raise InputError(f"{name}: the parameters of {record.kind} are unusable ({itk_reason(error)})") from error
    return _affine_from_itk(itk, name)


def _gridded(fixed: Array, values: NDArray[Any], d: int, kind: str, name: str) -> Grid:
    """Return the grid in the fixed parameters of a field or spline: size, origin, spacing, direction.

    Sizes are compared with what the file holds before anything is made of them.
    """
    if len(fixed) != d * (3 + d) or not np.isfinite(fixed).all():
        raise InputError(
            f"{name}: {kind} has {d * (3 + d)} finite fixed parameters, found {len(fixed)}; write it again"
        )
    size, origin, spacing, direction = np.split(fixed, [d, 2 * d, 3 * d])
    if (size != np.round(size)).any() or size.min() < 1 or np.prod(size) * d != len(values):
        shape = " x ".join(f"{n:g}" for n in size)
        raise InputError(
            f"{name}: {kind} claims a grid of {shape}, but the file holds {len(values)} parameters; write it again"
        )
    return grid_from_itk(size.astype(int).tolist(), spacing.tolist(), origin.tolist(), direction.tolist(), name)


def _bspline(fixed: Array, values: NDArray[Any], d: int, order: int, name: str) -> BSpline:
    grid = _gridded(fixed, values, d, "a B-spline", name)
    try:
        return BSpline(grid, _finite(values.reshape(d, *grid.shape), name), order)
    except GeometryError as error:
        raise error if str(error).startswith(name) else GeometryError(f"{name}: {error}") from error


# -- linear classes -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Linear:
    """A linear class of ITK by one of SimpleITK.

    Attributes
    ----------
    make : an instance of SimpleITK's class.
    parameters, fixed : how many parameters the class of the file has, and how many fixed ones it may have.
    split : from both to the parameters and fixed parameters of SimpleITK's class.
    """

    make: Callable[[], sitk.Transform]
    parameters: int
    fixed: tuple[int, ...]
    split: Callable[[Array, Array], tuple[Array, Array]] = lambda parameters, fixed: (parameters, fixed)


def _centered(start: int, d: int) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Take the centre of rotation, which starts at a place among the parameters, out of them."""

    def split(parameters: Array, fixed: Array) -> tuple[Array, Array]:
        center = parameters[start : start + d]
        return np.delete(parameters, np.s_[start : start + d]), np.concatenate([center, fixed[d:]])

    return split


def _versor(parameters: Array, fixed: Array) -> tuple[Array, Array]:
    """Turn a unit quaternion x, y, z, w and a translation into a versor, whose w is positive."""
    quaternion = parameters[:4]
    if abs(np.linalg.norm(quaternion) - 1) > 1e-4:
        raise InputError(f"a quaternion of a rotation has length 1, found {np.linalg.norm(quaternion):.4g}")
    sign = -1.0 if quaternion[3] < 0 else 1.0
    return np.concatenate([sign * quaternion[:3] / np.linalg.norm(quaternion), parameters[4:]]), fixed


def _exponential(parameters: Array, fixed: Array) -> tuple[Array, Array]:
    with np.errstate(over="ignore"):
        return np.exp(parameters), fixed


def _linear_kinds(d: int) -> dict[str, _Linear]:
    """Return the linear classes of a dimension by the name they have in files."""
    affine = _Linear(lambda: sitk.AffineTransform(d), d * d + d, (d,))
    kinds = {
        "AffineTransform": affine,
        "MatrixOffsetTransformBase": affine,
        "CenteredAffineTransform": _Linear(affine.make, d * d + 2 * d, (0, d), _centered(d * d, d)),
        "IdentityTransform": _Linear(lambda: sitk.Transform(d, sitk.sitkIdentity), 0, (0,)),
        "TranslationTransform": _Linear(lambda: sitk.TranslationTransform(d), d, (0,)),
        "ScaleTransform": _Linear(lambda: sitk.ScaleTransform(d), d, (d,)),
        "ScaleLogarithmicTransform": _Linear(lambda: sitk.ScaleTransform(d), d, (d,), _exponential),
    }
    if d == 2:
        return kinds | {
            "Euler2DTransform": _Linear(sitk.Euler2DTransform, 3, (2,)),
            "Rigid2DTransform": _Linear(sitk.Euler2DTransform, 3, (2,)),
            "Similarity2DTransform": _Linear(sitk.Similarity2DTransform, 4, (2,)),
            "CenteredRigid2DTransform": _Linear(sitk.Euler2DTransform, 5, (0, 2), _centered(1, 2)),
            "CenteredSimilarity2DTransform": _Linear(sitk.Similarity2DTransform, 6, (0, 2), _centered(2, 2)),
        }
    return kinds | {
        "Rigid3DTransform": affine,
        "Euler3DTransform": _Linear(sitk.Euler3DTransform, 6, (3, 4)),
        "CenteredEuler3DTransform": _Linear(sitk.Euler3DTransform, 9, (0, 3, 4), _centered(3, 3)),
        "VersorTransform": _Linear(sitk.VersorTransform, 3, (3,)),
        "VersorRigid3DTransform": _Linear(sitk.VersorRigid3DTransform, 6, (3,)),
        "QuaternionRigidTransform": _Linear(sitk.VersorRigid3DTransform, 7, (3,), _versor),
        "Similarity3DTransform": _Linear(sitk.Similarity3DTransform, 7, (3,)),
        "ScaleVersor3DTransform": _Linear(sitk.ScaleVersor3DTransform, 9, (3,)),
        "ScaleSkewVersor3DTransform": _Linear(sitk.ScaleSkewVersor3DTransform, 15, (3,)),
        "ComposeScaleSkewVersor3DTransform": _Linear(sitk.ComposeScaleSkewVersor3DTransform, 12, (3,)),
    }
