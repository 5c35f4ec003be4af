"""Read a file as what it is, and write it in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent
from roireg.io import (
    read_pairs,
    read_points,
    write_ants,
    write_image,
    write_labels,
    write_pairs,
    write_points,
    write_transform,
)
from roireg.jobs.convert import ConvertJob
from roireg.jobs.job import Work
from roireg.jobs.reading import load_chain, read_picture, read_reference

__all__ = ["compute"]


def compute(job: ConvertJob, progress: Progress) -> Work:
    """Read and check; see `roireg.jobs.job.Job.run`."""
    progress(ProgressEvent("reading the files", 0.0))
    if job.content == "transform":
        return _transform(job)
    document = {"kind": job.content, "written": [job.out]}
    if job.content == "points":
        points = read_points(job.source)
        return Work(document, lambda path: write_points(path, points), points)
    if job.content == "pairs":
        pairs = read_pairs(job.source)
        return Work(document, lambda path: write_pairs(path, pairs), pairs)
    labels = job.content == "labels"
    image = read_picture(job.source, job.picture, labels=labels, finite=False)
    if job.cut is not None:
        image = _slice(image, *job.axis_and_index)
    return Work(document, lambda path: (write_labels if labels else write_image)(path, image), image)


def _transform(job: ConvertJob) -> Work:
    transform = load_chain([str(job.source)], inverse=job.inverse, fixed=job.fixed, moving=job.moving)
    grid = None if job.reference is None else read_reference(job.reference)[0]
    if grid is not None and grid.ndim != transform.ndim:
        raise GeometryError(f"{job.reference}: the image is {grid.ndim}D but the transform is {transform.ndim}D")
    document: dict[str, Any] = {"kind": "transform", "written": [job.out]}

    def write(path: Path) -> None:
        if job.ants is None:
            write_transform(path, transform, grid=grid)
        else:
            files = write_ants(str(job.ants), transform)
            document["written"] = [*files.forward, *(p for p, invert in files.inverse if not invert)]

    return Work(document, write, transform)


def _slice(image: Image, letter: str, index: int) -> Image:
    """Return one slice of a volume as a 2D image.

    Where the axes of the volume run along the world axes the slice keeps its place in the two that remain;
    elsewhere it starts at (0, 0) with its spacing.

    Raises
    ------
    InputError
        When the image is 2D, or there is no such slice.
    """
    if image.ndim != 3:
        raise InputError(f"{image.name}: the image is 2D already; leave out --slice")
    axis = "zyx".index(letter)
    count = image.grid.shape[axis]
    if index >= count:
        raise InputError(f"{image.name}: there is no slice {letter}={index}; {letter} runs from 0 to {count - 1}")
    return image.with_data(image.data.select(axis + 1, index).clone(), _slice_grid(image.grid, axis, index))


def _slice_grid(grid: Grid, axis: int, index: int) -> Grid:
    axes = [a for a in range(3) if a != axis]
    shape = tuple(grid.shape[a] for a in axes)
    across = int(np.argmax(np.abs(grid.direction[:, axis])))
    world = [a for a in range(3) if a != across]
    affine = np.eye(3)
    if np.abs(grid.direction[:, axis]).max() > 1 - 1e-6:
        start = np.zeros(3)
        start[axis] = index
        affine[:2, :2] = grid.affine[np.ix_(world, axes)]
        affine[:2, 2] = grid.world_from_index(start)[world]
        return Grid(shape, affine)
    spacing = grid.spacing[axes]
    return Grid.from_itk(shape[::-1], spacing[::-1].tolist(), [0.0, 0.0], np.eye(2))
