"""How alike the regions of two images are: prototype cosine, and region descriptors for images without an encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.masks import dilated
from roireg.core.rois import ROISet
from roireg.match.prototypes import prototypes, resize_masks, weighted_mean

__all__ = [
    "DescriptorWeights",
    "RegionDescriptors",
    "appearance",
    "cosine_similarity",
    "describe",
    "descriptor_similarity",
]


def cosine_similarity(fixed: Tensor, moving: Tensor) -> Tensor:
    """(M, F) cosine between (F, C) fixed and (M, C) moving prototypes; 0 where a prototype is 0.

    Raises
    ------
    InputError
        When the prototypes differ in their number of channels.
    """
    if moving.shape[1] != fixed.shape[1]:
        raise InputError(
            f"moving and fixed features need the same channels, found {moving.shape[1]} and {fixed.shape[1]}"
        )
    a = moving / moving.norm(dim=1, keepdim=True).clamp(min=1e-12)
    b = fixed / fixed.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return a @ b.T


@dataclass(frozen=True, eq=False)
class RegionDescriptors:
    """What is known of K regions besides their exact shape.

    Attributes
    ----------
    inside : (K, C) mean feature in the region.
    spread : (K, C) standard deviation of the features in the region.
    context : (K, C) mean feature in a ring around the region minus `inside`.
    size : (K,) log of the region's radius relative to that of the whole image.
    elongation : (K, d - 1) logs of the ratios of successive principal standard deviations, longest first.
    position : (K, d) world centroid relative to the centre of the image, in image radii.
    embedding : (K, E) mean anatomical embedding in the region, length 1; None where it was not asked for.
    """

    inside: Tensor
    spread: Tensor
    context: Tensor
    size: Tensor
    elongation: Tensor
    position: Tensor
    embedding: Tensor | None = None


class DescriptorWeights(BaseModel):
    """How many standard deviations a difference of regions counts, per part; 0 leaves a part out.

    `inside`, `spread` and `context` are in units of the spread of the value over all regions of both images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inside: float = Field(1.0, ge=0, description="weight of the mean feature in the region")
    spread: float = Field(0.5, ge=0, description="weight of the standard deviation of the features in the region")
    context: float = Field(0.7, ge=0, description="weight of the mean feature in a ring around the region")
    size: float = Field(2.0, ge=0, description="weight of a factor e in radius")
    elongation: float = Field(1.0, ge=0, description="weight of a factor e in the ratio of two axes")
    position: float = Field(1.5, ge=0, description="weight of one image radius between centroids")
    embedding: float = Field(
        0.0, ge=0, description="weight of the cosine of the anatomical embedding; above 0 a network is asked"
    )


def describe(
    features: Image, rois: ROISet, *, embedding: Image | None = None, ring: float = 0.03
) -> RegionDescriptors:
    """Describe regions on a feature map.

    Parameters
    ----------
    features : (C, *shape) features, any grid over the same world as the regions.
    rois : K regions.
    embedding : (E, *shape) unit vectors on any grid over the same world; None leaves them out.
    ring : thickness of the surrounding ring as a fraction of the geometric mean extent of the feature grid.

    Returns
    -------
    Descriptors on the CPU, float32.
    """
    grid = features.grid
    d = grid.ndim
    inside, spread, context = appearance(features, rois, ring=ring)
    image_radius = float(np.prod(grid.extent) ** (1 / d))
    size = np.log(np.maximum(rois.volumes, 1e-30) ** (1 / d) / image_radius)
    eigen = np.linalg.eigvalsh(rois.covariances)[:, ::-1]
    elongation = 0.5 * np.log(eigen[:, :-1] / eigen[:, 1:])
    position = (rois.centroids - grid.center) / image_radius
    means = None if embedding is None else F.normalize(prototypes(embedding, rois), dim=1).cpu()
    return RegionDescriptors(inside, spread, context, _tensor(size), _tensor(elongation), _tensor(position), means)


def appearance(features: Image, rois: ROISet, *, ring: float = 0.03) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `inside`, `spread` and `context` of `RegionDescriptors`, see `describe`."""
    grid, data = features.grid, features.data.float()
    weights = resize_masks(rois, grid).to(data.device)
    inside = weighted_mean(data, weights)
    spread = (weighted_mean(data**2, weights) - inside**2).clamp(min=0).sqrt()
    long = np.array(grid.shape) > 1
    extent = float(np.exp(np.log(grid.extent[long]).mean())) if long.any() else float(grid.extent.max())
    radius = [max(1, round(ring * extent / s)) for s in grid.spacing]
    occupied = weights.clamp(max=1)
    around = dilated(weights > 0, radius) * (1 - occupied)
    context = weighted_mean(data, around)
    empty = around.flatten(1).sum(1, keepdim=True) <= 1e-6
    context = torch.where(empty, torch.zeros_like(inside), context - inside)
    return inside.cpu(), spread.cpu(), context.cpu()


def _tensor(array: NDArray[np.float64]) -> Tensor:
    return torch.as_tensor(array.copy(), dtype=torch.float32)


def descriptor_similarity(
    fixed: RegionDescriptors, moving: RegionDescriptors, *, weights: DescriptorWeights | None = None
) -> Tensor:
    """(M, F) similarity in (0, 1]: exp(-d^2 / 2), d^2 the weighted sum of squared differences of all parts.

    Appearance parts are averaged over channels, so that their number does not outweigh the shape. Of embeddings it is
    the squared distance of unit vectors, twice one minus their cosine; they count where both sides have them.

    Raises
    ------
    InputError
        When both sides differ in channels or dimension.
    """
    w = weights or DescriptorWeights()
    if moving.inside.shape[1] != fixed.inside.shape[1] or moving.position.shape[1] != fixed.position.shape[1]:
        raise InputError(
            f"descriptors of both images need the same channels and dimension, found "
            f"{moving.inside.shape[1]} and {fixed.inside.shape[1]} channels, "
            f"{moving.position.shape[1]}D and {fixed.position.shape[1]}D"
        )
    distance = torch.zeros(len(moving.size), len(fixed.size))
    for name in ("inside", "spread", "context"):
        a, b = getattr(moving, name), getattr(fixed, name)
        unit = torch.cat([a, b]).std(0, correction=0).clamp(min=1e-6) if len(a) + len(b) else a.new_ones(a.shape[1])
        difference = (a[:, None] - b[None]) / unit
        distance += (getattr(w, name) ** 2) * difference.square().mean(-1)
    distance += (w.size * (moving.size[:, None] - fixed.size[None])) ** 2
    distance += w.elongation**2 * (moving.elongation[:, None] - fixed.elongation[None]).square().mean(-1)
    distance += w.position**2 * (moving.position[:, None] - fixed.position[None]).square().sum(-1)
    if w.embedding > 0 and moving.embedding is not None and fixed.embedding is not None:
        distance += 2 * w.embedding * (1 - moving.embedding @ fixed.embedding.T)
    return torch.exp(-distance / 2)
