"""Registration from whatever users have: inputs are read and checked, then a `Run` takes the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from roireg.core.ambient import limited_threads, own_settings
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.pair import Pair
from roireg.core.progress import Progress, silent
from roireg.core.rois import Prompt, ROIPairs
from roireg.core.seeds import resolve_device
from roireg.core.transforms import Transform
from roireg.core.words import SearchRange, TransformType
from roireg.fit import Search, Stage, Velocity
from roireg.io import ImageLike, LabelsLike, TransformLike
from roireg.match.carry import Guide
from roireg.pipeline.checks import check_correspondence, check_guide, check_inputs, starting_map
from roireg.pipeline.config import QUICK, Config
from roireg.pipeline.config import preset as preset_named
from roireg.pipeline.inputs import images_of, labels_of, start_of
from roireg.pipeline.missing import masked, without_missing
from roireg.pipeline.prompt_settings import PromptSettings, prompt_settings
from roireg.pipeline.prompts import check_prompts
from roireg.pipeline.registration import Registration
from roireg.pipeline.run import Run
from roireg.pipeline.session import SIDES

__all__ = ["find_guide", "register"]

HEAVIEST = 1e6
"""Largest weight of regions, beside which nothing else counts."""


@own_settings()
def register(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    preset: str = "default",
    config: Config | None = None,
    type: TransformType | None = None,
    search: SearchRange | None = None,
    pairs: ROIPairs | None = None,
    fixed_rois: LabelsLike | None = None,
    moving_rois: LabelsLike | None = None,
    fixed_mask: LabelsLike | None = None,
    moving_mask: LabelsLike | None = None,
    prompts: Prompt | Image | Sequence[Prompt | Image] = (),
    prompt_side: str = "fixed",
    roi_weight: float | None = None,
    pairs_only: bool = False,
    init: str | TransformLike = "auto",
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Registration:
    """Register two images by corresponding regions.

    Parameters
    ----------
    fixed, moving : images of the same dimension, any grids in one world (LPS mm; raster images: pixels): an `Image`,
        a path, ``(array, spacing)``, an image of SimpleITK or nibabel, see `roireg.io.as_image`. NaN is no data: such
        voxels are left out of the comparison, see `without_missing`.
    preset, config : settings; `config` wins over the name.
    type : what may move: "translation", "rigid", "similarity", "affine", "homography" (2D), or "deformable" and None,
        what the settings say. search : "full" tries all rotations of volumes.
    pairs : known region pairs. Accepted ones are kept and rejected ones never used; if every pair is one or the
        other, more pairs are looked for, unless `pairs_only`. If any is merely proposed, no others are looked for.
    fixed_rois, moving_rois : label maps used as regions (METHODS Case 1), equal ids correspond; in the same forms, or
        an array alone in the shape of the image.
    fixed_mask, moving_mask : label maps in the same forms, not 0 where the images are to be compared.
    prompts : points and boxes, or masks (not 0 inside) on the grid of their image, each for one region that matters.
        Their counterparts are found, and the pairs are as good as accepted. A prompt without a counterpart is named
        in the reasons.
    prompt_side : "fixed" or "moving": the image the prompts are given in.
    roi_weight : weight in the dense fit of the pairs of label maps (its option `label_weight`), else of accepted
        pairs and prompts (`accepted_weight`), else of all region pairs (`region_weight`).
    pairs_only : look for no pairs beside `pairs`.
    init : "auto" (where the images lie, unless a stage finds something better), "identity" (exactly that), "centers"
        (grid centres together), or any transform, a file or one of SimpleITK: the stages go on from it, and it stays
        a part of the result.
    device : "auto", "cpu", "cuda", "cuda:N" or "mps".
    threads : CPU threads while this runs, for the whole process; None takes as many as torch has.
    seed : of every random choice.
    progress : is told what is being done.

    Raises
    ------
    InputError, GeometryError
        When an input is unsuitable; see :func:`roireg.pipeline.checks.check_inputs`.
    """
    settings = (config or preset_named(preset)).with_type(type, search)
    (fixed, moving), init = images_of(fixed, moving), start_of(init)
    (fixed, fixed_known), (moving, moving_known) = without_missing(fixed), without_missing(moving)
    maps = check_inputs(
        fixed,
        moving,
        fixed_mask=labels_of(fixed_mask, fixed, "fixed mask"),
        moving_mask=labels_of(moving_mask, moving, "moving mask"),
        fixed_rois=labels_of(fixed_rois, fixed, "fixed regions"),
        moving_rois=labels_of(moving_rois, moving, "moving regions"),
        pairs=pairs,
        init=init,
    )
    maps = replace(
        maps,
        fixed_mask=masked(maps.fixed_mask, fixed_known),
        moving_mask=masked(maps.moving_mask, moving_known),
    )
    for stage in settings.stages:
        stage.check(fixed.ndim)
    if prompt_side not in SIDES:
        raise InputError(f"prompts are given in the fixed or in the moving image, found {prompt_side!r}")
    checked = check_prompts(prompts, fixed if prompt_side == "fixed" else moving)
    check_correspondence(classes=settings.classes.used, pairs=pairs is not None, labels=fixed_rois is not None)
    decisions = None
    if pairs is not None and not pairs_only and all(p.status != "proposed" for p in pairs.pairs):
        pairs, decisions = None, pairs
    if pairs is not None and not len(pairs.active):
        raise InputError(
            "every ROI pair is rejected and no others are looked for; accept at least one, or leave --pairs-only out"
        )
    if fixed.ndim == 3 and pairs is None and decisions is None and settings.network.model is None:
        settings = without_weak_regions(settings)
    labels = None if maps.fixed_rois is None or maps.moving_rois is None else (maps.fixed_rois, maps.moving_rois)
    if roi_weight is not None:
        decided = pairs or decisions
        option = "region_weight"
        if labels is not None:
            option = "label_weight"
        elif checked or (decided is not None and any(p.status == "accepted" for p in decided.pairs)):
            option = "accepted_weight"
        settings = _weighted(settings, option, roi_weight)

    images = Pair(fixed, moving, maps.fixed_mask, maps.moving_mask)
    run = Run.of(images, settings, init=init, device=resolve_device(device), seed=seed, progress=progress)
    with limited_threads(threads):
        if settings.prompt.count and pairs is None and decisions is None and labels is None:
            pairs = run.drawn_pairs(guide_of(run))
        return run.registration(
            labels=labels,
            pairs=pairs,
            decisions=decisions,
            prompts=checked,
            side=prompt_side,
            name=preset if config is None else "custom",
        )


def _weighted(settings: Config, option: str, weight: float) -> Config:
    if not 0 <= weight <= HEAVIEST:
        raise InputError(f"the weight of regions is a number from 0 to {HEAVIEST:g}, found {weight}")
    return settings.with_options("velocity", **{option: weight})


def guide_of(run: Run) -> Guide | None:
    """Return where random prompts of a run are expected: where a start that is asked for says, else as settings say.

    Settings that look anywhere do so whatever the start.
    """
    settings = run.settings.prompt.settings
    asked = settings.guide != "none" and run.init != "auto"
    fixed, moving = run.images.fixed, run.images.moving
    return find_guide(
        fixed, moving, run.init if asked else settings.guide, settings=settings, device=str(run.device), seed=run.seed
    )


def find_guide(
    fixed: Image,
    moving: Image,
    guide: str | Transform | None = None,
    *,
    settings: str | PromptSettings = "default",
    device: str = "auto",
    seed: int = 0,
) -> Guide | None:
    """Return where things of the fixed image are to be expected in the moving one.

    Parameters
    ----------
    guide : "auto" (a quick registration, seconds), "identity" (where the images lie), "centers" (grid centres
        together), "none" (anywhere), or a transform from fixed to moving points, for instance of a finished
        registration; None takes what the settings say.
    settings : a name of `PROMPT_PRESETS` or settings; they say how wide the guide is.
    device, seed : of the registration.

    Raises
    ------
    InputError
        When the guide is none of these.
    """
    settings = prompt_settings(settings)
    guide = settings.guide if guide is None else guide
    if guide == "none":
        return None
    if guide == "auto":
        result = register(fixed, moving, config=QUICK, device=device, seed=seed)
        return settings.guide_along(result.transform, fixed.grid, loose=result.verdict == "failed")
    if isinstance(guide, Transform):
        return settings.guide_along(guide, fixed.grid)
    check_guide(guide)
    return settings.guide_along(starting_map(guide, fixed.grid, moving.grid), fixed.grid, loose=True)


def without_weak_regions(settings: Config) -> Config:
    """Return settings for volumes whose own regions take no part where images decide, unless settings ask for it.

    Over eight sets of volumes they changed the mean Dice by -0.09 to +0.001 and cost a third of the time
    (docs/explanation.md); they are still found, paired and shown.
    """

    def weighed(stage: Stage) -> Stage:
        if isinstance(stage, Velocity) and stage.region_weight is None and not stage.blind:
            return stage.model_copy(update={"region_weight": 0.0, "accepted_weight": stage.own_weight})
        if isinstance(stage, Search) and stage.regions is None and stage.exhaustive is not None:
            return stage.model_copy(update={"regions": False})
        return stage

    return settings.model_copy(update={"stages": tuple(weighed(stage) for stage in settings.stages)})
