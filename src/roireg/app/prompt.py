"""``prompt``: point at something in one image, get its counterpart in the other."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from roireg import __version__
from roireg.app.console import Outcome, Session, plain
from roireg.app.files import Frames, load_image, load_labels, load_transform, parse_numbers
from roireg.app.outputs import check_folder, filled_folder
from roireg.app.prompt_picture import draw_answers
from roireg.app.prompting import check_network, check_side, world_points
from roireg.app.summary import COLOURS, escape
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.progress import Progress
from roireg.core.rois import Prompt, ROIPairs
from roireg.core.seeds import resolve_device
from roireg.core.transforms import Transform
from roireg.features import FeatureExtractor
from roireg.io import read_points, write_pairs
from roireg.pipeline import Config, Registration, register
from roireg.pipeline.checks import labels_on
from roireg.pipeline.prompting import GUIDE_WORDS, PromptSession
from roireg.pipeline.prompts import PromptAnswer, PromptResult, check_prompt
from roireg.pipeline.stages import Network
from roireg.pipeline.steering import accepted
from roireg.segment import PromptableSegmenter
from roireg.segment.promptable import DEFAULT_LIMITS

__all__ = ["PromptJob", "prompt_files"]

EXIT_NOTHING = 3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PromptJob:
    """What to ask of which files; None where nothing was asked for.

    Parameters
    ----------
    points, labels, box : one prompt: ``x,y[,z]`` each, 1 or 0 each, and two corners. mask : a file, another prompt.
    prompts : a file of points, each of them a prompt of its own, in world coordinates.
    unit : "px" (voxel indices from 0, x first) or "mm" (world, LPS) of points and box; None is px for raster images.
    side : "fixed" or "moving": the image that all of it lies in.
    segmenter : registry name. model, profile, window, cache : a network that answers prompts in its place, and how it
        is run; see `Config.with_network`.
    features : registry name; None takes those of the network, or "intensity" without one.
    guide : one of `GUIDE_WORDS` or the path of a transform; None takes that of the settings.
    """

    fixed: Path
    moving: Path
    out: Path
    points: Sequence[str] = ()
    labels: Sequence[int] = ()
    box: str | None = None
    mask: Path | None = None
    prompts: Path | None = None
    unit: str | None = None
    side: str = "fixed"
    segmenter: str = "hierarchy"
    model: str | None = None
    profile: str | None = None
    window: str | None = None
    cache: Path | None = None
    features: str | None = None
    guide: str | None = None
    settings: str = "default"
    register: bool = False
    frames: Frames = field(default_factory=Frames)
    device: str = "auto"
    seed: int = 0


def prompt_files(session: Session, job: PromptJob) -> Outcome:
    """Carry prompts over, write region pairs, list and picture; see the command's help."""
    started = time.perf_counter()
    check_side("--in", job.side)
    if job.model is not None and job.segmenter != "hierarchy":
        raise InputError(
            f"--model and --segmenter both say what answers prompts ({job.model}, {job.segmenter}); give one"
        )
    check_network(job.model, job.profile, job.window, job.cache)
    check_folder(job.out)
    fixed, moving = load_image(job.fixed, job.frames.fixed), load_image(job.moving, job.frames.moving)
    image = fixed if job.side == "fixed" else moving
    frame = job.frames.fixed if job.side == "fixed" else job.frames.moving
    asked, names = _asked(job, image, frame)
    guide: str | Transform | None = job.guide
    if job.guide is not None and job.guide not in GUIDE_WORDS:
        if not Path(job.guide).exists() and not Path(job.guide).suffix:
            raise InputError(f"--guide is {', '.join(GUIDE_WORDS)} or the file of a transform, found {job.guide!r}")
        guide = load_transform(Path(job.guide))
    with session.progress() as progress:
        segmenter, features = _tools(job, progress)
        prepared = PromptSession(
            fixed,
            moving,
            segmenter=segmenter,
            features=features,
            guide=guide,
            settings=job.settings,
            device=job.device,
            seed=job.seed,
            progress=progress,
        )
        result = prepared.answer(asked, side=job.side)
        registration = None
        if job.register and not result.abstained:
            start: str | Transform = "auto" if prepared.guide is None else prepared.guide.forward
            registration = register(
                fixed,
                moving,
                pairs=accepted(result.pairs),
                pairs_only=True,
                init=start,
                device=job.device,
                seed=job.seed,
                progress=progress,
            )
    document = _document(job, result, names, fixed, moving)
    with filled_folder(job.out) as folder:
        if not result.abstained:
            write_pairs(folder / "pairs", result.pairs)
        draw_answers(folder / "overview.png", result, fixed, moving, names)
        text = json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "result.json").write_text(text + "\n", encoding="utf-8")
        if registration is not None:
            registration.save(folder / "registration")
        files = sorted(f"{f.name}/" if f.is_dir() else f.name for f in folder.iterdir())
    _show(session, job, result, names, registration, files, seconds=time.perf_counter() - started)
    failed = result.abstained or (registration is not None and registration.verdict == "failed")
    answer = {**document, "out": job.out, "files": files}
    if registration is not None:
        answer["registration"] = registration.result_json()
    return Outcome(answer, EXIT_NOTHING if failed else 0)


