"""The inside of a network as features: the embedding of Segment Anything, DINO patches, descriptors of pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent, silent
from roireg.core.warp import block_means, resample
from roireg.features.base import FeatureExtractor, available_extractors, registered_extractor
from roireg.models.base import DenseEncoder, Embedding
from roireg.models.cache import EmbeddingCache, shared_cache
from roireg.models.preprocess import VolumeInput, Window
from roireg.models.rasters import raster_of, slice_axis, slice_image, volume_window
from roireg.models.registry import is_model_name, load, resolve

__all__ = ["EncoderFeatures", "encoder_features", "feature_grid", "make_extractor"]


def feature_grid(embedding: Embedding, grid: Grid) -> Grid:
    """Return where the cells of an embedding lie that show its raster, given the grid of the raster.

    Cells at the far ends may be shown in part only; their centre can be outside the image.
    """
    index_from_cell = np.eye(grid.ndim + 1)
    index_from_cell[:-1, :-1] = np.diag(1 / embedding.scale)
    index_from_cell[:-1, -1] = -embedding.offset / embedding.scale
    return Grid(embedding.covered, grid.affine @ index_from_cell)


@dataclass(frozen=True, eq=False)
class EncoderFeatures:
    """Dense features of a network, on the grid of its own cells.

    Where the cells are finer than the grid asked for by whole factors, they are means over blocks of that size.
    Volumes and a 2D network: the features of the slices are stacked. Where the grid asked for is coarser than
    the slices are apart, only every n-th slice is encoded.

    Parameters
    ----------
    model : a loaded network.
    layer : the map after this block of the encoder, -1 the last; None takes the final map, which a segmenter of the
        same network and cache has computed already.
    window : how intensities become 0..255, see `roireg.models.preprocess.to_raster`; give segmenter and features
        the same one.
    axis : storage axis along which volumes are cut for a 2D network; None takes the coarsest.
    cache : where embeddings are kept; the default is shared by the process.
    progress : told after every slice.
    """

    model: DenseEncoder
    layer: int | None = None
    window: Window = None
    axis: int | None = None
    cache: EmbeddingCache = field(default_factory=shared_cache, repr=False)
    progress: Progress = field(default=silent, repr=False)

    def __call__(self, image: Image, grid: Grid) -> Image:
        """Return the (C, *cells) features of an image on the grid of the cells; `grid` limits slices and cells.

        Raises
        ------
        GeometryError
            When a 2D image meets a network for volumes, or image and grid differ in dimension.
        InputError
            When the network has no such layer, or the image has no finite value.
        """
        if image.ndim != grid.ndim or image.ndim < self.model.card.ndim:
            raise GeometryError(
                f"{image.name}: features of {self.model.card.name} take images of {self.model.card.ndim} or more "
                f"axes on a grid of as many, found a {image.ndim}D image and a {grid.ndim}D grid"
            )
        if image.ndim == self.model.card.ndim:
            return image.with_data(*self._features(image, self.window, grid.spacing))
        return self._of_slices(image, grid)

    def _features(self, image: Image, window: Window, spacing: NDArray[np.float64]) -> tuple[Tensor, Grid]:
        """Return features and cells, these as near to `spacing` (mm, smallest voxel side counts) as blocks allow."""
        volume = getattr(self.model, "volume", None)
        if isinstance(volume, VolumeInput) and volume.patch is None and volume.spacing is not None:
            # Seen as coarse as is asked for, but never finer than in its training.
            image = resample(image, image.grid.with_spacing(max(volume.spacing, float(spacing.min()))))
        raster, grid = raster_of(image, window=window)
        embedding = self.cache.encode_dense(self.model, raster, layer=self.layer)
        shown = embedding.tensors["image"][0]
        for axis, cells in enumerate(embedding.covered, start=1):
            shown = shown.narrow(axis, 0, cells)
        whole = feature_grid(embedding, grid)
        block = np.maximum(np.floor(float(spacing.min()) / whole.spacing + 1e-6), 1).astype(int)
        means = block_means(image.with_data(shown.float().to(image.data.device), whole), block)
        return means.data, means.grid

    def _of_slices(self, image: Image, grid: Grid) -> Image:
        axis = slice_axis(image.grid, self.axis)
        window = volume_window(image, window=self.window)
        count = image.grid.shape[axis]
        step = _slice_step(image.grid, grid, axis)
        slices = range((count - 1) % step // 2, count, step)
        maps: list[Tensor] = []
        for number, index in enumerate(slices, start=1):
            data, cells = self._features(slice_image(image, axis, index), window, grid.spacing)
            maps.append(data)
            self.progress(ProgressEvent("encoding slices", number / len(slices)))
        # Slices have a world of their own; their index, though, is that of the volume without its slice axis.
        within_slice = [a for a in range(3) if a != axis]
        plane = slice_image(image, axis, 0).grid
        index_from_cell = np.eye(4)
        within = np.linalg.inv(plane.affine) @ cells.affine
        index_from_cell[np.ix_(within_slice, within_slice)] = within[:-1, :-1]
        index_from_cell[within_slice, 3] = within[:-1, -1]
        index_from_cell[axis, axis], index_from_cell[axis, 3] = step, slices.start
        stacked = torch.stack(maps, dim=axis + 1)
        return image.with_data(stacked, Grid(tuple(stacked.shape[1:]), image.grid.affine @ index_from_cell))


def _slice_step(volume: Grid, grid: Grid, axis: int) -> int:
    """Return how many slices one voxel of the grid asked for spans along the slice axis, at least 1."""
    per_voxel = np.abs(np.linalg.inv(volume.affine[:-1, :-1]) @ grid.affine[:-1, :-1])[axis].max()
    return int(np.clip(np.floor(per_voxel + 1e-6), 1, volume.shape[axis]))


def encoder_features(
    model: str | Path | DenseEncoder,
    *,
    profile: str = "balanced",
    device: str = "cpu",
    input_size: int | None = None,
    layer: int | None = None,
    window: Window = None,
    axis: int | None = None,
    cache: EmbeddingCache | None = None,
) -> EncoderFeatures:
    """Build `EncoderFeatures` from a loaded network, or from the name or path of one; the registry's "model".

    Parameters
    ----------
    model : a loaded network, or the name or path of one.
    profile, device, input_size : see `roireg.models.load`; for names only. With those of the
        segmenter both share embeddings.
    layer, window, axis, cache : see `EncoderFeatures`.

    Raises
    ------
    InputError
        When the profile or the network is unknown, its weights are not on this disk, or it gives no dense features.
    """
    if isinstance(model, str | Path):
        model = load(model, "features", profile=profile, device=device, input_size=input_size)
    if not isinstance(model, DenseEncoder):
        raise InputError(f"features come from a network with `encode_dense`, found {type(model).__name__}")
    return EncoderFeatures(model, layer=layer, window=window, axis=axis, cache=cache or shared_cache())


def make_extractor(name: str, **params: object) -> FeatureExtractor:
    """Build a feature extractor by name: a registered one, or the features of a network by its name or path.

    Parameters
    ----------
    name : see `available_extractors` and `roireg.models.load`.
    params : of the registered extractor, or of `encoder_features`.

    Raises
    ------
    InputError
        When there is neither, a parameter does not exist, or the weights are not on this disk or give no features.
    """
    if name in available_extractors():
        return registered_extractor(name, **params)
    if is_model_name(name):
        _, place = resolve(name)
        changed = 0 if place is None else place.stat().st_mtime_ns
        return _of_network(name, str(place), changed, **params)
    raise InputError(
        f"feature extractor {name!r} is unknown; use one of {', '.join(available_extractors())}, or a network with "
        "features (see `roireg models list`)"
    )


@lru_cache(maxsize=2)
def _of_network(name: str, place: str, changed: int, **params: object) -> EncoderFeatures:
    """Return the features of a network; kept, as levels of a fit ask again. `place`, `changed`: of its weights."""
    return encoder_features(name, **params)  # type: ignore[arg-type]
