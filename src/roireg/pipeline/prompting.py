"""Prompts that cross images: encode a pair once, then answer many prompts fast.

The counterpart of `recipe`: it joins segmenter, features and guide, and hands single prompts to
:func:`roireg.match.transfer_prompt`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import Prompt, ROIPair, ROIPairs, ROISet
from roireg.core.seeds import generator, resolve_device
from roireg.core.transforms import Transform
from roireg.features import FeatureExtractor, make_extractor
from roireg.match.carry import Guide, Side, inner_point, scale_of
from roireg.match.similarity_map import standardised
from roireg.match.transfer import PROMPTREG, Transfer, TransferOptions, transfer_prompt
from roireg.match.variants import draw_views, view_of
from roireg.pipeline.checks import check_inputs, starting_map
from roireg.pipeline.config import Config
from roireg.pipeline.prompts import PromptAnswer, PromptResult, check_prompts, random_prompts
from roireg.pipeline.stages import FEATURE_VOXELS
from roireg.pipeline.steering import overlaps, stacked
from roireg.pipeline.steps import solve
from roireg.segment import PromptableSegmenter, available_segmenters, make_segmenter

__all__ = [
    "GUIDE_WORDS",
    "PROMPT_PRESETS",
    "QUICK",
    "PromptSession",
    "PromptSettings",
    "prompt",
    "prompt_pairs",
]

GUIDE_WORDS = ("auto", "identity", "centers", "none")
"""Words that name a guide; anything else is a transform."""

SIDES = ("fixed", "moving")


@dataclass(frozen=True)
class PromptSettings:
    """How prompts are carried.

    Attributes
    ----------
    transfer : see `TransferOptions`.
    standardise : compare features around their common mean and spread; False takes them as they are, as published.
    views : random flips, turns, scales and intensity curves of the image that is asked; their answers are averaged,
        see `TransferOptions.joint`.
    scales, gammas : ranges of the views.
    width : standard deviation of where the guide expects a prompt, fraction of the geometric mean extent; `loose`
        the same for a guide that is only a guess ("identity", "centers", or a registration that failed).
    guide : what is used when nothing else is asked for.
    """

    transfer: TransferOptions = field(default_factory=TransferOptions)
    standardise: bool = True
    views: int = 0
    scales: tuple[float, float] = (0.8, 1.25)
    gammas: tuple[float, float] = (0.8, 1.25)
    width: float = 0.03
    loose: float = 0.15
    guide: str = "auto"


PROMPT_PRESETS = {
    "default": PromptSettings(),
    "promptreg": PromptSettings(
        transfer=PROMPTREG, standardise=False, views=6, scales=(0.5, 2.5), gammas=(1.0, 1.0), guide="none"
    ),
}
"""Named settings: `default`, and `promptreg` as published (Huang et al., 2025); both abstain alike."""

QUICK = Config.model_validate({"dense": {"velocity": {"levels": 2, "max_voxels": 20_000, "iterations": (40, 30)}}})
"""The registration that guides: the global start of the default preset and a coarse deformation."""


class PromptSession:
    """A pair of images, encoded once, that answers prompts.

    Parameters
    ----------
    fixed, moving : images of the same dimension.
    segmenter : registry name or any promptable segmenter.
    features : registry name or any feature extractor.
    guide : where things are expected: "auto" (a quick registration, seconds), "identity" (where the images lie),
        "centers" (grid centres together), "none" (anywhere), or a transform from fixed to moving points, for
        instance of a finished registration; None takes that of the settings.
    settings : a name of `PROMPT_PRESETS` or settings.
    device : where features are computed. seed : of the views and of the guide.
    progress : is told what is being done.

    Raises
    ------
    InputError, GeometryError
        When an image or a setting is unsuitable.
    """

    def __init__(
        self,
        fixed: Image,
        moving: Image,
        *,
        segmenter: str | PromptableSegmenter = "hierarchy",
        features: str | FeatureExtractor = "intensity",
        guide: str | Transform | None = None,
        settings: str | PromptSettings = "default",
        device: str = "auto",
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        self.settings = _settings(settings)
        wanted = self.settings.guide if guide is None else guide
        _check_guide(wanted)
        # Without a guide nothing says that the images share a place.
        anywhere = wanted in ("none", "centers")
        check_inputs(fixed, moving, init="centers" if anywhere else "auto" if isinstance(wanted, str) else wanted)
        self.fixed, self.moving, self.device, self.seed = fixed, moving, device, seed
        self.timings: dict[str, float] = {}
        started = time.perf_counter()
        progress(ProgressEvent("encoding the images", 0.0))
        self._encode(_segmenter(segmenter), _extractor(features), resolve_device(device), progress)
        self.timings["encoding"] = time.perf_counter() - started
        started = time.perf_counter()
        progress(ProgressEvent("finding where things lie", 0.0))
        self.guide = self._guide(wanted)
        progress(ProgressEvent("finding where things lie", 1.0))
        self.timings["guide"] = time.perf_counter() - started

    def changed(
        self, *, transfer: TransferOptions | None = None, guide: str | Transform | None = None
    ) -> PromptSession:
        """Return a session that shares what is encoded and carries prompts in another way; None keeps what is."""
        other = copy(self)
        if transfer is not None:
            other.settings = replace(self.settings, transfer=transfer)
        if guide is not None:
            other.guide = self._guide(guide)
        return other

    def _encode(
        self, segmenter: PromptableSegmenter, extractor: FeatureExtractor, device: torch.device, progress: Progress
    ) -> None:
        views = draw_views(
            self.settings.views,
            self.fixed.ndim,
            rng=generator(self.seed, stream="views"),
            scales=self.settings.scales,
            gammas=self.settings.gammas,
        )
        maps, segmenters, seen = [], [], []
        steps, done = 2 * (1 + len(views)), 0

        def encoded() -> None:
            nonlocal done
            done += 1
            progress(ProgressEvent("encoding the images", done / steps))

        for image in (self.fixed, self.moving):
            # First the segmenter: a network says best itself which images it takes.
            segmenters.append(_another(segmenter))
            segmenters[-1].prepare(image)
            maps.append(_features(image.to(device), extractor).to("cpu"))
            encoded()
            shown = []
            for view in views:
                picture, own = view_of(image, view), _another(segmenter)
                own.prepare(picture)
                shown.append((view, picture, own))
                encoded()
            seen.append(tuple(shown))
        if self.settings.standardise:
            maps = list(standardised(maps[0], maps[1]))
        self.sides = {
            side: Side(image, features, own, shown)
            for side, image, features, own, shown in zip(
                SIDES, (self.fixed, self.moving), maps, segmenters, seen, strict=True
            )
        }

    def _guide(self, wanted: str | Transform) -> Guide | None:
        """Return the guide from fixed to moving, None where there is none."""
        _check_guide(wanted)
        size = scale_of(self.fixed.grid)
        if wanted == "none":
            return None
        if wanted == "auto":
            where = resolve_device(self.device)
            found = solve(self.fixed, self.moving, settings=QUICK, device=where, seed=self.seed)
            share = self.settings.loose if found.verdict == "failed" else self.settings.width
            return Guide(found.transform, found.inverse, share * size)
        if isinstance(wanted, Transform):
            return Guide(wanted, wanted.inverse(), self.settings.width * size)
        still = starting_map(wanted, self.fixed.grid, self.moving.grid)
        return Guide(still, still.inverse(), self.settings.loose * size)

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
        source, target = self.sides[side], self.sides[SIDES[1 - SIDES.index(side)]]
        asked = check_prompts(prompts, source.image)
        if not asked:
            raise InputError("there is no prompt; give at least one point, box or mask")
        guide = self.guide if self.guide is None or side == "fixed" else self.guide.reversed
        found, seconds = [], []
        for item in asked:
            started = time.perf_counter()
            given = item if isinstance(item, Prompt) else ROISet((item.data != 0).any(0)[None], item.grid)
            found.append(transfer_prompt(given, source, target, guide=guide, options=self.settings.transfer))
            seconds.append(time.perf_counter() - started)
        return self._result(asked, found, seconds, side)

    def _result(
        self, asked: Sequence[Prompt | Image], found: Sequence[Transfer], seconds: Sequence[float], side: str
    ) -> PromptResult:
        answers: list[PromptAnswer] = []
        pairs: list[ROIPair] = []
        regions: dict[str, list[ROISet]] = {"fixed": [], "moving": []}
        other = SIDES[1 - SIDES.index(side)]
        for item, t, took in zip(asked, found, seconds, strict=True):
            given = item if isinstance(item, Prompt) else Prompt.at(inner_point(t.source))
            number = None
            if t.target is not None:
                number = len(pairs)
                regions[side].append(t.source)
                regions[other].append(t.target)
                in_moving = given if side == "moving" else t.prompt
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
                    side, given, t.prompt, number, t.confidence, t.reason, t.source, t.evidence, took, t.notes
                )
            )
        moving = stacked(regions["moving"], self.moving)
        fixed = stacked(regions["fixed"], self.fixed)
        timings = {**self.timings, "prompts": float(sum(seconds))}
        return PromptResult(ROIPairs(moving, fixed, tuple(pairs)), tuple(answers), timings)


def prompt(
    fixed: Image,
    moving: Image,
    prompts: Prompt | Image | Sequence[Prompt | Image],
    *,
    side: str = "fixed",
    segmenter: str | PromptableSegmenter = "hierarchy",
    features: str | FeatureExtractor = "intensity",
    guide: str | Transform | None = None,
    settings: str | PromptSettings = "default",
    device: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> PromptResult:
    """Find the counterparts of prompts in the other image; see `PromptSession` and its `answer`.

    >>> import roireg
    >>> roireg.prompt(fixed, moving, Prompt.at((61.0, 40.0)), side="moving").pairs  # doctest: +SKIP
    """
    session = PromptSession(
        fixed,
        moving,
        segmenter=segmenter,
        features=features,
        guide=guide,
        settings=settings,
        device=device,
        seed=seed,
        progress=progress,
    )
    return session.answer(prompts, side=side)


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
    image = session.sides[side].image
    found = session.answer(random_prompts(image, count, mask=mask, where=where, seed=seed), side=side).pairs
    order = np.argsort(-found.confidence, kind="stable")
    shared = [overlaps(found.moving, found.moving), overlaps(found.fixed, found.fixed)]
    kept: list[int] = []
    for k in order:
        if all(min(o[k, j] for o in shared) <= similar for j in kept):
            kept.append(int(k))
    return replace(found, pairs=tuple(found.pairs[k] for k in kept))


# -- parts ----------------------------------------------------------------------------------------


def _settings(given: str | PromptSettings) -> PromptSettings:
    if isinstance(given, PromptSettings):
        return given
    if given not in PROMPT_PRESETS:
        raise InputError(f"there are no prompt settings {given!r}; use one of {', '.join(PROMPT_PRESETS)}")
    return PROMPT_PRESETS[given]


def _check_guide(wanted: str | Transform) -> None:
    if isinstance(wanted, str) and wanted not in GUIDE_WORDS:
        raise InputError(f"the guide is {', '.join(GUIDE_WORDS)} or a transform, found {wanted!r}")


def _segmenter(given: str | PromptableSegmenter) -> PromptableSegmenter:
    if given == "model":
        raise InputError(
            "the segmenter model is that of a network; name it with --model (in Python pass "
            "`roireg.segment.model_segmenter(NAME)`)"
        )
    known = [name for name in available_segmenters() if name != "model"]
    if isinstance(given, str) and given not in known:
        raise InputError(f"segmenter {given!r} is unknown; use {', '.join(known)}, or name a network with --model")
    made = make_segmenter(given) if isinstance(given, str) else given
    if not isinstance(made, PromptableSegmenter):
        raise InputError(f"segmenter {given!r} does not answer prompts; use one that does, such as hierarchy")
    return made


def _extractor(given: str | FeatureExtractor) -> FeatureExtractor:
    if not isinstance(given, str):
        return given
    if given == "model":
        raise InputError(
            "the features model are those of a network; name it with --model (in Python pass "
            "`roireg.features.make_extractor('model', model=...)`), or use others, such as intensity"
        )
    # Position is the guide's business.
    parameters: dict[str, Any] = {"position": 0.0, "absolute": True} if given == "intensity" else {}
    return make_extractor(given, **parameters)


def _another(segmenter: PromptableSegmenter) -> PromptableSegmenter:
    """Return a segmenter with the same settings and a memory of its own, where it is a plain dataclass.

    Segmenters remember the images used last, two of them as a rule; views are more.
    """
    plain = is_dataclass(segmenter) and all(f.init or f.name.startswith("_") for f in fields(segmenter))
    return replace(segmenter) if plain else segmenter  # type: ignore[type-var]


def _features(image: Image, extractor: FeatureExtractor) -> Image:
    """Feature map of a whole image, near-isotropic cells of at most `FEATURE_VOXELS`."""
    grid = image.grid
    limit = FEATURE_VOXELS[grid.ndim]
    step = (float(np.prod(grid.extent)) / limit) ** (1 / grid.ndim)
    while grid.size > limit:
        grid = image.grid.with_spacing(np.maximum(image.grid.spacing, step))
        step *= 1.05
    return extractor(image, grid)
