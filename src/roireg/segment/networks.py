"""The segmenter "model": a network by name or path, ready for images and volumes."""

from __future__ import annotations

from pathlib import Path

from roireg.core.errors import InputError
from roireg.core.progress import Progress, silent
from roireg.models.base import PromptableModel
from roireg.models.cache import EmbeddingCache, shared_cache
from roireg.models.preprocess import Window
from roireg.models.profiles import profile_named
from roireg.models.registry import load
from roireg.models.volumes import VolumeModel
from roireg.segment.everything import PUBLISHED, EverythingOptions
from roireg.segment.filters import DEFAULT_LIMITS, RegionFilter
from roireg.segment.model3d import Model3DSegmenter
from roireg.segment.promptable import ModelSegmenter
from roireg.segment.volumes import SliceSegmenter

__all__ = ["model_segmenter"]


def model_segmenter(
    model: str | Path | PromptableModel,
    *,
    profile: str = "balanced",
    device: str = "cpu",
    input_size: int | None = None,
    options: EverythingOptions = PUBLISHED,
    limits: RegionFilter = DEFAULT_LIMITS,
    window: Window = None,
    axis: int | None = None,
    cache_folder: str | Path | None = None,
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> SliceSegmenter | Model3DSegmenter:
    """Build the segmenter of a network.

    A 2D network takes images and, slice by slice, volumes; a 3D network volumes only.

    Parameters
    ----------
    model : a loaded network, or the name or path of one.
    profile : fast, balanced or full, see `roireg.models.profiles`.
    device, input_size : see `roireg.models.load`; for names only.
    options : of everything mode; points and crops that they leave open are those of the profile.
    limits, window : see `ModelSegmenter`. axis : see `SliceSegmenter`; for 2D networks.
    cache_folder : keep embeddings here between runs; None keeps them in memory.
    cache : where embeddings are kept, instead of a folder; the default is shared by the process.

    Raises
    ------
    InputError
        As `roireg.models.load`, when both caches are given, or when a 3D network is given a slice axis.
    """
    if cache is not None and cache_folder is not None:
        raise InputError("give the model segmenter a cache or a cache folder, not both")
    if isinstance(model, str | Path):
        model = load(model, profile=profile, input_size=input_size, device=device)
    if cache is None:
        cache = shared_cache() if cache_folder is None else EmbeddingCache(folder=cache_folder, progress=progress)
    if isinstance(model, VolumeModel):
        if axis is not None:
            raise InputError(f"{model.card.name} is a 3D network and cuts no slices; leave the slice axis out")
        # As many prompts as a 2D network is asked with so many points per side.
        points = profile_named(profile).volume_points if options.points is None else options.points**2
        return Model3DSegmenter(
            model, window=window, points=points, options=options, limits=limits, cache=cache, progress=progress
        )
    inner = ModelSegmenter(
        model, options=options.at(profile), limits=limits, window=window, cache=cache, progress=progress
    )
    return SliceSegmenter(inner, axis=axis, progress=progress)
