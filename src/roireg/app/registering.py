"""``register`` and ``report``: read everything, compute, then write the result folder in one go."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from roireg.app.console import Outcome, Session
from roireg.app.files import Frames, load_image, load_labels, load_transform
from roireg.app.outputs import check_file, check_folder, extension_of, filled_folder
from roireg.app.prompting import check_network, check_side, world_points
from roireg.app.summary import COLOURS, escape, key_metrics, metric_table
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.progress import Progress, silent
from roireg.core.rois import Prompt
from roireg.core.transforms import Transform
from roireg.core.warp import warp
from roireg.evaluate import MetricValue, ReportInput, Truth, render_report
from roireg.io import PointSet, atomic_path, read_pairs, read_points, sha256_of, write_labels, write_points
from roireg.pipeline import OUTPUTS, Config, Registration, preset, register
from roireg.pipeline.checks import INIT_WORDS, check_points, labels_on

__all__ = ["RegisterJob", "register_files", "report", "run_job", "summarise"]

EXIT_FAILED = 3


@dataclass(frozen=True)
class RegisterJob:
    """One registration as paths and options; None where nothing was asked for.

    Parameters
    ----------
    fixed, moving, out : the images and the result folder.
    init : "auto", "identity", "centers", or the path of a transform.
    model, profile, window, cache : a network by name or path, and how it is run; see `Config.with_network`.
    features : registry name; None takes those of the network, or of the settings without one.
    prompts, unit, prompt_side : points ``x,y[,z]`` in px or mm (None: px for raster images) of one image (None: of
        the fixed one).
    roi_weight, pairs_only : see :func:`roireg.pipeline.register`.
    only : names of `OUTPUTS`; None is all.
    """

    fixed: Path
    moving: Path
    out: Path
    preset: str = "default"
    config: Path | None = None
    pairs: Path | None = None
    fixed_rois: Path | None = None
    moving_rois: Path | None = None
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_points: Path | None = None
    moving_points: Path | None = None
    init: str = "auto"
    model: str | None = None
    profile: str | None = None
    window: str | None = None
    cache: Path | None = None
    features: str | None = None
    prompts: Sequence[str] = ()
    unit: str | None = None
    prompt_side: str | None = None
    roi_weight: float | None = None
    pairs_only: bool = False
    only: Collection[str] | None = None
    frames: Frames = field(default_factory=Frames)
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class _Carried:
    """Label maps and landmarks that follow the transform."""

    fixed_labels: Image | None
    moving_labels: Image | None
    fixed_points: PointSet | None
    moving_points: PointSet | None


def register_files(session: Session, job: RegisterJob) -> Outcome:
    """Run a job and print its summary; see the command's help."""
    started = time.perf_counter()
    with session.progress() as progress:
        result, files = run_job(job, progress)
    summarise(session, job, result, files, seconds=time.perf_counter() - started)
    document = {**result.result_json(), "out": job.out, "files": files}
    return Outcome(document, EXIT_FAILED if result.verdict == "failed" else 0)


def run_job(job: RegisterJob, progress: Progress = silent) -> tuple[Registration, list[str]]:
    """Read, check, register, score and write; nothing is written unless all of it succeeds.

    Returns
    -------
    The registration, and the names of what was written into ``job.out``.

    Raises
    ------
    RoiregError
        When an input is unsuitable or the output cannot be written.
    """
    only = _chosen(job.only)
    _check_partners(job)
    check_folder(job.out)
    config = _settings(job)
    init = job.init if job.init in INIT_WORDS else _initial(job.init)
    fixed, moving = load_image(job.fixed, job.frames.fixed), load_image(job.moving, job.frames.moving)
    carried = _read_carried(job, fixed, moving)
    result = register(
        fixed,
        moving,
        preset=job.preset,
        config=config,
        pairs=None if job.pairs is None else read_pairs(job.pairs),
        fixed_rois=load_labels(job.fixed_rois, job.frames.fixed),
        moving_rois=load_labels(job.moving_rois, job.frames.moving),
        fixed_mask=load_labels(job.fixed_mask, job.frames.fixed),
        moving_mask=load_labels(job.moving_mask, job.frames.moving),
        prompts=_prompts(job, fixed, moving),
        prompt_side=job.prompt_side or "fixed",
        roi_weight=job.roi_weight,
        pairs_only=job.pairs_only,
        init=init,
        device=job.device,
        seed=job.seed,
        progress=progress,
    )
    result = replace(_scored(result, carried), provenance={**result.provenance, **_origin(job)})
    with filled_folder(job.out) as folder:
        result.save(folder, only=only)
        _write_carried(folder, job, result, carried)
        files = sorted(f"{f.name}/" if f.is_dir() else f.name for f in folder.iterdir())
    return result, files


