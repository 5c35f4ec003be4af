"""The anatomical embedding as features, alone and beside intensities and MIND-SSC.

The network ships with the package and was trained on generated scenes alone (docs/embedding.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import resample
from roireg.features.intensity import IntensityFeatures, normalise_intensity
from roireg.features.mind import MindFeatures
from roireg.models.anatomical import EmbeddingModel
from roireg.models.embedding_network import joined_maps
from roireg.models.registry import load

__all__ = ["EmbeddingFeatures", "FusedFeatures", "embedding_features", "fused_features"]

LONGEST = {2: 128, 3: 96}
"""Voxels along the longest axis of an image that the network sees, where no spacing is given."""

ROUNDING = 2e-6
"""Differences of intensities, as a part of the largest, that resampling makes in a constant image."""


@dataclass(frozen=True, eq=False)
class EmbeddingFeatures:
    """Unit vectors that say what a voxel is part of, near (stride 2), around (stride 4) and far (stride 8).

    The image is brought to isotropic voxels along the world axes first, so spacing and storage order do not matter.
    Voxels that are no number are shown dark.

    Parameters
    ----------
    models : the network for 2D and the one for 3D images.
    spacing : mm between the voxels that the network sees; None makes the longest axis `LONGEST` voxels. Images of one
        pair with fields of view of very different size need the same spacing.
    weights : of the three maps where they are joined.
    """

    models: dict[int, EmbeddingModel]
    spacing: float | None = None
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __call__(self, image: Image, grid: Grid) -> Image:
        """Return the (96, *grid.shape) joined features; dot products are mean cosines, vectors have length 1.

        Raises
        ------
        InputError
            When no value of the image is finite.
        """
        maps = self.maps(image)
        joined = joined_maps([m.data[None] for m in maps], self.weights)[0]
        return image.with_data(unit(resample(maps[0].with_data(joined), grid).data), grid)

    def maps(self, image: Image) -> tuple[Image, Image, Image]:
        """Return the (32, *cells) maps at strides 2, 4 and 8, each on its own grid in the world of the image.

        The axes of these grids are those of the world (storage order z, y, x), whatever the order of the image.

        Raises
        ------
        InputError
            When no value of the image is finite.
        """
        seen = shown(image, self.spacing)
        model = self.models[image.ndim]
        out = []
        for stride, data in zip((2, 4, 8), model.maps(seen.data), strict=True):
            cells = tuple(data.shape[1:])
            padded = seen.grid.padded(
                [0] * seen.ndim, [c * stride - n for c, n in zip(cells, seen.grid.shape, strict=True)]
            )
            out.append(image.with_data(data.to(image.data.device), padded.with_shape(cells)))
        return out[0], out[1], out[2]


@dataclass(frozen=True, eq=False)
class FusedFeatures:
    """The embedding, multi-scale intensities and MIND-SSC at four radii, as one vector of length 1.

    The product of two such vectors is the weighted mean of three cosines: what one descriptor confuses, another keeps
    apart.

    Parameters
    ----------
    embedding : see `EmbeddingFeatures`.
    weights : of the embedding, the intensities and MIND.
    radii : of MIND, in smallest voxels of the grid.
    """

    embedding: EmbeddingFeatures
    weights: tuple[float, float, float] = (8.0, 2.0, 1.0)
    radii: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    intensity: IntensityFeatures = field(default_factory=lambda: IntensityFeatures(position=0.0))

    def __call__(self, image: Image, grid: Grid) -> Image:
        """Return the (C, *grid.shape) features.

        Raises
        ------
        InputError
            When no value of the image is finite.
        """
        known = without_gaps(image)
        step = float(grid.spacing.min())
        parts = [
            self.embedding(known, grid).data,
            unit(self.intensity(known, grid).data),
            unit(torch.cat([MindFeatures(radius=r * step, centred=True)(known, grid).data for r in self.radii])),
        ]
        shares = np.sqrt(np.array(self.weights) / sum(self.weights))
        return image.with_data(torch.cat([float(s) * p for s, p in zip(shares, parts, strict=True)]), grid)


def unit(data: Tensor) -> Tensor:
    """Return (C, *shape) features of length 1; a vector of zeros stays one."""
    return F.normalize(data.float(), dim=0)


def without_gaps(image: Image) -> Image:
    """Return the gray image with its lowest finite value where there is none.

    Raises
    ------
    InputError
        When no value is finite.
    """
    gray = image.gray()
    finite = torch.isfinite(gray.data) if gray.data.is_floating_point() else torch.ones(1, dtype=torch.bool)
    if bool(finite.all()):
        return gray
    if not bool(finite.any()):
        raise InputError(f"{image.name}: has no finite value; check the file")
    return gray.with_data(torch.where(finite, gray.data, gray.data[finite].min()))


def shown(image: Image, spacing: float | None = None) -> Image:
    """Return what the network sees: isotropic voxels along the world axes, intensities from 0 to 1.

    Parameters
    ----------
    spacing : mm; None makes the longest axis `LONGEST` voxels. Never above 8 times `LONGEST`.
    """
    gray = without_gaps(image)
    turned = world_ordered(gray.grid)
    longest = float(turned.extent.max())
    limit = LONGEST[gray.ndim]
    step = longest / limit if spacing is None else max(spacing, longest / (8 * limit))
    seen = resample(gray, turned.with_spacing(step))
    return seen.with_data(shown_values(seen.data))


def shown_values(data: Tensor) -> Tensor:
    """Return intensities from 0 to 1, see `normalise_intensity`; 0 where they differ by no more than rounding."""
    low, high = float(data.min()), float(data.max())
    if high - low <= ROUNDING * max(abs(low), abs(high)):
        return torch.zeros_like(data)
    return normalise_intensity(data)


def world_ordered(grid: Grid) -> Grid:
    """Return the grid of the same voxels with axes in the order and direction nearest to (z, y, x) of the world."""
    d = grid.ndim
    along = np.abs(grid.direction)  # (world x, y, z; storage axis)
    order = [0] * d
    free = along.copy()
    for _ in range(d):
        world, axis = np.unravel_index(int(free.argmax()), free.shape)
        order[d - 1 - int(world)] = int(axis)
        free[world], free[:, axis] = -1, -1
    index_from_new = np.zeros((d + 1, d + 1))
    index_from_new[d, d] = 1
    for new, old in enumerate(order):
        backward = grid.direction[d - 1 - new, old] < 0
        index_from_new[old, new] = -1 if backward else 1
        index_from_new[old, d] = grid.shape[old] - 1 if backward else 0
    return Grid(tuple(grid.shape[a] for a in order), grid.affine @ index_from_new)


@lru_cache(maxsize=4)
def _shipped(ndim: int) -> EmbeddingModel:
    model = load(f"embedding-{ndim}d", "features")
    assert isinstance(model, EmbeddingModel)
    return model


def embedding_features(
    *,
    spacing: float | None = None,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    model: str | Path | None = None,
    device: str = "cpu",
) -> EmbeddingFeatures:
    """Build `EmbeddingFeatures`; the registry's "embedding".

    Parameters
    ----------
    spacing, weights : see `EmbeddingFeatures`.
    model : weights of one's own (`roireg train embedding`) in place of the shipped ones of their dimension.
    device : that the network computes on, for weights of one's own.

    Raises
    ------
    InputError
        When the weights cannot be read or are those of another network.
    """
    models = {2: _shipped(2), 3: _shipped(3)}
    if model is not None:
        own = load(model, "features", device=device)
        if not isinstance(own, EmbeddingModel):
            raise InputError(f"{model}: holds a {own.card.family}, no anatomical embedding; use the features `model`")
        models[own.card.ndim] = own
    return EmbeddingFeatures(models, spacing, weights)


def fused_features(
    *, weights: tuple[float, float, float] = (8.0, 2.0, 1.0), spacing: float | None = None, **embedding: object
) -> FusedFeatures:
    """Build `FusedFeatures`; the registry's "fused".

    Parameters
    ----------
    weights : of embedding, intensities and MIND.
    spacing, embedding : see `embedding_features`.
    """
    return FusedFeatures(embedding_features(spacing=spacing, **embedding), weights)  # type: ignore[arg-type]
