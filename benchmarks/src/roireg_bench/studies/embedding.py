"""How well features find counterparts in displaced images, before anything is registered.

The moving image of every pair is turned by 10 to 25 degrees, scaled by 0.8 to 1.25 and shifted by 5 to 12 % of its
size, several times. Then, by features alone:

- pixel: of fixed voxels inside labels, as many of each label, the nearest moving voxel has the same label;
- prototype: of the mean features of fixed labels, the nearest mean of the moving image, among its labels and
  64 (2D) or 512 (3D) blocks of what is unlabelled, is that of the same label;
- landmark: the nearest moving voxel to a fixed landmark lies within 5 % of the diagonal from its counterpart.

``python -m roireg_bench.studies.intervals FILE fused "intensity + MIND"`` prints their differences with intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.seeds import generator
from roireg.core.transforms import Affine
from roireg.core.warp import resample, warp
from roireg.features import (
    EmbeddingFeatures,
    FeatureExtractor,
    IntensityFeatures,
    MindFeatures,
    embedding_features,
    make_extractor,
)
from roireg.features.embedding import unit
from roireg.models.anatomical import FAMILY, EmbeddingModel
from roireg.models.base import LoadReport
from roireg_bench.studies.study import Column, Scene, Study

__all__ = ["EmbeddingStudy", "NetworksStudy", "displacement"]

CELLS = {2: 10_000, 3: 20_000}
"""Voxels of the grids on which counterparts are looked for."""
DRAWS = 2
"""Displacements of every pair."""
QUERIES = 300
"""Fixed voxels per displacement."""
BLOCKS = 8
"""Blocks of unlabelled voxels along an axis."""
NEAR = 0.05
"""Part of the diagonal within which a landmark counts as recognised."""

VARIANTS: dict[str, dict[str, float]] = {
    "intensity": {"intensity": 1},
    "MIND": {"mind": 1},
    "intensity + MIND": {"intensity": 1, "mind": 1},
    "embedding": {"embedding": 1},
    "fused": {"embedding": 8, "intensity": 2, "mind": 1},
    "fused with a random network": {"random": 8, "intensity": 2, "mind": 1},
}
"""Name -> weights of the descriptors."""


class EmbeddingStudy(Study):
    """The study `embedding`."""

    name = "embedding"
    title = "counterparts by features alone in displaced images"
    source = "after the region and landmark matching of Yan et al. (IEEE TMI 2022)"
    sets: Sequence[str] = (
        "chest_xray_jsrt", "brain2d_miccai2012", "brain2d_oasis", "samreg_abdomen", "samreg_cardiac_slices",
        "samreg_lung_slices", "samreg_prostate_single", "histology_lesion3", "histology_lesions", "retina_fire",
        "retina_multimodal", "scenes_multimodal", "hippocampus", "acdc_inter", "acdc_intra", "left_atrium",
        "lung_mr_lobes", "brain_t1", "brain_slabs", "ct_synthetic", "spine_t1_t2",
    )  # fmt: skip
    columns = (
        Column("pixel", "pixel"),
        Column("prototype", "prototype"),
        Column("landmark_near", "landmarks near"),
        Column("landmark_error", "landmark error, % of the diagonal", 1),
    )

    weights: ClassVar[Mapping[str, dict[str, float]]] = VARIANTS

    def __init__(self) -> None:
        self._last: tuple[str, list[_Trial]] | None = None

    def descriptors(self, ndim: int) -> Mapping[str, FeatureExtractor]:
        """Return the descriptors of images with so many axes."""
        del ndim
        return _descriptors()

    @property
    def variants(self) -> Mapping[str, Mapping[str, object]]:
        return {name: {"weights": weights} for name, weights in self.weights.items()}

    def measure(self, variant: str, scene: Scene) -> Mapping[str, float]:
        key = f"{scene.folder.path}/{scene.case.id}"
        weights, descriptors = self.weights[variant], self.descriptors(scene.fixed.ndim)
        if not weights.keys() <= descriptors.keys():
            return {}
        if self._last is None or self._last[0] != key:
            self._last = key, [_trial(scene, draw, descriptors) for draw in range(DRAWS)]
        measured = [trial.scores(weights) for trial in self._last[1]]
        keys = dict.fromkeys(k for scores in measured for k in scores)
        return {k: float(np.mean([scores[k] for scores in measured if k in scores])) for k in keys}


class NetworksStudy(EmbeddingStudy):
    """The study `networks`: the same for features of networks that are fetched, beside MIND and the shipped ones."""

    name = "networks"
    title = "counterparts by features of networks in displaced images"
    source = "ALIKE (Zhao et al. 2022) in 2D, the first layers of TotalSegmentator (arXiv 2503.24121) in 3D"
    sets = (
        "graf", "hands_xray", "scenes_multimodal", "retina_fire", "retina_multimodal", "ct_synthetic",
        "lung_mr_lobes", "left_atrium",
    )  # fmt: skip
    weights: ClassVar[Mapping[str, dict[str, float]]] = {
        "MIND": {"mind": 1},
        "embedding": {"embedding": 1},
        "fused": {"embedding": 8, "intensity": 2, "mind": 1},
        "ALIKE tiny": {"alike-t": 1},
        "ALIKE normal": {"alike-n": 1},
        "TotalSegmentator layers": {"totalsegmentator-layers": 1},
    }

    def descriptors(self, ndim: int) -> Mapping[str, FeatureExtractor]:
        names = {2: ("alike-t", "alike-n"), 3: ("totalsegmentator-layers",)}[ndim]
        shipped = {name: make for name, make in _descriptors().items() if name != "random"}
        return shipped | {name: make_extractor(name) for name in names}


@dataclass(frozen=True, eq=False)
class _Side:
    """One image: descriptors by name (C, N), labels (N,), world points (N, d), and where it shows something (N,)."""

    features: Mapping[str, Tensor]
    labels: NDArray[np.int64] | None
    points: NDArray[np.float64]
    shown: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Trial:
    """A pair whose moving image was displaced once."""

    fixed: _Side
    moving: _Side
    queries: NDArray[np.int64]
    landmarks: tuple[NDArray[np.int64], NDArray[np.float64]] | None
    """Fixed voxel and moving world point of every landmark."""
    diagonal: float

    def scores(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return the share of right answers with these weights of the descriptors."""
        scores: dict[str, float] = {}
        a, b = self.fixed.labels, self.moving.labels
        if a is not None and b is not None:
            nearest = self._nearest(self.queries, weights)
            right = b[nearest] == a[self.queries]
            scores["pixel"] = float(np.mean([right[a[self.queries] == k].mean() for k in np.unique(a[self.queries])]))
            scores["prototype"] = self._prototypes(a, b, weights)
        if self.landmarks is not None:
            voxels, places = self.landmarks
            gaps = np.linalg.norm(self.moving.points[self._nearest(voxels, weights)] - places, axis=1) / self.diagonal
            scores["landmark_near"] = float((gaps < NEAR).mean())
            scores["landmark_error"] = float(100 * gaps.mean())
        return scores

    def _nearest(self, voxels: NDArray[np.int64], weights: Mapping[str, float]) -> NDArray[np.int64]:
        total = sum(
            share * (self.fixed.features[name][:, voxels].T @ self.moving.features[name])
            for name, share in weights.items()
        )
        assert isinstance(total, Tensor)
        total[:, ~torch.as_tensor(self.moving.shown)] = -torch.inf
        return np.asarray(total.argmax(1).numpy())

    def _prototypes(self, a: NDArray[np.int64], b: NDArray[np.int64], weights: Mapping[str, float]) -> float:
        index = np.stack(self._blocks(self.moving.points))
        parts = np.where(b > 0, b, -1 - np.ravel_multi_index(tuple(index), (BLOCKS,) * len(index)))
        common = [k for k in np.unique(a[a > 0]) if (b == k).any()]
        names = [k for k in np.unique(parts[self.moving.shown]) if (parts == k).sum() >= 4 or k > 0]
        fixed = _means(self.fixed, a, common, weights)
        moving = _means(self.moving, np.where(self.moving.shown, parts, 0), names, weights)
        best = (fixed @ moving.T).argmax(1).numpy()
        return float(np.mean([names[n] == k for n, k in zip(best, common, strict=True)]))

    @staticmethod
    def _blocks(points: NDArray[np.float64]) -> list[NDArray[np.int64]]:
        low, size = points.min(0), np.ptp(points, axis=0) + 1e-6
        return [
            np.clip(((points[:, k] - low[k]) / size[k] * BLOCKS).astype(int), 0, BLOCKS - 1) for k in range(len(low))
        ]


