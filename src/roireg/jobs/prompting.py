"""Read, carry prompts over, and write region pairs, list and picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roireg import __version__
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent
from roireg.core.rois import Prompt, ROIPairs
from roireg.core.seeds import resolve_device
from roireg.core.transforms import Transform
from roireg.core.words import GUIDE_WORDS
from roireg.features import FeatureExtractor
from roireg.io import read_image, read_labels, read_points, write_pairs
from roireg.jobs.job import Work
from roireg.jobs.prompt import PromptJob
from roireg.jobs.prompt_picture import draw_answers
from roireg.jobs.reading import load_transform, pointed, with_network
from roireg.pipeline import Config, prompt_session, register
from roireg.pipeline.checks import labels_on
from roireg.pipeline.missing import without_missing
from roireg.pipeline.prompts import PromptAnswer, PromptResult, check_prompt
from roireg.pipeline.session import usual_features
from roireg.pipeline.steering import accepted
from roireg.pipeline.tools import Network
from roireg.segment import RegionFilter, Segmenter

__all__ = ["compute"]

Array = NDArray[np.float64]


def compute(job: PromptJob, progress: Progress) -> Work:
    """Read, check, answer and, where asked for, register; see `roireg.jobs.job.Job.run`."""
    progress(ProgressEvent("reading the files", 0.0))
    settings = with_network(Config(), job)
    fixed, moving = (
        without_missing(read_image(p, finite=False, **w))[0]
        for p, w in zip((job.fixed, job.moving), job.pictures, strict=True)
    )
    prompts, names = _prompts(job, *((fixed, job.frames[0]) if job.side == "fixed" else (moving, job.frames[1])))
    guide: str | Transform | None = job.guide
    if job.guide is not None and job.guide not in GUIDE_WORDS:
        guide = load_transform(job.guide)
    segmenter, features = _tools(job, settings, progress)
    session = prompt_session(
        fixed,
        moving,
        segmenter=segmenter,
        features=features,
        guide=guide,
        settings=job.preset,
        device=job.device,
        seed=job.seed,
        progress=progress,
    )
    result = session.answer(prompts, side=job.side)
    document = _document(job, result, names, fixed, moving, guided=session.guide is not None)
    registration = None
    if job.register and not result.abstained:
        registration = register(
            fixed,
            moving,
            pairs=accepted(result.pairs),
            pairs_only=True,
            init="auto" if session.guide is None else session.guide.forward,
            device=job.device,
            seed=job.seed,
            progress=progress,
        )
        document["registration"] = registration.result_json()

    def write(folder: Path) -> None:
        if not result.abstained:
            write_pairs(folder / "pairs", result.pairs)
        if registration is not None:
            registration.save(folder / "registration")
        with work.beside(folder / "overview.png") as file:
            draw_answers(file, result, fixed, moving, names)

    work = Work(document, write, result)
    return work


def _tools(
    job: PromptJob, settings: Config, progress: Progress
) -> tuple[str | Segmenter, str | FeatureExtractor | None]:
    """Return what answers prompts and what regions are compared by."""
    if job.model is None:
        return job.segmenter, job.features
    network = Network.load(settings.network, resolve_device(job.device), progress)
    features = network.extractor() if job.features is None or job.features == "model" else job.features
    return network.segmenter(RegionFilter(), progress), features


def _prompts(job: PromptJob, image: Image, frame: int | None) -> tuple[list[Prompt | Image], list[str]]:
    """Return the prompts and what they are called; all of them checked."""
    prompts: list[Prompt | Image] = []
    names: list[str] = []
    if (prompt := pointed(job, image)) is not None:
        prompts.append(prompt)
        names.append("")
    if job.mask is not None:
        mask = read_labels(job.mask, frame=frame)
        prompts.append(labels_on(mask, image, what="mask that prompts"))
        names.append(job.mask.name)
    if job.prompts is not None:
        points = read_points(job.prompts)
        if points.ndim != image.ndim:
            raise InputError(
                f"{job.prompts}: the prompts have {points.ndim} coordinates but {image.name} is {image.ndim}D; "
                f"expected the columns {'x,y' if image.ndim == 2 else 'x,y,z'}"
            )
        prompts += [check_prompt(Prompt.at(point), image) for point in points.points]
        names += list(points.names)
    return prompts, [name or str(k + 1) for k, name in enumerate(names)]


# -- what is said ---------------------------------------------------------------------------------


def _document(
    job: PromptJob, result: PromptResult, names: Sequence[str], fixed: Image, moving: Image, *, guided: bool
) -> dict[str, Any]:
    own, other = (fixed, moving) if job.side == "fixed" else (moving, fixed)
    return {
        "roireg": __version__,
        "fixed": str(job.fixed),
        "moving": str(job.moving),
        "in": job.side,
        "settings": {
            "preset": job.preset,
            "segmenter": job.model or job.segmenter,
            "features": job.features or job.model or usual_features(guided=guided),
            "guide": job.guide,
            "seed": job.seed,
        },
        "prompts": [
            {
                "name": name,
                "given": _places(a.given, own),
                "found": None if a.found is None else _places(a.found, other),
                "confidence": a.confidence,
                "pair": a.pair,
                "reason": a.reason,
                "notes": a.notes,
                "regions": _regions(result.pairs, a),
                "evidence": None if a.evidence is None else asdict(a.evidence),
                "seconds": round(a.seconds, 3),
            }
            for name, a in zip(names, result.answers, strict=True)
        ],
        "timings": {name: round(seconds, 3) for name, seconds in result.timings.items()},
    }


def _places(prompt: Prompt, image: Image) -> dict[str, Any]:
    """Return points and box in world coordinates and as voxel indices, x first."""

    def both(points: Array) -> dict[str, Any]:
        return {"mm": points.tolist(), "px": image.grid.index_from_world(points)[:, ::-1].tolist()}

    entry: dict[str, Any] = {"points": both(prompt.points), "labels": prompt.labels.tolist()}
    return entry if prompt.box is None else {**entry, "box": both(prompt.box)}


def _regions(pairs: ROIPairs, answer: PromptAnswer) -> dict[str, Any] | None:
    """Return size (mm³, mm², px²) and world centroid of both regions of an answer."""
    if answer.pair is None:
        return None
    number = answer.pair
    return {
        side: {"centroid": rois.centroids[number].tolist(), "size": float(rois.volumes[number])}
        for side, rois in (("fixed", pairs.fixed), ("moving", pairs.moving))
    }
