"""The mean of images in shape and brightness.

As in the builders of ANTs (Avants et al., NeuroImage 49:2457, 2010) and FireANTs: the mean of the images that were
brought onto a template, moved by the inverse of the mean affine map and of the mean velocity, so that no image is
nearer to the template than the others on the average; then sharpened. Here every image is resampled once, through its
own transform and that of the mean together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import SimpleITK as sitk
import torch

from roireg.cohort.pair import job_of, summary_of
from roireg.core.errors import InputError
from roireg.core.files import file_digest, intact_record, new_folder, write_json
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, DisplacementField, Transform, VelocityField
from roireg.core.warp import warp
from roireg.fit.region_affine import affine_part
from roireg.io import read_image, read_transform, sha256_of, write_image, write_transform
from roireg.jobs.job import code_version

__all__ = ["first_mean", "mean_shape", "next_mean", "register_member"]

RECORD = "mean.json"
BRIGHT = 1000.0
"""What the 99th percentile of an image becomes before means are taken."""


# -- registering ----------------------------------------------------------------------------------


def register_member(*, options: Mapping[str, Any], thumbnail: str | None = None) -> dict[str, Any]:
    """Register an image to a template as `roireg.cohort.pair.register_pair`, and keep the velocity of its flow."""
    job = job_of(options)
    result = job.run()
    if result.resumed and not velocity_file(job.out).is_file():
        result = job_of({**options, "resume": False}).run()
    if result.value is not None:
        file = velocity_file(job.out)
        file.parent.mkdir(parents=True, exist_ok=True)
        for earlier in file.parent.glob(f"{job.out.name}-*.h5"):
            earlier.unlink()
        write_transform(file, _velocity(result.value.transform, result.value.fixed.grid))
    return summary_of(job, result, thumbnail)


def velocity_file(folder: Path) -> Path:
    """Return where the velocity of the registration in a result folder is kept; its name says of which result."""
    stamp = json.loads((folder / "result.json").read_text(encoding="utf-8"))["stamp"]
    return folder.parent.parent / "velocities" / f"{folder.name}-{stamp[:16]}.h5"


def _velocity(transform: Transform, grid: Grid) -> DisplacementField:
    """Return the velocity of a flow before an affine map; of other transforms what they move beside their affine."""
    parts = transform.transforms if isinstance(transform, Chain) else (transform,)
    flows = [t for t in parts if isinstance(t, VelocityField)]
    if len(flows) == 1 and parts[0] is flows[0] and all(isinstance(t, Affine) for t in parts[1:]):
        return DisplacementField(flows[0].grid, flows[0].velocity)
    rest = Chain((transform, affine_part(transform, grid).inverse()))
    return DisplacementField(grid, rest.displacement_on(grid))


# -- means ----------------------------------------------------------------------------------------


def first_mean(*, out: str, images: Sequence[str], start: str | None) -> dict[str, Any]:
    """Write the mean of images whose centres lie together, or the image that is named instead."""
    place = Path(out) / "mean"
    sources = images if start is None else [start]
    stamp = {"code": _code(), "inputs": [sha256_of(p) for p in sources]}
    if _kept(place, stamp):
        return {"kept": True}
    if start is not None:
        image = normalised(read_image(start, finite=False))
    else:
        grid = _common_grid([read_image(path, finite=False).grid for path in images])
        total = _Mean(grid)
        for path in images:
            image = normalised(read_image(path, finite=False))
            total.add(image, Affine.translation(image.grid.center - grid.center))
        image = total.image(image)
    _write(place, image, stamp, {"moved_mm": None})
    return {"kept": False}


def next_mean(
    *, out: str, round: str, template: str, members: Sequence[Mapping[str, str]], sharpen: float
) -> dict[str, Any]:
    """Write the next template: the mean of images, moved to where they are on the average."""
    target = Path(out) / "mean"
    folders = {m["id"]: Path(round) / "pairs" / m["id"] for m in members}
    digests = [file_digest(folder / "transform.h5") for folder in folders.values()]
    digests += [file_digest(velocity_file(folder)) for folder in folders.values()]
    stamp = {"code": _code(), "inputs": [file_digest(Path(template)), *digests, sharpen]}
    if _kept(target, stamp):
        return {"kept": True}
    grid = read_image(template).grid
    transforms = {id: read_transform(folder / "transform.h5") for id, folder in folders.items()}
    shape = mean_shape(
        [affine_part(t, grid) for t in transforms.values()],
        (read_transform(velocity_file(folder)) for folder in folders.values()),
        grid,
    )
    back = shape.inverse()
    total = _Mean(grid)
    for member in members:
        image = normalised(read_image(member["image"], finite=False))
        total.add(image, Chain((back, transforms[member["id"]])))
    moved = float(shape.displacement_on(grid).norm(dim=0).double().square().mean().sqrt())
    _write(target, sharpened(total.image(image), sharpen), stamp, {"moved_mm": moved}, shape=shape)
    return {"kept": False, "moved_mm": moved}


def mean_shape(affines: Sequence[Affine], velocities: Any, grid: Grid) -> Chain:
    """Return the mean of transforms x -> A exp(v)(x): the exponential of the means of v and of the logarithms of A.

    Parameters
    ----------
    affines : A of every transform.
    velocities : fields of v, mm, on any grids; taken one after the other.
    grid : where the mean of v is given.
    """
    logarithm = np.mean([scipy.linalg.logm(affine.matrix).real for affine in affines], axis=0)
    mean = torch.zeros((grid.ndim, *grid.shape), dtype=torch.float64)
    for velocity in velocities:
        mean += velocity.displacement_on(grid).double() / len(affines)
    return Chain((VelocityField(grid, mean.float()), Affine(scipy.linalg.expm(logarithm).real)))


class _Mean:
    """The mean of images on a grid, each counted where it has voxels."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.sum = torch.zeros((1, *grid.shape), dtype=torch.float64)
        self.count = torch.zeros((1, *grid.shape), dtype=torch.float64)

    def add(self, image: Image, transform: Transform) -> None:
        inside = warp(image.with_data(torch.ones_like(image.data)), transform, self.grid, fill=0.0).data
        self.sum += (warp(image, transform, self.grid).data * inside).double()
        self.count += inside.double()

    def image(self, like: Image) -> Image:
        mean = torch.where(self.count > 1e-3, self.sum / self.count.clamp(min=1e-3), 0.0)
        return Image(mean.float(), self.grid, name="template", unit=like.unit, dtype="float32")