def _means(side: _Side, codes: NDArray[np.int64], names: Sequence[int], weights: Mapping[str, float]) -> Tensor:
    """(K, C) unit means of the weighted descriptors over the voxels of each code."""
    rows = []
    for name in names:
        inside = torch.as_tensor(codes == name)
        rows.append(torch.cat([share**0.5 * side.features[k][:, inside].mean(1) for k, share in weights.items()]))
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


# -- making trials ---------------------------------------------------------------------------------


def displacement(rng: np.random.Generator, image: Image) -> Affine:
    """Draw what displaces an image about its middle: a similarity that maps displaced to original points."""
    d = image.ndim
    turn = np.eye(d)
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    angle = np.deg2rad(rng.uniform(10, 25)) * rng.choice([-1, 1])
    if d == 2:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    else:
        cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues' formula
    way = rng.standard_normal(d)
    shift = rng.uniform(0.05, 0.12) * way / np.linalg.norm(way) * np.abs(np.ptp(image.grid.corners(), axis=0))
    matrix = np.eye(d + 1)
    matrix[:d, :d] = np.exp(rng.uniform(np.log(0.8), np.log(1.25))) * turn
    centre = image.grid.center
    matrix[:d, d] = centre + shift - matrix[:d, :d] @ centre
    return Affine(matrix)


