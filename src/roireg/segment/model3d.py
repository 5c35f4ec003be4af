"""A 3D promptable network as a segmenter: volumes at its spacing, cube by cube, answers back on the image.

The image is resampled to the spacing the network was trained at, its axes turned to those of the patient (first to
head, then to front, then to the right), and cut into the cubes the network sees. A cube is encoded once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.masks import mask_nms
from roireg.core.once import once
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import Prompt, ROISet
from roireg.core.warp import resample
from roireg.models.base import Embedding
from roireg.models.cache import EmbeddingCache, shared_cache
from roireg.models.preprocess import Window, window_range
from roireg.models.volumes import VolumeModel
from roireg.segment.base import Segmenter
from roireg.segment.cubes import Offset, Volume, patient_grid
from roireg.segment.everything import PUBLISHED, EverythingOptions
from roireg.segment.filters import DEFAULT_LIMITS, RegionFilter, filter_regions
from roireg.segment.promptable import NetworkAnswers, prompt_indices, soft_masks
from roireg.segment.working import working_grid

__all__ = ["Model3DSegmenter", "ModelVolume"]

Floats = NDArray[np.float64]

PRED_IOU_THRESH = 0.5
"""Least quality of an answer: networks for volumes tell lower ones than those for images."""

BATCH = 8
"""Prompts decoded at once; more need more memory."""


@dataclass(frozen=True, eq=False)
class Model3DSegmenter(Segmenter):
    """Candidates and answers to prompts from one 3D network, for 3D images of any spacing and orientation.

    Parameters
    ----------
    model : a loaded network.
    spacing : mm per voxel to work at; None takes that of the training. A coarser one shows the network more at once.
    window : intensities to show the network: a name or (level, width), see `roireg.models.preprocess.to_raster`;
        "none" for values that are 0..255 already; None takes what it was trained on.
    points : about how many grid points everything mode asks in the whole volume.
    options : of everything mode; `points` and the options of 2D networks play no part. `pred_iou_thresh` is for
        the quality that the network reports, or for the stability of its mask where it reports none.
    similar : two candidates never have an intersection over union above this.
    limits : size, overlap and number of the candidates.
    max_voxels : size of the grid of the candidates; None takes the default of `working_grid`.
    cache : where embeddings are kept, by content; the default is shared by the process.
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
    options: EverythingOptions = PUBLISHED
    similar: float = 0.65
    limits: RegionFilter = DEFAULT_LIMITS
    max_voxels: int | None = None
    cache: EmbeddingCache = field(default_factory=shared_cache, repr=False)
    progress: Progress = field(default=silent, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, VolumeModel):
            raise InputError(f"{self.model.card.name} is no network for volumes; choose one with ndim 3")
        if self.spacing is not None and not (np.isfinite(self.spacing) and self.spacing > 0):
            raise InputError(f"the working spacing is a positive number of mm, found {self.spacing}")
        _shown(self.window)
        if self.points < 1:
            raise InputError(f"everything mode asks at least 1 point, found {self.points}")
        if not 0 < self.similar <= 1:
            raise InputError(f"similar is an intersection over union in (0, 1], found {self.similar}")

    def prepare(self, image: Image) -> ModelVolume:
        """Bring an image to the spacing of the network; its cubes are encoded when they are asked.

        Raises
        ------
        GeometryError
            When the image is not 3D.
        InputError
            When it has values that are not finite, or intensities the network cannot read.
        """
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
        return ModelVolume(image, self, Volume(grid, raster, self.model.volume.patch))

    def estimate_seconds(self, image: Image) -> float:
        """Tell how long the candidates take, from one measured cube, which is kept encoded, and one batch of points.

        Raises
        ------
        GeometryError, InputError
            As `prepare`.
        """
        return self.prepare(image).estimate_seconds()