def normalised(image: Image) -> Image:
    """Return one channel of an image with 0 and `BRIGHT` at its 1st and 99th percentile; NaN becomes 0.

    Raises
    ------
    InputError
        When all values are equal.
    """
    gray = torch.nan_to_num(_gray(image).data.float())
    low, high = (float(v) for v in np.percentile(gray.numpy(), (1, 99)))
    if not high > low:
        raise InputError(f"{image.name}: the values of this image are all the same; leave it out")
    return Image((gray - low) / (high - low) * BRIGHT, image.grid, name=image.name, unit=image.unit, dtype="float32")


def _gray(image: Image) -> Image:
    if image.channels == 1:
        return image
    return Image(image.data.float().mean(0, keepdim=True), image.grid, name=image.name, unit=image.unit)


def sharpened(image: Image, amount: float) -> Image:
    """Return an image with the edges that a mean has lost, as ANTs does by its Laplacian; 0 changes nothing."""
    if not amount or min(image.grid.shape) < 3:
        return image
    sharp = sitk.GetArrayFromImage(sitk.LaplacianSharpening(sitk.GetImageFromArray(image.data[0].numpy()), False))
    mixed = (1 - amount) * image.data + amount * torch.from_numpy(sharp)[None]
    return image.with_data(mixed.clamp(float(image.data.min()), float(image.data.max())))


def _common_grid(grids: Sequence[Grid]) -> Grid:
    """Return a grid with the axes of the first one, as large as the largest, around the mean of the centres."""
    first = grids[0]
    axes = first.direction
    # Spacings and extents along the storage axes of the first image, which others may store in another order.
    turned = [np.abs(axes.T @ grid.direction) for grid in grids]
    spacing = np.median([t @ grid.spacing for t, grid in zip(turned, grids, strict=True)], axis=0)
    extent = np.max([t @ grid.extent for t, grid in zip(turned, grids, strict=True)], axis=0)
    centre = np.mean([grid.center for grid in grids], axis=0)
    shape = np.maximum(1, np.ceil(extent / spacing - 1e-6)).astype(int)
    affine = np.eye(first.ndim + 1)
    affine[:-1, :-1] = axes * spacing
    affine[:-1, -1] = centre - affine[:-1, :-1] @ ((shape - 1) / 2)
    return Grid(tuple(int(n) for n in shape), affine)


def _code() -> str:
    """Return the version of what decides a mean."""
    return f"{code_version()}+{file_digest(Path(__file__))[:8]}"


def _kept(place: Path, stamp: Mapping[str, Any]) -> bool:
    earlier = intact_record(place, record=RECORD)
    return earlier is not None and earlier.get("stamp") == stamp


def _write(
    place: Path, image: Image, stamp: Mapping[str, Any], said: Mapping[str, Any], *, shape: Chain | None = None
) -> None:
    with new_folder(place, record=RECORD) as folder:
        write_image(folder / "template.nii.gz", image)
        if shape is not None:
            write_transform(folder / "shape.h5", shape)
            write_transform(folder / "shape_inverse.h5", shape.inverse())
        write_json(folder / RECORD, {"stamp": dict(stamp), **said})
