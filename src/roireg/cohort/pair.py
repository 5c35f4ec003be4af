"""One pair of a cohort, as the process of a task sees it: register, keep a small picture, say what matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.evaluate.planes import Plane, display_planes, sample_plane
from roireg.evaluate.plots import fusion, intensity_window, to_picture
from roireg.io import atomic_path, read_image
from roireg.jobs import JobResult, RegisterJob
from roireg.jobs.reading import with_settings
from roireg.pipeline.saved import load
from roireg.segment.hierarchy import KEPT

__all__ = ["check_settings", "job_of", "register_pair", "summary_of"]

IMAGES = 2
"""Regions of the last pair stay: where all go onto one image, those of that image are found once per process."""

SIDE = 120
"""Longer side of each half of a small picture, pixels."""


def check_settings(*, options: Mapping[str, Any]) -> None:
    """Refuse settings that every pair of a cohort would be refused for.

    Raises
    ------
    InputError
        As `roireg.jobs.reading.with_settings`.
    """
    with_settings(job_of(options))


def register_pair(*, options: Mapping[str, Any], thumbnail: str | None = None) -> dict[str, Any]:
    """Register a pair, or keep its result of the same inputs, options and code.

    Parameters
    ----------
    options : fields of `RegisterJob`, paths as text.
    thumbnail : JPEG of both images in one, before (left) and after; written anew with a new result.

    Returns
    -------
    Verdict, reasons, metrics, seconds, stamp, and whether the result was kept.
    """
    KEPT.count = IMAGES
    job = job_of(options)
    return summary_of(job, job.run(), thumbnail)


def summary_of(job: RegisterJob, result: JobResult, thumbnail: str | None) -> dict[str, Any]:
    """Return what a cohort keeps of a result, and draw its small picture."""
    notes = list(result.document.get("notes", ()))
    if thumbnail is not None and not (result.resumed and Path(thumbnail).is_file()):
        try:
            _write_thumbnail(Path(thumbnail), job, result)
        except Exception as error:  # a picture beside the result, which is written
            notes.append(f"no small picture ({type(error).__name__}: {error})")
    document = result.document
    return {
        "verdict": document["verdict"],
        "reasons": document["reasons"],
        "worse": document.get("worse", []),
        "metrics": document["metrics"],
        "seconds": document["timings"].get("total"),
        "stamp": document.get("stamp"),
        "kept": result.resumed,
        "notes": notes,
    }


def job_of(options: Mapping[str, Any]) -> RegisterJob:
    """Return the job of plain values, whose paths are text."""
    paths = _paths()
    values: dict[str, Any] = {n: Path(v) if n in paths and v is not None else v for n, v in options.items()}
    return RegisterJob(**values)


@cache
def _paths() -> frozenset[str]:
    hints = get_type_hints(RegisterJob)
    return frozenset(f.name for f in fields(RegisterJob) if Path in (get_args(hints[f.name]) or (hints[f.name],)))


# -- small pictures -------------------------------------------------------------------------------


def _write_thumbnail(path: Path, job: RegisterJob, result: JobResult) -> None:
    if result.value is not None:
        fixed, moving, transform = result.value.fixed, result.value.moving, result.value.transform
    else:
        pictures = zip((job.fixed, job.moving), job.pictures, strict=True)
        fixed, moving = (read_image(p, finite=False, **which) for p, which in pictures)
        transform = load(job.out).transform
    planes = display_planes(fixed.grid, fixed.grid.center, smallest=SIDE, largest=SIDE, unit=fixed.unit)
    plane = max(planes, key=lambda p: p.native.size)
    still = _cut(fixed, plane, None)
    halves = [fusion(still, _cut(moving, plane, how)) for how in (None, transform)]
    gap = np.zeros((halves[0].shape[0], 3, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        PIL.Image.fromarray(np.concatenate([halves[0], gap, halves[1]], axis=1)).save(temporary, "JPEG", quality=80)


def _cut(image: Image, plane: Plane, transform: Transform | None) -> NDArray[np.uint8]:
    window = intensity_window(image)
    channels = [0, 1, 2] if image.channels >= 3 else None
    values = sample_plane(image.data, image.grid, plane.display, transform, fill=window[0], channels=channels)
    return to_picture(values, window)