def _tools(job: PromptJob, progress: Progress) -> tuple[str | PromptableSegmenter, str | FeatureExtractor]:
    """Return what answers prompts and what regions are compared by."""
    if job.model is None:
        return job.segmenter, job.features or "intensity"
    settings = Config().with_network(job.model, profile=job.profile or "balanced", window=job.window, cache=job.cache)
    network = Network.load(settings.network, resolve_device(job.device), progress)
    features = network.extractor() if job.features is None or job.features == "model" else job.features
    return network.segmenter(DEFAULT_LIMITS, progress), features


# -- what is asked --------------------------------------------------------------------------------


def _asked(job: PromptJob, image: Image, frame: int | None) -> tuple[list[Prompt | Image], list[str]]:
    """Return the prompts and what they are called; all of them checked."""
    asked: list[Prompt | Image] = []
    names: list[str] = []
    if job.points or job.box is not None:
        asked.append(_prompt(job, image))
        names.append("")
    elif job.labels:
        raise InputError("--label says whether a --point is inside (1) or outside (0); give points too")
    if job.mask is not None:
        mask = load_labels(job.mask, frame)
        assert mask is not None
        asked.append(labels_on(mask, image, what="mask that prompts"))
        names.append(job.mask.name)
    if job.prompts is not None:
        points = read_points(job.prompts)
        if points.ndim != image.ndim:
            raise InputError(
                f"{job.prompts}: the prompts have {points.ndim} coordinates but {image.name} is {image.ndim}D; "
                f"expected the columns {'x,y' if image.ndim == 2 else 'x,y,z'}"
            )
        asked += [Prompt.at(point) for point in points.points]
        names += list(points.names)
    if not asked:
        raise InputError("nothing is asked; give --point, --box, --mask or --prompts")
    if job.unit is not None and not job.points and job.box is None:
        raise InputError(
            f"--unit is of --point and --box, found {job.unit} with neither of them; the points of --prompts are "
            "mm (LPS), or px in 2D"
        )
    asked = [check_prompt(item, image) if isinstance(item, Prompt) else item for item in asked]
    return asked, [name or str(k + 1) for k, name in enumerate(names)]


def _prompt(job: PromptJob, image: Image) -> Prompt:
    if job.labels and len(job.labels) != len(job.points):
        raise InputError(
            f"--label is given once per --point, found {len(job.points)} points and {len(job.labels)} labels"
        )
    labels = np.array(list(job.labels) or [1] * len(job.points), dtype=np.int64)
    if job.box is None and (labels == 0).all():
        raise InputError(
            f"--label: all {len(labels)} points are outside the region (label 0); give at least one point inside it "
            "(label 1), or a --box around it"
        )
    boxes = [] if job.box is None else [job.box]
    for option, texts, count in (("--point", job.points, image.ndim), ("--box", boxes, 2 * image.ndim)):
        for text in texts:
            if not np.isfinite(parse_numbers(option, text, (count,))).all():
                raise InputError(f"{option} {text}: a coordinate is no finite number; give numbers")
    corners = world_points("--box", boxes, image, job.unit, per_text=2) if boxes else None
    return Prompt(world_points("--point", job.points, image, job.unit), labels, corners)


