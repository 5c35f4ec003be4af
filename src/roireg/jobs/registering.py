"""Read everything, register, score; then write the result folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roireg.core.files import extension_of
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent
from roireg.core.rois import Prompt, ROIPairs
from roireg.core.transforms import Transform
from roireg.core.warp import warp
from roireg.core.words import INIT_WORDS
from roireg.evaluate import Truth
from roireg.io import (
    PointSet,
    pair_points,
    read_image,
    read_labels,
    read_pairs,
    read_points,
    write_labels,
    write_points,
)
from roireg.jobs.job import Work
from roireg.jobs.needs import tell_needs
from roireg.jobs.reading import load_labels, load_transform, with_settings, world_points
from roireg.jobs.register import RegisterJob
from roireg.pipeline import Config, Registration, register
from roireg.pipeline.checks import check_points, labels_on

__all__ = ["Carried", "compute", "read_carried", "registered", "start_of", "work_of"]


@dataclass(frozen=True)
class Carried:
    """Label maps and landmarks that follow the transform."""

    fixed_labels: Image | None
    moving_labels: Image | None
    fixed_points: PointSet | None
    moving_points: PointSet | None
    paired: tuple[PointSet, PointSet] | None

    @property
    def places(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """The landmarks of either side; of both sides those that correspond, row by row."""
        fixed, moving = self.paired or (self.fixed_points, self.moving_points)
        return None if fixed is None else fixed.points, None if moving is None else moving.points


def compute(job: RegisterJob, progress: Progress) -> Work:
    """Read, check, register and score; see `roireg.jobs.job.Job.run`."""
    progress(ProgressEvent("reading the files", 0.0))
    settings = with_settings(job)
    init = start_of(job)
    fixed, moving = (
        read_image(p, finite=False, **w) for p, w in zip((job.fixed, job.moving), job.pictures, strict=True)
    )
    tell_needs((fixed, moving), job.max_memory, progress)
    carried = read_carried(job, fixed, moving)
    pairs = None if job.pairs is None else read_pairs(job.pairs)
    return work_of(job, registered(job, fixed, moving, settings, init, pairs, progress), carried)


def registered(
    job: RegisterJob,
    fixed: Image,
    moving: Image,
    settings: Config | None,
    init: str | Transform,
    pairs: ROIPairs | None,
    progress: Progress,
) -> Registration:
    """Register images as the options of a job say, from region pairs if there are any."""
    return register(
        fixed,
        moving,
        preset=job.preset,
        config=settings,
        type=job.type,
        search=job.search,
        pairs=pairs,
        fixed_rois=load_labels(job.fixed_rois, job.frames[0]),
        moving_rois=load_labels(job.moving_rois, job.frames[1]),
        fixed_mask=load_labels(job.fixed_mask, job.frames[0]),
        moving_mask=load_labels(job.moving_mask, job.frames[1]),
        prompts=_prompts(job, fixed, moving),
        prompt_side=job.prompt_in or "fixed",
        roi_weight=job.roi_weight,
        pairs_only=job.pairs_only,
        init=init,
        device=job.device,
        seed=job.seed,
        progress=progress,
    )


def work_of(job: RegisterJob, result: Registration, carried: Carried) -> Work:
    """Score a registration, and say what the result folder of the job holds."""
    result = replace(
        _scored(result, carried), provenance={**result.provenance, **job.provenance}, fill=job.fill_value
    )
    accepted = sum(p.status == "accepted" for p in result.pairs.pairs)

    def write(folder: Path) -> None:
        result.save(folder, only=[name for name in job.outputs if name != "report"])
        _write_carried(folder, job, result, carried)
        if "report" in job.outputs:
            with work.beside(folder / "report.html") as file:
                labels = carried.fixed_labels, carried.moving_labels
                file.write_text(result.report_html(labels=labels, points=carried.places), encoding="utf-8")

    work = Work({**result.result_json(), "accepted": accepted}, write, result)
    return work


def start_of(job: RegisterJob) -> str | Transform:
    """Return where a registration starts from: a word, or the transform of a file."""
    return job.init if job.init in INIT_WORDS else load_transform(job.init, fixed=job.fixed, moving=job.moving)


def _prompts(job: RegisterJob, fixed: Image, moving: Image) -> list[Prompt]:
    image = moving if job.prompt_in == "moving" else fixed
    return [Prompt.at(point) for point in world_points("--prompt", job.prompt or (), image, job.unit)]


# -- what is carried along ------------------------------------------------------------------------


def read_carried(job: RegisterJob, fixed: Image, moving: Image) -> Carried:
    """Read the label maps and landmarks of a job and check that they belong to its images.

    Raises
    ------
    RoiregError
        When a file is unreadable, or lies elsewhere than its image.
    """
    labels = [
        None if path is None else labels_on(read_labels(path, frame=frame), image)
        for path, frame, image in zip((job.fixed_labels, job.moving_labels), job.frames, (fixed, moving), strict=True)
    ]
    points = [None if path is None else read_points(path) for path in (job.fixed_points, job.moving_points)]
    for landmarks, image, path in zip(points, (fixed, moving), (job.fixed_points, job.moving_points), strict=True):
        if landmarks is not None:
            check_points(landmarks.points, image, name=str(path))
    paired = None
    if points[0] is not None and points[1] is not None:
        paired = pair_points(
            points[0], points[1], fixed_name=str(job.fixed_points), moving_name=str(job.moving_points)
        )
    return Carried(labels[0], labels[1], points[0], points[1], paired)


def _scored(result: Registration, carried: Carried) -> Registration:
    """Add the scores of whatever is there for both sides."""
    labels, points = None, None
    if carried.fixed_labels is not None and carried.moving_labels is not None:
        labels = carried.fixed_labels, carried.moving_labels
    if carried.paired is not None:
        points = carried.paired[0].points, carried.paired[1].points
    return result.scored(Truth(unit=result.fixed.unit, labels=labels, points=points))


def _write_carried(folder: Path, job: RegisterJob, result: Registration, carried: Carried) -> None:
    """Write every label map and point file as it lies in the other image."""
    if carried.moving_labels is not None:
        kind = _label_extension(result.fixed)
        write_labels(folder / f"moved_labels{kind}", result.move_labels(carried.moving_labels))
    if carried.fixed_labels is not None:
        kind = _label_extension(result.moving)
        back = warp(carried.fixed_labels, result.inverse, result.moving.grid, mode="nearest", fill=0)
        write_labels(folder / f"moved_labels_fixed_to_moving{kind}", back)
    ways = (
        (carried.fixed_points, job.fixed_points, result.transform, "fixed_to_moving"),
        (carried.moving_points, job.moving_points, result.inverse, "moving_to_fixed"),
    )
    for points, source, mapping, way in ways:
        if points is not None and source is not None:
            kind = extension_of(source)
            kind = kind if kind in (".csv", ".mrk.json", ".fcsv") else ".mrk.json" if kind == ".json" else ".csv"
            moved = PointSet(mapping.map_points(points.points), points.names)
            write_points(folder / f"moved_points_{way}{kind}", moved)


def _label_extension(image: Image) -> str:
    return ".png" if image.unit == "px" and image.ndim == 2 else ".nii.gz"
