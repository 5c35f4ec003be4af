"""Prompts before and after they are carried: what is wrong with one, random ones, and the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.errors import GeometryError, InputError, InputTypeError
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROIPairs, ROISet
from roireg.core.seeds import generator
from roireg.features import foreground_mask
from roireg.match.evidence import Evidence
from roireg.pipeline.checks import labels_on
from roireg.segment.prompts import clipped

__all__ = ["PromptAnswer", "PromptResult", "check_prompt", "check_prompts", "random_prompts"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PromptAnswer:
    """One prompt and its counterpart.

    Attributes
    ----------
    side : "fixed" or "moving": the image the prompt was given in.
    given : the prompt, or the deepest point of a region given as a mask.
    found : the corresponding prompt in the other image; worth a look even if there is no region.
    pair : index of the pair in `PromptResult.pairs`, None where there is no counterpart.
    confidence : share of such answers that can be expected to be right, 0..1.
    reason : why there is no counterpart; empty where there is one.
    regions : the region in the image of the prompt, which is found even where its counterpart is not.
    evidence : what the confidence is made of.
    seconds : time the answer took, encoding not included.
    notes : what else to know about the answer, such as points that had to be left out.
    """

    side: str
    given: Prompt
    found: Prompt | None
    pair: int | None
    confidence: float
    reason: str
    regions: ROISet
    evidence: Evidence | None
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PromptResult:
    """Answers to several prompts.

    Attributes
    ----------
    pairs : the region pairs, one per prompt with an answer, prompt order.
    answers : one per prompt.
    timings : seconds per stage: "encoding", "guide", "prompts".
    """

    pairs: ROIPairs
    answers: tuple[PromptAnswer, ...]
    timings: dict[str, float]

    @property
    def abstained(self) -> bool:
        """Whether no prompt has a counterpart."""
        return not len(self.pairs)


def random_prompts(
    image: Image, count: int, *, mask: Image | None = None, where: str = "inside", seed: int = 0
) -> list[Prompt]:
    """Draw single points, spread out: each is the one of ten that lies furthest from those before.

    Parameters
    ----------
    count : how many prompts.
    mask : one-channel image of voxels of `image`, not 0 where prompts may (or may not) lie; None takes the
        foreground (see `foreground_mask`).
    where : "inside" or "outside" the mask.

    Raises
    ------
    InputError
        When the count is below 1, `where` is unknown, or no voxel is left to draw from.
    """
    if count < 1:
        raise InputError(f"at least one prompt is drawn, found a count of {count}")
    if where not in ("inside", "outside"):
        raise InputError(f"random prompts lie inside or outside a mask, found {where!r}")
    if mask is not None:
        mask = labels_on(mask, image, what="mask for random prompts")
    allowed = foreground_mask(image.gray().data) if mask is None else (mask.data != 0).any(0)
    places = torch.nonzero(allowed if where == "inside" else ~allowed).double().cpu().numpy()
    if not len(places):
        raise InputError(f"{image.name}: no voxel lies {where} the mask; give another mask")
    rng = generator(seed, stream="prompts")
    picks: list[Array] = []
    for _ in range(count):
        drawn = image.grid.world_from_index(places[rng.integers(len(places), size=10)])
        if not picks:
            picks.append(drawn[0])
            continue
        nearest = np.linalg.norm(drawn[:, None] - np.array(picks)[None], axis=-1).min(1)
        picks.append(drawn[int(np.argmax(nearest))])
    return [Prompt.at(point) for point in picks]


def check_prompt(prompt: Prompt, image: Image) -> Prompt:
    """Return a prompt as it can be asked: its box cut off at the border of the image.

    Raises
    ------
    GeometryError
        When the prompt has another dimension than the image.
    InputError
        When a coordinate is no finite number, a point lies outside the image, the box has no extent or lies outside,
        one place is both inside and outside, or a positive point lies outside the box.
    """
    grid, unit = image.grid, image.unit
    span = f"{_numbers(grid.corners().min(0))} to {_numbers(grid.corners().max(0))} {unit}"
    for what, points in (("point", prompt.points), ("box", prompt.box)):
        if points is not None and len(points) and points.shape[1] != grid.ndim:
            raise GeometryError(
                f"{image.name}: the prompt {what} is {points.shape[1]}D but the image is {grid.ndim}D; give "
                f"{grid.ndim} coordinates"
            )
        for place in () if points is None else points[~np.isfinite(points).all(1)]:
            raise InputError(
                f"{image.name}: a coordinate of the prompt {what} {_numbers(place)} is no finite number; give numbers"
            )
    if len(prompt.points):
        for point in prompt.points[~grid.contains(prompt.points)]:
            raise InputError(
                f"{image.name}: the prompt point {_numbers(point)} lies outside the image, which spans {span}; "
                "give a point inside it"
            )
        index = np.round(grid.index_from_world(prompt.points)).astype(int)
        both = {tuple(i) for i in index[prompt.labels == 1]} & {tuple(i) for i in index[prompt.labels == 0]}
        if both:
            place = _numbers(grid.world_from_index(np.array(sorted(both)[0])))
            raise InputError(
                f"{image.name}: the prompt says of {place} both inside (label 1) and outside (label 0); remove one"
            )
    if prompt.box is not None:
        ends = f"from {_numbers(prompt.box[0])} to {_numbers(prompt.box[1])}"
        corners = grid.index_from_world(prompt.box)
        flat = np.ptp(corners, axis=0) <= 1e-6
        # An axis of one voxel leaves no room for an extent.
        if (flat & (np.array(grid.shape) > 1)).any():
            kind = "area" if grid.ndim == 2 else "volume"
            raise InputError(f"{image.name}: the prompt box {ends} has no {kind}; give two opposite corners")
        edge = np.array(grid.shape) - 0.5
        if (corners.max(0) <= -0.5 + 1e-6).any() or (corners.min(0) >= edge - 1e-6).any():
            raise InputError(
                f"{image.name}: the prompt box {ends} lies outside the image, which spans {span}; "
                "give corners inside it"
            )
        # A corner stands for its whole voxel.
        positive = prompt.points[prompt.labels == 1].reshape(-1, grid.ndim)
        index = grid.index_from_world(positive)
        beyond = (index < corners.min(0) - 0.5 - 1e-6) | (index > corners.max(0) + 0.5 + 1e-6)
        for point in positive[beyond.any(1)]:
            raise InputError(
                f"{image.name}: the prompt point {_numbers(point)} is inside the region (label 1) but outside the "
                f"prompt box {ends}; move one of them"
            )
    return clipped(prompt, grid, image.name)


def check_prompts(prompts: Prompt | Image | Sequence[Prompt | Image], image: Image) -> list[Prompt | Image]:
    """Return prompts as they can be asked, see `check_prompt`; images are masks, see `labels_on`."""
    checked: list[Prompt | Image] = []
    for item in [prompts] if isinstance(prompts, Prompt | Image) else prompts:
        if isinstance(item, Image):
            checked.append(labels_on(item, image, what="mask that prompts"))
        elif isinstance(item, Prompt):
            checked.append(check_prompt(item, image))
        else:
            raise InputTypeError(
                "a prompt is a roireg.Prompt, such as roireg.Prompt.at((x, y)), or a mask as a roireg.Image, found "
                f"{type(item).__name__}"
            )
    return checked


def _numbers(values: Sequence[float] | Array) -> str:
    return "(" + ", ".join(f"{v:.5g}" for v in values) + ")"
