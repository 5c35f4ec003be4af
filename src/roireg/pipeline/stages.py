"""The segmenter and the features that settings ask for: the embedded ones, or those of one network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from roireg.core.image import Image
from roireg.core.progress import Progress
from roireg.features import FeatureExtractor, make_extractor
from roireg.models.profiles import load_for_profile
from roireg.pipeline.config import Config
from roireg.segment import PromptableSegmenter, RegionFilter, make_segmenter

__all__ = ["FEATURE_VOXELS", "Stages"]

FEATURE_VOXELS = {2: 9_216, 3: 64_000}
"""Voxels of the feature maps that regions are compared on; finer ones cost time and change no pair."""


@dataclass(frozen=True, eq=False)
class Stages:
    """What turns images into regions and into the features that regions are compared by.

    With a network, segmenter and features share its embeddings, so every image or slice is encoded once.
    """

    segmenter: PromptableSegmenter
    extractor: FeatureExtractor

    @classmethod
    def of(cls, settings: Config, device: torch.device, progress: Progress) -> Stages:
        """Build them; loads the weights of a network.

        Raises
        ------
        InputError
            When a network, a feature map or a parameter does not exist, or weights cannot be loaded.
        """
        s, network = settings.segment, settings.network
        model = None
        if network.model is not None:
            model = load_for_profile(network.model, profile=network.profile, device=str(device))
            limits = RegionFilter(s.min_fraction, s.max_fraction, s.max_overlap, s.max_count)
            segmenter = make_segmenter(
                "model", model=model, profile=network.profile, window=network.window, limits=limits, progress=progress
            )
        else:
            segmenter = make_segmenter("hierarchy", **s.model_dump())
        assert isinstance(segmenter, PromptableSegmenter)
        name = settings.match.features
        parameters: dict[str, object] = {}
        if name == "intensity":
            # Descriptors of regions have a position term of their own; only cosines of prototypes need one here.
            parameters = {"position": settings.match.position, "absolute": True}
        elif name == "model" and model is not None:
            parameters = {"model": model, "window": network.window}
        return cls(segmenter, make_extractor(name, **parameters))

    def encode(self, image: Image) -> Image:
        """Return the feature map of a whole image at the resolution that regions are compared on."""
        gray = image.gray() if self.extractor.name != "model" else image
        grid = gray.grid
        limit = FEATURE_VOXELS[grid.ndim]
        if grid.size > limit:
            step = (float(np.prod(grid.extent)) / limit) ** (1 / grid.ndim)
            while grid.size > limit:
                grid = gray.grid.with_spacing(np.maximum(gray.grid.spacing, step))
                step *= 1.05
        return self.extractor(gray, grid)
