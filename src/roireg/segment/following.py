"""A prompt in a volume, answered in its slice and carried from slice to slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.masks import iou
from roireg.core.progress import Progress, ProgressEvent
from roireg.core.rois import Prompt, ROISet
from roireg.core.warp import resample
from roireg.models.rasters import slice_grid
from roireg.segment.base import PromptableImage, Segmenter, as_promptable
from roireg.segment.promptable import prompt_indices
from roireg.segment.prompts import prompt_from_mask

__all__ = ["SlicePrompts", "Track", "follow", "on_plane"]

Floats = NDArray[np.float64]


def on_plane(rois: ROISet, plane: Grid) -> Tensor:
    """(K, y, x) bool masks on a grid over the same box; every region keeps at least one pixel."""
    if rois.grid.is_close(plane) or not len(rois):
        return rois.masks.cpu() if len(rois) else torch.zeros((0, *plane.shape), dtype=torch.bool)
    masks = resample(Image(rois.masks.float(), rois.grid), plane).data.cpu() > 0.5
    for k in torch.nonzero(~masks.flatten(1).any(1))[:, 0].tolist():
        index = np.round(plane.index_from_world(rois.centroids[k])).astype(int)
        masks[(k, *np.clip(index, 0, np.array(plane.shape) - 1))] = True
    return masks


@dataclass(frozen=True, eq=False)
class Track:
    """One answer to a prompt on its way through the slices.

    Attributes
    ----------
    masks : (y, x) bool by slice. scores : by slice.
    """

    masks: dict[int, NDArray[np.bool_]]
    scores: dict[int, float]


@dataclass(frozen=True, eq=False)
class SlicePrompts:
    """A prompt in a volume, taken apart by slice.

    Attributes
    ----------
    points : per slice (N, 2) world points of the slice and (N,) labels. box : (2, 2) world corners within the slice.
    first, last : slices that the answer may reach. start : where it begins.
    """

    points: dict[int, tuple[Floats, NDArray[np.int64]]]
    box: Floats | None
    first: int
    last: int
    start: int

    @classmethod
    def of(cls, prompt: Prompt, image: Image, axis: int) -> SlicePrompts:
        """Take a prompt in a volume apart; see `follow` for the errors."""
        points, labels, box = prompt_indices(prompt, image.grid, image.name)
        count = image.grid.shape[axis]
        others = [a for a in range(3) if a != axis]
        plane = slice_grid(image.grid, axis)
        where = np.clip(np.round(points[:, axis]), 0, count - 1).astype(int)
        by_slice = {
            int(s): (plane.world_from_index(points[where == s][:, others]), labels[where == s])
            for s in np.unique(where)
        }
        positive = where[labels == 1]
        if box is None:
            return cls(by_slice, None, 0, count - 1, int(positive[0]))
        low, high = box
        middle = int(np.clip(np.round((low[axis] + high[axis]) / 2), 0, count - 1))
        # A box thinner than a slice still holds the slice that its middle is in.
        first = min(middle, int(np.ceil(low[axis])))
        last = max(middle, int(np.floor(high[axis])))
        if len(positive) and not ((positive >= first) & (positive <= last)).all():
            raise InputError(f"{image.name}: a positive prompt point lies outside the prompt box; move one of them")
        corners = plane.world_from_index(np.stack([low[others], high[others]]))
        return cls(by_slice, corners, first, last, int(positive[0]) if len(positive) else middle)

    def own(self, s: int) -> Prompt | None:
        """Return the person's prompt in a slice, None where that says nothing about the inside."""
        points, labels = self.points.get(s, (np.zeros((0, 2)), np.zeros(0, dtype=np.int64)))
        if (labels == 1).any() or (s == self.start and self.box is not None):
            return Prompt(points, labels, box=self.box)
        return None

    def following(self, s: int, before: NDArray[np.bool_], grid: Grid) -> Prompt:
        """Return the prompt that asks for the region of the slice before, without what the person excluded here."""
        again = prompt_from_mask(before, grid)
        if s not in self.points:
            return again
        points, labels = self.points[s]
        # The innermost voxel of the slice before may be what is excluded here: leave it to the box.
        return Prompt(points, labels, box=again.box)


