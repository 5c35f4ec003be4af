"""Any 2D segmenter on volumes: slice by slice, joined to 3D regions; prompts carried from slice to slice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.once import once
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.rois import Prompt, ROISet
from roireg.models.rasters import slice_axis, slice_grid, slice_image, volume_window
from roireg.segment.base import Prepared, Segmenter
from roireg.segment.following import SlicePrompts, follow, on_plane
from roireg.segment.linking import Chain, between, link_slices
from roireg.segment.promptable import ModelSegmenter

__all__ = ["SliceSegmenter", "SlicedVolume"]

Floats = NDArray[np.float64]


class _SliceProgress:
    """Turns the progress within one slice into that of all slices, with the time left."""

    def __init__(self, stage: str, count: int, progress: Progress) -> None:
        self.stage, self.count, self.done, self.progress = stage, count, 0, progress
        self.start = perf_counter()

    def __call__(self, event: ProgressEvent) -> None:
        # The last event of a slice is the first of the next.
        if event.fraction < 1 and (event.fraction > 0 or self.done == 0):
            self._tell(self.done + event.fraction)

    def next_slice(self) -> None:
        self.done += 1
        self._tell(self.done)

    def _tell(self, steps: float) -> None:
        fraction = steps / self.count
        left = (perf_counter() - self.start) * (1 - fraction) / fraction if fraction > 0 else 0.0
        detail = f"{left:.0f} s left" if left >= 1 else ""
        self.progress(ProgressEvent(self.stage, fraction, detail))


@dataclass(frozen=True, eq=False)
class SliceSegmenter(Segmenter):
    """A 2D segmenter that takes volumes, too; 2D images are handed on as they are.

    Candidates: every slice is segmented, and regions of neighbouring slices that overlap become one 3D region.
    Prompts: answered in their own slice, then asked for again in the next slice by bounding box and innermost voxel
    of the answer before, until the answer vanishes, jumps or is no longer trusted.

    Parameters
    ----------
    segmenter : for 2D images; prompts need one that answers prompts.
    axis : storage axis along which volumes are cut; None takes the coarsest, see `roireg.models.rasters.slice_axis`.
    min_overlap : intersection over union from which regions of neighbouring slices are one structure.
    gap : how many slices a structure may be missing in between; they are filled in.
    min_slices : shorter structures are dropped (volumes of fewer slices: those that do not fill it).
    max_count : how many candidates at most.
    max_voxels : size of the grid of the candidates; beyond it slices are taken coarser, none is left out.
    min_score : a prompt is followed while the score is at least this share of that in its own slice.
    progress : told after every slice; what it raises stops the run.

    Raises
    ------
    InputError
        When a parameter is out of range.
    """

    segmenter: Segmenter
    axis: int | None = None
    min_overlap: float = 0.5
    gap: int = 1
    min_slices: int = 2
    max_count: int = 128
    max_voxels: int = 4_000_000
    min_score: float = 0.5
    progress: Progress = field(default=silent, repr=False)

    def __post_init__(self) -> None:
        if min(self.min_slices, self.max_count, self.max_voxels) < 1 or not 0 <= self.min_score <= 1:
            raise InputError(
                "min_slices, max_count and max_voxels are at least 1 and min_score is in [0, 1], found "
                f"{self.min_slices}, {self.max_count}, {self.max_voxels} and {self.min_score}"
            )
        link_slices([], min_overlap=self.min_overlap, gap=self.gap)

    def prepare(self, image: Image) -> Prepared:
        """Cut a volume into slices, each of which is encoded when it is asked for; prepare a 2D image.

        Raises
        ------
        GeometryError, InputError
            When the slice axis does not exist, or the segmenter inside does not take the image.
        """
        if image.ndim == 2:
            return self.segmenter.prepare(image)
        axis = slice_axis(image.grid, self.axis)
        segmenter = self.segmenter
        if isinstance(segmenter, ModelSegmenter):
            # A network sees all slices through one window.
            segmenter = replace(segmenter, window=volume_window(image, window=segmenter.window))
        slices = tuple(slice_image(image, axis, s) for s in range(image.grid.shape[axis]))
        return SlicedVolume(image, replace(self, segmenter=segmenter), axis, slices)

    def estimate_seconds(self, image: Image) -> float:
        """Tell how long the candidates of an image take; of a volume the middle slice is measured and kept encoded.

        Raises
        ------
        InputError
            When the segmenter inside is not that of a network.
        """
        if not isinstance(self.segmenter, ModelSegmenter):
            raise InputError(
                f"the time of {type(self.segmenter).__name__} is not estimated; only that of a network is"
            )
        if image.ndim == 2:
            return self.segmenter.estimate_seconds(image)
        axis = slice_axis(image.grid, self.axis)
        window = volume_window(image, window=self.segmenter.window)
        count = image.grid.shape[axis]
        middle = slice_image(image, axis, count // 2)
        return replace(self.segmenter, window=window).estimate_seconds(middle, images=count)


@dataclass(frozen=True, eq=False)
class SlicedVolume:
    """A volume cut along one axis.

    Attributes
    ----------
    settings : how slices are segmented and joined. axis : storage axis.
    slices : one 2D image per slice, see `roireg.models.rasters.slice_image`.
    """

    image: Image
    settings: SliceSegmenter
    axis: int
    slices: tuple[Image, ...]

    def encode(self) -> None:
        """Encode every slice now, so that no prompt has to wait; the embeddings stay in the network's cache."""
        segmenter = self.settings.segmenter
        if isinstance(segmenter, ModelSegmenter):
            told = _SliceProgress("encoding slices", len(self.slices), self.settings.progress)
            for part in self.slices:
                segmenter.prepare(part)
                told.next_slice()

    def regions(self) -> ROISet:
        """Return the candidate regions, best first: mean score over the slices times mean overlap between them."""
        return self._regions

    @once
    def _regions(self) -> ROISet:
        s = self.settings
        grid = _candidate_grid(self.image.grid, self.axis, s.max_voxels)
        plane = _plane(self.image.grid, grid, self.axis)
        masks: list[Tensor] = []
        scores: list[Tensor] = []
        told = _SliceProgress("segmenting slices", len(self.slices), s.progress)
        segmenter = s.segmenter
        if isinstance(segmenter, ModelSegmenter):
            segmenter = replace(segmenter, progress=told)
        for part in self.slices:
            rois = segmenter(part)
            assert rois.scores is not None
            masks.append(on_plane(rois, plane))
            scores.append(rois.scores.cpu())
            told.next_slice()
        chains = link_slices(masks, min_overlap=s.min_overlap, gap=s.gap)
        # A structure of one slice is all there can be in a volume of one.
        shortest = min(s.min_slices, len(self.slices))
        rated = [(_score(c, masks, scores), c) for c in chains if c.span >= shortest]
        rated.sort(key=lambda rc: -rc[0])
        rated = rated[: s.max_count]
        if not rated:
            return ROISet.empty(grid)
        volume = torch.zeros((len(rated), *grid.shape), dtype=torch.bool)
        for row, (_, chain) in zip(volume, rated, strict=True):
            _place(row, chain, masks, self.axis)
        return ROISet(volume, grid, scores=torch.tensor([r for r, _ in rated], dtype=torch.float32))

    def answer(self, prompt: Prompt) -> ROISet:
        """Return the regions that fit a prompt, in the order of the answers in the slice of the prompt.

        Points count in the slice they are nearest to; the first positive one says where to start. A box limits the
        slices as well. Slices with points of their own are asked with these.

        Raises
        ------
        GeometryError
            When prompt and image differ in dimension.
        InputError
            When the prompt does not fit the image, see `prompt_indices`, or the segmenter answers no prompts.
        """
        s = self.settings
        tracks = follow(
            self.slices,
            s.segmenter,
            SlicePrompts.of(prompt, self.image, self.axis),
            min_overlap=s.min_overlap,
            min_score=s.min_score,
            progress=s.progress,
        )
        if not tracks:
            return ROISet.empty(self.image.grid)
        volume = torch.zeros((len(tracks), *self.image.grid.shape), dtype=torch.bool)
        for row, track in zip(volume, tracks, strict=True):
            for k, mask in track.masks.items():
                row.select(self.axis, k).copy_(torch.from_numpy(mask))
        scores = [
            sum(track.scores[k] * m.sum() for k, m in track.masks.items())
            / sum(m.sum() for m in track.masks.values())
            for track in tracks
        ]
        return ROISet(volume, self.image.grid, scores=torch.tensor(scores, dtype=torch.float32))