def _trial(scene: Scene, draw: int, makers: Mapping[str, FeatureExtractor]) -> _Trial:
    rng = generator(draw, stream=f"{scene.folder.content.name} {scene.case.id}")
    fixed, moving, truth = scene.fixed.gray(), scene.moving.gray(), scene.truth
    original_from_displaced = displacement(rng, moving)
    moved = warp(moving, original_from_displaced, moving.grid)
    labels: tuple[Image, Image] | None = None
    if truth.labels is not None:
        labels = truth.labels[0], warp(truth.labels[1], original_from_displaced, moving.grid, mode="nearest", fill=0)
    here = _side(fixed, labels and labels[0], None, makers)
    there = _side(moved, labels and labels[1], (moving, original_from_displaced), makers)
    queries = np.zeros(0, np.int64)
    if here.labels is not None and there.labels is not None:
        common = np.intersect1d(here.labels[here.labels > 0], there.labels)
        each = max(1, QUERIES // max(1, len(common)))
        queries = np.concatenate([rng.choice(np.flatnonzero(here.labels == k), each) for k in common])
    landmarks = None
    if truth.points is not None:
        grid = fixed.grid.coarsened(CELLS[fixed.ndim])
        index = grid.index_from_world(truth.points[0]).round().astype(int)
        index = np.clip(index, 0, np.array(grid.shape) - 1)
        landmarks = (
            np.ravel_multi_index(tuple(index.T), grid.shape),
            original_from_displaced.inverse().map_points(truth.points[1]),
        )
    diagonal = float(np.linalg.norm(np.ptp(moving.grid.corners(), axis=0)))
    return _Trial(here, there, queries, landmarks, diagonal)


def _side(
    image: Image,
    labels: Image | None,
    source: tuple[Image, Affine] | None,
    makers: Mapping[str, FeatureExtractor],
) -> _Side:
    grid = image.grid.coarsened(CELLS[image.ndim])
    # Networks have cells of their own.
    descriptors = {name: resample(make(image, grid), grid) for name, make in makers.items()}
    points = grid.points()
    shown = np.ones(len(points), bool)
    if source is not None:
        shown = source[0].grid.contains(source[1].map_points(points))
    return _Side(
        {name: unit(value.data).flatten(1) for name, value in descriptors.items()},
        None if labels is None else resample(labels, grid, mode="nearest").data.long().reshape(-1).numpy(),
        points,
        np.asarray(shown),
    )


@lru_cache(maxsize=1)
def _descriptors() -> dict[str, FeatureExtractor]:
    def mind(image: Image, grid: Grid) -> Image:
        step = float(grid.spacing.min())
        radii = [MindFeatures(radius=r * step, centred=True) for r in (1, 2, 4, 8)]
        return image.with_data(torch.cat([f(image, grid).data for f in radii]), grid)

    shipped = embedding_features()
    return {
        "embedding": shipped,
        "random": EmbeddingFeatures({n: _random(shipped.models[n]) for n in (2, 3)}),
        "intensity": IntensityFeatures(position=0.0),
        "mind": mind,
    }


def _random(like: EmbeddingModel) -> EmbeddingModel:
    """Return a network of the same shape with the weights that a training begins with."""
    shapes = {name: tuple(value.shape) for name, value in like.network.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FAMILY.build(FAMILY.settings(shapes, like.card, Path()))
    return EmbeddingModel(like.card, network, like.size, key="random", report=LoadReport())
