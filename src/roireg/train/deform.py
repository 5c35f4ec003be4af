"""Training of deformation networks on generated scenes, or on a folder of images.

A step sees pairs whose large motion is gone, as the stage `deform` sees them: what an affine registration leaves, and
a smooth deformation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.transforms import DisplacementField, jacobian_determinant
from roireg.models.deformer import DeformNet, integrated, warped
from roireg.models.deformers import build_deformer
from roireg.models.described import Describer
from roireg.train.deform_losses import (
    Similarity,
    cosine_distance,
    dice_distance,
    dissimilarity,
    known_distance,
    label_masks,
    roughness,
)
from roireg.train.deform_pairs import DeformBatch, DeformBatches, PairSource, affine_rest, pair_sources
from roireg.train.export import export
from roireg.train.runner import Task, TrainSettings, record, train

__all__ = ["DeformConfig", "DeformTask", "Weights", "train_deform"]


class Weights(BaseModel):
    """Of the parts of the loss; a part of weight 0 is not computed.

    Attributes
    ----------
    similarity : of how unlike the images are once the moving one is deformed.
    embedding : of one minus the cosine of the shipped anatomical embeddings.
    labels : of one minus the soft Dice of labels at several scales.
    smoothness : of the roughness of the field that the network gives.
    known : of the distance in voxels to the true displacement, where the pairs have one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    similarity: float = Field(1.0, ge=0)
    embedding: float = Field(0.0, ge=0)
    labels: float = Field(0.0, ge=0)
    smoothness: float = Field(1.0, ge=0)
    known: float = Field(0.0, ge=0)


class DeformConfig(BaseModel):
    """A training of a deformation network.

    Attributes
    ----------
    network : voxelmorph, localnet (LabelReg), lapirn, or same (the U-Net of SAME++ with correlation features).
    ndim, size : dimension, and voxels of a training image along every axis.
    width : channels of the first level; None takes the network's own.
    velocity : whether the network gives a velocity, integrated by 7 squarings, or a displacement; None takes what was
        published: a velocity but for localnet.
    correlations : of embeddings that `same` sees: at strides 2, 4 and 8, or at the first alone, as published.
    volumes : folder of images to train on; None trains on generated scenes.
    pairs : of such a folder. views: one image seen twice through a known deformation; subjects: two images.
    spacing : mm between the voxels of such images.
    affine, bend : how strongly the views of one thing are displaced, see `roireg.train.scenes.looked_at`.
    similarity : lncc, ncc or mse; see `dissimilarity`. radius : of the windows of lncc in voxels.
    roughness : squared first or second differences.
    masks : labels of a pair that are compared, drawn at random.
    grow : steps at which the second, third, ... level of lapirn joins.
    weights : of the parts of the loss.
    train : length, speed and devices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Literal["voxelmorph", "localnet", "lapirn", "same"] = "voxelmorph"
    ndim: int = Field(2, ge=2, le=3)
    size: int = Field(96, ge=32)
    width: int | None = Field(None, ge=2)
    velocity: bool | None = None
    correlations: Literal["all", "first"] = "all"
    volumes: Path | None = None
    pairs: Literal["views", "subjects"] = "views"
    spacing: float = Field(2.0, gt=0)
    affine: float = Field(0.2, ge=0, le=1)
    bend: float = Field(2.0, ge=0)
    similarity: Similarity = "lncc"
    radius: int = Field(4, ge=1)
    roughness: Literal["diffusion", "bending"] = "diffusion"
    masks: int = Field(8, ge=1)
    grow: tuple[int, ...] = ()
    weights: Weights = Weights()
    train: TrainSettings = TrainSettings(lr=1e-3)

    @model_validator(mode="after")
    def _possible(self) -> DeformConfig:
        if self.pairs == "subjects" and self.volumes is None:
            raise ValueError("pairs of subjects need a folder of images; name it with volumes")
        if self.pairs == "subjects" and self.weights.known > 0:
            raise ValueError("no displacement between subjects is known; set weights.known to 0")
        if self.grow and self.network != "lapirn":
            raise ValueError("only lapirn has levels that join one after the other; leave grow out")
        if list(self.grow) != sorted(set(self.grow)) or len(self.grow) > 2:
            raise ValueError("grow is up to two numbers of steps, in rising order")
        if not any((self.weights.similarity, self.weights.embedding, self.weights.labels, self.weights.known)):
            raise ValueError("every part of the loss that tells where things go has weight 0; give one a weight")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What the network is built of."""
        velocity = self.network != "localnet" if self.velocity is None else self.velocity
        given: dict[str, Any] = {"ndim": self.ndim, "squarings": 7 if velocity else 0}
        if self.network == "same":
            given["everywhere"] = self.correlations == "all"
        return given if self.width is None else given | {"width": self.width}


