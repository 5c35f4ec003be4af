"""The steps between two images and a judged registration, in the order in which they are taken.

`recipe` says which regions, pairs and prompts they start from; `prompting` takes the same steps for its guide.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
import torch

from roireg import __version__
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.seeds import generator
from roireg.core.transforms import Affine, Chain, Transform, VelocityField
from roireg.core.warp import halved
from roireg.features import make_extractor
from roireg.fit.dense_affine import Candidate
from roireg.fit.level import FeatureFunction
from roireg.fit.perspective import perspective_flow
from roireg.fit.published import fit_published
from roireg.fit.region_affine import affine_from_regions
from roireg.fit.start import Start, find_start, single_pair_maps
from roireg.fit.velocity import fit_velocity
from roireg.match import (
    SLICES,
    GeometryOptions,
    KeypointMap,
    MatchOptions,
    affine_hypotheses,
    keypoint_maps,
    match,
    match_labels,
    match_slices,
    region_similarity,
)
from roireg.pipeline.checks import starting_map
from roireg.pipeline.config import Config
from roireg.pipeline.registration import Registration
from roireg.pipeline.stages import REGIONS, Stages, tell_time
from roireg.pipeline.steering import blocked, combined, weighted
from roireg.pipeline.verdict import judge
from roireg.segment import LabelSegmenter, Prepared

__all__ = ["Steer", "deform", "doubted", "nearest_affine", "solve"]

Steer = Callable[[Affine, ROIPairs, tuple[Prepared, Prepared] | None], tuple[ROIPairs, tuple[str, ...]]]
"""Start, pairs and, if there are, the prepared images (fixed, moving) in.