# -- candidates -----------------------------------------------------------------------------------------


def _candidate_grid(grid: Grid, axis: int, limit: int) -> Grid:
    """Return a grid over the same box with all slices and, if need be, larger pixels."""
    if grid.size <= limit:
        return grid
    factor = (grid.size / limit) ** 0.5
    return grid.with_shape([n if a == axis else max(1, int(n / factor)) for a, n in enumerate(grid.shape)])


def _plane(volume: Grid, grid: Grid, axis: int) -> Grid:
    """Return the grid of a slice of `grid` in the world of the slices of `volume`, whose box it shares."""
    return slice_grid(volume, axis).with_shape([n for a, n in enumerate(grid.shape) if a != axis])


def _score(chain: Chain, masks: list[Tensor], scores: list[Tensor]) -> float:
    sizes = np.array([float(masks[s][k].sum()) for s, k in chain.members])
    own = np.array([float(scores[s][k]) for s, k in chain.members])
    joined = float(np.mean(chain.links)) if chain.links else 1.0
    return float((own * sizes).sum() / sizes.sum()) * joined


def _place(row: Tensor, chain: Chain, masks: list[Tensor], axis: int) -> None:
    for s, k in chain.members:
        row.select(axis, s).copy_(masks[s][k])
    for (s, i), (t, j) in zip(chain.members, chain.members[1:], strict=False):
        for middle in range(s + 1, t):
            filled = between(masks[s][i].numpy(), masks[t][j].numpy(), (middle - s) / (t - s))
            row.select(axis, middle).copy_(torch.from_numpy(filled))
