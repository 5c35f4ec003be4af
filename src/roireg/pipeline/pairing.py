"""Region pairs of two images without a transform."""

from __future__ import annotations

from roireg.core.ambient import limited_threads, own_settings
from roireg.core.pair import Pair
from roireg.core.progress import Progress, silent
from roireg.core.rois import ROIPairs
from roireg.core.seeds import resolve_device
from roireg.io import ImageLike, LabelsLike, TransformLike
from roireg.pipeline.checks import check_correspondence, check_inputs
from roireg.pipeline.config import Config
from roireg.pipeline.config import preset as preset_named
from roireg.pipeline.inputs import images_of, labels_of, start_of
from roireg.pipeline.missing import without_missing
from roireg.pipeline.recipe import guide_of
from roireg.pipeline.run import Run, no_pairs
from roireg.pipeline.tools import REGIONS

__all__ = ["find_pairs"]


@own_settings()
def find_pairs(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    preset: str = "default",
    config: Config | None = None,
    fixed_rois: LabelsLike | None = None,
    moving_rois: LabelsLike | None = None,
    decisions: ROIPairs | None = None,
    init: str | TransformLike = "auto",
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> ROIPairs:
    """Pair the regions of two images; nothing is fitted.

    Parameters
    ----------
    fixed, moving, preset, config, fixed_rois, moving_rois, device, threads, seed, progress : as
        `roireg.register`; the stages of the settings play no part.
    decisions : pairs of an earlier search that a person has looked at: accepted ones stay, rejected ones are not
        proposed again, the others are looked for anew.
    init : "auto" lets the regions alone say where partners lie; "identity" (where the images lie), "centers" (grid
        centres together) or a transform say so instead.

    Returns
    -------
    The pairs, best first, unmatched regions included. There may be none.

    Raises
    ------
    InputError, GeometryError
        When an input is unsuitable; see :func:`roireg.pipeline.checks.check_inputs`.
    """
    settings = (config or preset_named(preset)).model_copy(update={"stages": ()})
    (fixed, moving), init = images_of(fixed, moving), start_of(init)
    fixed, moving = without_missing(fixed)[0], without_missing(moving)[0]
    maps = check_inputs(
        fixed,
        moving,
        fixed_rois=labels_of(fixed_rois, fixed, "fixed regions"),
        moving_rois=labels_of(moving_rois, moving, "moving regions"),
        pairs=decisions,
        init=init,
    )
    labels = None if maps.fixed_rois is None or maps.moving_rois is None else (maps.fixed_rois, maps.moving_rois)
    check_correspondence(classes=settings.classes.used, pairs=decisions is not None, labels=labels is not None)
    images = Pair(fixed, moving)
    run = Run.of(images, settings, init=init, device=resolve_device(device), seed=seed, progress=progress)
    with limited_threads(threads):
        pairs = None
        if settings.prompt.count and decisions is None and labels is None:
            pairs = run.drawn_pairs(guide_of(run))
        with run.clock(REGIONS):
            problem = run.problem(labels, pairs, decisions)
        start = problem.starts[0].affine if isinstance(init, str) else init
        problem = run.paired(problem, start, decisions, (), "fixed")
    return problem.pairs or no_pairs(run.images)