def follow(
    images: tuple[Image, ...],
    segmenter: Segmenter,
    prompts: SlicePrompts,
    *,
    min_overlap: float,
    min_score: float,
    progress: Progress,
) -> list[Track]:
    """Answer a prompt in its slice and ask for every answer again in the slices beside, both ways.

    A slice is asked by bounding box and innermost voxel of the answer before it, or with the points that a person
    put there. An answer ends where nothing overlaps the one before by `min_overlap`, or the score falls below
    `min_score` of that in the first slice; a person's points revive it.

    Parameters
    ----------
    images : the slices. segmenter : prepares them, each when it is reached. prompts : what is asked in which slice.

    Raises
    ------
    InputError
        When the segmenter answers no prompts, or what it raises.
    """
    return _Walk(images, segmenter, prompts, min_overlap, min_score, progress).run()


@dataclass(frozen=True, eq=False)
class _Walk:
    """All answers go through the slices together, so that a slice is used once."""

    images: tuple[Image, ...]
    segmenter: Segmenter
    prompts: SlicePrompts
    min_overlap: float
    min_score: float
    progress: Progress

    def run(self) -> list[Track]:
        start = self.prompts.start
        prompt = self.prompts.own(start)
        assert prompt is not None  # the start is a slice with a positive point or the box
        rois = self._prepared(start).answer(prompt)
        assert rois.scores is not None
        masks = self._masks(rois)
        tracks = [Track({start: m}, {start: float(score)}) for m, score in zip(masks, rois.scores, strict=True)]
        if not tracks:
            return []
        total, steps = self.prompts.last - self.prompts.first, 0
        for direction, end in ((1, self.prompts.last), (-1, self.prompts.first)):
            live = dict.fromkeys(range(len(tracks)), start)
            targets = {
                s for s in self.prompts.points if (s - start) * direction > 0 and self.prompts.own(s) is not None
            }
            for s in range(start + direction, end + direction, direction):
                steps += 1
                if not live and not any((t - s) * direction >= 0 for t in targets):
                    steps += abs(end - s)
                    break
                self._step(s, tracks, live)
                self.progress(ProgressEvent("following the region", steps / total))
        return tracks

    def _step(self, s: int, tracks: list[Track], live: dict[int, int]) -> None:
        """Continue the tracks that are live (track -> slice of its last answer) into slice s, or end them."""
        own = self.prompts.own(s)
        if own is not None:
            # A person's word counts more than the region of the slice before: every answer takes part again.
            rois = self._prepared(s).answer(own)
            for k, track in enumerate(tracks):
                if len(rois):
                    self._extend(track, s, rois, like=track.masks.get(live.get(k, s)))
                    live[k] = s
            return
        grid, prepared = self.images[s].grid, self._prepared(s)
        for k, before in list(live.items()):
            track = tracks[k]
            mask = track.masks[before]
            rois = prepared.answer(self.prompts.following(s, mask, grid))
            overlap = self._extend(track, s, rois, like=mask)
            good = (
                overlap >= self.min_overlap and track.scores[s] >= self.min_score * track.scores[self.prompts.start]
            )
            if good:
                live[k] = s
            else:
                track.masks.pop(s, None)
                track.scores.pop(s, None)
                del live[k]

    def _extend(self, track: Track, s: int, rois: ROISet, *, like: NDArray[np.bool_] | None) -> float:
        """Give a track the answer most like its last one, weighted by score; return their overlap, 0 without any."""
        if not len(rois):
            return 0.0
        assert rois.scores is not None
        masks = self._masks(rois)
        same = np.ones(len(masks))
        if like is not None:
            same = iou(torch.from_numpy(like)[None], torch.from_numpy(masks))[0].numpy()
        best = int(np.argmax((same + 1e-6) * rois.scores.cpu().numpy()))
        track.masks[s], track.scores[s] = masks[best], float(rois.scores[best])
        return float(same[best])

    def _prepared(self, s: int) -> PromptableImage:
        return as_promptable(self.segmenter.prepare(self.images[s]))

    def _masks(self, rois: ROISet) -> NDArray[np.bool_]:
        return on_plane(rois, self.images[0].grid).numpy()
