"""The recipe: which regions, pairs and prompts a registration starts from; `steps` does the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roireg.core.ambient import ordinary, own_settings
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.progress import Progress, silent
from roireg.core.rois import Prompt, ROIPairs, ROISet
from roireg.core.seeds import resolve_device
from roireg.core.transforms import Affine, Transform
from roireg.pipeline.checks import check_inputs
from roireg.pipeline.config import Config
from roireg.pipeline.config import preset as preset_named
from roireg.pipeline.prompting import PROMPT_PRESETS, QUICK, SIDES, PromptSession, prompt_pairs, prompt_session
from roireg.pipeline.prompts import check_prompts
from roireg.pipeline.registration import Registration
from roireg.pipeline.stages import Stages
from roireg.pipeline.steering import accepted, combined
from roireg.pipeline.steps import deform, doubted, solve
from roireg.segment import Prepared

__all__ = ["register"]


@own_settings()
def register(
    fixed: Image,
    moving: Image,
    *,
    preset: str = "default",
    config: Config | None = None,
    pairs: ROIPairs | None = None,
    fixed_rois: Image | None = None,
    moving_rois: Image | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    prompts: Prompt | Image | Sequence[Prompt | Image] = (),
    prompt_side: str = "fixed",
    roi_weight: float | None = None,
    pairs_only: bool = False,
    init: str | Transform = "auto",
    device: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> Registration:
    """Register two images by corresponding regions.

    Parameters
    ----------
    fixed, moving : images of the same dimension, any grids in one world (LPS mm; raster images: pixels).
    preset, config : settings; `config` wins over the name.
    pairs : known region pairs: accepted ones are kept, rejected ones never used. Where one is proposed they are all
        the pairs there are, and so with `pairs_only`; otherwise a person has decided on each, and others are found.
    fixed_rois, moving_rois : label maps used as regions (METHODS Case 1), equal ids correspond.
    fixed_mask, moving_mask : label maps, > 0 where the images are to be compared.
    prompts : points and boxes, or masks (not 0 inside) on the grid of their image, each for one region that matters.
        Their counterparts are found, and the pairs are as good as accepted. A prompt without one is named in the
        reasons.
    prompt_side : "fixed" or "moving": the image the prompts are given in.
    roi_weight : weight of the region term of accepted pairs and prompts, instead of `dense.accepted_weight`; where
        there are none, of all region pairs, instead of `dense.velocity.region_weight`.
    init : "auto" (where the images lie, unless regions say otherwise), "identity" (exactly that), "centers"
        (grid centres together), or a transform whose best affine is used.
    device : "auto", "cpu", "cuda", "cuda:N" or "mps".
    seed : of every random choice.
    progress : is told what is being done.

    Raises
    ------
    InputError, GeometryError
        When an input is unsuitable; see :func:`roireg.pipeline.checks.check_inputs`.
    """
    settings = config or preset_named(preset)
    fixed, moving = fixed.with_data(ordinary(fixed.data)), moving.with_data(ordinary(moving.data))
    maps = check_inputs(
        fixed,
        moving,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        fixed_rois=fixed_rois,
        moving_rois=moving_rois,
        pairs=pairs,
        init=init,
    )
    if prompt_side not in SIDES:
        raise InputError(f"prompts are given in the fixed or in the moving image, found {prompt_side!r}")
    asked = check_prompts(prompts, fixed if prompt_side == "fixed" else moving)
    if pairs is not None and fixed_rois is not None:
        raise InputError("region label maps and ROI pairs both say what corresponds; give one of them")
    known = None
    if pairs is not None and not pairs_only and all(p.status != "proposed" for p in pairs.pairs):
        pairs, known = None, pairs
    if pairs is not None and not len(pairs.active):
        raise InputError(
            "every ROI pair is rejected and no others are looked for; accept at least one, or leave --pairs-only out"
        )
    if roi_weight is not None:
        sure = bool(asked) or any(p.status == "accepted" for given in (pairs, known) if given for p in given.pairs)
        settings = _with_weight(settings, roi_weight, sure)

    where = resolve_device(device)
    stages = Stages.of(settings, where, progress)
    labels = None if maps.fixed_rois is None or maps.moving_rois is None else (maps.fixed_rois, maps.moving_rois)
    doubts: tuple[str, ...] = ()
    if settings.prompt.count and pairs is None and known is None and labels is None:
        pairs, doubts = _drawn(fixed, moving, settings, stages, maps.moving_mask, init, device, seed, progress)

    def steer(
        start: Affine, found: ROIPairs, prepared: tuple[Prepared, Prepared] | None
    ) -> tuple[ROIPairs, tuple[str, ...]]:
        # A coarse deformation first: prompts are looked for where it says.
        guide = deform(fixed.gray().to(where), moving.gray().to(where), found, start, QUICK)
        session = PromptSession.of(
            fixed,
            moving,
            segmenter=stages.segmenter,
            prepared=prepared,
            features=stages.extractor,
            guide=PROMPT_PRESETS["default"].guide_along(guide, fixed.grid),
            device=device,
            seed=seed,
            progress=progress,
        )
        return _steered(session, found, asked, prompt_side)

    result = solve(
        fixed,
        moving,
        settings=settings,
        device=where,
        stages=stages,
        labels=labels,
        pairs=pairs,
        known=known,
        steer=steer if asked else None,
        fixed_mask=maps.fixed_mask,
        moving_mask=maps.moving_mask,
        init=init,
        seed=seed,
        name=preset if config is None else "custom",
        progress=progress,
    )
    return doubted(result, doubts)


def _with_weight(settings: Config, weight: float, sure: bool) -> Config:
    """Return settings whose regions count for so much: those a person is sure of where there are any, else all."""
    if not (np.isfinite(weight) and weight >= 0):
        raise InputError(f"the weight of regions is a number of at least 0, found {weight}")
    change: dict[str, object] = {"accepted_weight": weight}
    if not sure:
        change = {"velocity": settings.dense.velocity.model_copy(update={"region_weight": weight})}
    dense = settings.dense.model_copy(update=change)
    return settings.model_copy(update={"dense": dense})


def _drawn(
    fixed: Image,
    moving: Image,
    settings: Config,
    stages: Stages,
    moving_mask: Image | None,
    init: str | Transform,
    device: str,
    seed: int,
    progress: Progress,
) -> tuple[ROIPairs, tuple[str, ...]]:
    """Region pairs of random prompts in the moving image, and what to say where there are none."""
    chosen = settings.prompt.settings
    session = prompt_session(
        fixed,
        moving,
        segmenter=stages.segmenter,
        features=stages.extractor,
        guide=None if init == "auto" or chosen.guide == "none" else init,
        settings=chosen,
        device=device,
        seed=seed,
        progress=progress,
    )
    count = settings.prompt.count
    found = prompt_pairs(session, count, mask=moving_mask, seed=seed)
    if len(found):
        return found, ()
    empty = ROIPairs(ROISet.empty(moving.grid), ROISet.empty(fixed.grid), ())
    return empty, (f"none of {count} random prompts has a counterpart; no region has a part in the result",)


def _steered(
    session: PromptSession, found: ROIPairs, prompts: Sequence[Prompt | Image], side: str
) -> tuple[ROIPairs, tuple[str, ...]]:
    """Add the pairs of prompts, as certain as a person is, and name the prompts that have none."""
    result = session.answer(prompts, side=side)
    other = "moving" if side == "fixed" else "fixed"
    doubts = tuple(
        f"prompt {number} has no counterpart in the {other} image and does not steer: {answer.reason}"
        for number, answer in enumerate(result.answers, start=1)
        if answer.pair is None
    )
    return (combined(accepted(result.pairs), found) if len(result.pairs) else found), doubts
