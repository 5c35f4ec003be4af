"""Prompts between two images that have not been registered: a quick registration says where things lie."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict, Unpack

from roireg.core.ambient import limited_threads, own_settings
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import Prompt
from roireg.core.words import GUIDE_WORDS
from roireg.features import FeatureExtractor
from roireg.io import ImageLike, TransformLike
from roireg.pipeline.checks import check_guide, check_inputs
from roireg.pipeline.config import QUICK
from roireg.pipeline.inputs import images_of, map_of
from roireg.pipeline.prompt_settings import PROMPT_PRESETS, PromptSettings, prompt_settings
from roireg.pipeline.prompts import PromptResult
from roireg.pipeline.recipe import find_guide
from roireg.pipeline.session import SIDES, PromptSession, prompt_pairs, usual_features
from roireg.segment import Segmenter

__all__ = [
    "PROMPT_PRESETS",
    "QUICK",
    "SIDES",
    "PromptSession",
    "PromptSettings",
    "find_guide",
    "prompt",
    "prompt_pairs",
    "prompt_session",
]


class SessionOptions(TypedDict, total=False):
    """What `prompt_session` takes besides two images."""

    segmenter: str | Segmenter
    features: str | FeatureExtractor | None
    guide: str | TransformLike | None
    settings: str | PromptSettings
    device: str
    threads: int | None
    seed: int
    progress: Progress


@own_settings()
def prompt_session(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    segmenter: str | Segmenter = "hierarchy",
    features: str | FeatureExtractor | None = None,
    guide: str | TransformLike | None = None,
    settings: str | PromptSettings = "default",
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> PromptSession:
    """Prepare two images and find the guide between them; see `PromptSession.of` and `find_guide`.

    Images may have any form that `roireg.io.as_image` knows; guides may also be files or transforms of SimpleITK.
    `threads` is the number of CPU threads meanwhile, for the whole process; None takes as many as torch has.

    Raises
    ------
    InputError, GeometryError
        When an image or a setting is unsuitable.
    """
    settings = prompt_settings(settings)
    fixed, moving = images_of(fixed, moving)
    choice = map_of(settings.guide if guide is None else guide, GUIDE_WORDS, "guide")
    check_guide(choice)
    # Where nothing says that the images share a place, they need not.
    anywhere = choice in ("none", "centers")
    check_inputs(fixed, moving, init="centers" if anywhere else "auto" if isinstance(choice, str) else choice)
    with limited_threads(threads):
        session = PromptSession.of(
            fixed,
            moving,
            segmenter=segmenter,
            features=usual_features(guided=choice != "none") if features is None else features,
            settings=settings,
            device=device,
            seed=seed,
            progress=progress,
        )
        started = time.perf_counter()
        progress(ProgressEvent("finding where things lie", 0.0))
        expectation = find_guide(fixed, moving, choice, settings=settings, device=device, seed=seed)
    progress(ProgressEvent("finding where things lie", 1.0))
    timings = {**session.timings, "guide": time.perf_counter() - started}
    return replace(session, guide=expectation, timings=timings)


@own_settings()
def prompt(
    fixed: ImageLike,
    moving: ImageLike,
    prompts: Prompt | Image | Sequence[Prompt | Image],
    *,
    side: str = "fixed",
    **options: Unpack[SessionOptions],
) -> PromptResult:
    """Find the counterparts of prompts in the other image.

    Parameters
    ----------
    fixed, moving : in every form that `roireg.io.as_image` knows.
    prompts, side : see `PromptSession.answer`.
    options : see `prompt_session`.

    >>> import roireg
    >>> roireg.prompt("a.png", "b.png", roireg.Prompt.at((61, 40)), side="moving").pairs  # doctest: +SKIP
    """
    session = prompt_session(fixed, moving, **options)
    with limited_threads(options.get("threads")):
        return session.answer(prompts, side=side)
