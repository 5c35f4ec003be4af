"""Where a NIfTI header puts the voxels.

Which of the orientations of a header counts, and what is done where it is contradictory, is decided as ITK (hence
Slicer and ANTs) does:

- The sform where the qform says the same but for rounding, where its code is 1 (scanner) or where there is no qform;
  else the qform. The other one where the first is unusable (not finite, singular, sheared by more than about a
  degree) or gives other voxel sizes than the header.
- An sform with voxels of 1 mm along the axes, no qform beside it and other voxel sizes in the header is what
  converters leave when they know nothing: the sizes of the header count.
- Without either, the voxel sizes along the axes of LPS, first voxel in the origin; told.

An axis that is sheared by rounding keeps its shear: the voxels lie where the matrix says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nibabel.quaternions
import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError, warn_header
from roireg.core.grid import Grid
from roireg.io._itk import (
    SHEAR_NOTICED,
    SHEAR_REFUSED,
    degrees,
    refuse_shear,
    shear_of,
    warn_shear,
)

__all__ = ["RAS_FROM_LPS", "grid_of_header", "grid_of_matrix", "other_order"]

Array = NDArray[np.float64]

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_MILLIMETRES = {1: 1e3, 3: 1e-3}
"""Length in mm of the units that xyzt_units names, where it is not 1: metre and micrometre."""
_CODES = {1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI", 5: "template"}
_SIZE_DIFFERS = 0.01
_SAME_PLACE = 0.1
"""Part of a voxel up to which qform and sform say the same: a quaternion is rounded more than a matrix."""


def other_order(ndim: int) -> list[int]:
    """Columns of a homogeneous matrix with the axes in reverse: x first becomes storage order and back."""
    return [*range(ndim)[::-1], ndim]


def grid_of_header(header: Any, size: Sequence[int], name: str) -> tuple[Grid, dict[str, str]]:
    """Return where a header puts voxels (`size` x first), and which of its orientations was used."""
    if len(size) < 2:
        raise InputError(f"{name}: expected a 2D or 3D image, found {len(size)} spatial axis")
    spacing = _spacing(header, size, name)
    ras, placed = _world_from_voxel(header, size, spacing, name)
    unit = _MILLIMETRES.get(int(header["xyzt_units"]) & 7)
    if unit is not None:
        ras = np.diag([unit, unit, unit, 1.0]) @ ras
        placed += f", in {'metres' if unit > 1 else 'micrometres'}"
    return grid_of_matrix(ras, size, name), {"placed by": placed}


def grid_of_matrix(ras: Array, size: Sequence[int], name: str) -> Grid:
    """Return the grid of voxels (`size` x first) that a matrix puts into RAS mm; shear is told."""
    lps = RAS_FROM_LPS @ ras
    if len(size) == 2:
        lps = _flat(lps)
    shear = shear_of(lps[:-1, :-1])
    if shear > SHEAR_NOTICED:
        warn_shear(shear, name)
    try:
        return Grid(tuple(size)[::-1], lps[:, other_order(len(size))])
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}; correct its header or export it again") from error


def _flat(lps: Array) -> Array:
    """Return the 3x3 matrix of a 2D image: its place in x and y, or sizes alone where its plane is another one."""
    linear, lengths = lps[:2, :2], np.linalg.norm(lps[:3, :2], axis=0)
    within = np.allclose(np.linalg.norm(linear, axis=0), lengths, rtol=1e-4)
    flat = np.eye(3)
    flat[:2, :2] = linear if within else np.diag(lengths)
    flat[:2, 2] = lps[:2, 3]
    return flat


def _spacing(header: Any, size: Sequence[int], name: str) -> Array:
    """Return three positive voxel sizes; warn where the header has others."""
    steps = np.asarray(header["pixdim"], dtype=np.float64)[1:4]
    usable = np.where(np.isfinite(steps) & (steps != 0), np.abs(steps), 1.0)
    for axis, (n, step, used) in enumerate(zip(size, steps, usable, strict=False)):
        if n > 1 and step != used:
            warn_header(name, f"the voxel size along axis {'xyz'[axis]} is {step:g}, read as {used:g} mm")
    return usable


def _world_from_voxel(header: Any, size: Sequence[int], spacing: Array, name: str) -> tuple[Array, str]:
    """Return the (4, 4) matrix from voxel (i, j, k) to RAS in the units of the header, and where it comes from."""
    matrices = {"sform": _sform(header), "qform": _qform(header, spacing)}
    codes = {form: int(header[f"{form}_code"]) for form in matrices}
    present = {form: m for form, m in matrices.items() if codes[form] > 0}
    if not present:
        warn_header(
            name,
            "its header has no orientation (neither sform nor qform); its voxels are taken to lie along the axes of "
            "LPS, as ITK and Slicer do, while programs such as nibabel and FSL put them elsewhere",
        )
        return RAS_FROM_LPS @ np.diag([*spacing, 1.0]), "voxel sizes alone, the header has no orientation"
    faults = {form: _fault(m) for form, m in present.items()}
    usable = [form for form in present if not faults[form]]
    if not usable:
        _refuse(present, faults, name)
    labels = {form: f"{form} ({_CODES.get(codes[form], f'code {codes[form]}')})" for form in present}
    source = "sform" if "sform" in usable and (codes["sform"] == 1 or "qform" not in usable) else usable[-1]
    if len(present) == 1:
        mended = _placeholder(matrices["sform"], size, spacing, name) if source == "sform" else None
        if mended is not None:
            return mended, "voxel sizes of the header, its sform is a placeholder"
        return matrices[source], labels[source]
    other = "qform" if source == "sform" else "sform"
    if faults[other]:
        warn_header(name, f"its {other} is {faults[other]}, so its {source} says where the image lies")
        return matrices[source], labels[source]
    sizes = np.linalg.norm(matrices["sform"][:3, : len(size)], axis=0)
    apart = _distance(matrices["sform"], matrices["qform"], size)
    if apart <= _SAME_PLACE * float(spacing[: len(size)].min()):
        source, other = "sform", "qform"
    elif np.abs(sizes / spacing[: len(size)] - 1).max() > _SIZE_DIFFERS:
        source, other = "qform", "sform"
    if apart > 1e-3:
        labels[source] += f"; the {labels[other]} puts voxels up to {apart:.3g} mm from there"
    if apart > max(0.5 * float(spacing[: len(size)].max()), 1e-3):
        warn_header(
            name,
            f"its qform and sform put the image in different places (up to {apart:.3g} mm apart); the {source} is "
            "used, as ITK and Slicer do, while programs such as nibabel, FSL and SPM use the sform",
        )
    return matrices[source], labels[source]


def _sform(header: Any) -> Array:
    return np.vstack([np.asarray([header[f"srow_{axis}"] for axis in "xyz"], dtype=np.float64), [0, 0, 0, 1]])


def _qform(header: Any, spacing: Array) -> Array:
    """Return the matrix of the quaternion, shortened to unit length where rounding made it longer."""
    vector = np.array([header[f"quatern_{letter}"] for letter in "bcd"], dtype=np.float64)
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length):
        return np.full((4, 4), np.nan)  # refused like any other matrix of this kind
    vector = vector / max(1.0, length)
    square = 1.0 - float(vector @ vector)
    # Rounding of a half turn: the root of what it leaves would be a turn of up to 0.06 degrees.
    scalar = 0.0 if square < abs(header.quaternion_threshold) else np.sqrt(square)
    rotation = nibabel.quaternions.quat2mat([scalar, *vector])
    flip = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * (spacing * [1.0, 1.0, flip])
    matrix[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    return matrix


def _fault(matrix: Array) -> str:
    """Say what is wrong with an orientation in words that follow "is"; "" where nothing is."""
    linear = matrix[:3, :3]
    if not np.isfinite(matrix).all():
        return "not finite"
    lengths = np.linalg.norm(linear, axis=0)
    if lengths.min() <= 0 or abs(np.linalg.det(linear / lengths)) < 1e-6:
        return "singular"
    shear = shear_of(linear)
    return f"sheared by {degrees(shear):.1f} degrees" if shear > SHEAR_REFUSED else ""


def _refuse(present: dict[str, Array], faults: dict[str, str], name: str) -> None:
    form = next(iter(present))
    if faults[form].startswith("sheared"):
        refuse_shear(shear_of(present[form][:3, :3]), name)
    fault = f"its only orientation, the {form}, is {faults[form]}"
    if len(present) == 2:
        fault = f"its sform is {faults['sform']} and its qform is {faults['qform']}"
    raise GeometryError(f"{name}: {fault}; correct it or export it again")


def _placeholder(sform: Array, size: Sequence[int], spacing: Array, name: str) -> Array | None:
    """Return the sform with the voxel sizes of the header where it has 1 mm along the axes; None elsewhere.

    Warns wherever header and sform disagree about the sizes.
    """
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if np.abs(lengths[: len(size)] / spacing[: len(size)] - 1).max() <= _SIZE_DIFFERS:
        return None
    linear = sform[:3, :3]
    unit = np.array_equal(np.abs(linear), np.eye(3))
    # Equal sizes of 1 are what a header says that was never filled in.
    unit = unit and not np.array_equal(spacing, np.ones(3))
    used = "header's size" if unit else "sform"
    warn_header(
        name,
        f"the sform gives voxels of {_times(lengths[: len(size)])} mm but the header says "
        f"{_times(spacing[: len(size)])} mm and there is no qform; the {used} is used, while "
        + ("programs such as nibabel use the sform" if unit else "ITK and Slicer use the header's size"),
    )
    if not unit:
        return None
    matrix = sform.copy()
    matrix[:3, :3] = linear * spacing
    return matrix


def _distance(first: Array, second: Array, size: Sequence[int]) -> float:
    """Largest distance between the places two matrices give to the corner voxels."""
    ends = [(0, n - 1) for n in (*size, 1)[:3]]
    corners = np.stack([*np.meshgrid(*ends, indexing="ij"), np.ones((2, 2, 2))], -1).reshape(-1, 4)
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


def _times(values: Array) -> str:
    return " x ".join(f"{v:.4g}" for v in values)
