"""A promptable network as a segmenter: everything mode, and answers to prompts in world coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.masks import mask_nms
from roireg.core.once import once
from roireg.core.progress import Progress, silent
from roireg.core.rois import Prompt, ROISet
from roireg.core.warp import resample
from roireg.models.base import Embedding, MaskLogits, PromptableModel
from roireg.models.cache import EmbeddingCache, shared_cache
from roireg.models.preprocess import Window
from roireg.models.rasters import raster_of
from roireg.segment.base import Segmenter
from roireg.segment.candidates import stability
from roireg.segment.everything import PUBLISHED, EverythingOptions, estimate_seconds, everything
from roireg.segment.filters import DEFAULT_LIMITS, RegionFilter, filter_regions
from roireg.segment.prompts import ClosePointsError, box_indices, check_points

__all__ = [
    "ModelImage",
    "ModelSegmenter",
    "NetworkAnswers",
    "probabilities",
    "prompt_indices",
    "soft_masks",
]

Floats = NDArray[np.float64]

SAME = 0.9
"""Of two answers with an intersection over union above this only the better one is shown."""

MASK_LOGIT = 8.0
"""Logit that stands for "certainly inside" where a mask is given as a prompt."""


@dataclass(frozen=True, eq=False, repr=False)
class NetworkAnswers(ROISet):
    """Regions of which a network says how probable they are, such as its answers to a prompt.

    Attributes
    ----------
    soft : (K, *shape) uint8, how probable it is that a voxel belongs to a region, 255 for certain; a mask is where
        that is more than a half.
    note : what to know about these answers, a sentence for people; empty where there is nothing to say.
    """

    soft: Tensor | None = None
    note: str = ""

    def subset(self, index: Sequence[int]) -> NetworkAnswers:
        """Return the regions at `index`, in that order."""
        part = super().subset(index)
        soft = None if self.soft is None else self.soft[torch.as_tensor(list(index), dtype=torch.long)]
        return NetworkAnswers(part.masks, part.grid, part.names, part.scores, soft, self.note)

    def to(self, device: torch.device | str) -> NetworkAnswers:
        """Return the set on another device."""
        assert self.scores is not None
        soft = None if self.soft is None else self.soft.to(device)
        return replace(self, masks=self.masks.to(device), scores=self.scores.to(device), soft=soft)


def probabilities(rois: ROISet) -> Tensor:
    """(K, *shape) float32 in 0..1, how probable it is that a voxel belongs to a region; else the masks as 0 and 1."""
    soft = rois.soft if isinstance(rois, NetworkAnswers) else None
    return rois.masks.float() if soft is None else soft.float() / 255


def soft_masks(logits: Tensor) -> Tensor:
    """(K, *shape) uint8 probabilities of logits, see `NetworkAnswers`."""
    return (logits.float().sigmoid() * 255).round().to(torch.uint8)


@dataclass(frozen=True, eq=False)
class ModelSegmenter(Segmenter):
    """Candidates and answers to prompts from one network, for images of the network's dimension.

    An image is encoded once, whatever is asked of it and by whom: embeddings are shared through `cache`, with
    other segmenters and with the features of the same network. For volumes and a 2D network see `SliceSegmenter`.

    Parameters
    ----------
    model : a loaded network.
    options : of everything mode.
    limits : size, overlap and number of the candidates.
    window : how intensities become 0..255, see `roireg.models.preprocess.to_raster`.
    alternatives : how many regions a prompt returns at most.
    cache : where embeddings are kept, by content; the default is shared by the process.
    progress : told during everything mode; what it raises stops the run.

    Raises
    ------
    InputError
        When `alternatives` is below 1.
    """

    model: PromptableModel
    options: EverythingOptions = PUBLISHED
    limits: RegionFilter = DEFAULT_LIMITS
    window: Window = None
    alternatives: int = 3
    cache: EmbeddingCache = field(default_factory=shared_cache, repr=False)
    progress: Progress = field(default=silent, repr=False)

    def __post_init__(self) -> None:
        if self.alternatives < 1:
            raise InputError(f"a prompt returns at least 1 alternative, found alternatives={self.alternatives}")

    def prepare(self, image: Image) -> ModelImage:
        """Encode an image.

        Raises
        ------
        GeometryError
            When image and network differ in dimension.
        InputError
            When the image has no finite value or the window is unknown.
        """
        if image.ndim != self.model.card.ndim:
            raise GeometryError(
                f"{image.name}: {self.model.card.name} takes {self.model.card.ndim}D images, found "
                f"{image.ndim}D; segment volumes slice by slice with SliceSegmenter"
            )
        raster, grid = raster_of(image, window=self.window)
        return ModelImage(image, self, grid, raster, self.encode(raster))

    def encode(self, raster: Tensor) -> Embedding:
        """Return the embedding of a raster, computed unless the cache has it."""
        return self.cache.encode(self.model, raster)

    def estimate_seconds(self, image: Image, *, images: int = 1) -> float:
        """Tell how long `images` such images will take, from one measured encoding and one batch of points."""
        raster, _ = raster_of(image, window=self.window)
        return estimate_seconds(self.model, raster, options=self.options, encode=self.encode, images=images)


@dataclass(frozen=True, eq=False)
class ModelImage:
    """An image encoded by a network.

    Attributes
    ----------
    segmenter : the network and what is asked of it.
    grid : where the raster lies. raster : (3, *shape), values 0..255. embedding : what the network made of it.
    """

    image: Image
    segmenter: ModelSegmenter
    grid: Grid
    raster: Tensor
    embedding: Embedding

    def regions(self) -> ROISet:
        """Return the candidate regions, best first; scores are predicted IoU times stability."""
        return self._regions

    @once
    def _regions(self) -> ROISet:
        s = self.segmenter
        masks = everything(s.model, self.raster, options=s.options, encode=s.encode, progress=s.progress)
        return filter_regions(ROISet(masks.masks, self.grid, scores=masks.scores), s.limits)

    def answer(self, prompt: Prompt, *, mask: ROISet | None = None) -> ROISet:
        """Return the regions that fit a prompt, by falling predicted IoU times stability, with probabilities.

        A single point is ambiguous and gets the network's masks of whole, part and sub-part; several points or a
        box also get its one best mask. Near-duplicates are left out; the set may be empty.

        Parameters
        ----------
        prompt : points and box, world mm.
        mask : one region, on any grid, that the answer should look like.

        Raises
        ------
        GeometryError
            When image and prompt differ in dimension.
        InputError
            When a point or the box is outside the image, the box is empty, points contradict each other, or the
            network does not take prompts of this kind.
        """
        model = self.segmenter.model
        points, labels, box = prompt_indices(prompt, self.image.grid, self.image.name)
        kinds = {"point": len(points) > 0, "box": box is not None, "mask": mask is not None}
        for kind, used in kinds.items():
            if used and kind not in model.card.prompts:
                raise InputError(
                    f"{model.card.name} takes no {kind} prompts; use "
                    f"{' or '.join(sorted(model.card.prompts)) or 'another model'}"
                )
        to_raster = np.linalg.inv(self.grid.affine) @ self.image.grid.affine
        with torch.no_grad():
            arguments = {
                "points": self._tensor(_mapped(points, to_raster))[None] if len(points) else None,
                "labels": torch.as_tensor(labels, device=model.device)[None] if len(points) else None,
                "boxes": self._tensor(_mapped(np.stack(box), to_raster))[None] if box is not None else None,
            }
            answers = [model.decode(self.embedding, **arguments, multimask=True)]
            if mask is not None:
                arguments["masks"] = self._mask_logits(mask, answers[0])
                answers = [model.decode(self.embedding, **arguments, multimask=True)]
            if len(points) > 1 or box is not None or mask is not None:
                answers.append(model.decode(self.embedding, **arguments, multimask=False))
            logits = torch.cat([a.logits.flatten(0, 1) for a in answers])
            quality = torch.cat([a.quality.flatten() for a in answers]).float()
            full = model.upscale(logits[:, None], self.embedding)[:, 0].float()
            steady = stability(full, self.segmenter.options.stability_score_offset)
            return self._ranked(full.cpu(), (quality * steady).clamp(0, 1).cpu())

    def _tensor(self, values: Floats) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.segmenter.model.device)

    def _mask_logits(self, mask: ROISet, answer: MaskLogits) -> Tensor:
        """(1, 1, *shape) logits of a region at the resolution of the network; padding counts as outside."""
        if len(mask) != 1:
            raise InputError(f"a mask prompt is one region, found {len(mask)}")
        shape = np.array(answer.logits.shape[2:])
        ratio = np.array(self.embedding.tensors["image"].shape[2:]) / shape
        index_from_cell = np.eye(len(shape) + 1)
        index_from_cell[:-1, :-1] = np.diag(ratio / self.embedding.scale)
        index_from_cell[:-1, -1] = (0.5 * ratio - 0.5 - self.embedding.offset) / self.embedding.scale
        cells = Grid(tuple(int(n) for n in shape), self.grid.affine @ index_from_cell)
        inside = resample(Image(mask.masks.float(), mask.grid), cells).data
        shown = torch.from_numpy(self.grid.contains(cells.points()).reshape(cells.shape))
        return self._tensor((MASK_LOGIT * (2 * inside - 1)).where(shown, -MASK_LOGIT).numpy())[None]

    def _ranked(self, logits: Tensor, scores: Tensor) -> NetworkAnswers:
        masks = logits > 0
        order = [k for k in mask_nms(masks, scores, SAME) if bool(masks[k].any())][: self.segmenter.alternatives]
        return NetworkAnswers(masks[order], self.grid, scores=scores[order], soft=soft_masks(logits[order]))


def prompt_indices(
    prompt: Prompt, grid: Grid, name: str
) -> tuple[Floats, NDArray[np.int64], tuple[Floats, Floats] | None]:
    """Return a prompt in continuous indices of a grid: (N, d) points, (N,) labels, lower and upper corner of the box.

    The box is clipped to the image.

    Raises
    ------
    GeometryError
        When prompt and grid differ in dimension.
    InputError
        When a point or the whole box is outside the image, or the box is empty.
    ClosePointsError
        When a negative point is in the same voxel as a positive one.
    """
    points = np.zeros((0, grid.ndim))
    if len(prompt.points):
        check_points(prompt, grid, name)
        points = grid.index_from_world(prompt.points)
        voxels = np.round(points)
        inside, outside = voxels[prompt.labels == 1], voxels[prompt.labels == 0]
        if (inside[:, None] == outside[None]).all(axis=2).any():
            raise ClosePointsError(
                f"{name}: a negative prompt point lies in the same voxel as a positive one; move them further apart"
            )
    box = None if prompt.box is None else _not_empty(*box_indices(prompt.box, grid, name), name)
    return points, prompt.labels, box


def _not_empty(low: Floats, high: Floats, name: str) -> tuple[Floats, Floats]:
    if (high - low < 1e-6).any():
        raise InputError(
            f"{name}: the prompt box is empty; give two opposite corners that differ in every coordinate"
        )
    return low, high


def _mapped(points: Floats, matrix: Floats) -> Floats:
    return np.asarray(points @ matrix[:-1, :-1].T + matrix[:-1, -1])
