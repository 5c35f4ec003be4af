"""What every reader and writer shares: quiet ITK, geometry between ITK and `Grid`, warnings about headers."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from roireg.core.errors import GeometryError, InputError, OutputError, warn_header
from roireg.core.grid import FARTHEST, Grid

__all__ = ["grid_from_itk", "itk_reason", "quiet", "to_itk_image"]

log = logging.getLogger("roireg.io")

SHEAR_NOTICED = 1e-4
SHEAR_REFUSED = 0.02
"""Largest |cosine| between two image axes that needs no word (noticed) and that is usable (refused, 1.1 degrees)."""

_LOCK = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what ITK and its libraries print out of sight (it goes to the debug log).

    HDF5 and MetaIO write to the descriptor of the error stream, libjpeg to that of the output, so redirecting
    `sys.stderr` is not enough. Calls from several threads take turns, because descriptors and ITK's warning switch
    belong to the process.
    """
    with _LOCK:
        shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            with _descriptor_to_log(sys.stdout, 1), _descriptor_to_log(sys.stderr, 2):
                yield
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextmanager
def _descriptor_to_log(stream: TextIO | None, number: int) -> Iterator[None]:
    if stream is not None:
        with suppress(OSError, ValueError):  # a full disk or a closed stream is told where something is printed
            stream.flush()
    try:
        saved = os.dup(number)
    except OSError:  # a process without such a stream (a windowed program) has nothing to redirect
        yield
        return
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), number)
        try:
            yield
        finally:
            os.dup2(saved, number)
            os.close(saved)
            sink.seek(0)
            for line in sink.read().decode(errors="replace").splitlines():
                if line.strip():
                    log.debug("%s", line)


@contextmanager
def plain_name(path: Path, *, beside: Sequence[Path] = ()) -> Iterator[str]:
    """Yield a name of ASCII letters for a file, by a link in a temporary folder where it has another one.

    ITK ends the whole process over a name that is not UTF-8, or not ASCII in the locale C.

    Parameters
    ----------
    beside : further files that are looked for beside the first one under their own names.
    """
    whole = path.absolute()
    if str(whole).isascii() or os.name != "posix":
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        if whole.name.isascii():
            link = Path(folder) / "folder"
            link.symlink_to(whole.parent, target_is_directory=True)
            yield str(link / whole.name)
            return
        ending = "".join(c for c in extension(whole) if c.isascii())
        for file, name in ((whole, f"image{ending}"), *((f.absolute(), f.name) for f in beside)):
            (Path(folder) / name).symlink_to(file)
        yield str(Path(folder) / f"image{ending}")


