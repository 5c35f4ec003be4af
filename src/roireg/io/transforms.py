"""Transforms from files to core values and back: LPS mm, fixed points to moving points, as ITK, ANTs and core."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from roireg.core.bspline import BSpline
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, Chain, DisplacementField, Transform
from roireg.core.words import CONVENTIONS
from roireg.io._itk import (
    check_shear,
    extension,
    holds_itk,
    itk_reason,
    plain_name,
    quiet,
    to_itk_image,
    unwritten,
    write_itk,
)
from roireg.io.elastix import is_elastix, read_elastix
from roireg.io.fields import FIELD, read_field
from roireg.io.itk_files import HDF5_MAGIC, TEXT_MAGIC, is_sealed, read_hdf5, read_matlab, read_text, write_hdf5
from roireg.io.itk_transforms import Part, from_itk, from_records, parts_of, to_itk, to_record
from roireg.io.matrices import from_flirt, from_lta, from_ras, parse_matrix
from roireg.io.nifti import read_nifti, write_nifti
from roireg.io.verified import verified_path

__all__ = ["AntsFiles", "from_itk", "read_transform", "to_itk", "write_ants", "write_transform"]

HDF5 = (".h5", ".hdf5")
TEXT = (".tfm", ".txt")
WRITTEN_FIELD = (".nii", ".nii.gz", ".mha", ".nrrd")

TEXT_LIMIT = 1 << 30
"""A text file of this many bytes is no transform."""


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


# -- writing --------------------------------------------------------------------------------------


def write_transform(path: str | Path, transform: Transform, *, grid: Grid | None = None) -> None:
    """Write a transform; the extension chooses the format.

    .h5, .hdf5 : ITK composite of affines, displacement fields and B-splines, exact; read by ITK, ANTs and Slicer.
    .tfm, .txt : the same as text, for affines, splines and small fields.
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
    parts = parts_of(transform)
    if kind in HDF5:
        for part in parts:
            if not isinstance(part, Affine):
                to_itk_image(np.zeros((1, *[1] * part.ndim), dtype=np.uint8), part.grid)  # refuses sheared axes
        with verified_path(target, is_sealed) as temporary:
            write_hdf5(temporary, [to_record(part) for part in reversed(parts)], transform.ndim)
    elif kind in TEXT:
        _write_itk(target, to_itk(transform))
    elif kind == ".mat":
        affine = _single_affine(target, parts)
        _write_itk(target, to_itk(affine).GetNthTransform(0))
    elif kind in WRITTEN_FIELD:
        field = _single_field(target, transform, parts, grid)
        vectors = field.displacement.detach().cpu().numpy().astype(np.float32)
        check_shear(field.grid)
        if kind in (".nii", ".nii.gz"):
            with verified_path(
                target, lambda file: np.array_equal(read_nifti(file, field=True).array, vectors)
            ) as file:
                write_nifti(file, vectors, field.grid)
        else:
            with verified_path(target, lambda file: holds_itk(file, vectors)) as file:
                write_itk(file, target, to_itk_image(vectors, field.grid))
    else:
        extensions = ", ".join((*HDF5, *TEXT, ".mat", *WRITTEN_FIELD))
        raise InputError(f"{target}: cannot write a transform with the extension {kind!r}; use one of {extensions}")


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
        part = _as_field(parts_of(source)[0])
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


def _as_field(part: Part) -> Affine | DisplacementField:
    return part.field if isinstance(part, BSpline) else part


def _single_affine(target: Path, parts: Sequence[Part]) -> Affine:
    affines = [p for p in parts if isinstance(p, Affine)]
    if len(affines) != len(parts):
        raise InputError(
            f"{target}: a .mat file holds an affine alone, found a displacement field; use .h5 or write_ants"
        )
    return Affine(reduce(lambda first, second: second @ first, [a.matrix for a in affines]))


def _single_field(target: Path, transform: Transform, parts: Sequence[Part], grid: Grid | None) -> DisplacementField:
    fields = [f for p in parts if not isinstance(f := _as_field(p), Affine)]
    if grid is None and not fields:
        raise InputError(
            f"{target}: an affine has no grid to be sampled on as a displacement field; give the fixed image's grid, "
            "or write .h5 or .mat"
        )
    if grid is None and len(parts) == 1:
        return fields[0]
    lattice = fields[0].grid if grid is None else grid
    return DisplacementField(lattice, transform.displacement_on(lattice))


def _write_itk(target: Path, transform: sitk.Transform) -> None:
    def holds(file: Path) -> bool:
        with plain_name(file) as name, quiet():
            return _numbers(sitk.ReadTransform(name)) == _numbers(transform)

    with verified_path(target, holds) as temporary, plain_name(temporary) as name, quiet():
        try:
            sitk.WriteTransform(transform, name)
        except RuntimeError as error:
            raise unwritten(target, itk_reason(error)) from error


