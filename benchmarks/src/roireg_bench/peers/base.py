"""What the peers share: whether a package is there, threads, timing, and the geometry between packages."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import DisplacementField, Transform
from roireg.io import read_image, write_transform
from roireg_bench.protocol import Inputs, Modality, Output, Stopwatch, Unavailable

__all__ = ["Peer", "field_from_points", "field_from_voxels", "gray_array", "itk_image", "package_version"]

EXTRA = "pip install roireg-bench[peers]"

THREAD_VARIABLES = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS")
"""Read by libraries when they are loaded (ITK inside ANTs and elastix, OpenMP) and by programs when they start."""


@dataclass(frozen=True)
class Peer(ABC):
    """A registration method of another package; its fields are its settings.

    The class says where it comes from: `package` (name on the package index), `modules` that are loaded before the
    clock runs, `install` (the command that a user needs), `dimensions` it is made for, and `revision`, to be raised
    when the code here changes in a way that may change results.
    """

    name: str
    package: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    install: ClassVar[str] = EXTRA
    dimensions: ClassVar[tuple[int, ...]] = (2, 3)
    revision: ClassVar[int] = 1

    @property
    def version(self) -> str:
        """Name and version of the package, or that it is not installed."""
        number = package_version(self.package)
        return f"{self.package} {number}" if number else f"{self.package}, not installed"

    @property
    def settings(self) -> Mapping[str, Any]:
        """All fields but the name, and the revision."""
        return {"revision": self.revision} | {k: v for k, v in asdict(self).items() if k != "name"}

    def require(self) -> None:
        """Make sure that the method can run on this machine.

        Raises
        ------
        Unavailable
            When the package is not installed.
        """
        if package_version(self.package) is None:
            raise Unavailable(f"not installed: {self.install}")

    def run(self, inputs: Inputs, folder: Path) -> Output:
        """Register with as many threads as torch has; timed from two images in memory to a transform in memory."""
        self.require()
        fixed, moving = read_image(inputs.fixed), read_image(inputs.moving)
        if fixed.ndim != moving.ndim:
            raise GeometryError(
                f"{self.name} needs two images of one dimension, found {fixed.ndim}D and {moving.ndim}D"
            )
        if fixed.ndim not in self.dimensions:
            made_for = " and ".join(f"{d}D" for d in self.dimensions)
            raise Unavailable(f"made for {made_for} images, not for {fixed.ndim}D")
        watch = Stopwatch()
        with _environment(torch.get_num_threads()), _output_to(folder / "output.txt"):
            self.load()
            with watch.running():
                transform = self.register(fixed, moving, inputs.modality, folder)
        file = folder / "transform.h5"
        write_transform(file, transform)
        return Output((file,), watch.seconds, watch.cpu_seconds)

    def load(self) -> None:
        """Import what takes time, before the clock runs."""
        for module in self.modules:
            import_module(module)

    @abstractmethod
    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        """Return the map from fixed-world to moving-world points; `folder` may hold files on the way."""


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update({name: str(threads) for name in THREAD_VARIABLES})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Send what libraries print (from C++ too) to a file, so that the progress of the benchmark stays readable."""
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    with file.open("wb") as sink:
        try:
            for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
                stream.flush()
                os.dup2(sink.fileno(), descriptor)
            yield
        finally:
            for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
                stream.flush()
                os.dup2(saved[descriptor], descriptor)
                os.close(saved[descriptor])


def package_version(package: str) -> str | None:
    """Return the version of an installed package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def gray_array(image: Image) -> NDArray[np.float32]:
    """Return the gray values, float32 in storage order."""
    return np.ascontiguousarray(image.gray().data[0].cpu().numpy().astype(np.float32))


def itk_image(image: Image) -> sitk.Image:
    """Return the gray values as a float32 ITK image with the geometry of the grid."""
    itk = sitk.GetImageFromArray(gray_array(image))
    _, spacing, origin, direction = image.grid.itk
    itk.SetSpacing(spacing)
    itk.SetOrigin(origin)
    itk.SetDirection(direction)
    return itk


def field_from_points(grid: Grid, mapped: NDArray[np.float64]) -> DisplacementField:
    """Return the displacement field that takes the voxel centres of a grid to given points.

    Parameters
    ----------
    mapped : (size, d) moving-world points, rows in storage order of the voxels.

    Raises
    ------
    InputError
        When a point is not finite: the method gave no usable result.
    """
    if not np.isfinite(mapped).all():
        raise InputError(f"the result is not finite at {int((~np.isfinite(mapped)).any(axis=1).sum())} voxels")
    displacement = (mapped - grid.points()).T.reshape(grid.ndim, *grid.shape)
    return DisplacementField(grid, torch.from_numpy(displacement.astype(np.float32)))


def field_from_voxels(grid: Grid, flow: NDArray[Any]) -> DisplacementField:
    """Return the field of a flow in voxels of a grid, (d, *shape) with components in storage order.

    Raises
    ------
    InputError
        When the flow is not finite somewhere.
    """
    if not np.isfinite(flow).all():
        raise InputError(f"the result is not finite at {int((~np.isfinite(flow)).any(axis=0).sum())} voxels")
    displacement = np.einsum("ij,j...->i...", grid.affine[:-1, :-1], flow)
    return DisplacementField(grid, torch.from_numpy(np.ascontiguousarray(displacement, dtype=np.float32)))
