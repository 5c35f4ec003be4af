"""A 3D promptable network as a segmenter: volumes at its spacing, cube by cube, answers back on the image.

The image is resampled to the spacing the network was trained at, its axes turned to those of the patient (first to
head, then to front, then to the right), and cut into the cubes the network sees. A cube is encoded once.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import Prompt, ROISet
from roireg.core.warp import resample
from roireg.models.base import Embedding
from roireg.models.cache import EmbeddingCache, shared_cache
from roireg.models.precision import Precision
from roireg.models.preprocess import Window, window_range
from roireg.models.registry import load
from roireg.models.volumes import VolumeModel
from roireg.segment.cubes import Offset, Volume, patient_grid
from roireg.segment.filters import RegionFilter, filter_regions
from roireg.segment.promptable import NetworkAnswers, prompt_indices, soft_masks
from roireg.segment.working import working_grid

__all__ = ["Model3DSegmenter", "mask_nms", "volume_segmenter"]

Floats = NDArray[np.float64]

KEPT = 2
"""Prepared volumes kept by a segmenter; their embeddings are in the cache, which has its own limit."""

LIMITS = RegionFilter(min_fraction=5e-4, max_fraction=0.5, max_count=128)


@dataclass(frozen=True, eq=False)
class Model3DSegmenter:
    """Candidates and answers to prompts from one 3D network, for 3D images of any spacing and orientation.

    Parameters
    ----------
    model : a loaded network.
    spacing : mm per voxel to work at; None takes what the network was trained at. Coarser shows it more at once.
    window : intensities to show the network: a name or (level, width), see `roireg.models.preprocess.to_raster`;
        "none" for values that are 0..255 already; None takes what it was trained on.
    points : about how many grid points everything mode asks.
    batch : prompts decoded at once; more need more memory.
    min_quality : answers below this quality (of the network, or the stability of its mask) are no candidates.
    similar : two candidates never have an intersection over union above this.
    limits : size, overlap and number of the candidates.
    max_voxels : size of the grid of the candidates; None takes the default of `working_grid`.
    cache : where embeddings are kept; the default is shared by the process.
    progress : told during everything mode; what it raises stops the run.

    Raises
    ------
    InputError
        When a value is out of range or the network is no 3D network.
    """

    model: VolumeModel
    spacing: float | None = None
    window: Window = None
    points: int = 216
    batch: int = 8
    min_quality: float = 0.5
    similar: float = 0.65
    limits: RegionFilter = LIMITS
    max_voxels: int | None = None
    cache: EmbeddingCache = field(default_factory=shared_cache, repr=False)
    progress: Progress = field(default=silent, repr=False)
    _kept: OrderedDict[int, tuple[Image, Volume]] = field(default_factory=OrderedDict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, VolumeModel):
            raise InputError(f"{self.model.card.name} is no network for volumes; choose one with ndim 3")
        if self.spacing is not None and not (np.isfinite(self.spacing) and self.spacing > 0):
            raise InputError(f"the working spacing is a positive number of mm, found {self.spacing}")
        _shown(self.window)
        if min(self.points, self.batch) < 1:
            raise InputError(f"points and batch are at least 1, found {self.points} and {self.batch}")
        if not (0 <= self.min_quality <= 1 and 0 < self.similar <= 1):
            raise InputError(
                f"min_quality is in [0, 1] and similar in (0, 1], found {self.min_quality} and {self.similar}"
            )

    def prepare(self, image: Image) -> Volume:
        """Return the image at the spacing of the network; kept for the two image objects used last.

        Raises
        ------
        GeometryError
            When the image is not 3D.
        InputError
            When it has values that are not finite, or intensities the network cannot read.
        """
        found = self._kept.pop(id(image), None)
        if found is None:
            found = (image, self._volume(image))
        # Keeping the image itself keeps its id from being given to another one.
        self._kept[id(image)] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found[1]

    def _volume(self, image: Image) -> Volume:
        if image.ndim != 3:
            raise GeometryError(
                f"{image.name}: {self.model.card.name} takes 3D images, found {image.ndim}D; choose a network for "
                f"{image.ndim}D images, see `roireg models list`"
            )
        if not bool(torch.isfinite(image.data).all()):
            raise InputError(f"{image.name}: the image has NaN or infinite values; replace them before segmenting")
        gray, spacing = image.gray(), self.spacing or self.model.volume.spacing
        grid = image.grid if spacing is None else patient_grid(image.grid.with_spacing(spacing))
        data = gray.data.float() if grid == image.grid else resample(gray, grid).data
        raster = self.model.volume.raster(data, name=image.name, window=_shown(self.window))
        return Volume(grid, raster, self.model.volume.patch)

    # -- prompts --------------------------------------------------------------------------------------

    def segment(self, image: Image, prompt: Prompt) -> ROISet:
        """Return the regions that fit a prompt on the grid of the image, best first; the set may be empty.

        Points that do not fit one cube are asked in several, and their answers united. A network without box
        prompts is asked for the middle of the box where there is no positive point, and its answer is cut to the
        box; the note of the answers says so.

        Raises
        ------
        GeometryError
            When image or prompt are not 3D.
        InputError
            When a point or the box is outside the image, the box is empty, points contradict each other, or memory
            is too small.
        """
        points, labels, box = prompt_indices(prompt, image.grid, image.name)
        cut = box if "box" not in self.model.card.prompts else None
        note = "" if cut is None else self._about_box(labels)
        if cut is not None and not (labels == 1).any():
            points, labels = np.vstack([np.mean(cut, axis=0)[None], points]), np.append(1, labels)
        volume = self.prepare(image)
        points = volume.grid.index_from_world(image.grid.world_from_index(points))
        boxes = None
        if box is not None and cut is None:
            corners = volume.grid.index_from_world(image.grid.world_from_index(np.stack(box)))
            boxes = np.sort(corners, axis=0)
        # Positive points first: networks that answer point by point start from the region, not from its outside.
        order = np.argsort(-labels, kind="stable")
        points, labels = points[order], labels[order]
        logits: Tensor | None = None
        quality: list[float] = []
        targets = points[labels == 1] if boxes is None else np.vstack([points[labels == 1], boxes.mean(0)[None]])
        for offset in volume.cubes_around(targets):
            here, score = self._asked(volume, offset, points, labels, boxes)
            placed = volume.bring_to(image.grid, offset, here)
            logits = placed if logits is None else torch.maximum(logits, placed)
            quality = score if not quality else [min(a, b) for a, b in zip(quality, score, strict=True)]
        assert logits is not None  # a prompt has a positive point or a box, and so a cube
        if cut is not None:
            logits = _cut(logits, *cut)
        best = [k for k in np.argsort(-np.array(quality), kind="stable").tolist() if bool((logits[k] > 0).any())]
        logits, scores = logits[best], torch.tensor([quality[k] for k in best]).clamp(0, 1)
        return NetworkAnswers(logits > 0, image.grid, scores=scores, soft=soft_masks(logits), note=note)

    def _about_box(self, labels: NDArray[np.int64]) -> str:
        asked = "" if (labels == 1).any() else "it was asked for the middle of the box, and "
        return f"{self.model.card.name} takes no boxes: {asked}its answer was cut to the box"

    def _embedding(self, volume: Volume, offset: Offset) -> Embedding:
        return self.cache.encode(self.model, volume.crop(offset))

    def _asked(
        self, volume: Volume, offset: Offset, points: Floats, labels: NDArray[np.int64], box: Floats | None
    ) -> tuple[Tensor, list[float]]:
        """(K, *cube) logits and K qualities of one prompt, asked in one cube."""
        near = volume.holds(offset, points)
        local = points - np.array(offset)
        embedding = self._embedding(volume, offset)
        with torch.no_grad():
            answer = self.model.decode(
                embedding,
                points=_tensor(local[near])[None] if near.any() else None,
                labels=torch.as_tensor(labels[near])[None] if near.any() else None,
                boxes=None
                if box is None
                else _tensor(np.clip(box - np.array(offset), -0.5, volume.size - 0.5))[None],
                multimask=len(points) == 1 and box is None,
            )
            full = self.model.upscale(answer.logits, embedding)[0]
        return full, answer.quality[0].float().cpu().tolist()

    # -- everything -----------------------------------------------------------------------------------

    def __call__(self, image: Image) -> ROISet:
        """Return the candidate regions of an image, best first, on a grid over its box with few voxels.

        A coarse grid of points in the foreground is asked; of answers alike in intersection over union the better
        stays.
        """
        volume = self.prepare(image)
        grid = working_grid(image.grid, max_voxels=self.max_voxels)
        points = volume.foreground_points(self.points)
        found: list[tuple[Tensor, float]] = []
        done = 0
        for offset, members in volume.tiles(points):
            self.progress(ProgressEvent("segmenting everything", done / len(points), "encoding a part of the volume"))
            embedding = self._embedding(volume, offset)
            for first in range(0, len(members), self.batch):
                batch = members[first : first + self.batch]
                found += self._candidates(volume, offset, embedding, batch, grid)
                done += len(batch)
                self.progress(ProgressEvent("segmenting everything", done / len(points)))
        if not found:
            return ROISet.empty(grid)
        stack, score = torch.stack([mask for mask, _ in found]), torch.tensor([quality for _, quality in found])
        chosen = mask_nms(stack, score, self.similar)
        return filter_regions(ROISet(stack[chosen], grid, scores=score[chosen]), self.limits)

    def _candidates(
        self, volume: Volume, offset: Offset, embedding: Embedding, points: Floats, grid: Grid
    ) -> list[tuple[Tensor, float]]:
        """Masks on a grid that single points of one cube give, with their quality; poor ones are left out."""
        fewest, most = self.limits.min_fraction * grid.size, self.limits.max_fraction * grid.size
        asked = _tensor(points - np.array(offset))[:, None]
        found: list[tuple[Tensor, float]] = []
        with torch.no_grad():
            answer = self.model.decode(embedding, points=asked, labels=torch.ones(asked.shape[:2], dtype=torch.long))
            logits, quality = answer.logits.flatten(0, 1), answer.quality.flatten().float().cpu()
            for k in torch.nonzero(quality >= self.min_quality)[:, 0].tolist():
                full = self.model.upscale(logits[k][None, None], embedding)[0]
                mask = volume.bring_to(grid, offset, full)[0] > 0
                if max(1.0, fewest) <= int(mask.sum()) <= most:
                    found.append((mask, float(quality[k].clamp(0, 1))))
        return found

    def estimate_seconds(self, image: Image) -> float:
        """Tell how long the candidates take, from one measured cube, which is kept encoded, and one batch of points.

        Raises
        ------
        GeometryError, InputError
            As `prepare`.
        """
        volume = self.prepare(image)
        points = volume.foreground_points(self.points)
        tiles = list(volume.tiles(points))
        offset, members = tiles[0]
        start = perf_counter()
        embedding = self._embedding(volume, offset)
        encoded = perf_counter()
        batch = members[: self.batch]
        self._candidates(volume, offset, embedding, batch, working_grid(image.grid, max_voxels=self.max_voxels))
        return len(tiles) * (encoded - start) + len(points) / len(batch) * (perf_counter() - encoded)


def volume_segmenter(
    model: str | Path | VolumeModel,
    *,
    device: str = "cpu",
    input_size: int | None = None,
    dtype: Precision = None,
    spacing: float | None = None,
    window: Window = None,
    points: int = 216,
    limits: RegionFilter = LIMITS,
    cache_folder: str | Path | None = None,
    progress: Progress = silent,
) -> Model3DSegmenter:
    """Build the segmenter of a 3D network from its name, the path of its weights or the address of its server.

    Parameters
    ----------
    model : a loaded network, or what `roireg.models.load` takes: "sam-med3d-turbo", "vista3d=my/model.pt",
        "nninteractive=http://host:1527".
    device, input_size, dtype : see `roireg.models.load`; for names only.
    spacing, window, points, limits, progress : see `Model3DSegmenter`.
    cache_folder : keep embeddings here between runs; None keeps them in memory.

    Raises
    ------
    InputError
        As `roireg.models.load`, or when the network is none for volumes.
    """
    if isinstance(model, str | Path):
        found = load(model, device=device, input_size=input_size, dtype=dtype)
        if not isinstance(found, VolumeModel):
            raise InputError(f"{found.card.name} takes 2D images; use it slice by slice, with the segmenter model")
        model = found
    cache = shared_cache() if cache_folder is None else EmbeddingCache(folder=cache_folder, progress=progress)
    return Model3DSegmenter(
        model, spacing=spacing, window=window, points=points, limits=limits, cache=cache, progress=progress
    )


def mask_nms(masks: Tensor, scores: Tensor, limit: float) -> list[int]:
    """Indices of the (K, *shape) bool masks that no better one overlaps by more than `limit`, best score first.

    Overlap is the intersection over union of the masks; of equal scores the earlier one is the better.
    """
    flat = masks.flatten(1)
    sizes = flat.sum(1).double()
    shared = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    # Slabs bound the memory of the products; counts are exact in float32 below 2^24.
    for part in flat.split(1 << 18, dim=1):
        block = part.float()
        shared += (block @ block.T).double()
    union = sizes[:, None] + sizes[None] - shared
    kept: list[int] = []
    dead = torch.zeros(len(flat), dtype=torch.bool)
    for k in torch.argsort(scores, descending=True, stable=True).tolist():
        if not dead[k]:
            kept.append(k)
            dead |= shared[k] > limit * union[k]
    return kept


def _shown(window: Window) -> tuple[float, float] | None:
    """Lowest and highest intensity that a window shows; None leaves them to the network."""
    if window is None or window == "none":
        return None if window is None else (0.0, 255.0)
    return window_range(window)


def _cut(logits: Tensor, low: Floats, high: Floats) -> Tensor:
    """Set (K, *shape) logits outside a box, given by its lowest and highest index, to certainly outside."""
    inside = (slice(int(np.ceil(a - 1e-6)), int(np.floor(b + 1e-6)) + 1) for a, b in zip(low, high, strict=True))
    place = (slice(None), *inside)
    out = torch.full_like(logits, -torch.inf)
    out[place] = logits[place]
    return out


def _tensor(values: Floats) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)