Pairs to go on with and what a reader of the verdict must know out.
"""


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


@dataclass(frozen=True, eq=False)
class _Job:
    """What the steps work on: images as given, halved where they are large, as gray images on the device, masks."""

    fixed: Image
    moving: Image
    small_f: Image
    small_m: Image
    f: Image
    m: Image
    inside_f: Image | None
    inside_m: Image | None
    settings: Config
    stages: Stages
    init: str | Transform
    known: ROIPairs | None
    seed: int


def solve(
    fixed: Image,
    moving: Image,
    *,
    settings: Config,
    device: torch.device,
    stages: Stages | None = None,
    labels: tuple[Image, Image] | None = None,
    pairs: ROIPairs | None = None,
    known: ROIPairs | None = None,
    steer: Steer | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    init: str | Transform = "auto",
    seed: int = 0,
    name: str = "custom",
    progress: Progress = silent,
) -> Registration:
    """Register two images whose inputs have been checked.

    Parameters
    ----------
    stages : segmenter and features; None builds those of the settings.
    labels : label maps (fixed, moving) used as regions.
    pairs : all the pairs there are; None finds regions and matches them.
    known : pairs that a person has accepted or rejected; the others are found.
    steer : changes the pairs once the start is known.
    name : of the settings, for the provenance.

    The other parameters are those of :func:`roireg.pipeline.register`.
    """
    watch = _Stopwatch(progress)
    small_f, small_m = halved(fixed), halved(moving)
    f, m = small_f.gray().to(device), small_m.gray().to(device)
    inside_f, inside_m = _inside(fixed_mask, device), _inside(moving_mask, device)
    stages = stages or Stages.of(settings, device, progress)
    job = _Job(fixed, moving, small_f, small_m, f, m, inside_f, inside_m, settings, stages, init, known, seed)

    with watch(REGIONS):
        sets, prepared = _regions(job, labels, pairs, progress)
    if sets is not None:
        found, start = _match_and_start(job, sets, watch)
    else:
        if pairs is None:
            with watch(SLICES):
                found = _match_slices(job, progress)
            pairs = found if known is None else combined(known, found)
        found, start = pairs, _given_start(f, m, init, pairs, settings)

    doubts: tuple[str, ...] = ()
    if steer is not None:
        with watch("carrying prompts"):
            found, doubts = steer(start.affine, found, prepared)
    if stages.network is not None and not len(found.active):
        doubts += (f"{stages.network.model.card.name} led to no region pair; the result rests on the images alone",)
    with watch("fitting the deformation"):
        transform = deform(
            f,
            m,
            found,
            start.affine,
            settings,
            rest=start.flow,
            reach=start.reach,
            fixed_mask=inside_f,
            moving_mask=inside_m,
            progress=progress,
        )
    with watch("judging the result"):
        result = Registration(
            fixed=fixed,
            moving=moving,
            transform=transform,
            affine=start.affine,
            pairs=found,
            config=settings,
            timings=watch.seconds,
            provenance=_provenance(job, name, start),
        )
        result = doubted(judge(result, start, fixed_mask=fixed_mask), doubts)
    watch.seconds["total"] = sum(watch.seconds.values())
    return result


def doubted(result: Registration, doubts: tuple[str, ...]) -> Registration:
    """Return the result with further reasons; one that was ok is uncertain with any."""
    if not doubts:
        return result
    verdict = "uncertain" if result.verdict == "ok" else result.verdict
    return replace(result, verdict=verdict, reasons=(*result.reasons, *doubts))


def _inside(mask: Image | None, device: torch.device) -> Image | None:
    return None if mask is None else mask.with_data((mask.data != 0).float().to(device))


def _regions(
    job: _Job, labels: tuple[Image, Image] | None, pairs: ROIPairs | None, progress: Progress
) -> tuple[tuple[ROISet, ROISet] | None, tuple[Prepared, Prepared] | None]:
    """Candidate regions (moving, fixed), or None where pairs are given or slices are matched.

    The second value is what the segmenter made of both images (fixed, moving), if it saw them.
    """
    if labels is not None:
        fixed, moving = labels
        sets = (
            LabelSegmenter(moving.data[0], moving.grid)(job.moving),
            LabelSegmenter(fixed.data[0], fixed.grid)(job.fixed),
        )
        return sets, None
    if pairs is not None:
        return None, None
    m = job.settings.match
    tell_time(progress, job.stages.segmenter, job.small_m, job.small_f, slices=m.slices, axis=m.slice_axis)
    if m.slices and job.fixed.ndim == 3:
        return None, None
    prepared = job.stages.segmenter.prepare(job.small_f), job.stages.segmenter.prepare(job.small_m)
    sets = prepared[1].regions(), prepared[0].regions()
    # Prompts are given in the images as they are, not in those that were halved.
    whole = job.small_f is job.fixed and job.small_m is job.moving
    return sets, prepared if whole else None


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


def _match_slices(job: _Job, progress: Progress) -> ROIPairs:
    settings = job.settings
    return match_slices(
        job.moving,
        job.fixed,
        job.stages.segmenter,
        job.stages.encode,
        axis=settings.match.slice_axis,
        reach=settings.match.reach,
        reach_mm=settings.match.reach_mm,
        options=_options(settings),
        keep_unmatched=False,
        rng=generator(job.seed, stream="match"),
        progress=progress,
    )


def _given(f: Image, m: Image, init: str | Transform) -> list[Candidate]:
    """Starts that need no search: what the user says, else where the images lie, else centres together."""
    if isinstance(init, Transform):
        return [Candidate(nearest_affine(init, f), "given transform")]
    if init == "auto":
        words = ["identity", "centers"]
        if np.abs(m.grid.center - f.grid.center).max() < float(f.grid.spacing.min()):
            words = ["identity"]
    else:
        words = [init]
    names = {"identity": "where the images lie", "centers": "centres together"}
    maps = [(w, starting_map(w, f.grid, m.grid)) for w in words]
    return [Candidate(nearest_affine(t, f), names[w]) for w, t in maps]


def nearest_affine(transform: Transform, f: Image) -> Affine:
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


def _match_and_start(job: _Job, sets: tuple[ROISet, ROISet], watch: _Stopwatch) -> tuple[ROIPairs, Start]:
    rois_m, rois_f = sets
    settings, known = job.settings, job.known
    options = _options(settings)
    model = settings.start.affine.model
    search = settings.start.search and job.init == "auto"
    labelled = any(rois_m.names) or any(rois_f.names)
    maps: list[Candidate] = []
    landmarks: list[KeypointMap] = []
    with watch("matching regions"):
        if labelled:
            found = match_labels(rois_m, rois_f)
            maps = [Candidate(affine_from_regions(found, model=model), "label centroids")]
        else:
            features_m, features_f = job.stages.encode(job.small_m), job.stages.encode(job.small_f)
            similarity = None
            if len(rois_m) and len(rois_f):
                similarity = region_similarity(rois_m, rois_f, features_m, features_f, options=options)
            if search and similarity is not None:
                rng = generator(job.seed, stream="match")
                maps = [
                    Candidate(h.affine, "regions")
                    for h in affine_hypotheses(rois_m, rois_f, similarity, rng=rng, options=options.geometry)
                ]
                maps += single_pair_maps(rois_m, rois_f, similarity, count=settings.start.single_pairs)
            if search and settings.start.key_points:
                landmarks = keypoint_maps(
                    job.m,
                    job.f,
                    rng=generator(job.seed, stream="key points"),
                    moving_mask=job.inside_m,
                    fixed_mask=job.inside_f,
                )

    def pair_regions(**more: Any) -> ROIPairs:
        out = () if known is None else _ruled_out(rois_m, rois_f, known)
        found = match(
            rois_m, rois_f, features_m, features_f, options=options, known=out, similarity=similarity, **more
        )
        return replace(found, pairs=tuple(p for p in found.pairs if p.status == "proposed"))

    if not search:
        if not labelled:
            found = pair_regions(rng=generator(job.seed, stream="match"))
        found = found if known is None else combined(known, found)
        return found, _given_start(job.f, job.m, job.init, found, settings)
    given = _given(job.f, job.m, job.init)
    from_landmarks = [Candidate(k.affine, "key points") for k in landmarks]
    if any(k.decisive for k in landmarks):
        given, maps = from_landmarks, []
    else:
        maps += from_landmarks
    # What a person accepted is considered whatever the images say.
    if known is not None and any(p.status == "accepted" for p in known.pairs):
        maps.append(Candidate(affine_from_regions(known, model=model), "accepted pairs"))
    with watch("finding the start"):
        start = find_start(
            job.f,
            job.m,
            given,
            maps,
            options=settings.start.affine,
            velocity=settings.dense.velocity,
            probes=settings.start.probes,
            probe_voxels=settings.start.probe_voxels,
            margin=settings.start.margin,
            features=_dense_features(settings),
            fixed_mask=job.inside_f,
            moving_mask=job.inside_m,
            progress=watch.progress,
        )
    start = _with_perspective(start, landmarks, job.f.grid)
    if not labelled:
        with watch("pairing regions"):
            found = pair_regions(guide=start.affine)
    return found if known is None else combined(known, found), start


def _with_perspective(start: Start, landmarks: Sequence[KeypointMap], grid: Grid) -> Start:
    """Return the start with the perspective of key points that left no doubt and that it came from."""
    for k in landmarks:
        if k.perspective is not None and k.decisive and start.source == "key points":
            flow = perspective_flow(k.perspective, start.affine, grid)
            return replace(start, flow=flow, reach=2 * k.spread)
    return start


def _ruled_out(moving: ROISet, fixed: ROISet, known: ROIPairs) -> tuple[ROIPair, ...]:
    """Return the pairs of candidates that must not be proposed, in the words of the matcher."""
    places = np.argwhere(blocked(moving, fixed, known))
    return tuple(ROIPair(int(m), int(f), 0.0, 0.0, status="rejected") for m, f in places)


def _dense_features(settings: Config) -> FeatureFunction | None:
    if settings.dense.features is None or settings.dense.velocity.feature_weight == 0:
        return None
    extractor = make_extractor(settings.dense.features)
    return lambda image: extractor(image, image.grid)


def deform(
    f: Image,
    m: Image,
    pairs: ROIPairs,
    affine: Affine,
    settings: Config,
    *,
    rest: VelocityField | None = None,
    reach: float | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    progress: Progress = silent,
) -> Chain:
    """Fit the deformation of `settings` that goes before an affine to gray images and region pairs.

    Parameters
    ----------
    rest, reach : flow to begin with, and how far off it is; the published objective begins with none.
    fixed_mask, moving_mask : one-channel images, > 0 where the images are to be compared.
    """
    dense = settings.dense
    o = dense.velocity
    blind = o.correlation_weight == 0 and (dense.features is None or o.feature_weight == 0)
    if dense.method == "none" or (not len(pairs.active) and (blind or dense.method == "paper")):
        return Chain((affine,))
    if any(p.status == "accepted" for p in pairs.pairs):
        own = 2 * o.region_weight if dense.accepted_weight is None else dense.accepted_weight
        pairs, weight = weighted(pairs, proposed=o.region_weight, own=own, count=o.region_count)
        o = o.model_copy(update={"region_weight": weight})
    on_device = ROIPairs(pairs.moving.to(f.data.device), pairs.fixed.to(f.data.device), pairs.pairs)
    field: Transform
    if dense.method == "paper":
        field = fit_published(on_device, f.grid, initial=affine, iterations=dense.paper_iterations, progress=progress)
    else:
        field = fit_velocity(
            f,
            m,
            initial=affine,
            rest=rest,
            reach=reach,
            options=o,
            pairs=on_device,
            features=_dense_features(settings),
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            progress=progress,
        ).transform
    return Chain((field, affine))


def _provenance(job: _Job, preset_name: str, start: Start) -> dict[str, object]:
    origin = {} if job.stages.network is None else {"model": job.stages.network.origin}
    return {
        "roireg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "device": str(job.f.data.device),
        "threads": torch.get_num_threads(),
        "seed": job.seed,
        "preset": preset_name,
        "start": start.source,
        **origin,
        "fixed": {"name": job.fixed.name, "grid": repr(job.fixed.grid), **job.fixed.metadata},
        "moving": {"name": job.moving.name, "grid": repr(job.moving.grid), **job.moving.metadata},
        "settings": job.settings.model_dump(mode="json"),
    }