def _check_partners(job: RegisterJob) -> None:
    """Refuse options that mean nothing without another one."""
    if job.prompt_side is not None:
        check_side("--prompt-in", job.prompt_side)
    for option, value, partner, present in (
        ("--unit", job.unit, "--prompt", job.prompts),
        ("--prompt-in", job.prompt_side, "--prompt", job.prompts),
        ("--pairs-only", job.pairs_only or None, "--pairs", job.pairs),
    ):
        if value is not None and not present:
            raise InputError(
                f"{option} says something about {partner}, which is not given; add it or leave {option} out"
            )


def _settings(job: RegisterJob) -> Config | None:
    """Return the settings of a file or of options; None where the preset alone says everything."""
    config = None if job.config is None else Config.load(job.config)
    check_network(job.model, job.profile, job.window, job.cache)
    if job.model is not None:
        config = (config or preset(job.preset)).with_network(
            job.model, profile=job.profile or "balanced", window=job.window, cache=job.cache
        )
    if job.features is not None:
        config = config or preset(job.preset)
        config = config.model_copy(update={"match": config.match.model_copy(update={"features": job.features})})
    return config


def _prompts(job: RegisterJob, fixed: Image, moving: Image) -> list[Prompt]:
    image = moving if job.prompt_side == "moving" else fixed
    return [Prompt.at(point) for point in world_points("--prompt", job.prompts, image, job.unit)]


def _origin(job: RegisterJob) -> dict[str, Any]:
    """Return what only the files know: path and checksum of every input, and the arguments that are not paths."""
    inputs: dict[str, dict[str, Any]] = {}
    # What is written to is no input.
    for name in (f.name for f in fields(job) if f.name not in ("out", "cache")):
        value = getattr(job, name)
        if name == "init" and value not in INIT_WORDS:
            value = Path(value)
        if isinstance(value, Path):
            inputs[name] = {"path": str(value)}
            # The prefix of ANTs' files is no file of its own.
            if value.exists() or "::" in value.name:
                inputs[name]["sha256"] = sha256_of(value)
    for side in ("fixed", "moving"):
        frame = getattr(job.frames, side)
        inputs[side] |= {} if frame is None else {"frame": frame}
    arguments: dict[str, Any] = {"init": job.init, "only": list(job.only or OUTPUTS), "preset": job.preset}
    if job.prompts:
        arguments |= {"prompts": list(job.prompts), "unit": job.unit, "prompt_in": job.prompt_side or "fixed"}
    asked = {name: getattr(job, name) for name in ("model", "profile", "window", "features", "roi_weight")}
    arguments |= {name: value for name, value in asked.items() if value is not None}
    return {"inputs": inputs, "arguments": arguments | ({"pairs_only": True} if job.pairs_only else {})}


def _chosen(only: Collection[str] | None) -> Collection[str] | None:
    if only is None:
        return None
    unknown = [name for name in only if name not in OUTPUTS]
    if unknown or not only:
        raise InputError(f"--only takes names out of {', '.join(OUTPUTS)}, found {', '.join(unknown) or 'none'}")
    return tuple(name for name in OUTPUTS if name in only)


def _initial(text: str) -> Transform:
    path = Path(text)
    if not path.exists() and not path.suffix and path.parent == Path():
        raise InputError(f"--init is {', '.join(INIT_WORDS)} or the file of a transform, found {text!r}")
    return load_transform(path)


# -- what is carried along ------------------------------------------------------------------------


def _read_carried(job: RegisterJob, fixed: Image, moving: Image) -> _Carried:
    labels = [
        load_labels(job.fixed_labels, job.frames.fixed),
        load_labels(job.moving_labels, job.frames.moving),
    ]
    labels = [
        None if found is None else labels_on(found, image)
        for found, image in zip(labels, (fixed, moving), strict=True)
    ]
    points = [None if path is None else read_points(path) for path in (job.fixed_points, job.moving_points)]
    for side, (given, image, path) in enumerate(
        zip(points, (fixed, moving), (job.fixed_points, job.moving_points), strict=True)
    ):
        other = points[1 - side]
        if given is not None:
            # Two lists of different length would be scored wrongly; the one given second is named.
            partner = other.points if side == 1 and other is not None else None
            check_points(given.points, image, name=str(path), partner=partner)
    return _Carried(labels[0], labels[1], points[0], points[1])


def _scored(result: Registration, carried: _Carried) -> Registration:
    """Add the scores of whatever is there for both sides."""
    labels, points = None, None
    if carried.fixed_labels is not None and carried.moving_labels is not None:
        labels = carried.fixed_labels, carried.moving_labels
    if carried.fixed_points is not None and carried.moving_points is not None:
        points = carried.fixed_points.points, carried.moving_points.points
    return result.scored(Truth(unit=result.fixed.unit, labels=labels, points=points))