def _numbers(transform: sitk.Transform) -> list[tuple[float, ...]]:
    if transform.GetName() == "CompositeTransform":
        composite = sitk.CompositeTransform(transform)
        return [n for i in range(composite.GetNumberOfTransforms()) for n in _numbers(composite.GetNthTransform(i))]
    return [transform.GetParameters(), transform.GetFixedParameters()]


# -- reading --------------------------------------------------------------------------------------

_KNOWN = (
    "transforms of ITK and ANTs (.h5, .tfm, .txt, .mat), displacement fields, parameter files of elastix, LTA files "
    "of FreeSurfer, and 4x4 matrices of c3d, greedy, NiftyReg or FLIRT"
)
_REFUSED = (
    (b"MATLAB 5.0", "this is a MATLAB 5 file, as SPM writes it", "save the matrix as text and name it as ras:FILE"),
    (
        b"MNI Transform File",
        "this is a MINC .xfm file",
        "convert it with lta_convert --inmni IN.xfm --outlta OUT.lta",
    ),
)


def read_transform(
    path: str | Path, *, convention: str | None = None, fixed: Grid | None = None, moving: Grid | None = None
) -> Transform:
    """Read a transform, known by its content, as a map from fixed to moving points in LPS mm.

    - ITK and ANTs: .h5, .tfm, .txt and .mat with linear transforms of every kind, displacement fields, B-splines and
      composites; of several in one file the last is applied first, as ANTs does.
    - Displacement field images (ITK, ANTs, greedy, elastix), NiftyReg's fields and cubic splines, SPM's y_*.nii.
    - elastix: TransformParameters.N.txt with its initial transforms.
    - FreeSurfer: LTA, from source (moving) to destination (fixed).
    - Text files of one 3x3 or 4x4 matrix, whose `convention` must be stated.

    Parameters
    ----------
    path : the file.
    convention : of a matrix: "ras" (c3d, greedy, NiftyReg) or "fsl" (FLIRT, needs both grids).
    fixed, moving : grids of the images that a matrix of FLIRT was made with.

    Raises
    ------
    InputError
        When the file is missing, damaged, no transform or of a kind that is not understood, which is named.
    GeometryError
        When an affine is singular or a field is not finite.
    """
    place = Path(path)
    name = str(place)
    if not place.is_file():
        raise InputError(f"{place}: no such file; check the path of the transform")
    try:
        with place.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise InputError(f"{place}: the file cannot be read ({error.strerror}); check its permissions") from error
    if convention is None:
        if extension(place) in FIELD:
            return read_field(place)
        if head.startswith(HDF5_MAGIC):
            return from_records(read_hdf5(place), name=name)
        for start, what, advice in _REFUSED:
            if head.startswith(start):
                raise InputError(f"{name}: {what}, which is not read as a transform; {advice}")
    if place.stat().st_size > TEXT_LIMIT:
        raise InputError(f"{name}: the file is too large for a text file of a transform; expected {_KNOWN}")
    data = place.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if convention is not None:
        return _matrix(text, convention, fixed, moving, name)
    if "\0" in text:
        if extension(place) == ".mat":
            return from_records(read_matlab(data, name), name=name)
        raise InputError(f"{name}: this is no transform; expected {_KNOWN}")
    return _from_text(place, text)


def _from_text(place: Path, text: str) -> Transform:
    name = str(place)
    if text.startswith(TEXT_MAGIC):
        return from_records(read_text(text, name), name=name)
    if is_elastix(text):
        return read_elastix(place, text)
    if re.search(r"^\s*nxforms\s*=", text, re.MULTILINE):
        return from_lta(text, name)
    if parse_matrix(text) is not None:
        raise InputError(
            f"{name}: a matrix alone does not say what it maps; name it as ras:FILE (c3d, greedy, NiftyReg) or "
            "fsl:FILE (FLIRT)"
        )
    raise InputError(f"{name}: this is no transform; expected {_KNOWN}")


def _matrix(text: str, convention: str, fixed: Grid | None, moving: Grid | None, name: str) -> Transform:
    matrix = parse_matrix(text)
    if convention not in CONVENTIONS:
        raise InputError(f"{name}: the convention of a matrix is {' or '.join(CONVENTIONS)}, found {convention!r}")
    if matrix is None:
        raise InputError(
            f"{name}: {convention}:FILE names a text file of one 3x3 or 4x4 matrix; leave out the prefix"
        )
    return from_ras(matrix, name) if convention == "ras" else from_flirt(matrix, fixed, moving, name)
