"""Pairs that a deformation network is trained on, put together to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.warp import identity_coords
from roireg.train.scenes import ScenePair, SceneSource
from roireg.train.volumes import ImageSource, SubjectSource, image_files

__all__ = ["DeformBatch", "DeformBatches", "PairSource", "affine_rest", "pair_sources"]


class PairSource(Protocol):
    """Numbered pairs without end."""

    def __getitem__(self, number: int) -> ScenePair:
        """Return a pair by its number."""
        ...


@dataclass(frozen=True, eq=False)
class DeformBatch:
    """B pairs of images.

    Attributes
    ----------
    fixed, moving : (B, 1, *shape) images in 0..1.
    displacement : (B, d, *shape) voxels, (x, y[, z]), to where the moving image shows what a fixed voxel shows.
    valid : (B, *shape) 1 where that is known, else 0.
    fixed_labels, moving_labels : (B, *shape) label maps.
    """

    fixed: Tensor
    moving: Tensor
    displacement: Tensor
    valid: Tensor
    fixed_labels: Tensor
    moving_labels: Tensor

    def to(self, device: torch.device) -> DeformBatch:
        """Return the batch on another device."""
        return DeformBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def shrunk(self, whole: Sequence[int], factors: Sequence[int]) -> DeformBatch:
        """Return the batch in voxels `factors` times as long, after the border was repeated up to `whole`."""
        shape = self.fixed.shape[2:]
        padding = [p for n, m in zip(reversed(shape), reversed(whole), strict=True) for p in (0, m - n)]
        pool = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d
        window = tuple(factors)

        def mean(x: Tensor) -> Tensor:
            return pool(F.pad(x, padding, mode="replicate"), window)

        def middle(x: Tensor) -> Tensor:
            wide = F.pad(x[:, None].float(), padding, mode="replicate")[:, 0].to(x.dtype)
            return wide[(slice(None), *(slice(f // 2, None, f) for f in factors))]

        length = torch.tensor([float(f) for f in reversed(factors)], device=self.fixed.device)
        return replace(
            self,
            fixed=mean(self.fixed),
            moving=mean(self.moving),
            displacement=mean(self.displacement) / length.reshape(1, -1, *[1] * len(shape)),
            valid=middle(self.valid),
            fixed_labels=middle(self.fixed_labels),
            moving_labels=middle(self.moving_labels),
        )


class DeformBatches:
    """Batches of pairs by number."""

    def __init__(self, pairs: PairSource) -> None:
        self.pairs = pairs

    def batch(self, number: int, size: int) -> DeformBatch:
        """Return a batch; see `BatchSource`."""
        pairs = [self.pairs[number * size + k] for k in range(size)]
        shape = tuple(pairs[0].valid.shape)
        base = identity_coords(shape, torch.device("cpu"))
        moved = torch.stack([p.moving_from_fixed.flip(-1) - base for p in pairs]).movedim(-1, 1)
        return DeformBatch(
            torch.stack([p.fixed for p in pairs]),
            torch.stack([p.moving for p in pairs]),
            moved.contiguous(),
            torch.stack([p.valid for p in pairs]).float(),
            torch.stack([p.fixed_labels for p in pairs]),
            torch.stack([p.moving_labels for p in pairs]),
        )


def affine_rest(batch: DeformBatch) -> tuple[Tensor, Tensor]:
    """Return the displacement of the affine map nearest to the known one, pair by pair, and the known one.

    Least squares over the valid voxels; no registration that ends with an affine map can do better.
    """
    shape = tuple(batch.valid.shape[1:])
    base = identity_coords(shape, batch.fixed.device).flatten(0, -2)
    ones = torch.cat([base, torch.ones_like(base[:, :1])], 1).double()
    nearest = []
    for known, valid in zip(batch.displacement, batch.valid, strict=True):
        inside = valid.flatten() > 0
        x, y = ones[inside], known.flatten(1).T[inside].double()
        nearest.append((ones @ (torch.linalg.pinv(x.T @ x) @ (x.T @ y))).T.reshape(known.shape))
    return torch.stack(nearest).float(), batch.displacement


def pair_sources(
    volumes: Path | None,
    *,
    subjects: bool,
    ndim: int,
    size: int,
    spacing: float,
    seed: int,
    affine: float,
    bend: float,
    labelled: bool,
) -> tuple[PairSource, PairSource]:
    """Return the pairs to train on, and others of the same kind that are held out.

    Parameters
    ----------
    volumes : folder of images; None generates scenes.
    subjects : take two images at a time instead of one that is seen twice.
    ndim, size, spacing, seed, affine, bend : see `DeformConfig`.
    labelled : the loss compares labels.

    Raises
    ------
    InputError
        When the folder cannot be trained on, has no label map where the loss compares labels, or has a single image
        where two are taken at a time.
    """
    if volumes is None:
        return (
            SceneSource(ndim, size, seed=seed, affine=affine, bend=bend),
            SceneSource(ndim, size, stream="held out", affine=affine, bend=bend),
        )
    files = image_files(volumes)
    if labelled and not any(labels is not None for _, labels in files):
        raise InputError(
            f"{volumes}: has no label map, but the loss compares labels; put them into {volumes / 'labels'} under "
            "the names of their images, or set weights.labels to 0"
        )
    if subjects and len(files) < 2:
        raise InputError(f"{volumes}: has one image, but two are taken at a time; add others, or set pairs to views")
    if subjects:
        held = SubjectSource(files, ndim=ndim, size=size, spacing=spacing, seed=seed)
        return held, held.other("held out")
    views = ImageSource(files, ndim=ndim, size=size, spacing=spacing, seed=seed, affine=affine, bend=bend)
    return views, views.other("held out")
