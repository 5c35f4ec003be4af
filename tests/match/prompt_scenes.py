"""Two images of the same balls, the moving ones shifted, and a segmenter that knows them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from match.scenes import oblique_grid
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.core.transforms import Affine
from roireg.features import IntensityFeatures
from roireg.match.carry import Guide, Side
from roireg.match.similarity_map import standardised

LEVELS = (0.9, 0.5, 0.25)


@dataclass(frozen=True)
class Balls:
    """One image: balls of different brightness on dark ground, as labels 1, 2, 3."""

    image: Image
    labels: torch.Tensor
    centers: np.ndarray


def flat_grid() -> Grid:
    return Grid.from_itk((72, 60), (1.0, 1.2), (5.0, -8.0), np.eye(2))


def balls(grid: Grid, offset, *, places=((0.3, 0.3), (0.65, 0.35), (0.45, 0.7)), radius=0.12, levels=LEVELS) -> Balls:
    size = float(np.prod(grid.extent) ** (1 / grid.ndim))
    at = np.array([[*p, 0.5][: grid.ndim] for p in places]) * (np.array(grid.shape) - 1)
    centers = grid.world_from_index(at) + np.asarray(offset)
    points = grid.points()
    labels = np.zeros(grid.size, dtype=np.int64)
    values = np.full(grid.size, 0.05)
    for k, (c, level) in enumerate(zip(centers, levels, strict=True), 1):
        inside = np.linalg.norm(points - c, axis=1) <= radius * size
        labels[inside], values[inside] = k, level
    image = Image(torch.from_numpy(values.astype(np.float32)).reshape(1, *grid.shape), grid)
    return Balls(image, torch.from_numpy(labels.reshape(grid.shape)), centers)


@dataclass
class Knows:
    """A prepared image that answers a prompt with the ball under its first positive point, then with all balls.

    A box is answered with the ball that has most of its voxels in it. Remembers what it was asked.
    """

    scene: Balls
    prompts: list[Prompt] = field(default_factory=list)

    @property
    def image(self) -> Image:
        return self.scene.image

    def regions(self) -> ROISet:
        return ROISet.from_labels(self.scene.labels, self.image.grid)

    def answer(self, prompt: Prompt) -> ROISet:
        self.prompts.append(prompt)
        labels, grid = self.scene.labels, self.image.grid
        positive = prompt.points[prompt.labels == 1]
        if len(positive):
            index = np.clip(np.round(grid.index_from_world(positive[0])).astype(int), 0, np.array(grid.shape) - 1)
            label = int(labels[tuple(index)])
        else:
            corners = np.sort(grid.index_from_world(prompt.box), axis=0)
            cut = labels[tuple(slice(max(0, int(a)), int(b) + 1) for a, b in corners.T)]
            label = int(torch.bincount(cut.flatten(), minlength=4)[1:].argmax()) + 1
        mask = labels == label
        everything = labels > 0
        return ROISet(torch.stack([mask, everything]), grid, scores=torch.tensor([0.9, 0.5]))


def two_sides(grid: Grid, offset, *, segmenter=None, width=5.0, **drawn) -> tuple[Side, Side, Guide, Balls, Balls]:
    """Fixed and moving side, the true guide between them, and the truth of both."""
    scenes = balls(grid, np.zeros(grid.ndim), **drawn), balls(grid, offset, **drawn)
    prepared = [Knows(s) if segmenter is None else segmenter.prepare(s.image) for s in scenes]
    encode = IntensityFeatures(position=0.0)
    maps = standardised(*(encode(s.image, grid) for s in scenes))
    truth = Affine.translation(offset)
    guide = Guide(truth, truth.inverse(), width)
    return Side(prepared[0], maps[0]), Side(prepared[1], maps[1]), guide, *scenes


GRIDS = {"flat": flat_grid(), "deep": oblique_grid((14, 30, 26), (3.0, 1.5, 1.5))}
