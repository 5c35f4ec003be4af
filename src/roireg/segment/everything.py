"""Everything mode: ask a promptable network about every point of a grid and keep the answers that hold.

The procedure is the automatic mask generator of Segment Anything (Kirillov et al., ICCV 2023, appendix B).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.models.base import Embedding, PromptableModel
from roireg.models.profiles import profile_named
from roireg.segment.candidates import Candidate, cleaned, pack, suppressed

__all__ = [
    "PUBLISHED",
    "EverythingOptions",
    "Masks",
    "crop_boxes",
    "estimate_seconds",
    "everything",
    "point_grid",
    "upscaled_at_once",
]

Encode = Callable[[Tensor], Embedding]

CPU_CELLS = 8192
"""Prompts times cells of the embedding that a CPU decodes at once.

Keeps the tensors of the decoder below 32 MB: on Linux larger blocks go back to the system as soon as they are free,
and the next one is mapped anew, page by page, which costs half as much again as the arithmetic.
"""

POINTS = 32
"""Points per side where neither options nor profile say."""

PRED_IOU_THRESH = 0.88
"""Least predicted intersection over union of a mask of a 2D network."""

MEASURED = 16
"""Fewest points that an estimate of the time is measured with."""

UPSCALE_BYTES = {"cpu": 4 * 2**20}
"""Bytes of full-resolution logits held at once, by kind of device; 128 MiB on others. Few stay in the cache."""


class EverythingOptions(BaseModel):
    """How everything mode asks and what it keeps, in the terms of Segment Anything; the defaults are its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: int | None = Field(
        None, ge=1, description="points per side of the grid; None takes those of the profile, without one 32"
    )
    batch: int | None = Field(None, ge=1, description="points decoded at once; None takes what suits the device")
    pred_iou_thresh: float | None = Field(
        None, ge=0, le=1, description="least predicted IoU of a mask; None takes 0.88, with 3D networks 0.5"
    )
    stability_score_thresh: float = Field(0.95, ge=0, le=1, description="least stability of a mask (2D networks)")
    stability_score_offset: float = Field(
        1.0, gt=0, description="shift of the threshold, in logits, that the stability is measured with (2D networks)"
    )
    box_nms_thresh: float = Field(
        0.7, ge=0, le=1, description="box IoU above which the better of two masks stays (2D networks)"
    )
    crop_layers: int | None = Field(
        None,
        ge=0,
        description="layer i searches overlapping crops, 2^i per side, too (2D networks); None: the profile's",
    )
    crop_overlap: float = Field(
        512 / 1500, ge=0, le=1, description="overlap of the crops of layer 1, fraction of the shortest side"
    )
    crop_divisor: int = Field(1, ge=1, description="points per side are divided by this from layer to layer")
    min_area: int = Field(
        0, ge=0, description="pixels below which islands of a mask are removed and holes filled (2D networks)"
    )

    def at(self, profile: str) -> EverythingOptions:
        """Return the options with the points and crops of a profile where they leave them open.

        Raises
        ------
        InputError
            When there is no such profile, see `roireg.models.profiles`.
        """
        base = profile_named(profile)
        points = base.points if self.points is None else self.points
        crop_layers = base.crop_layers if self.crop_layers is None else self.crop_layers
        return self.model_copy(update={"points": points, "crop_layers": crop_layers})

    def batch_for(self, embedding: Embedding) -> int:
        """Return how many points to decode at once: 64, on the CPU fewer for large embeddings."""
        image = embedding.tensors["image"]
        cells = math.prod(image.shape[2:])
        return self.batch or (64 if image.device.type != "cpu" else min(64, max(1, CPU_CELLS // cells)))


PUBLISHED = EverythingOptions()


@dataclass(frozen=True, eq=False)
class Masks:
    """What everything mode found, best first (predicted intersection over union times stability).

    Attributes
    ----------
    masks : (K, *shape) bool on the raster, none empty.
    quality : (K,) predicted intersection over union. stability : (K,) see `stability`.
    boxes : (K, 2, d) lowest and highest index inside, storage order.
    """

    masks: Tensor
    quality: Tensor
    stability: Tensor
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def scores(self) -> Tensor:
        """(K,) how sure the network is, 0..1."""
        return (self.quality * self.stability).clamp(0, 1)


def everything(
    model: PromptableModel,
    raster: Tensor,
    *,
    options: EverythingOptions = PUBLISHED,
    encode: Encode | None = None,
    progress: Progress = silent,
) -> Masks:
    """Find all that a network takes for an object.

    Parameters
    ----------
    model : a loaded network whose dimension is that of the raster.
    raster : (1 or 3, *shape) float, values 0..255.
    options : what is asked and what is kept.
    encode : how the raster and its crops are encoded; None asks the model. Hand in a cache to encode once.
    progress : told after every batch; `detail` says how long the rest will take. What it raises stops the run.

    Returns
    -------
    The masks at the resolution of the raster; there may be none.
    """
    shape = tuple(raster.shape[1:])
    crops = crop_boxes(shape, options)
    counts = [len(point_grid(shape, options, layer)) for layer, _ in crops]
    clock = _Clock(counts)
    candidates: list[Candidate] = []
    count = 0
    for layer, crop in crops:
        progress(ProgressEvent("segmenting everything", count / clock.points, clock.detail("encoding the image")))
        part = raster[(slice(None), *(slice(int(a), int(b)) for a, b in crop.T))]
        with clock.encoding():
            embedding = (encode or model.encode)(part)
        size = options.batch_for(embedding)
        here: list[Candidate] = []
        points = point_grid(tuple(part.shape[1:]), options, layer)
        for first in range(0, len(points), size):
            batch = points[first : first + size]
            with clock.decoding(len(batch)):
                here += _answers(model, embedding, batch, options, crop, shape)
            count += len(batch)
            progress(ProgressEvent("segmenting everything", count / clock.points, clock.detail()))
        candidates += suppressed(here, [c.quality for c in here], options.box_nms_thresh)
    if len(crops) > 1:
        # Smaller crops see more: of two like boxes the one of the smaller crop stays, as published.
        candidates = suppressed(candidates, [1 / c.crop_size for c in candidates], options.box_nms_thresh)
    if options.min_area:
        candidates = cleaned(candidates, min_area=options.min_area, limit=options.box_nms_thresh)
    candidates.sort(key=lambda c: -c.quality * c.stability)
    return _unpacked(candidates, shape)


def estimate_seconds(
    model: PromptableModel,
    raster: Tensor,
    *,
    options: EverythingOptions = PUBLISHED,
    encode: Encode | None = None,
    images: int = 1,
) -> float:
    """Tell how long everything mode will take for a number of such images, from a short measurement.

    The raster is encoded once and one batch of points, or a few, are answered. With an `encode` that remembers, the
    encoding is not lost: the run that follows does not repeat it.
    """
    shape = tuple(raster.shape[1:])
    crops = crop_boxes(shape, options)
    counts = [len(point_grid(shape, options, layer)) for layer, _ in crops]
    clock = _Clock(counts)
    with clock.encoding():
        embedding = (encode or model.encode)(raster)
    size = options.batch_for(embedding)
    points = point_grid(shape, options)[: max(size, MEASURED)]
    with clock.decoding(len(points)):
        for first in range(0, len(points), size):
            _answers(model, embedding, points[first : first + size], options, crops[0][1], shape)
    return images * clock.total()


class _Clock:
    """Measures encoding and decoding, and tells how long all crops and points take at that rate."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.crops, self.points = len(counts), sum(counts)
        self.encoded = self.decoded = 0
        self.encode_seconds = self.decode_seconds = 0.0

    @contextmanager
    def encoding(self) -> Iterator[None]:
        start = perf_counter()
        yield
        self.encode_seconds += perf_counter() - start
        self.encoded += 1

    @contextmanager
    def decoding(self, points: int) -> Iterator[None]:
        start = perf_counter()
        yield
        self.decode_seconds += perf_counter() - start
        self.decoded += points

    def total(self) -> float:
        return self.crops * self.encode_seconds / max(1, self.encoded) + self.points * self.decode_seconds / max(
            1, self.decoded
        )

    def detail(self, otherwise: str = "") -> str:
        if not self.decoded:
            return otherwise
        left = self.total() - self.encode_seconds - self.decode_seconds
        return f"{left:.0f} s left" if left >= 1 else "less than 1 s left"


# -- what is asked ------------------------------------------------------------------------------------


def point_grid(shape: Sequence[int], options: EverythingOptions, layer: int = 0) -> NDArray[np.float64]:
    """(N, d) raster coordinates of the prompts for one image or crop, row by row.

    The published grid: fractions (i + 1/2) / n of the size, taken as coordinates whose whole numbers are pixel
    centres. Where the grid is finer than the raster the last point is kept inside.
    """
    per_side = max(1, (options.points or POINTS) // options.crop_divisor**layer)
    if len(shape) == 3:
        per_side = max(1, round(per_side ** (2 / 3)))
    steps = (np.arange(per_side) + 0.5) / per_side
    axes = [np.minimum(steps * n, n - 0.5) for n in shape]
    return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=-1)


def crop_boxes(shape: Sequence[int], options: EverythingOptions) -> list[tuple[int, NDArray[np.int64]]]:
    """(layer, (2, d) first index and end) of the whole image and of the crops of every layer.

    Crops of a layer are equally large and overlap by a whole number of voxels; the last ones end at the image.
    """
    size = np.array(shape, dtype=np.int64)
    boxes = [(0, np.stack([np.zeros_like(size), size]))]
    for layer in range(1, (options.crop_layers or 0) + 1):
        n = 2**layer
        overlap = int(options.crop_overlap * size.min() * 2 / n)
        side = np.array([math.ceil((overlap * (n - 1) + s) / n) for s in size])
        for place in itertools.product(range(n), repeat=len(size)):
            low = np.array(place) * (side - overlap)
            high = np.minimum(low + side, size)
            if (high > low).all():
                boxes.append((layer, np.stack([low, high])))
    return boxes


# -- what is kept ---------------------------------------------------------------------------------


def _answers(
    model: PromptableModel,
    embedding: Embedding,
    points: NDArray[np.float64],
    options: EverythingOptions,
    crop: NDArray[np.int64],
    shape: tuple[int, ...],
) -> list[Candidate]:
    """Ask about (P, d) points of a crop and pack what passes the thresholds."""
    device = model.device
    with torch.no_grad():
        prompts = torch.as_tensor(points, dtype=torch.float32, device=device)[:, None]
        answer = model.decode(embedding, points=prompts, labels=torch.ones(prompts.shape[:2], device=device).long())
        logits, quality = answer.logits.flatten(0, 1), answer.quality.flatten().float()
        least = PRED_IOU_THRESH if options.pred_iou_thresh is None else options.pred_iou_thresh
        if least > 0:
            # Before upscaling, which costs more than the decoder does.
            logits, quality = logits[quality > least], quality[quality > least]
        candidates: list[Candidate] = []
        step = upscaled_at_once(device, embedding.shape)
        for first in range(0, len(logits), step):
            full = model.upscale(logits[first : first + step, None], embedding)[:, 0].float()
            candidates += pack(
                full,
                quality[first : first + step],
                offset=options.stability_score_offset,
                min_stability=options.stability_score_thresh,
                crop=crop,
                shape=shape,
            )
    return candidates


def upscaled_at_once(device: torch.device, shape: Sequence[int]) -> int:
    """Return how many masks of a raster of a shape are brought to full resolution at once."""
    return max(1, UPSCALE_BYTES.get(device.type, 128 * 2**20) // (4 * math.prod(shape)))


def _unpacked(candidates: list[Candidate], shape: tuple[int, ...]) -> Masks:
    masks = torch.zeros((len(candidates), *shape), dtype=torch.bool)
    for row, c in zip(masks, candidates, strict=True):
        row[c.slices] = torch.from_numpy(c.inside())
    boxes = np.array([(c.low, c.high) for c in candidates], dtype=np.int64).reshape(len(candidates), 2, len(shape))
    return Masks(
        masks,
        torch.tensor([c.quality for c in candidates], dtype=torch.float32),
        torch.tensor([c.stability for c in candidates], dtype=torch.float32),
        torch.from_numpy(boxes),
    )