def _write_carried(folder: Path, job: RegisterJob, result: Registration, carried: _Carried) -> None:
    """Write every label map and point file as it lies in the other image."""
    if carried.moving_labels is not None:
        kind = _label_extension(result.fixed)
        write_labels(folder / f"moved_labels{kind}", result.move_labels(carried.moving_labels))
    if carried.fixed_labels is not None:
        kind = _label_extension(result.moving)
        back = warp(carried.fixed_labels, result.inverse, result.moving.grid, mode="nearest", fill=0)
        write_labels(folder / f"moved_labels_fixed_to_moving{kind}", back)
    ways = (
        (carried.fixed_points, job.fixed_points, result.transform, "fixed_to_moving"),
        (carried.moving_points, job.moving_points, result.inverse, "moving_to_fixed"),
    )
    for points, source, mapping, way in ways:
        if points is not None and source is not None:
            kind = extension_of(source)
            kind = kind if kind in (".csv", ".mrk.json", ".fcsv") else ".mrk.json" if kind == ".json" else ".csv"
            moved = PointSet(mapping.map_points(points.points), points.names)
            write_points(folder / f"moved_points_{way}{kind}", moved)


def _label_extension(image: Image) -> str:
    return ".png" if image.unit == "px" and image.ndim == 2 else ".nii.gz"


# -- summary --------------------------------------------------------------------------------------


def summarise(session: Session, job: RegisterJob, result: Registration, files: list[str], *, seconds: float) -> None:
    """Print verdict, reasons, key numbers before and after, and where to look."""
    colour = COLOURS[result.verdict]
    names = f"{job.moving.name} onto {job.fixed.name}"
    sure = sum(p.status == "accepted" for p in result.pairs.pairs)
    count = f"{len(result.pairs.active)} pairs" + (f" ({sure} accepted)" if sure else "")
    session.say(f"[bold {colour}]{result.verdict}[/]  {escape(names)}  {count}, {seconds:.1f} s")
    for reason in result.reasons:
        session.say(f"  [{colour}]-[/] {escape(reason)}")
    session.say(metric_table(key_metrics(result.metrics)))
    if result.verdict == "failed":
        session.note("failed", "the result must not be used as it is; the reasons are above and in the report", "red")
    what = "report.html" if "report.html" in files else ", ".join(files)
    session.say(f"written: {escape(str(job.out / what) if what == 'report.html' else f'{job.out}: {what}')}")


# -- report ---------------------------------------------------------------------------------------


def report(
    session: Session, folder: Path, *, fixed: Path | None, moving: Path | None, frames: Frames, out: Path | None
) -> Outcome:
    """Render the report of a saved result again; see the command's help."""
    target = folder / "report.html" if out is None else out
    check_file(target)
    stored = _stored_result(folder)
    images = {
        side: _image_of(stored, side, path, frame)
        for side, path, frame in (("fixed", fixed, frames.fixed), ("moving", moving, frames.moving))
    }
    pairs = folder / "pairs"
    page = render_report(
        ReportInput(
            title=f"{Path(images['moving'].name).name} onto {Path(images['fixed'].name).name}",
            fixed=images["fixed"],
            moving=images["moving"],
            transform=load_transform(folder),
            pairs=read_pairs(pairs) if pairs.is_dir() else None,
            verdict=stored["verdict"],
            reasons=stored.get("reasons", []),
            metrics={name: _metric(m) for name, m in stored.get("metrics", {}).items()},
            provenance=stored.get("provenance", {}),
        )
    )
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    session.say(f"written: {escape(str(target))}")
    return Outcome({"report": target})


def _stored_result(folder: Path) -> dict[str, Any]:
    file = folder / "result.json"
    if not file.is_file():
        raise InputError(
            f"{folder}: the folder holds no result.json; expected a result folder that `roireg register` wrote with "
            "transform and result"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: this is not valid JSON ({error}); register again") from error
    if not isinstance(content, dict) or "verdict" not in content:
        raise InputError(f"{file}: expected the result of a registration with a verdict; register again")
    return content


def _metric(stored: Mapping[str, Any]) -> MetricValue:
    value = stored["value"]
    return MetricValue(
        float("nan") if value is None else value, stored["before"], stored["label"], stored["unit"], stored["better"]
    )


def _image_of(stored: Mapping[str, Any], side: str, path: Path | None, frame: int | None) -> Image:
    """Read the image a result was made from, and refuse another one."""
    entry = stored.get("provenance", {}).get("inputs", {}).get(side, {})
    place = path or (Path(entry["path"]) if "path" in entry else None)
    if place is None or not (place.exists() or "::" in str(place)):
        raise InputError(f"{place or side}: the {side} image of this result is not there; name it with --{side} FILE")
    image = load_image(place, entry.get("frame") if frame is None else frame)
    known = entry.get("sha256")
    if known and sha256_of(place) != known:
        raise InputError(
            f"{place}: this is not the {side} image the result was made from; name it with --{side} FILE"
        )
    return image
