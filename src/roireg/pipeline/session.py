"""Prompts that cross images: prepare a pair once, then answer many prompts fast."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from roireg.core.ambient import own_settings
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.masks import suppress
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import Prompt, ROIPair, ROIPairs, ROISet
from roireg.core.seeds import generator, resolve_device
from roireg.features import FeatureExtractor, make_extractor
from roireg.match.carry import Guide, Side
from roireg.match.similarity_map import standardised
from roireg.match.transfer import Transfer, transfer_prompt
from roireg.match.variants import draw_views, view_of
from roireg.pipeline.checks import check_inputs
from roireg.pipeline.prompt_settings import PromptSettings, prompt_settings
from roireg.pipeline.prompts import PromptAnswer, PromptResult, check_prompts, random_prompts
from roireg.pipeline.steering import overlaps, stacked
from roireg.pipeline.tools import feature_map
from roireg.segment import (
    Prepared,
    Segmenter,
    SlicedVolume,
    as_promptable,
    available_segmenters,
    make_segmenter,
)
from roireg.segment.prompts import inner_point

__all__ = ["SIDES", "PromptSession", "prompt_pairs", "usual_features"]

SIDES = ("fixed", "moving")
"""The images of a session."""


@dataclass(frozen=True, eq=False)
class PromptSession:
    """Two prepared images that answer prompts. A value: threads may share it, `replace` makes another.

    Attributes
    ----------
    fixed, moving : the images. guide : where things of the fixed image are expected in the moving one, None anywhere.
    settings : how prompts are carried over. timings : seconds of the preparation, by stage.
    """

    fixed: Side
    moving: Side
    guide: Guide | None = None
    settings: PromptSettings = field(default_factory=PromptSettings)
    timings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    @own_settings()
    def of(
        cls,
        fixed: Image,
        moving: Image,
        *,
        segmenter: str | Segmenter = "hierarchy",
        prepared: tuple[Prepared, Prepared] | None = None,
        features: str | FeatureExtractor | None = None,
        guide: Guide | None = None,
        settings: str | PromptSettings = "default",
        device: str = "auto",
        seed: int = 0,
        progress: Progress = silent,
    ) -> PromptSession:
        """Prepare two images.

        Parameters
        ----------
        fixed, moving : images of the same dimension.
        segmenter : registry name or any segmenter whose prepared images answer prompts.
        prepared : (fixed, moving) as the segmenter has prepared them already.
        features : registry name or any feature extractor; None takes `usual_features`.
        guide : see `PromptSettings.guide_along` and `roireg.pipeline.prompting.find_guide`; None searches everywhere.
        settings : a name of `PROMPT_PRESETS` or settings.
        device : where features are computed. seed : of the views.
        progress : is told what is being done.

        Raises
        ------
        InputError, GeometryError
            When an image or a setting is unsuitable.
        """
        settings = prompt_settings(settings)
        # Without a guide nothing says that the images share a place.
        check_inputs(fixed, moving, init="centers" if guide is None else guide.forward)
        started = time.perf_counter()
        progress(ProgressEvent("encoding the images", 0.0))
        sides = _sides(
            (fixed, moving),
            _segmenter(segmenter),
            prepared,
            _extractor(usual_features(guided=guide is not None) if features is None else features),
            settings,
            resolve_device(device),
            seed,
            progress,
        )
        return cls(sides[0], sides[1], guide, settings, {"encoding": time.perf_counter() - started})

    @own_settings()
    def answer(self, prompts: Prompt | Image | Sequence[Prompt | Image], *, side: str = "fixed") -> PromptResult:
        """Carry prompts from one image to the other.

        Parameters
        ----------
        prompts : one or several; an image is a mask (not 0 inside) on the grid of the image of `side`.
        side : "fixed" or "moving": the image the prompts are given in.

        Raises
        ------
        InputError
            When a prompt lies outside the image, contradicts itself or is empty, or the side is unknown.
        GeometryError
            When a prompt has another dimension, or a mask another grid, than the image.
        """
        if side not in SIDES:
            raise InputError(f"prompts are given in the fixed or in the moving image, found {side!r}")
        source, target = (self.fixed, self.moving) if side == "fixed" else (self.moving, self.fixed)
        checked = check_prompts(prompts, source.image)
        if not checked:
            raise InputError("there is no prompt; give at least one point, box or mask")
        guide = self.guide if self.guide is None or side == "fixed" else self.guide.reversed
        transfers, seconds = [], []
        for item in checked:
            started = time.perf_counter()
            region_or_prompt = item if isinstance(item, Prompt) else ROISet((item.data != 0).any(0)[None], item.grid)
            transfers.append(
                transfer_prompt(region_or_prompt, source, target, guide=guide, options=self.settings.transfer)
            )
            seconds.append(time.perf_counter() - started)
        return self._result(checked, transfers, seconds, side)

    def _result(
        self, prompts: Sequence[Prompt | Image], transfers: Sequence[Transfer], seconds: Sequence[float], side: str
    ) -> PromptResult:
        answers: list[PromptAnswer] = []
        pairs: list[ROIPair] = []
        regions: dict[str, list[ROISet]] = {"fixed": [], "moving": []}
        other = SIDES[1 - SIDES.index(side)]
        for item, t, took in zip(prompts, transfers, seconds, strict=True):
            prompt = item if isinstance(item, Prompt) else Prompt.at(inner_point(t.source.masks[0], t.source.grid))
            number = None
            if t.target is not None:
                number = len(pairs)
                regions[side].append(t.source)
                regions[other].append(t.target)
                in_moving = prompt if side == "moving" else t.prompt
                pairs.append(
                    ROIPair(
                        number,
                        number,
                        t.similarity,
                        t.confidence,
                        source="prompt",
                        prompts=() if in_moving is None else (in_moving,),
                    )
                )
            answers.append(
                PromptAnswer(
                    side, prompt, t.prompt, number, t.confidence, t.reason, t.source, t.evidence, took, t.notes
                )
            )
        moving = stacked(regions["moving"], self.moving.image)
        fixed = stacked(regions["fixed"], self.fixed.image)
        timings = {**self.timings, "prompts": float(sum(seconds))}
        return PromptResult(ROIPairs(moving, fixed, tuple(pairs)), tuple(answers), timings)


def prompt_pairs(
    session: PromptSession,
    count: int = 4,
    *,
    mask: Image | None = None,
    where: str = "inside",
    side: str = "moving",
    similar: float = 0.8,
    seed: int = 0,
) -> ROIPairs:
    """Region pairs of random prompts, to start a registration from; equal ones are left out.

    Parameters
    ----------
    count : prompts drawn; PromptReg draws 4.
    mask, where : see `random_prompts`; the mask lies on the image of `side`.
    similar : of two pairs whose regions have an intersection over union above this on both sides the less
        confident one is left out.
    """
    image = (session.fixed if side == "fixed" else session.moving).image
    pairs = session.answer(random_prompts(image, count, mask=mask, where=where, seed=seed), side=side).pairs
    alike = np.minimum(overlaps(pairs.moving, pairs.moving), overlaps(pairs.fixed, pairs.fixed))
    order = suppress(torch.from_numpy(alike), torch.from_numpy(pairs.confidence), similar)
    return replace(pairs, pairs=tuple(pairs.pairs[k] for k in order))


def usual_features(*, guided: bool) -> str:
    """Return the name of the features that prompts are carried by, unless a call says otherwise.

    Beside a guide, which says where to look, intensities are finer; alone, the anatomical embedding finds the place.
    """
    return "intensity" if guided else "fused"


# -- preparing ------------------------------------------------------------------------------------


def _sides(
    images: tuple[Image, Image],
    segmenter: Segmenter,
    prepared: tuple[Prepared, Prepared] | None,
    extractor: FeatureExtractor,
    settings: PromptSettings,
    device: torch.device,
    seed: int,
    progress: Progress,
) -> list[Side]:
    """Prepare both images and their views, and bring their features to one scale."""
    views = draw_views(
        settings.views,
        images[0].ndim,
        rng=generator(seed, stream="views"),
        scales=settings.scales,
        gammas=settings.gammas,
    )
    sides: list[Side] = []
    steps, count = 2 * (1 + len(views)), 0
    for k, image in enumerate(images):
        # First the segmenter: a network says best itself which images it takes.
        own = as_promptable(segmenter.prepare(image) if prepared is None else prepared[k])
        if isinstance(own, SlicedVolume):
            own.encode()
        features = feature_map(image.to(device), extractor).to("cpu")
        count += 1
        progress(ProgressEvent("encoding the images", count / steps))
        variants = []
        for view in views:
            variants.append((view, as_promptable(segmenter.prepare(view_of(image, view)))))
            count += 1
            progress(ProgressEvent("encoding the images", count / steps))
        sides.append(Side(own, features, tuple(variants)))
    if settings.standardise:
        maps = standardised(sides[0].features, sides[1].features)
        sides = [replace(side, features=features) for side, features in zip(sides, maps, strict=True)]
    return sides


def _segmenter(segmenter: str | Segmenter) -> Segmenter:
    if segmenter == "model":
        raise InputError(
            "the segmenter model is that of a network; name it with --model (in Python pass "
            "`roireg.segment.model_segmenter(NAME)`)"
        )
    names = [name for name in available_segmenters() if name != "model"]
    if isinstance(segmenter, str) and segmenter not in names:
        raise InputError(
            f"segmenter {segmenter!r} is unknown; use {', '.join(names)}, or name a network with --model"
        )
    return make_segmenter(segmenter) if isinstance(segmenter, str) else segmenter


def _extractor(features: str | FeatureExtractor) -> FeatureExtractor:
    if not isinstance(features, str):
        return features
    if features == "model":
        raise InputError(
            "the features model are those of a network; name it with --model (in Python pass "
            "`roireg.features.make_extractor('model', model=...)`), or use others, such as intensity"
        )
    # Position is the guide's business.
    parameters: dict[str, Any] = {"position": 0.0, "absolute": True} if features == "intensity" else {}
    return make_extractor(features, **parameters)
