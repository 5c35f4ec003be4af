"""The recipe: images in, region pairs, transform and verdict out."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scipy
import torch

from roireg import __version__
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import ROIPairs, ROISet
from roireg.core.seeds import generator, resolve_device
from roireg.core.transforms import Affine, Chain, Transform
from roireg.features import make_extractor
from roireg.fit.dense_affine import Candidate
from roireg.fit.published import fit_published
from roireg.fit.region_affine import affine_from_regions
from roireg.fit.start import Start, find_start, single_pair_maps
from roireg.fit.velocity import FeatureFunction, fit_velocity
from roireg.match import (
    GeometryOptions,
    MatchOptions,
    affine_hypotheses,
    match,
    match_labels,
    match_slices,
    region_similarity,
)
from roireg.pipeline.checks import check_inputs, starting_map
from roireg.pipeline.config import Config, preset
from roireg.pipeline.registration import Registration
from roireg.pipeline.stages import Stages
from roireg.pipeline.verdict import judge
from roireg.segment import LabelSegmenter

__all__ = ["register"]


class _Stopwatch:
    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.progress = progress

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.progress(ProgressEvent(stage, 0.0))
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start
        self.progress(ProgressEvent(stage, 1.0))


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
    pairs : known region pairs: accepted ones are kept, rejected ones never used, proposed ones kept as well.
    fixed_rois, moving_rois : label maps used as regions (METHODS Case 1), equal ids correspond.
    fixed_mask, moving_mask : label maps, > 0 where the images are to be compared.
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
    settings = config or _preset(preset)
    check_inputs(
        fixed,
        moving,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        fixed_rois=fixed_rois,
        moving_rois=moving_rois,
        pairs=pairs,
        init=init,
    )
    where = resolve_device(device)
    watch = _Stopwatch(progress)
    f, m = fixed.gray().to(where), moving.gray().to(where)
    inside_f, inside_m = _inside(fixed_mask, where), _inside(moving_mask, where)

    stages = Stages.of(settings, where, progress)
    with watch("finding regions"):
        sets = _regions(fixed, moving, settings, stages, fixed_rois, moving_rois, pairs)
    if settings.match.slices and fixed.ndim == 3 and sets is None:
        with watch("matching slices"):
            found = _match_slices(fixed, moving, settings, stages, seed, progress)
        start = _given_start(f, m, init, found, settings)
    elif sets is None:
        assert pairs is not None
        found = pairs
        start = _given_start(f, m, init, found, settings)
    else:
        found, start = _match_and_start(
            fixed, moving, f, m, sets, settings, stages, init, inside_f, inside_m, seed, watch
        )

    with watch("fitting the deformation"):
        transform = _deform(f, m, found, start.affine, settings, inside_f, inside_m, progress)
    name = preset if config is None else "custom"
    with watch("judging the result"):
        result = Registration(
            fixed=fixed,
            moving=moving,
            transform=transform,
            affine=start.affine,
            pairs=found,
            config=settings,
            timings=watch.seconds,
            provenance=_provenance(fixed, moving, settings, name, seed, where, start),
        )
        result = judge(result, start, fixed_mask=fixed_mask)
    watch.seconds["total"] = sum(watch.seconds.values())
    return result


def _preset(name: str) -> Config:
    return preset(name)


def _inside(mask: Image | None, device: torch.device) -> Image | None:
    return None if mask is None else mask.with_data((mask.data != 0).float().to(device))


def _regions(
    fixed: Image,
    moving: Image,
    settings: Config,
    stages: Stages,
    fixed_rois: Image | None,
    moving_rois: Image | None,
    pairs: ROIPairs | None,
) -> tuple[ROISet, ROISet] | None:
    """Candidate regions (moving, fixed), or None where pairs are given or slices are matched."""
    if fixed_rois is not None and moving_rois is not None:
        return (
            LabelSegmenter(moving_rois.data[0], moving_rois.grid)(moving),
            LabelSegmenter(fixed_rois.data[0], fixed_rois.grid)(fixed),
        )
    if pairs is not None or (settings.match.slices and fixed.ndim == 3):
        return None
    return stages.segmenter(moving), stages.segmenter(fixed)


def _options(settings: Config) -> MatchOptions:
    m = settings.match
    return MatchOptions(
        similarity=m.similarity,
        assignment=m.assignment,
        threshold=m.threshold,
        top=m.top,
        geometric=m.geometric,
        geometry=GeometryOptions(samples=1500, refined=16),
    )


def _match_slices(
    fixed: Image, moving: Image, settings: Config, stages: Stages, seed: int, progress: Progress
) -> ROIPairs:
    return match_slices(
        moving,
        fixed,
        stages.segmenter,
        stages.encode,
        reach=settings.match.reach,
        reach_mm=settings.match.reach_mm,
        options=_options(settings),
        keep_unmatched=False,
        rng=generator(seed, stream="match"),
        progress=progress,
    )


def _given(f: Image, m: Image, init: str | Transform) -> list[Candidate]:
    """Starts that need no search: what the user says, else where the images lie, else centres together."""
    if isinstance(init, Transform):
        return [Candidate(_nearest_affine(init, f), "given transform")]
    if init == "auto":
        words = ["identity", "centers"]
        if np.abs(m.grid.center - f.grid.center).max() < float(f.grid.spacing.min()):
            words = ["identity"]
    else:
        words = [init]
    names = {"identity": "where the images lie", "centers": "centres together"}
    maps = [(w, starting_map(w, f.grid, m.grid)) for w in words]
    return [Candidate(_nearest_affine(t, f), names[w]) for w, t in maps]


def _nearest_affine(transform: Transform, f: Image) -> Affine:
    """The affine itself, or the least-squares affine of a deformation over the fixed grid."""
    if isinstance(transform, Affine):
        return transform
    if isinstance(transform, Chain) and all(isinstance(t, Affine) for t in transform.transforms):
        matrix = np.eye(f.ndim + 1)
        for t in transform.transforms:
            assert isinstance(t, Affine)
            matrix = t.matrix @ matrix
        return Affine(matrix)
    points = f.grid.with_shape([min(n, 12) for n in f.grid.shape]).points()
    mapped = transform.map_points(points)
    homogeneous = np.c_[points, np.ones(len(points))]
    solution = np.linalg.lstsq(homogeneous, mapped, rcond=None)[0]
    matrix = np.eye(f.ndim + 1)
    matrix[:-1] = solution.T
    return Affine(matrix)


def _given_start(f: Image, m: Image, init: str | Transform, pairs: ROIPairs, settings: Config) -> Start:
    """Start from region pairs alone: their affine, or the given start where there is no pair."""
    given = _given(f, m, init)[0]
    if init != "auto" or not len(pairs.active):
        return Start(given.affine, given.source, float("nan"), ())
    affine = affine_from_regions(pairs, model=settings.start.affine.model, start=None)
    return Start(affine, "region pairs", float("nan"), ())


def _match_and_start(
    fixed: Image,
    moving: Image,
    f: Image,
    m: Image,
    sets: tuple[ROISet, ROISet],
    settings: Config,
    stages: Stages,
    init: str | Transform,
    inside_f: Image | None,
    inside_m: Image | None,
    seed: int,
    watch: _Stopwatch,
) -> tuple[ROIPairs, Start]:
    rois_m, rois_f = sets
    options = _options(settings)
    labelled = any(rois_m.names) or any(rois_f.names)
    with watch("matching regions"):
        if labelled:
            found = match_labels(rois_m, rois_f)
            maps = [Candidate(affine_from_regions(found, model=settings.start.affine.model), "label centroids")]
        else:
            features_m, features_f = stages.encode(moving), stages.encode(fixed)
            maps = []
            similarity = None
            if len(rois_m) and len(rois_f):
                similarity = region_similarity(rois_m, rois_f, features_m, features_f, options=options)
            if settings.start.search and init == "auto" and similarity is not None:
                rng = generator(seed, stream="match")
                maps = [
                    Candidate(h.affine, "regions")
                    for h in affine_hypotheses(rois_m, rois_f, similarity, rng=rng, options=options.geometry)
                ]
                maps += single_pair_maps(rois_m, rois_f, similarity, count=settings.start.single_pairs)
    if not settings.start.search or init != "auto":
        if not labelled:
            found = match(
                rois_m,
                rois_f,
                features_m,
                features_f,
                options=options,
                similarity=similarity,
                rng=generator(seed, stream="match"),
            )
        return found, _given_start(f, m, init, found, settings)
    with watch("finding the start"):
        start = find_start(
            f,
            m,
            _given(f, m, init),
            maps,
            options=settings.start.affine,
            velocity=settings.dense.velocity,
            probes=settings.start.probes,
            probe_voxels=settings.start.probe_voxels,
            margin=settings.start.margin,
            features=_dense_features(settings),
            fixed_mask=inside_f,
            moving_mask=inside_m,
            progress=watch.progress,
        )
    if not labelled:
        with watch("pairing regions"):
            found = match(
                rois_m,
                rois_f,
                features_m,
                features_f,
                options=options,
                guide=start.affine,
                similarity=similarity,
            )
    return found, start


def _dense_features(settings: Config) -> FeatureFunction | None:
    if settings.dense.features is None or settings.dense.velocity.feature_weight == 0:
        return None
    extractor = make_extractor(settings.dense.features)
    return lambda image: extractor(image, image.grid)


def _deform(
    f: Image,
    m: Image,
    pairs: ROIPairs,
    affine: Affine,
    settings: Config,
    inside_f: Image | None,
    inside_m: Image | None,
    progress: Progress,
) -> Chain:
    dense = settings.dense
    o = dense.velocity
    blind = o.correlation_weight == 0 and (dense.features is None or o.feature_weight == 0)
    if dense.method == "none" or (not len(pairs.active) and (blind or dense.method == "paper")):
        return Chain((affine,))
    on_device = ROIPairs(pairs.moving.to(f.data.device), pairs.fixed.to(f.data.device), pairs.pairs)
    field: Transform
    if dense.method == "paper":
        field = fit_published(on_device, f.grid, initial=affine, iterations=dense.paper_iterations, progress=progress)
    else:
        field = fit_velocity(
            f,
            m,
            initial=affine,
            options=o,
            pairs=on_device,
            features=_dense_features(settings),
            fixed_mask=inside_f,
            moving_mask=inside_m,
            progress=progress,
        ).transform
    return Chain((field, affine))


def _provenance(
    fixed: Image,
    moving: Image,
    settings: Config,
    preset_name: str,
    seed: int,
    device: torch.device,
    start: Start,
) -> dict[str, object]:
    return {
        "roireg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "preset": preset_name,
        "start": start.source,
        "fixed": {"name": fixed.name, "grid": repr(fixed.grid)},
        "moving": {"name": moving.name, "grid": repr(moving.grid)},
        "settings": settings.model_dump(mode="json"),
    }
