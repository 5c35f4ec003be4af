"""Read, pair regions, and write the pairs and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
from matplotlib.figure import Figure

from roireg import __version__
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent
from roireg.core.rois import ROIPairs, ROISet
from roireg.core.transforms import Transform
from roireg.core.words import INIT_WORDS
from roireg.evaluate.palette import distinct_colours
from roireg.evaluate.planes import best_cut, display_planes, sample_plane
from roireg.evaluate.plots import Picture, draw_regions, intensity_window, rendered, to_picture
from roireg.io import read_image, read_pairs, write_pairs
from roireg.jobs.job import Work
from roireg.jobs.match import MatchJob
from roireg.jobs.reading import load_labels, load_transform, with_settings
from roireg.pipeline import Config, find_pairs, preset

__all__ = ["compute", "draw_pairs"]

DRAWN = 14
"""How many pairs the picture shows: as many as there are colours and lines that are told apart."""

WIDE = 6.0
"""Inches that a plane is wide."""


def compute(job: MatchJob, progress: Progress) -> Work:
    """Read, check and pair; see `roireg.jobs.job.Job.run`."""
    progress(ProgressEvent("reading the files", 0.0))
    config = _settings(job)
    init: str | Transform = (
        job.init if job.init in INIT_WORDS else load_transform(job.init, fixed=job.fixed, moving=job.moving)
    )
    fixed, moving = (
        read_image(p, finite=False, **w) for p, w in zip((job.fixed, job.moving), job.pictures, strict=True)
    )
    pairs = find_pairs(
        fixed,
        moving,
        config=config,
        fixed_rois=load_labels(job.fixed_rois, job.frames[0]),
        moving_rois=load_labels(job.moving_rois, job.frames[1]),
        decisions=None if job.pairs is None else read_pairs(job.pairs),
        init=init,
        device=job.device,
        seed=job.seed,
        progress=progress,
    )
    if job.top is not None:
        pairs = replace(pairs, pairs=pairs.pairs[: job.top])

    def write(folder: Path) -> None:
        write_pairs(folder / "pairs", pairs)
        with work.beside(folder / "overview.png") as file:
            PIL.Image.fromarray(draw_pairs(pairs, fixed, moving)).save(file)

    work = Work(_document(job, config, pairs, fixed), write, pairs)
    return work


def _settings(job: MatchJob) -> Config:
    config = with_settings(job) or preset(job.preset)
    changes: dict[str, Any] = {}
    if job.epsilon is not None:
        changes["threshold"] = job.epsilon
    if job.one_to_many:
        changes["assignment"] = "many"
    return config.model_copy(update={"match": config.match.model_copy(update=changes)})


def _document(job: MatchJob, config: Config, pairs: ROIPairs, fixed: Image) -> dict[str, Any]:
    return {
        "roireg": __version__,
        "fixed": str(job.fixed),
        "moving": str(job.moving),
        "unit": fixed.unit,
        "regions": {"fixed": len(pairs.fixed), "moving": len(pairs.moving)},
        "pairs": [
            {
                "id": number,
                "name": p.name,
                "similarity": p.similarity,
                "confidence": p.confidence,
                "probability": p.probability,
                "status": p.status,
                "fixed": pairs.fixed.centroids[p.fixed].tolist(),
                "moving": pairs.moving.centroids[p.moving].tolist(),
            }
            for number, p in enumerate(pairs.pairs, start=1)
        ],
        "settings": config.model_dump(mode="json", exclude={"stages", "verdict"}),
    }


# -- the picture ----------------------------------------------------------------------------------


def draw_pairs(pairs: ROIPairs, fixed: Image, moving: Image) -> Picture:
    """Return the best pairs over both images, fixed above moving: equal colours and numbers correspond.

    Numbers are the ids of pairs.json. Rejected pairs are left out. Volumes are shown in the planes that cut most of
    the drawn regions, in either image.
    """
    shown = [k for k, p in enumerate(pairs.pairs) if p.status != "rejected"][:DRAWN]
    chosen = [pairs.pairs[k] for k in shown]
    weights = [max(p.confidence, 1e-3) for p in chosen]
    numbers = [k + 1 for k in shown]
    rows = [
        ("fixed", _panels(fixed, pairs.fixed, [p.fixed for p in chosen], weights, numbers)),
        ("moving", _panels(moving, pairs.moving, [p.moving for p in chosen], weights, numbers)),
    ]
    columns = max(len(panels) for _, panels in rows)
    heights = [0.4 + WIDE * max(p.shape[0] / p.shape[1] for _, p in panels) for _, panels in rows]
    figure = Figure(figsize=(WIDE * columns, sum(heights)), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots(2, columns, squeeze=False, height_ratios=heights)
    for row, (side, panels) in zip(axes, rows, strict=True):
        for place in row:
            place.set_axis_off()
        for place, (title, picture) in zip(row, panels, strict=False):
            place.imshow(picture, interpolation="bilinear")
            place.set_title(f"{side}: {title}" if title else side, fontsize=12)
    return rendered(figure)


def _panels(
    image: Image, rois: ROISet, members: Sequence[int], weights: Sequence[float], numbers: Sequence[int]
) -> list[tuple[str, Picture]]:
    """Return the planes of one image with their places in words."""
    point = best_cut(rois, members, weights) if members else image.grid.center
    window = intensity_window(image)
    channels = [0, 1, 2] if image.channels >= 3 else None
    colours = distinct_colours(len(members))
    panels = []
    for plane in display_planes(image.grid, point, unit=image.unit):
        values = sample_plane(image.data, image.grid, plane.display, fill=window[0], channels=channels)
        masks = sample_plane(rois.masks, rois.grid, plane.display, channels=members)
        panels.append((plane.position, draw_regions(to_picture(values, window), masks, colours, numbers)))
    return panels