@dataclass(frozen=True, eq=False)
class ModelVolume:
    """A volume as a 3D network sees it.

    Attributes
    ----------
    segmenter : the network and what is asked of it. volume : the image at the network's spacing, in cubes.
    """

    image: Image
    segmenter: Model3DSegmenter
    volume: Volume

    # -- prompts --------------------------------------------------------------------------------------

    def answer(self, prompt: Prompt) -> ROISet:
        """Return the regions that fit a prompt on the grid of the image, best first; the set may be empty.

        Points that do not fit one cube are asked in several, and their answers united. A network without box
        prompts is asked for the middle of the box where there is no positive point, and its answer is cut to the
        box; the note of the answers says so.

        Raises
        ------
        GeometryError
            When the prompt is not 3D.
        InputError
            When a point or the box is outside the image, the box is empty, points contradict each other, or memory
            is too small.
        """
        grid, volume = self.image.grid, self.volume
        points, labels, box = prompt_indices(prompt, grid, self.image.name)
        cut = box if "box" not in self.segmenter.model.card.prompts else None
        note = "" if cut is None else self._about_box(labels)
        if cut is not None and not (labels == 1).any():
            points, labels = np.vstack([np.mean(cut, axis=0)[None], points]), np.append(1, labels)
        points = volume.grid.index_from_world(grid.world_from_index(points))
        boxes = None
        if box is not None and cut is None:
            corners = volume.grid.index_from_world(grid.world_from_index(np.stack(box)))
            boxes = np.sort(corners, axis=0)
        # Positive points first: networks that answer point by point start from the region, not from its outside.
        order = np.argsort(-labels, kind="stable")
        points, labels = points[order], labels[order]
        logits: Tensor | None = None
        quality: list[float] = []
        targets = points[labels == 1] if boxes is None else np.vstack([points[labels == 1], boxes.mean(0)[None]])
        for offset in volume.cubes_around(targets):
            here, score = self._decoded(offset, points, labels, boxes)
            placed = volume.bring_to(grid, offset, here)
            logits = placed if logits is None else torch.maximum(logits, placed)
            quality = score if not quality else [min(a, b) for a, b in zip(quality, score, strict=True)]
        assert logits is not None  # a prompt has a positive point or a box, and so a cube
        if cut is not None:
            logits = _cut(logits, *cut)
        best = [k for k in np.argsort(-np.array(quality), kind="stable").tolist() if bool((logits[k] > 0).any())]
        logits, scores = logits[best], torch.tensor([quality[k] for k in best]).clamp(0, 1)
        return NetworkAnswers(logits > 0, grid, scores=scores, soft=soft_masks(logits), note=note)

    def _about_box(self, labels: NDArray[np.int64]) -> str:
        middle = "" if (labels == 1).any() else "it was asked for the middle of the box, and "
        return f"{self.segmenter.model.card.name} takes no boxes: {middle}its answer was cut to the box"

    def _embedding(self, offset: Offset) -> Embedding:
        return self.segmenter.cache.encode(self.segmenter.model, self.volume.crop(offset))

    def _decoded(
        self, offset: Offset, points: Floats, labels: NDArray[np.int64], box: Floats | None
    ) -> tuple[Tensor, list[float]]:
        """(K, *cube) logits and K qualities of one prompt in one cube."""
        near = self.volume.holds(offset, points)
        local = points - np.array(offset)
        embedding, model = self._embedding(offset), self.segmenter.model
        with torch.no_grad():
            answer = model.decode(
                embedding,
                points=_tensor(local[near])[None] if near.any() else None,
                labels=torch.as_tensor(labels[near])[None] if near.any() else None,
                boxes=None
                if box is None
                else _tensor(np.clip(box - np.array(offset), -0.5, self.volume.size - 0.5))[None],
                multimask=len(points) == 1 and box is None,
            )
            full = model.upscale(answer.logits, embedding)[0]
        return full, answer.quality[0].float().cpu().tolist()

    # -- everything -----------------------------------------------------------------------------------

    def regions(self) -> ROISet:
        """Return the candidate regions, best first, on a grid over the box of the image with few voxels.

        A coarse grid of points in the foreground is asked; of answers alike in intersection over union the better
        stays.
        """
        return self._regions

    @once
    def _regions(self) -> ROISet:
        s = self.segmenter
        points = self.volume.foreground_points(s.points)
        candidates: list[tuple[Tensor, float]] = []
        count = 0
        for offset, members in self.volume.tiles(points):
            s.progress(ProgressEvent("segmenting everything", count / len(points), "encoding a part of the volume"))
            embedding = self._embedding(offset)
            for first in range(0, len(members), self._batch):
                batch = members[first : first + self._batch]
                candidates += self._candidates(offset, embedding, batch)
                count += len(batch)
                s.progress(ProgressEvent("segmenting everything", count / len(points)))
        if not candidates:
            return ROISet.empty(self._grid)
        masks, scores = torch.stack([m for m, _ in candidates]), torch.tensor([q for _, q in candidates])
        rows = mask_nms(masks, scores, s.similar)
        return filter_regions(ROISet(masks[rows], self._grid, scores=scores[rows]), s.limits)

    @property
    def _grid(self) -> Grid:
        return working_grid(self.image.grid, max_voxels=self.segmenter.max_voxels)

    @property
    def _batch(self) -> int:
        return self.segmenter.options.batch or BATCH

    def _candidates(self, offset: Offset, embedding: Embedding, points: Floats) -> list[tuple[Tensor, float]]:
        """Masks that single points of one cube give, with their quality; poor ones are left out."""
        s, grid = self.segmenter, self._grid
        fewest, most = s.limits.min_fraction * grid.size, s.limits.max_fraction * grid.size
        least = PRED_IOU_THRESH if s.options.pred_iou_thresh is None else s.options.pred_iou_thresh
        local = _tensor(points - np.array(offset))[:, None]
        candidates: list[tuple[Tensor, float]] = []
        with torch.no_grad():
            answer = s.model.decode(embedding, points=local, labels=torch.ones(local.shape[:2], dtype=torch.long))
            logits, quality = answer.logits.flatten(0, 1), answer.quality.flatten().float().cpu()
            for k in torch.nonzero(quality >= least)[:, 0].tolist():
                full = s.model.upscale(logits[k][None, None], embedding)[0]
                mask = self.volume.bring_to(grid, offset, full)[0] > 0
                if max(1.0, fewest) <= int(mask.sum()) <= most:
                    candidates.append((mask, float(quality[k].clamp(0, 1))))
        return candidates

    def estimate_seconds(self) -> float:
        """Tell how long the candidates take, see `Model3DSegmenter.estimate_seconds`."""
        points = self.volume.foreground_points(self.segmenter.points)
        tiles = list(self.volume.tiles(points))
        offset, members = tiles[0]
        start = perf_counter()
        embedding = self._embedding(offset)
        encoded = perf_counter()
        batch = members[: self._batch]
        self._candidates(offset, embedding, batch)
        return len(tiles) * (encoded - start) + len(points) / len(batch) * (perf_counter() - encoded)


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