def itk_reason(error: Exception) -> str:
    """Return the last line of an ITK exception, which says what went wrong, without addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # MetaIO appends the system's last error, which need not belong to the problem.
    lines = [line for line in lines if not line.startswith("Reason:")]
    reason = lines[-1] if lines else type(error).__name__
    for prefix in ("ITK ERROR:", "sitk::ERROR:"):
        reason = reason.removeprefix(prefix).strip()
    head, colon, tail = reason.partition("): ")
    return tail if colon and "(0x" in head else reason


def not_finite(name: str, nan: int, infinite: int) -> str:
    """Return the message for an image with values that are no numbers."""
    return f"{name}: found {nan} NaN and {infinite} infinite voxels; replace them, for example by 0"


def shear_of(direction: ArrayLike) -> float:
    """Return the largest |cosine| between two different columns of a direction matrix; 0 for orthogonal axes."""
    d = np.asarray(direction, dtype=np.float64)
    unit = d / np.linalg.norm(d, axis=0)
    return float(np.abs(unit.T @ unit - np.eye(len(unit))).max())


def refuse_shear(shear: float, name: str) -> None:
    """Raise the error for axes that are not orthogonal."""
    raise GeometryError(
        f"{name}: the image axes are sheared by {degrees(shear):.1f} degrees, but ITK, ANTs and Slicer need "
        "orthogonal axes; resample the image onto an orthogonal grid first"
    )


def degrees(cosine: float) -> float:
    """Return how far, in degrees, an angle of this |cosine| is from a right one."""
    return float(np.degrees(np.arcsin(min(cosine, 1.0))))


def warn_shear(shear: float, name: str) -> None:
    """Warn of axes that are not quite orthogonal, which a `Grid` holds as they are."""
    warn_header(
        name,
        f"the image axes are sheared by {degrees(shear):.2f} degrees, which is kept; ITK, ANTs and Slicer take the "
        "nearest right angles, or refuse the file",
    )


def chosen_frame(name: str, frames: int, frame: int | None, *, shape: Sequence[int] = ()) -> int:
    """Return the number of the frame to read of a 4D image.

    Raises
    ------
    InputError
        When none is chosen out of several, or there is no such frame.
    """
    if frame is None and frames == 1:
        return 0
    if frame is None or not 0 <= frame < frames:
        extra = "" if frame is None else f" and no frame {frame}"
        size = f" ({' x '.join(map(str, shape))})" if shape else ""
        raise InputError(
            f"{name}: the image is 4D{size} with {frames} frames{extra}, expected one 2D or 3D image; "
            f"choose one with --frame N, N from 0 to {frames - 1}"
        )
    return frame


def grid_from_itk(
    size: Sequence[int], spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float], name: str
) -> Grid:
    """Build a `Grid` from ITK geometry (x first), naming the file in errors; slight shear is kept."""
    d = len(size)
    matrix = np.asarray(direction, dtype=np.float64).reshape(d, d)
    if min(spacing) <= 0 or not np.isfinite(spacing).all():
        raise GeometryError(f"{name}: spacings must be positive numbers, found {tuple(spacing)}; fix its header")
    if not (np.abs(matrix) < FARTHEST).all() or abs(np.linalg.det(matrix)) < 1e-6:
        raise GeometryError(f"{name}: the direction matrix is singular or not finite; fix its header")
    shear = shear_of(matrix)
    if shear > SHEAR_REFUSED:
        refuse_shear(shear, name)
    if shear > SHEAR_NOTICED:
        warn_shear(shear, name)
    try:
        return Grid.from_itk(size, spacing, origin, matrix)
    except GeometryError as error:
        raise error if str(error).startswith(name) else GeometryError(f"{name}: {error}") from error


def check_shear(grid: Grid) -> None:
    """Refuse to write an image that no other program would read.

    Raises
    ------
    GeometryError
        When its axes are sheared by more than about a degree.
    """
    if shear_of(grid.direction) > SHEAR_REFUSED:
        raise GeometryError("an image with sheared axes cannot be written; resample it onto an orthogonal grid first")


def to_itk_image(array: NDArray[np.generic], grid: Grid) -> sitk.Image:
    """Build an ITK image from a (channel, *spatial) array; one channel gives scalar pixels.

    Raises
    ------
    GeometryError
        When the axes of the grid are sheared by more than about a degree, which other programs refuse.
    """
    check_shear(grid)
    if array.shape[0] == 1:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[0]), isVector=False)
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(array, 0, -1)), isVector=True)
    _, spacing, origin, direction = grid.itk
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def write_itk(temporary: Path, target: Path, image: sitk.Image) -> None:
    """Write an ITK image as the temporary file of a target.

    Raises
    ------
    OutputError
        When ITK says that it could not; where the disk is full it mostly says nothing, see `verified_path`.
    """
    with plain_name(temporary) as name, quiet():
        try:
            sitk.WriteImage(image, name, useCompression=True)
        except RuntimeError as error:
            raise unwritten(target, itk_reason(error)) from error


def unwritten(target: Path, reason: str) -> OutputError:
    """Return the error for a file that could not be written for a reason that lies outside."""
    return OutputError(f"{target}: the file could not be written ({reason}); free space or choose another place")


def holds_itk(file: Path, array: NDArray[np.generic]) -> bool:
    """Tell whether ITK reads (channel, *spatial) values from a file, bit for bit."""
    with plain_name(file) as name, quiet():
        content = sitk.GetArrayFromImage(sitk.ReadImage(name))
    values = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)
    return np.array_equal(content.reshape(values.shape), values, equal_nan=values.dtype.kind == "f")


def extension(path: Path) -> str:
    """Return the lower-case extension with its dot; `.nii.gz` counts as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix
