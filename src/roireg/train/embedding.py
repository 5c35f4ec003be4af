"""Pre-training of the anatomical embedding on generated scenes or on a folder of volumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.seeds import generator
from roireg.models.checkpoint import copied, read_tensors, shapes_of
from roireg.models.embedding_network import STRIDES, EmbeddingNet, joined_maps
from roireg.models.registry import resolve
from roireg.train.export import export
from roireg.train.inflate import inflated
from roireg.train.losses import described, info_nce
from roireg.train.points import PointBatch, point_batch
from roireg.train.runner import Task, TrainSettings, record, train
from roireg.train.scenes import ScenePair, SceneSource
from roireg.train.volumes import ImageSource, image_files

__all__ = ["EmbeddingConfig", "EmbeddingTask", "PairBatches", "train_embedding"]


class EmbeddingConfig(BaseModel):
    """A training of the embedding.

    Attributes
    ----------
    ndim, size : dimension of the network, and voxels of a training image along every axis.
    widths, dim : see `EmbeddingNet`.
    start : weights to begin with, by name or path, of the same widths; those of pictures are made ones of volumes
        (`inflated`). None begins with random ones.
    volumes : folder of images to train on, two crops of one at a time; None trains on generated scenes.
    spacing : mm between the voxels of the crops of volumes.
    points : corresponding points per pair.
    radius : voxels around a counterpart in which nothing counts as wrong, at strides 2, 4 and 8.
    hard, diverse : negatives of the same image and of others.
    cells : of a map, among which hard negatives are looked for.
    ramp : steps in which that number grows from `hard`: small batches of volumes learn nothing from the hardest
        negatives at first.
    temperature : of the loss.
    train : length, speed and devices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ndim: int = Field(2, ge=2, le=3)
    size: int = Field(128, ge=32)
    widths: tuple[int, int, int, int] = (24, 40, 72, 128)
    dim: int = Field(32, ge=4)
    start: str | None = None
    volumes: Path | None = None
    spacing: float = Field(2.0, gt=0)
    points: int = Field(96, ge=4)
    radius: tuple[float, float, float] = (3.0, 5.0, 9.0)
    hard: int = Field(256, ge=1)
    diverse: int = Field(256, ge=0)
    cells: int = Field(2048, ge=16)
    ramp: int = Field(0, ge=0)
    temperature: float = Field(0.07, gt=0)
    train: TrainSettings = TrainSettings()


class PairSource(Protocol):
    """Numbered pairs without end."""

    def __getitem__(self, number: int) -> ScenePair:
        """Return a pair by its number."""
        ...


class PairBatches:
    """Batches of pairs with their points.

    Parameters
    ----------
    pairs : where they come from.
    points : of every pair.
    seed : of the points.
    """

    def __init__(self, pairs: PairSource, points: int, seed: int) -> None:
        self.pairs, self.points, self.seed = pairs, points, seed

    def batch(self, number: int, size: int) -> PointBatch:
        """Return a batch; see `BatchSource`."""
        rng = generator(self.seed, stream=f"points {number}")
        return point_batch([self.pairs[number * size + k] for k in range(size)], rng, self.points)


class EmbeddingTask(Task):
    """InfoNCE at every stride, from the fixed to the moving image and back.

    Parameters
    ----------
    config : of the training.
    pairs : what is trained on; None generates scenes.
    """

    HELD_OUT = 24
    """Pairs that are looked at but never trained on."""

    def __init__(self, config: EmbeddingConfig, pairs: PairSource | None = None) -> None:
        super().__init__()
        seed = config.train.seed
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: Any = EmbeddingNet(config.ndim, config.widths, config.dim)
        if config.start is not None:
            network.load_state_dict(_begun(config.start, config.ndim, network.state_dict()))
        layout: Any = torch.channels_last if config.ndim == 2 else torch.channels_last_3d
        self.network = network.to(memory_format=layout)
        self.data = PairBatches(pairs or SceneSource(config.ndim, config.size, seed=seed), config.points, seed)
        self._held_out = PairBatches(SceneSource(config.ndim, config.size, stream="held out"), config.points, 0)

    def loss(self, batch: PointBatch, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the mean InfoNCE over strides and directions."""
        config, shape = self.config, tuple(batch.fixed.shape[2:])
        count = len(batch.fixed)
        maps = self.network(torch.cat([batch.fixed, batch.moving]))
        rng = torch.Generator().manual_seed(config.train.seed * 1_000_003 + step)
        grown = min(1.0, step / config.ramp) if config.ramp else 1.0
        sought = round(config.hard + (config.cells - config.hard) * grown)
        losses: list[Tensor] = []
        for features, radius in zip(maps, config.radius, strict=True):
            features = features.float()
            fixed, moving = features[:count], features[count:]
            here = described(fixed, batch.fixed_points, shape)
            there = described(moving, batch.moving_points, shape)
            number = features.shape[2:].numel()
            cells = torch.randperm(number, generator=rng)[:sought].to(features.device)
            for query, positive, places, image in (
                (here, there, batch.moving_points, moving),
                (there, here, batch.fixed_points, fixed),
            ):
                losses.append(
                    info_nce(
                        query, positive, places, image, shape, cells=cells, radius=radius, hard=config.hard,
                        diverse=config.diverse, temperature=config.temperature,
                    )
                )  # fmt: skip
        parts = {f"loss_{s}": float((losses[2 * k] + losses[2 * k + 1]).detach()) / 2 for k, s in enumerate(STRIDES)}
        return torch.stack(losses).mean(), parts

    def held_out(self) -> dict[str, float]:
        """Match points of held-out scenes to the nearest cell: how many land near, and in the right label."""
        near, right, total = 0, 0, 0
        device = next(self.network.parameters()).device
        for number in range(self.HELD_OUT // 4):
            batch = self._held_out.batch(number, 4).to(device)
            shape = tuple(batch.fixed.shape[2:])
            maps = self.network(torch.cat([batch.fixed, batch.moving]))
            joined = joined_maps(maps)
            queries = described(joined[:4], batch.fixed_points, shape)
            best = (queries @ joined[4:].flatten(2)).argmax(2)
            cells = tuple(joined.shape[2:])
            index = torch.stack(torch.unravel_index(best, cells), dim=-1).float()
            step = torch.tensor([n / m for n, m in zip(shape, cells, strict=True)])
            places = (index + 0.5) * step - 0.5
            error = (places - batch.moving_points).norm(dim=-1)
            near += int((error < 0.05 * max(shape) * len(shape) ** 0.5).sum())
            whole = places.round().long()
            for k in range(4):
                labels = batch.moving_labels[k][tuple(whole[k].unbind(-1))]
                right += int((labels == batch.fixed_codes[k]).sum())
            total += error.numel()
        return {"near": near / total, "label": right / total}


def _begun(name: str, ndim: int, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights to begin with.

    Raises
    ------
    InputError
        When there are none of this name, or they are of a network of other widths.
    """
    card, path = resolve(name)
    assert path is not None  # no embedding runs on a server
    weights = {key: copied(value) for key, value in read_tensors(path).items()}
    if card.ndim < ndim:
        weights = inflated(weights)
    if shapes_of(weights) != shapes_of(own):
        raise InputError(f"{path}: cannot begin this training, its network has another dimension or other widths")
    return weights


def train_embedding(config: EmbeddingConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train an embedding and write `embedding.safetensors` with its card; returns the card.

    Raises
    ------
    InputError
        See `roireg.train.runner.train` and `roireg.train.volumes.ImageSource`.
    """
    pairs: PairSource | None = None
    data = "generated scenes only"
    if config.volumes is not None:
        files = image_files(config.volumes)
        pairs = ImageSource(files, ndim=config.ndim, size=config.size, spacing=config.spacing, seed=config.train.seed)
        data = f"{len(files)} images of {config.volumes.name}, two crops of one at a time"
    task = EmbeddingTask(config, pairs)
    checkpoint = train(task, config.train, folder, resume=resume)
    about = {
        "data": data,
        **record(config.train, checkpoint),
        "config": config.model_dump(mode="json"),
        "held_out": task.measured(),
    }
    return export(checkpoint, folder / "embedding.safetensors", about)
