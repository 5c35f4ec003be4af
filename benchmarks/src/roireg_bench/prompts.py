"""Whether prompts find the same structure in the other image: ``roireg bench prompts DATA``.

A prompt is put at the centroid of every label of the moving image (see `label_point`), carried to the fixed image,
and what is found there is compared with the label of the fixed image. Labels are for placing and scoring alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.core.warp import warp
from roireg.io import read_image, read_labels
from roireg.jobs.job import code_version
from roireg.match import TransferOptions
from roireg.match.carry import Guide
from roireg.pipeline.prompting import PROMPT_PRESETS, PromptSession, PromptSettings, find_guide
from roireg.pipeline.session import usual_features
from roireg_bench.cases import CaseFolder
from roireg_bench.prompt_tables import PromptRow

__all__ = ["METHODS", "SETS", "label_point", "measure"]

SETS = ("acdc_intra", "samreg_lung_slices", "chest_xray_jsrt", "hippocampus")
"""The sets of the published table."""

DEFAULT = PROMPT_PRESETS["default"]


def _changed(settings: PromptSettings = DEFAULT, **changes: object) -> PromptSettings:
    """Return settings that carry prompts in another way."""
    return settings.model_copy(update={"transfer": settings.transfer.model_copy(update=changes)})


METHODS: dict[str, tuple[PromptSettings, str]] = {
    "default": (DEFAULT, "auto"),
    "auxiliary on": (_changed(rounds=2), "auto"),
    "6 views": (DEFAULT.model_copy(update={"views": 6}), "auto"),
    "first answers": (_changed(joint=False), "auto"),
    "first answers: argmax": (_changed(joint=False, place="argmax"), "auto"),
    "first answers: linearised inverse": (_changed(joint=False, place="inverse"), "auto"),
    "guide: same place": (DEFAULT, "identity"),
    "guide: none": (DEFAULT, "none"),
    "promptreg": (PROMPT_PRESETS["promptreg"], "none"),
}
"""Settings and guide that are compared; the quick registration of "auto" is computed once per pair."""


def label_point(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float64]:
    """(d,) world centroid of a structure; where that lies outside, the nearest point well inside.

    Well inside is at least a quarter as deep as the deepest point, so that a prompt is not put on a border.
    """
    index = np.argwhere(mask)
    centroid = index.mean(0)
    if mask[tuple(np.round(centroid).astype(int))]:
        return grid.world_from_index(centroid)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=grid.spacing)[(slice(1, -1),) * mask.ndim]
    deep = index[depth[tuple(index.T)] >= 0.25 * depth.max()]
    nearest = np.square((deep - centroid) * grid.spacing).sum(1).argmin()
    return grid.world_from_index(deep[nearest])


def measure(
    folders: Sequence[CaseFolder], methods: Sequence[str], *, limit: int | None = None, seed: int = 0
) -> Iterator[PromptRow]:
    """Run methods on every label of every pair; yields one row per prompt and method.

    Parameters
    ----------
    methods : names of `METHODS`.
    limit : only the first pairs of every set.

    Raises
    ------
    InputError
        When a method is unknown or a pair has no labels.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(f"unknown method {', '.join(unknown)}; use some of {', '.join(METHODS)}")
    for folder in folders:
        for case in folder.content.pairs[:limit]:
            files = {what: folder.file(case, what) for what in ("fixed", "moving", "fixed_labels", "moving_labels")}
            if files["fixed_labels"] is None or files["moving_labels"] is None:
                raise InputError(f"{folder.path}: pair {case.id!r} has no labels to place prompts in")
            fixed, moving = (read_image(folder.path / getattr(case, side)) for side in ("fixed", "moving"))
            labels = read_labels(files["fixed_labels"]), read_labels(files["moving_labels"])
            encoded: dict[tuple[PromptSettings, str], PromptSession] = {}
            guides: dict[str, Guide | None] = {}
            for name in methods:
                settings, guide = METHODS[name]
                key = settings.model_copy(update={"transfer": TransferOptions(), "guide": "none"})
                features = usual_features(guided=guide != "none")
                if (key, features) not in encoded:
                    encoded[key, features] = PromptSession.of(
                        fixed, moving, features=features, settings=key, seed=seed
                    )
                if guide not in guides:
                    guides[guide] = find_guide(fixed, moving, guide, settings=settings, seed=seed)
                # Everything is answered here; what would be an abstention is told by the confidence.
                session = replace(
                    encoded[key, features], settings=_changed(settings, least_confidence=0.0), guide=guides[guide]
                )
                for row in _rows(session, labels, folder.content.labels or {}):
                    yield replace(row, set=folder.content.name, pair=case.id, method=name)


def _rows(session: PromptSession, labels: tuple[Image, Image], names: Mapping[int, str]) -> Iterator[PromptRow]:
    fixed, moving = (image.data[0] for image in labels)
    shared = sorted(set(torch.unique(fixed).tolist()) & set(torch.unique(moving).tolist()) - {0})
    for label in shared:
        there, here = fixed == label, moving == label
        place = label_point(here.numpy(), session.moving.image.grid)
        started = time.process_time()
        result = session.answer(Prompt.at(place), side="moving")
        seconds = time.process_time() - started
        answer = result.answers[0]
        source_inside, source_dice, _ = _overlap(answer.regions, here, session.moving.image.grid)
        inside, overlap, centre = 0.0, 0.0, False
        if answer.pair is not None:
            inside, overlap, centre = _overlap(result.pairs.fixed, there, session.fixed.image.grid)
        e = answer.evidence
        point = None if answer.found is None else answer.found.points
        yield PromptRow(
            "",
            "",
            names.get(label, str(label)),
            "",
            source_inside,
            source_dice,
            answer.pair is not None,
            point is not None and len(point) > 0 and _at(there, session.fixed.image.grid, point[0]),
            inside,
            centre,
            overlap,
            answer.confidence,
            answer.pair is not None and answer.confidence >= DEFAULT.transfer.least_confidence,
            0.0 if e is None else e.appearance,
            0.0 if e is None else e.overlap,
            0.0 if e is None else e.returned_overlap,
            float("inf") if e is None else e.returned_distance,
            seconds,
            code_version(),
        )


def _overlap(region: ROISet, truth: torch.Tensor, grid: Grid) -> tuple[float, float, bool]:
    """Share of the first region inside a label, Dice, and whether its centroid is in the label."""
    mask = warp(Image(region.masks[:1].float(), region.grid), None, grid, fill=0.0).data[0] >= 0.5
    shared, size = float((mask & truth).sum()), float(mask.sum())
    overlap = 2 * shared / max(1.0, size + float(truth.sum()))
    return shared / max(1.0, size), overlap, _at(truth, grid, region.centroids[0])


def _at(truth: torch.Tensor, grid: Grid, point: NDArray[np.float64]) -> bool:
    index = np.round(grid.index_from_world(point)).astype(int)
    if (index < 0).any() or (index >= np.array(grid.shape)).any():
        return False
    return bool(truth[tuple(index)])
