"""The segmenter and the features that the settings name: the embedded ones, or those of one network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.progress import Progress, ProgressEvent
from roireg.features import FeatureExtractor, make_extractor
from roireg.models.base import DenseEncoder, PromptableModel
from roireg.models.cache import EmbeddingCache, shared_cache
from roireg.models.rasters import slice_axis, slice_image
from roireg.models.registry import load
from roireg.pipeline.config import Config
from roireg.pipeline.sections import ClassesConfig, NetworkConfig
from roireg.segment import (
    ClassSegmenter,
    CommandSegmenter,
    HierarchySegmenter,
    Model3DSegmenter,
    RegionFilter,
    Segmenter,
    SliceSegmenter,
    model_segmenter,
)

__all__ = [
    "FEATURE_VOXELS",
    "REGIONS",
    "Network",
    "Tools",
    "class_segmenter",
    "expected_time",
    "feature_map",
    "tell_time",
]

REGIONS = "finding regions"
"""The stage that regions are found in."""

FEATURE_VOXELS = {2: 9_216, 3: 64_000}
"""Voxels of the feature maps that regions are compared on; finer ones cost time and change no pair."""


@dataclass(frozen=True, eq=False)
class Network:
    """A loaded network and the embeddings that its segmenter and its features share.

    Attributes
    ----------
    model : the network. settings : what asked for it. cache : where embeddings are kept.
    """

    model: PromptableModel
    settings: NetworkConfig
    cache: EmbeddingCache

    @classmethod
    def load(cls, settings: NetworkConfig, device: torch.device, progress: Progress) -> Network:
        """Load the weights of `settings.model`, which must be named.

        Raises
        ------
        InputError
            When the network does not exist, its weights are not on this disk or do not fit.
        """
        assert settings.model is not None
        model = load(settings.model, profile=settings.profile, device=str(device))
        folder = settings.cache
        cache = shared_cache() if folder is None else EmbeddingCache(folder=folder, progress=progress)
        return cls(model, settings, cache)

    def segmenter(self, limits: RegionFilter, progress: Progress) -> Segmenter:
        """Return the segmenter; 2D networks take volumes slice by slice, 3D networks volumes only."""
        s = self.settings
        return model_segmenter(
            self.model,
            profile=s.profile,
            options=s,
            limits=limits,
            axis=s.slice_axis,
            window=s.window,
            cache=self.cache,
            progress=progress,
        )

    def extractor(self) -> FeatureExtractor:
        """Return the features.

        Raises
        ------
        InputError
            When the network gives none.
        """
        if not isinstance(self.model, DenseEncoder):
            raise InputError(
                f"{self.model.card.name} gives no features to compare regions by; use others with "
                "--features intensity (match.features in a settings file)"
            )
        return make_extractor("model", model=self.model, window=self.settings.window, cache=self.cache)

    @property
    def origin(self) -> dict[str, object]:
        """Name, identity and licence of the weights, for the provenance of a result."""
        card = self.model.card
        return {"name": card.name, "key": self.model.key, "licence": card.weights_licence}


@dataclass(frozen=True, eq=False)
class Tools:
    """What turns images into regions and into the features that regions are compared by.

    With a network, segmenter and features share its embeddings, so every image or slice is encoded once.

    Attributes
    ----------
    network : None where segmenter and features need no weights.
    embedding : the anatomical embedding, where descriptors of regions count it.
    """

    segmenter: Segmenter
    extractor: FeatureExtractor
    network: Network | None = None
    embedding: FeatureExtractor | None = None

    @classmethod
    def of(cls, settings: Config, device: torch.device, progress: Progress) -> Tools:
        """Build them; loads the weights of a network.

        Raises
        ------
        InputError
            When a network, a feature map or a parameter does not exist, or weights cannot be loaded.
        """
        name = settings.match.features
        network = None
        segmenter: Segmenter = HierarchySegmenter(settings.segment)
        if settings.classes.used:
            segmenter = class_segmenter(settings.classes, device, progress)
        elif settings.network.model is not None:
            network = Network.load(settings.network, device, progress)
            segmenter = network.segmenter(settings.segment, progress)
        counted = settings.match.similarity == "descriptor" and settings.match.weights.embedding > 0
        embedding = make_extractor("embedding") if counted else None
        if name == "model" and network is not None:
            return cls(segmenter, network.extractor(), network, embedding)
        parameters: dict[str, object] = {}
        if name == "intensity":
            # Descriptors of regions have a position term of their own; only cosines of prototypes need one here.
            parameters = {"position": settings.match.position, "absolute": True}
        elif name == "model":
            raise InputError("features of a network are asked for, but no network is named; set network.model")
        return cls(segmenter, make_extractor(name, **parameters), network, embedding)

    def encode(self, image: Image) -> Image:
        """Return the feature map of a whole image at the resolution that regions are compared on."""
        return feature_map(image, self.extractor)

    def embeddings(self, fixed: Image, moving: Image) -> tuple[Image, Image] | None:
        """Return the anatomical embeddings of both images, where descriptors of regions count them."""
        if self.embedding is None:
            return None
        return feature_map(fixed, self.embedding), feature_map(moving, self.embedding)

    def encodings(self, fixed: Image, moving: Image, settings: Config) -> tuple[Image, Image] | None:
        """Return feature maps of the network, where a stage compares images by them; None where none does.

        Raises
        ------
        InputError
            When the network gives none.
        """
        needed = any(getattr(stage, "features", None) == "model" for stage in settings.stages)
        if not needed or self.network is None:
            return None
        extractor = self.network.extractor()
        return extractor(fixed, fixed.grid), extractor(moving, moving.grid)


def class_segmenter(settings: ClassesConfig, device: torch.device, progress: Progress) -> Segmenter:
    """Return the segmenter of classes that settings name, its weights loaded.

    Raises
    ------
    InputError
        When the network does not exist, names no classes, or its weights are not on this disk.
    """
    if settings.command is not None:
        return CommandSegmenter(settings.command, progress)
    assert settings.segmenter is not None
    return ClassSegmenter(load(settings.segmenter, "classes", device=str(device)), progress)


def feature_map(image: Image, extractor: FeatureExtractor) -> Image:
    """Return the features of a whole image on near-isotropic cells, at most `FEATURE_VOXELS` of them."""
    grid = image.grid
    limit = FEATURE_VOXELS[grid.ndim]
    step = (float(np.prod(grid.extent)) / limit) ** (1 / grid.ndim)
    while grid.size > limit:
        grid = image.grid.with_spacing(np.maximum(image.grid.spacing, step))
        step *= 1.05
    return extractor(image, grid)


def expected_time(segmenter: Segmenter, *images: Image, slices: bool = False, axis: int | None = None) -> str:
    """Say in words how long finding the regions of images takes; an empty text where that is not measured.

    Only networks are slow enough to be worth it: one encoding (which is kept) and one batch of points are timed.

    Parameters
    ----------
    slices : volumes are segmented slice by slice, every slice for itself.
    axis : storage axis of these slices; None takes the coarsest.
    """
    if not isinstance(segmenter, SliceSegmenter | Model3DSegmenter):
        return ""
    seconds = 0.0
    for image in images:
        if slices and image.ndim == 3:
            along = slice_axis(image.grid, axis)
            count = image.grid.shape[along]
            seconds += count * segmenter.estimate_seconds(slice_image(image, along, count // 2))
        else:
            seconds += segmenter.estimate_seconds(image)
    spelled = f"{max(seconds, 1):.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    return f"the network takes about {spelled}"


def tell_time(
    progress: Progress,
    segmenter: Segmenter,
    *images: Image,
    slices: bool = False,
    axis: int | None = None,
) -> None:
    """Announce, before the regions of images are found, how long that will take (`expected_time`)."""
    expected = expected_time(segmenter, *images, slices=slices, axis=axis)
    if expected:
        progress(ProgressEvent(REGIONS, 0.0, expected, notice=True))