class DeformTask(Task):
    """A deformation network, learned from pairs of images.

    Parameters
    ----------
    config : of the training.
    sources : what is trained on, and what is held out; None makes them by the configuration.

    Raises
    ------
    InputError
        When images cannot be trained on, see `roireg.train.deform_pairs.pair_sources`.
    """

    HELD_OUT = 24
    """Pairs that are looked at but never trained on."""

    network: DeformNet

    def __init__(self, config: DeformConfig, sources: tuple[PairSource, PairSource] | None = None) -> None:
        super().__init__()
        self.config = config
        trained, held_out = sources or pair_sources(
            config.volumes, subjects=config.pairs == "subjects", ndim=config.ndim, size=config.size,
            spacing=config.spacing, seed=config.train.seed, affine=config.affine, bend=config.bend,
            labelled=config.weights.labels > 0,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            self.network = build_deformer(config.network, config.settings)
        self.data = DeformBatches(trained)
        self._held_out = DeformBatches(held_out)
        self._describe = Describer(config.ndim)

    def loss(self, batch: DeformBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum of the parts of the loss, at the finest level that takes part."""
        config, weights = self.config, self.config.weights
        depth = 1 + sum(step >= first for first in config.grow) if config.grow else None
        fields = self.network.fields(batch.fixed, batch.moving, depth)
        field = fields[-1].float()
        batch = self._at_level(batch, tuple(field.shape[2:]))
        displacement = integrated(field, self.network.squarings)
        parts: dict[str, Tensor] = {}
        if weights.similarity:
            moved = warped(batch.moving, displacement)
            parts["similarity"] = _over_scales(batch.fixed, moved, len(fields), config.similarity, config.radius)
        if weights.embedding:
            parts["embedding"] = self._embeddings_apart(batch, displacement)
        if weights.labels:
            draw = torch.Generator().manual_seed(config.train.seed * 1_000_003 + step)
            masks = label_masks(batch.fixed_labels, batch.moving_labels, config.masks, draw)
            parts["labels"] = dice_distance(masks[0], warped(masks[1], displacement))
        if weights.smoothness:
            parts["smoothness"] = roughness(field, config.roughness)
        if weights.known:
            parts["known"] = known_distance(displacement, batch.displacement, batch.valid)
        total = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()
        return total, {f"loss_{name}": float(part.detach()) for name, part in parts.items()}

    def _at_level(self, batch: DeformBatch, cells: tuple[int, ...]) -> DeformBatch:
        """Return a batch in the voxels of a level of the pyramid."""
        shape = tuple(batch.fixed.shape[2:])
        if cells == shape:
            return batch
        whole = [-(-n // self.network.multiple) * self.network.multiple for n in shape]
        return batch.shrunk(whole, [n // c for n, c in zip(whole, cells, strict=True)])

    def _embeddings_apart(self, batch: DeformBatch, displacement: Tensor) -> Tensor:
        """Return the distance of embeddings: those of the moving image are looked up where the field leads."""
        shape = batch.fixed.shape[2:]
        fixed, moving = self._describe(batch.fixed), self._describe(batch.moving)
        cells = tuple(fixed.shape[2:])
        stride = [2.0 if n > 1 else 1.0 for n in reversed(shape)]
        scale = torch.tensor(stride, device=displacement.device).reshape(1, -1, *[1] * len(shape))
        padding = [p for n, c in zip(reversed(shape), reversed(cells), strict=True) for p in (0, 2 * c - n)]
        pool = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d
        coarse = pool(F.pad(displacement, padding, mode="replicate"), 2) / scale
        return cosine_distance(fixed, warped(moving, coarse))

    def held_out(self) -> dict[str, float]:
        """Measure pairs that no step sees.

        Returns
        -------
        Where the displacement is known: mean distance to it in voxels of no motion (`before`), of the affine map
        nearest to it (`affine`) and of the network (`after`). Always: the similarity loss `unlike_before` and
        `unlike`, and `folded`, the share of voxels where the field folds.
        """
        sums: dict[str, float] = {}
        device = next(self.network.parameters()).device
        for number in range(self.HELD_OUT // 4):
            batch = self._held_out.batch(number, 4).to(device)
            displacement = integrated(self.network(batch.fixed, batch.moving).float(), self.network.squarings)
            moved = warped(batch.moving, displacement)
            kind, radius = self.config.similarity, self.config.radius
            found = {
                "unlike_before": float(dissimilarity(batch.fixed, batch.moving, kind, radius=radius)),
                "unlike": float(dissimilarity(batch.fixed, moved, kind, radius=radius)),
                "folded": sum(folded_share(u) for u in displacement) / len(displacement),
            }
            if bool(batch.valid.any()):
                still = torch.zeros_like(displacement)
                found["before"] = float(known_distance(still, batch.displacement, batch.valid))
                found["affine"] = float(known_distance(*affine_rest(batch), batch.valid))
                found["after"] = float(known_distance(displacement, batch.displacement, batch.valid))
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value / (self.HELD_OUT // 4)
        return sums


def folded_share(displacement: Tensor) -> float:
    """Return the share of voxels where a (d, *shape) displacement in voxels folds."""
    grid = Grid.pixels(tuple(displacement.shape[1:]))
    determinant = jacobian_determinant(DisplacementField(grid, displacement.cpu()), grid)
    return float((determinant <= 0).float().mean())


def _over_scales(fixed: Tensor, moved: Tensor, scales: int, kind: Similarity, radius: int) -> Tensor:
    """Compare at several resolutions, each half of the one before and counting half as much (Mok and Chung 2020)."""
    total, weights = fixed.new_zeros(()), 0.0
    pool = F.avg_pool2d if fixed.ndim == 4 else F.avg_pool3d
    for k in range(scales):
        if k:
            fixed, moved = pool(fixed, 2), pool(moved, 2)
        total = total + dissimilarity(fixed, moved, kind, radius=radius) * 0.5**k
        weights += 0.5**k
    return total / weights


def train_deform(config: DeformConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train a deformation network and write `deform.safetensors` with its card; returns the card.

    Raises
    ------
    InputError
        See `DeformTask` and `roireg.train.runner.train`.
    """
    task = DeformTask(config)
    checkpoint = train(task, config.train, folder, resume=resume)
    data = "generated scenes only"
    if config.volumes is not None:
        kinds = {"views": "two views of one at a time", "subjects": "two at a time"}
        data = f"images of {config.volumes.name}, {kinds[config.pairs]}"
    about = {
        "family": config.network,
        "ndim": config.ndim,
        "squarings": config.settings["squarings"],
        "size": config.size,
        "spacing": None if config.volumes is None else config.spacing,
        "data": data,
        **record(config.train, checkpoint),
        "config": config.model_dump(mode="json"),
        "held_out": task.measured(),
    }
    return export(checkpoint, folder / "deform.safetensors", about)
