"""The contrastive loss of the embedding: what is the same place in both images against what is not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from roireg.core.warp import sample

__all__ = ["described", "info_nce"]


def described(maps: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the unit descriptors of points.

    Parameters
    ----------
    maps : (B, C, *cells) over images of `shape`.
    places : (B, N, d) voxel indices in the images, components in storage order.

    Returns
    -------
    (B, N, C), interpolated between cells and of length 1.
    """
    stride = torch.tensor([n / m for n, m in zip(shape, maps.shape[2:], strict=True)], dtype=places.dtype)
    at = (places + 0.5) / stride.to(places.device) - 0.5
    ones = [1] * (len(shape) - 1)
    batch, count, d = places.shape
    values = sample(maps, at.flip(-1).reshape(batch, count, *ones, d).to(maps.dtype))
    return F.normalize(values.reshape(batch, -1, count).transpose(1, 2), dim=2)


def info_nce(
    queries: Tensor,
    positives: Tensor,
    places: Tensor,
    maps: Tensor,
    shape: tuple[int, ...],
    *,
    cells: Tensor,
    radius: float,
    hard: int,
    diverse: int,
    temperature: float,
) -> Tensor:
    """InfoNCE with hard negatives of the same image and diverse ones of the others (Yan et al., IEEE TMI 2022).

    For every query the score of its counterpart stands against those of the `hard` most similar cells of the same
    image that are further away than `radius`, and of `diverse` cells of the next image of the batch, whatever they
    show.

    Parameters
    ----------
    queries, positives : (B, N, C) unit descriptors of the same N points in either image.
    places : (B, N, d) voxel indices of the positives, components in storage order.
    maps : (B, C, *cells) descriptors of the images that the positives are of, whose size is `shape`.
    cells : (M,) flat indices of the cells among which negatives are looked for.
    radius : in voxels.
    temperature : that scores are divided by.

    Returns
    -------
    The mean cross-entropy over points.
    """
    d = len(shape)
    candidates = maps.flatten(2)[:, :, cells]
    centres = _centres(tuple(maps.shape[2:]), shape).to(places)[cells]
    scores = queries @ candidates
    near = torch.cdist(places, centres.expand(len(places), -1, d)) < radius
    scores = scores.masked_fill(near, -2.0)
    hardest = scores.topk(min(hard, scores.shape[2]), dim=2).values
    own = (queries * positives).sum(2, keepdim=True)
    logits = [own, hardest]
    if len(maps) > 1 and diverse:
        logits.append(queries @ candidates.roll(1, 0)[:, :, :diverse])
    together = torch.cat(logits, dim=2).float() / temperature
    return F.cross_entropy(together.flatten(0, 1), together.new_zeros(together.shape[:2].numel(), dtype=torch.long))


def _centres(cells: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """(M, d) voxel indices of the centres of cells, in the flat order of a map."""
    axes = [(torch.arange(m) + 0.5) * n / m - 0.5 for m, n in zip(cells, shape, strict=True)]
    return torch.stack([a.reshape(-1) for a in torch.meshgrid(*axes, indexing="ij")], dim=-1)
