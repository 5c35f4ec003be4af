"""Affine maps in the text files of c3d, greedy, NiftyReg, FSL (FLIRT) and FreeSurfer (LTA).

World there is RAS mm; here it is LPS mm, fixed to moving points.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine

__all__ = ["from_flirt", "from_lta", "from_ras", "parse_matrix"]

Array = NDArray[np.float64]


def parse_matrix(text: str) -> Array | None:
    """Return the square matrix (3x3 or 4x4) that a text holds alone, or None where it holds anything else."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if len(rows) not in (3, 4) or any(len(row) != len(rows) for row in rows):
        return None
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError:
        return None


def from_ras(matrix: Array, name: str) -> Affine:
    """Return the transform of c3d, greedy or NiftyReg: a matrix from fixed to moving points in RAS mm.

    Raises
    ------
    GeometryError
        When it is no affine matrix, or singular.
    """
    flip = _lps_from_ras(len(matrix) - 1)
    # Signs alone, so that what is not finite stays for the affine to refuse.
    return _affine(np.outer(flip.diagonal(), flip.diagonal()) * matrix, name)


def from_flirt(matrix: Array, fixed: Grid | None, moving: Grid | None, name: str) -> Affine:
    """Return the transform of FSL's FLIRT, whose matrix joins the voxels (in mm) of the moving and the fixed image.

    FLIRT's mm are voxel indices times voxel sizes, the first axis counted from its end where the image has a
    positive determinant (Jenkinson et al., NeuroImage 2002, and the FLIRT manual).

    Raises
    ------
    InputError
        When an image is missing or not 3D.
    GeometryError
        When the matrix is no affine matrix, or singular.
    """
    if fixed is None or moving is None:
        raise InputError(
            f"{name}: a matrix of FLIRT has a meaning only with the images it was made with; name them with --fixed "
            "(flirt -ref) and --moving (flirt -in)"
        )
    if len(matrix) != 4 or fixed.ndim != 3 or moving.ndim != 3:
        raise InputError(f"{name}: a matrix of FLIRT is 4x4 and joins two 3D images")
    moving_from_fixed = _world_from_flirt(moving) @ _inverted(matrix, name) @ np.linalg.inv(_world_from_flirt(fixed))
    return _affine(moving_from_fixed, name)


def _world_from_flirt(grid: Grid) -> Array:
    size, spacing, _, _ = grid.itk
    world_from_index = grid.affine[:, [2, 1, 0, 3]]
    flirt_from_index = np.diag([*spacing, 1.0])
    # Flipping two axes (RAS to LPS) leaves the sign as it is.
    if np.linalg.det(world_from_index) > 0:
        flirt_from_index[0, 0] = -spacing[0]
        flirt_from_index[0, 3] = (size[0] - 1) * spacing[0]
    return np.asarray(world_from_index @ np.linalg.inv(flirt_from_index))


def from_lta(text: str, name: str) -> Affine:
    """Return the transform of a FreeSurfer LTA file, whose matrix maps the source (moving) to the destination.

    Raises
    ------
    InputError
        When it is of another type than voxel to voxel and RAS to RAS, holds several, or misses a volume.
    GeometryError
        When the matrix is no affine matrix, or singular.
    """
    # A comment begins with "#"; the matrix follows a line "1 4 4".
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    entries = [line for line in lines if line]
    values: dict[str, str] = {}
    sides: list[dict[str, str]] = [{}, {}]
    side: dict[str, str] = values
    rows: list[list[str]] = []
    for line in entries:
        if re.match(r"(src|dst) volume info", line):
            side = sides[line.startswith("dst")]
        elif "=" in line:
            key, _, value = line.partition("=")
            side[key.strip()] = value.strip()
        elif len(line.split()) == 4 and len(rows) < 4:
            rows.append(line.split())
    try:
        kind, count = int(values["type"]), int(values["nxforms"])
        matrix = np.array(rows, dtype=np.float64).reshape(4, 4)
    except (KeyError, ValueError) as error:
        raise InputError(f"{name}: the LTA file has no type, nxforms or 4x4 matrix; write it again") from error
    if count != 1:
        raise InputError(
            f"{name}: the LTA file holds {count} transforms, expected one; concatenate them with lta_convert"
        )
    if kind not in (0, 1):
        raise InputError(
            f"{name}: LTA files of type 0 (voxel to voxel) and 1 (RAS to RAS) are read, found type {kind}; "
            "convert it with lta_convert --outlta OUT.lta"
        )
    if kind == 0:
        source, target = (_world_from_voxel(s, which, name) for s, which in zip(sides, ("src", "dst"), strict=True))
        matrix = target @ matrix @ np.linalg.inv(source)
    return from_ras(_inverted(matrix, name), name)


def _world_from_voxel(info: dict[str, str], which: str, name: str) -> Array:
    """Return the matrix from voxel to RAS of a volume in an LTA file: its axes, voxel sizes and middle."""
    try:
        if int(info.get("valid", "1").split()[0]) != 1:
            raise KeyError("valid")
        size, spacing = (np.array(info[key].split(), dtype=np.float64) for key in ("volume", "voxelsize"))
        axes = np.array([info[key].split() for key in ("xras", "yras", "zras")], dtype=np.float64).T
        center = np.array(info["cras"].split(), dtype=np.float64)
        matrix = np.eye(4)
        matrix[:3, :3] = axes * spacing
        matrix[:3, 3] = center - matrix[:3, :3] @ (size / 2)
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
            raise ValueError
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"{name}: the LTA file does not say where its {which} volume lies, which a matrix between voxels needs; "
            "write it again with lta_convert --src IMAGE --trg IMAGE"
        ) from error
    return matrix


def _lps_from_ras(d: int) -> Array:
    return np.diag([-1.0, -1.0, 1.0, 1.0][:d] + [1.0])


def _inverted(matrix: Array, name: str) -> Array:
    return np.array(_affine(matrix, name).inverse().matrix)


def _affine(matrix: Array, name: str) -> Affine:
    try:
        return Affine(matrix)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from error
