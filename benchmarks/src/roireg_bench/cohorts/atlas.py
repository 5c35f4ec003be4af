"""Whether a template carries labels better than any of its images does.

Every image is registered to the template, and every image to every other. Then labels are carried: from each single
image to all others; and from the template, whose labels the others vote for, to the image that had no vote. Beside
that, without any vote: how well the labels of two images agree where both are carried, onto the template or onto a
single image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from roireg.cohort import CohortJob, TemplateJob
from roireg.cohort.averaging import normalised
from roireg.cohort.fusion import resemblance
from roireg.cohort.template import Member
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import Progress, silent
from roireg.core.transforms import Transform
from roireg.core.warp import warp
from roireg.evaluate.metrics import dice
from roireg.io import read_image, read_labels, read_transform

__all__ = ["Atlas", "measure_atlas"]


@dataclass(frozen=True)
class Atlas:
    """Mean Dice of labels that were carried, over images and labels; every value 0 to 1.

    Attributes
    ----------
    template : from the template to the image that had no vote. single : from each image to all others, by its id.
    fused : as `template`, with each image as the template that the others are brought onto.
    agreeing : of two images on the template. agreeing_single : of two images on each other image, by its id.
    """

    template: float
    single: dict[str, float]
    fused: dict[str, float]
    agreeing: float
    agreeing_single: dict[str, float]

    @property
    def best(self) -> str:
        """The image that carries its own labels best."""
        return max(self.single, key=lambda id: self.single[id])


def measure_atlas(
    table: Path,
    out: Path,
    *,
    config: Path | None = None,
    init: str = "centers",
    jobs: int = 1,
    iterations: int = 4,
    progress: Progress = silent,
) -> Atlas:
    """Build the template, register all pairs, and measure; what an earlier call has finished is kept.

    Parameters
    ----------
    table : of images with labels, as `roireg template` takes it.
    config, init : of all registrations, those of the template and those of pairs.

    Raises
    ------
    InputError
        When an image has no labels, or a registration is missing.
    """
    template = TemplateJob(
        files=[table], out=out / "template", config=config, init=init, jobs=jobs, iterations=iterations
    )
    members = template.members()
    if missing := [m.id for m in members if m.labels is None]:
        raise InputError(f"{table}: every image needs labels here, and {missing[0]} has none")
    template.run(progress)
    pairs = CohortJob(
        files=[m.image for m in members],
        all_pairs=True,
        out=out / "pairs",
        config=config,
        init=init,
        jobs=jobs,
        outputs="transform,inverse",
    )
    result = pairs.run(progress)
    if left := [pair["id"] for pair in result.pairs if pair["state"] in ("error", "missing")]:
        raise InputError(f"{out / 'pairs'}: the pair {left[0]} has no result; run it again")
    files = {(row.options["fixed"], row.options["moving"]): out / "pairs/pairs" / row.id for row in pairs.rows()}
    return _measured([_Subject(m) for m in members], out / "template", files)


class _Subject:
    """An image and its labels, read once."""

    def __init__(self, member: Member) -> None:
        self.id, self.path, self.labels_path = member.id, member.image, member.labels

    @cached_property
    def labels(self) -> Image:
        assert self.labels_path is not None
        return read_labels(self.labels_path)

    @cached_property
    def image(self) -> Image:
        return normalised(read_image(self.path, finite=False))


def _measured(subjects: Sequence[_Subject], template: Path, pairs: Mapping[tuple[Path, Path], Path]) -> Atlas:
    values = sorted({int(v) for s in subjects for v in torch.unique(s.labels.data).tolist()} - {0})

    def way(a: _Subject, b: _Subject) -> Transform:
        """Return the map of points of a to points of b, along which labels of b are carried to a."""
        if (a.path, b.path) in pairs:
            return read_transform(pairs[a.path, b.path] / "transform.h5")
        return read_transform(pairs[b.path, a.path] / "inverse.h5")

    single, fused, agreeing_single = {}, {}, {}
    for s in subjects:
        others = [o for o in subjects if o is not s]
        away = {o.id: way(o, s) for o in others}
        single[s.id] = float(
            np.mean([_dice(_carried(s.labels, away[o.id], o.labels.grid), o, values) for o in others])
        )
        onto = {o.id: way(s, o) for o in others}
        fused[s.id], agreeing_single[s.id] = _voted(s.image, others, onto, away, values)
    mean = read_image(template / "template.nii.gz")
    ways = [
        {s.id: read_transform(template / "transforms" / f"{s.id}{end}.h5") for s in subjects}
        for end in ("", "_inverse")
    ]
    voted, agreeing = _voted(mean, subjects, ways[0], ways[1], values)
    return Atlas(voted, single, fused, agreeing, agreeing_single)


def _voted(
    template: Image,
    subjects: Sequence[_Subject],
    onto: Mapping[str, Transform],
    away: Mapping[str, Transform],
    values: Sequence[int],
) -> tuple[float, float]:
    """Return the Dice of labels that the others voted for in the image without a vote, and that of any two here."""
    carried = {s.id: _carried(s.labels, onto[s.id], template.grid) for s in subjects}
    weights = {s.id: resemblance(template, s.image, onto[s.id]) for s in subjects}
    votes = {s.id: torch.stack([weights[s.id] * (carried[s.id] == v) for v in (0, *values)]) for s in subjects}
    total = torch.stack(list(votes.values())).sum(0)
    numbers = torch.tensor([0, *values], dtype=torch.int32)
    found = []
    for s in subjects:
        rest = numbers[(total - votes[s.id]).argmax(0)]
        back = _carried(Image(rest[None], template.grid, name="labels"), away[s.id], s.labels.grid)
        found.append(_dice(back, s, values))
    agreeing = [dice(carried[a.id] == v, carried[b.id] == v) for a, b in combinations(subjects, 2) for v in values]
    return float(np.mean(found)), float(np.mean(agreeing))


def _carried(labels: Image, transform: Transform, grid: Grid) -> torch.Tensor:
    return warp(labels, transform, grid, mode="nearest", fill=0).data[0]


def _dice(found: torch.Tensor, subject: _Subject, values: Sequence[int]) -> float:
    return float(np.mean([dice(found == v, subject.labels.data[0] == v) for v in values]))
