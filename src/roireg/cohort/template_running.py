"""A template from round to round: register all images to the mean, take the mean of where they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roireg.cohort.cohort import CohortResult
from roireg.cohort.engines import Engine
from roireg.cohort.process import Task
from roireg.cohort.running import check_settings, register_all
from roireg.cohort.template import Member, TemplateJob
from roireg.core.errors import GeometryError, InputError, RoiregError
from roireg.core.progress import Progress, ProgressEvent
from roireg.jobs import RegisterJob

if TYPE_CHECKING:
    from roireg.core.image import Image

__all__ = ["build"]

LEAST = 0.5
"""Share of the images that must be registered for a mean to mean something."""


def build(job: TemplateJob, progress: Progress) -> CohortResult:
    """Build the template; every round is kept, and is found again by its stamps.

    Raises
    ------
    RoiregError
        When a file cannot be read, fewer than half of the images can be registered, or a mean cannot be written.
    """
    members = job.members()
    _check_files(members, job.start)
    with job.engine(job.limits(None), lambda text: None) as engine:
        check_settings(job, job.out, engine)
        start = _mean(
            engine,
            "first_mean",
            job.out / "rounds/0",
            images=[str(m.image.absolute()) for m in members],
            start=None if job.start is None else str(job.start.absolute()),
        )
        template, place, result, used = start, job.out, CohortResult(job.out, []), list(members)
        for number in range(1, job.iterations + 1):
            place = job.out / f"rounds/{number}"
            type = "affine" if number <= job.affine_iterations else job.type
            rows = [(m.id, _registration(job, m, template, place, type)) for m in members]
            heading = f"round {number} of {job.iterations}"
            progress(ProgressEvent(heading, 0.0, heading, notice=True))
            result = register_all(
                rows,
                job,
                place,
                _round(progress, number, job.iterations),
                engine,
                title=heading,
                function="roireg.cohort.averaging:register_member",
            )
            states = {pair["id"]: pair["state"] for pair in result.pairs}
            used = [m for m in members if states[m.id] in ("ok", "uncertain")]
            if result.left:
                return CohortResult(job.out, result.pairs, result.left)
            if len(used) < LEAST * len(members):
                raise InputError(
                    f"round {number}: only {len(used)} of {len(members)} images could be registered to the mean; see "
                    f"{place / 'index.html'}"
                )
            template = _mean(
                engine,
                "next_mean",
                place,
                members=[{"id": m.id, "image": str(m.image.absolute())} for m in used],
                round=str(place.absolute()),
                template=str(template.absolute()),
                sharpen=job.sharpen,
            )
        _run(
            engine,
            Task(
                "finish",
                "roireg.cohort.fusion:finish",
                {
                    "out": str(job.out.absolute()),
                    "place": str(place.absolute()),
                    "template": str(template.absolute()),
                    "members": [
                        {
                            "id": m.id,
                            "image": str(m.image.absolute()),
                            "labels": None if m.labels is None else str(m.labels.absolute()),
                        }
                        for m in used
                    ],
                },
            ),
        )
    return CohortResult(job.out, result.pairs)


def _round(progress: Progress, number: int, rounds: int) -> Progress:
    """Return a listener of one round that tells how much of all rounds is done."""
    return lambda event: progress(replace(event, fraction=(number - 1 + event.fraction) / rounds))


def _check_files(members: Sequence[Member], start: Path | None) -> None:
    """Refuse files that would end the work at its beginning, or, as label maps, after all rounds."""
    from roireg.io import read_image, read_labels

    first = read_image(members[0].image, finite=False)

    def check(image: Image) -> None:
        if image.ndim != first.ndim:
            raise GeometryError(
                f"{image.name}: the file is {image.ndim}D but {first.name} is {first.ndim}D; a template is made of "
                "images of one kind"
            )

    for member in members:
        check(read_image(member.image, finite=False))
        if member.labels is not None:
            check(read_labels(member.labels))
    if start is not None:
        check(read_image(start, finite=False))


def _registration(job: TemplateJob, member: Member, template: Path, place: Path, type: Any) -> RegisterJob:
    settings = job.settings | {"type": type, "only": "transform,inverse,pairs"}
    return RegisterJob(fixed=template, moving=member.image, out=place / "pairs" / member.id, resume=True, **settings)


def _mean(engine: Engine, function: str, place: Path, **arguments: Any) -> Path:
    """Run a task that writes ``template.nii.gz`` into a folder; return that file."""
    _run(engine, Task(function, f"roireg.cohort.averaging:{function}", {"out": str(place.absolute()), **arguments}))
    return place / "mean" / "template.nii.gz"


def _run(engine: Engine, task: Task) -> Any:
    for _, ending in engine.run([task]):
        if ending.kind != "done":
            raise RoiregError(f"{task.key.replace('_', ' ')}: {ending.cause}")
        return ending.value
    raise RoiregError(f"{task.key}: nothing came back")


def movement(out: Path, rounds: int) -> Sequence[float]:
    """Return how far the mean still moved in every round, mm."""
    files = [out / f"rounds/{number}/mean/mean.json" for number in range(1, rounds + 1)]
    return [json.loads(file.read_text(encoding="utf-8"))["moved_mm"] for file in files if file.is_file()]