# -- what is said ---------------------------------------------------------------------------------


def _document(
    job: PromptJob, result: PromptResult, names: Sequence[str], fixed: Image, moving: Image
) -> dict[str, Any]:
    own, other = (fixed, moving) if job.side == "fixed" else (moving, fixed)
    return {
        "roireg": __version__,
        "fixed": str(job.fixed),
        "moving": str(job.moving),
        "in": job.side,
        "settings": {
            "preset": job.settings,
            "segmenter": job.model or job.segmenter,
            "features": job.features or job.model or "intensity",
            "guide": job.guide,
            "seed": job.seed,
        },
        "prompts": [
            {
                "name": name,
                "given": _places(a.given, own),
                "found": None if a.found is None else _places(a.found, other),
                "confidence": a.confidence,
                "pair": a.pair,
                "reason": a.reason,
                "notes": a.notes,
                "regions": _regions(result.pairs, a),
                "evidence": None if a.evidence is None else asdict(a.evidence),
                "seconds": round(a.seconds, 3),
            }
            for name, a in zip(names, result.answers, strict=True)
        ],
        "timings": {name: round(seconds, 3) for name, seconds in result.timings.items()},
    }


def _places(prompt: Prompt, image: Image) -> dict[str, Any]:
    """Return points and box in world coordinates and as voxel indices, x first."""

    def both(points: Array) -> dict[str, Any]:
        return {"mm": points.tolist(), "px": image.grid.index_from_world(points)[:, ::-1].tolist()}

    found: dict[str, Any] = {"points": both(prompt.points), "labels": prompt.labels.tolist()}
    return found if prompt.box is None else {**found, "box": both(prompt.box)}


def _regions(pairs: ROIPairs, answer: PromptAnswer) -> dict[str, Any] | None:
    """Return size (mm³, mm², px²) and world centroid of both regions of an answer."""
    if answer.pair is None:
        return None
    number = answer.pair
    return {
        side: {"centroid": rois.centroids[number].tolist(), "size": float(rois.volumes[number])}
        for side, rois in (("fixed", pairs.fixed), ("moving", pairs.moving))
    }


def _show(
    session: Session,
    job: PromptJob,
    result: PromptResult,
    names: Sequence[str],
    registration: Registration | None,
    files: Sequence[str],
    *,
    seconds: float,
) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("prompt", "counterpart", "confidence", ""):
        table.add_column(heading, justify="right" if heading == "confidence" else "left")
    for name, a in zip(names, result.answers, strict=True):
        where = "–" if a.found is None else _first(a.found)
        colour = COLOURS["ok" if a.pair is not None else "failed"]
        table.add_row(escape(name), where, f"[{colour}]{a.confidence:.2f}[/]", escape(a.reason))
        for note in a.notes:
            session.note("note", f"prompt {name}: {note}", "blue")
    other = "moving" if job.side == "fixed" else "fixed"
    found = len(result.pairs)
    session.say(f"{found} of {len(result.answers)} prompts have a counterpart in the {other} image, {seconds:.1f} s")
    session.say(table)
    if registration is not None:
        colour = COLOURS[registration.verdict]
        session.say(f"registration: [bold {colour}]{registration.verdict}[/]")
    session.say(f"written: {escape(str(job.out))}: {escape(', '.join(files))}")


def _first(prompt: Prompt) -> str:
    point = prompt.points[0] if len(prompt.points) else prompt.box.mean(0) if prompt.box is not None else ()
    return ", ".join(f"{v:.1f}" for v in point)
