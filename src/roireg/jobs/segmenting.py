"""Read, segment, and write label maps, list and picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import torch

from roireg.core.errors import InputError
from roireg.core.files import extension_of, stem_of
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent
from roireg.core.rois import ROISet
from roireg.core.seeds import resolve_device
from roireg.core.warp import warp
from roireg.evaluate.palette import distinct_colours
from roireg.evaluate.planes import best_cut, display_planes, sample_plane
from roireg.evaluate.plots import draw_regions, intensity_window, to_picture
from roireg.io import check_image, read_image, write_labels
from roireg.jobs.job import Work
from roireg.jobs.reading import pointed, with_classes, with_network
from roireg.jobs.segment import LABEL_MAPS, SegmentJob
from roireg.pipeline import Config
from roireg.pipeline.missing import without_missing
from roireg.pipeline.tools import Network, class_segmenter, tell_time
from roireg.segment import HierarchySegmenter, RegionFilter, Segmenter, as_promptable
from roireg.segment.promptable import NetworkAnswers

__all__ = ["compute"]

DRAWN = 20
"""How many regions the picture shows; more would hide the image."""


def compute(job: SegmentJob, progress: Progress) -> Work:
    """Read, check and find regions, or answer a prompt; see `roireg.jobs.job.Job.run`."""
    progress(ProgressEvent("reading the files", 0.0))
    settings = with_classes(with_network(Config(), job), job)
    image = without_missing(read_image(job.image, **job.picture, finite=False))[0]
    check_image(image)
    stem, kind = stem_of(job.out), extension_of(job.out)
    if image.ndim == 3 and kind not in LABEL_MAPS[:4]:
        raise InputError(
            f"{job.out}: the label map of this image is written as one of {', '.join(LABEL_MAPS[:4])}, found {kind!r}"
        )
    prompt = pointed(job, image)
    limits = RegionFilter(min_fraction=job.min_size, max_fraction=job.max_size, max_count=job.max_count)
    segmenter: Segmenter = HierarchySegmenter(limits)
    if settings.classes.used:
        segmenter = class_segmenter(settings.classes, resolve_device(job.device), progress)
    elif job.model is not None:
        network = Network.load(settings.network, resolve_device(job.device), progress)
        segmenter = network.segmenter(limits, progress)
        if prompt is None:
            tell_time(progress, segmenter, image)
    prepared = segmenter.prepare(image)
    rois = prepared.regions() if prompt is None else as_promptable(prepared).answer(prompt)
    layers, layer_of = _layers(rois, image)
    names = [f"{stem}{f'_{i}' if i else ''}{kind}" for i in range(len(layers))]
    document = {
        "image": str(job.image),
        "model": job.network(),
        "layers": names,
        "unit": image.unit,
        "note": rois.note if isinstance(rois, NetworkAnswers) else "",
        "regions": [
            {
                "label": k + 1,
                "name": rois.names[k],
                "layer": names[layer_of[k]],
                "stability": _score(rois, k),
                "volume": float(rois.volumes[k]),
                "centroid": rois.centroids[k].tolist(),
            }
            for k in range(len(rois))
        ],
    }

    def write(folder: Path) -> None:
        for name, layer in zip(names, layers, strict=True):
            write_labels(folder / name, layer)
        with work.beside(folder / f"{stem}_overview.png") as file:
            PIL.Image.fromarray(_overview(image, rois)).save(file)

    work = Work(document, write, rois)
    return work


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
