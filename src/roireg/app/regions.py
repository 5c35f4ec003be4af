"""``segment``: the regions of one image as label maps, a list with their stability, and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from rich.table import Table

from roireg.app.console import Outcome, Session, plain
from roireg.app.files import parse_numbers
from roireg.app.outputs import check_file, extension_of, filled_folder, stem_of
from roireg.app.prompting import check_network
from roireg.app.summary import escape, number
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.core.seeds import resolve_device
from roireg.core.warp import warp
from roireg.evaluate.planes import best_cut, display_planes, sample_plane
from roireg.evaluate.plots import distinct_colours, draw_regions, intensity_window, to_picture
from roireg.io import check_image, read_image, write_labels
from roireg.pipeline import Config
from roireg.pipeline.prompts import check_prompt
from roireg.pipeline.stages import Network, tell_time
from roireg.segment import HierarchySegmenter, PromptableSegmenter, RegionFilter
from roireg.segment.promptable import NetworkAnswers

__all__ = ["segment"]

DRAWN = 20
"""How many regions the picture shows; more would hide the image."""


def segment(
    session: Session,
    path: Path,
    out: Path,
    *,
    points: Sequence[str],
    labels: Sequence[int],
    box: str | None,
    max_count: int,
    smallest: float,
    largest: float,
    frame: int | None,
    model: str | None = None,
    profile: str | None = None,
    window: str | None = None,
    cache: Path | None = None,
    device: str = "auto",
) -> Outcome:
    """Find regions, or answer a prompt, and write label maps, list and picture; see the command's help."""
    check_network(model, profile, window, cache)
    check_file(out)
    kind = extension_of(out)
    image = read_image(path, frame=frame)
    check_image(image)
    kinds = (".nii", ".nii.gz", ".nrrd", ".mha", *((".png", ".tif", ".tiff") if image.ndim == 2 else ()))
    if kind not in kinds:
        raise InputError(
            f"{out}: the label map of this image is written as one of {', '.join(kinds)}, found {kind!r}"
        )
    prompt = _prompt(points, labels, box, image.ndim)
    if prompt is not None:
        prompt = check_prompt(prompt, image)
    with session.progress() as progress:
        segmenter: PromptableSegmenter
        if model is None:
            segmenter = HierarchySegmenter(min_fraction=smallest, max_fraction=largest, max_count=max_count)
        else:
            asked = Config().with_network(model, profile=profile or "balanced", window=window, cache=cache)
            network = Network.load(asked.network, resolve_device(device), progress)
            segmenter = network.segmenter(RegionFilter(smallest, largest, None, max_count), progress)
            if prompt is None:
                tell_time(progress, segmenter, image)
        rois = segmenter(image) if prompt is None else segmenter.segment(image, prompt)
    stem = stem_of(out)
    layers, layer_of = _layers(rois, image)
    names = [f"{stem}{f'_{i}' if i else ''}{kind}" for i in range(len(layers))]
    document = {
        "image": str(path),
        "model": model,
        "layers": names,
        "unit": image.unit,
        "regions": [
            {
                "label": k + 1,
                "layer": names[layer_of[k]],
                "stability": _score(rois, k),
                "volume": float(rois.volumes[k]),
                "centroid": rois.centroids[k].tolist(),
            }
            for k in range(len(rois))
        ],
    }
    with filled_folder(out.absolute().parent) as folder:
        for name, layer in zip(names, layers, strict=True):
            write_labels(folder / name, layer)
        text = json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
        overview = f"{stem}_overview.png"
        PIL.Image.fromarray(_overview(image, rois)).save(folder / overview)
    files = [out.parent / name for name in (*names, f"{stem}.json", overview)]
    _show(session, rois, image.unit, files, asked=prompt is not None)
    return Outcome({**document, "files": files})


def _prompt(points: Sequence[str], labels: Sequence[int], box: str | None, ndim: int) -> Prompt | None:
    if labels and len(labels) != len(points):
        raise InputError(f"--label is given once per --point, found {len(points)} points and {len(labels)} labels")
    if not points and box is None:
        return None
    places = [parse_numbers("--point", p, (ndim,)) for p in points]
    corners = None if box is None else np.array(parse_numbers("--box", box, (2 * ndim,))).reshape(2, ndim)
    inside = np.array(list(labels) or [1] * len(points), dtype=np.int64)
    return Prompt(np.array(places, dtype=np.float64).reshape(-1, ndim), inside, corners)


def _score(rois: ROISet, k: int) -> float:
    assert rois.scores is not None
    return float(rois.scores[k])


def _layers(rois: ROISet, image: Image) -> tuple[list[Image], list[int]]:
    """Return label maps on the grid of the image, region k having label k + 1, and the layer of every region."""
    layer_of = [0] * len(rois)
    packed = rois.layers() or [(torch.zeros(rois.grid.shape, dtype=torch.int32), [])]
    layers = []
    for i, (labels, members) in enumerate(packed):
        table = torch.tensor([0, *(k + 1 for k in members)], dtype=torch.int32)
        layer = Image(table[labels.long()][None], rois.grid, name=f"regions of {image.name}", unit=image.unit)
        layers.append(layer if rois.grid == image.grid else warp(layer, None, image.grid, mode="nearest"))
        for k in members:
            layer_of[k] = i
    return layers, layer_of


def _overview(image: Image, rois: ROISet) -> np.ndarray:
    """Draw the most stable regions over one plane (2D) or three planes side by side."""
    shown = list(range(min(len(rois), DRAWN)))
    point = best_cut(rois, shown, [_score(rois, k) for k in shown]) if shown else image.grid.center
    window = intensity_window(image)
    channels = [0, 1, 2] if image.channels >= 3 else None
    parts = []
    for plane in display_planes(image.grid, point, unit=image.unit):
        values = sample_plane(image.data, image.grid, plane.display, fill=window[0], channels=channels)
        masks = sample_plane(rois.masks, rois.grid, plane.display, channels=shown)
        picture = to_picture(values, window)
        parts.append(draw_regions(picture, masks, distinct_colours(len(shown)), [k + 1 for k in shown]))
    height = max(len(p) for p in parts)
    return np.concatenate([np.pad(p, ((0, height - len(p)), (0, 4), (0, 0))) for p in parts], axis=1)


def _show(session: Session, rois: ROISet, unit: str, files: Sequence[Path], *, asked: bool) -> None:
    what = "regions for the prompt, best first" if asked else "regions, most stable first"
    session.say(f"{len(rois)} {what}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    ndim = rois.grid.ndim
    size, axes = (f"{unit}²", "x, y") if ndim == 2 else (f"{unit}³", "x, y, z")
    for heading in ("label", "stability", f"size ({size})", f"centroid {axes}"):
        table.add_column(heading, justify="right")
    for k in range(min(len(rois), 10)):
        centre = ", ".join(f"{v:.1f}" for v in rois.centroids[k])
        table.add_row(str(k + 1), number(_score(rois, k)), f"{rois.volumes[k]:.4g}", centre)
    session.say(table)
    if isinstance(rois, NetworkAnswers) and rois.note:
        session.note("note", rois.note, "blue")
    if not len(rois):
        advice = "ask elsewhere or with a box" if asked else "allow smaller ones with --min-size, or name a --model"
        session.note("note", f"there is no region; {advice}", "yellow")
    names = ", ".join(f.name for f in files)
    session.say(f"written into {escape(str(files[0].parent))}: {escape(names)}")
