"""What a promptable network is to the rest of the project.

Raster coordinates are storage order, (y, x) or (z, y, x), voxel centres at whole numbers: -0.5 is the outer edge of
the first voxel. Models turn them into their own order and their own input size, and nobody else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch

from roireg.models.preprocess import Preprocessing, VolumeInput

__all__ = [
    "DenseEncoder",
    "Embedding",
    "KeyPointModel",
    "KeyPoints",
    "LoadReport",
    "MaskLogits",
    "ModelCard",
    "PromptableModel",
    "Signs",
]


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model before any weight is read.

    Attributes
    ----------
    name : registry name, e.g. "sam-vit-base".
    family : architecture, e.g. "sam", "sam-hq", "sam2", "sam-med2d", "mobile-sam", "sam-med3d", "dinov2".
    hub_id : Hugging Face repository, or None where the authors publish files elsewhere (see `source`).
    source : address of the authors' page, for people.
    files : file names under which the original checkpoint is published, with its folder where it lies in one.
    url : address of the folder that holds all of `files`, where the authors publish them beside the hub.
    code_licence, weights_licence : SPDX identifiers or the name of the licence.
    ndim : 2 or 3, dimension of the images it takes.
    input_size : side in pixels of what the network sees.
    parameters : millions.
    memory_mb : rough peak memory of encoding one image in float32.
    prompts : kinds of prompts it answers.
    notes : what a user should know before choosing it.
    preprocessing : how it wants its images; None where nothing is known of it.
    sha256 : SHA-256 of the first of `files`, or as many of its first digits as are published; empty where none is.
    size : which size of its architecture it is, as `Family.recognise` calls it.
    """

    name: str
    family: str
    hub_id: str | None = None
    source: str = ""
    files: tuple[str, ...] = ()
    url: str = ""
    code_licence: str = "unknown"
    weights_licence: str = "unknown"
    ndim: Literal[2, 3] = 2
    input_size: int = 1024
    parameters: float = 0.0
    memory_mb: int = 0
    prompts: frozenset[Literal["point", "box", "mask"]] = frozenset()
    notes: str = ""
    preprocessing: Preprocessing | VolumeInput | None = None
    sha256: str = ""
    size: str = ""

    def key(self, digest: str, size: int, dtype: torch.dtype) -> str:
        """Return `PromptableModel.key` for weights of this SHA-256 and an input of this side."""
        tag = [self.preprocessing.tag] if isinstance(self.preprocessing, Preprocessing) else []
        return "-".join([self.name, digest[:16], str(size), *tag, str(dtype).removeprefix("torch.")])


@dataclass(frozen=True)
class Signs:
    """What the tensors or the configuration of a network tell beside its family.

    Attributes
    ----------
    size : "ViT-B", "tiny", ...; empty when it is none of the published sizes.
    input_size : side of the input that it was saved for, where that can be told.
    """

    size: str = ""
    input_size: int | None = None


@dataclass(frozen=True)
class Embedding:
    """An encoded image.

    Attributes
    ----------
    tensors : what the decoder needs, by name; "image" is the (1, C, *shape) map that dense features are read from.
    shape : of the raster that was encoded.
    scale, offset : raster index -> index of the "image" map, per axis: scale * index + offset.
    covered : cells of the "image" map, from the first, that show the raster and not padding.
    """

    tensors: Mapping[str, torch.Tensor]
    shape: tuple[int, ...]
    scale: np.ndarray
    offset: np.ndarray
    covered: tuple[int, ...]


@dataclass(frozen=True)
class MaskLogits:
    """What a decoder answers to P prompts with K masks each.

    Attributes
    ----------
    logits : (P, K, *shape) at the resolution of the network; > 0 is inside. `PromptableModel.upscale` brings them
        onto the raster.
    quality : (P, K) predicted intersection over union.
    """

    logits: torch.Tensor
    quality: torch.Tensor


@runtime_checkable
class PromptableModel(Protocol):
    """A network that encodes an image once and answers prompts on it."""

    card: ModelCard
    key: str
    """Identifies card, weights, preprocessing and precision: equal keys and rasters give equal embeddings."""
    encoded: int
    """How many times `encode` has run; tests assert that no image is encoded twice."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def encode(self, raster: torch.Tensor) -> Embedding:
        """Encode a (3, *shape) or (1, *shape) float raster with values 0..255, whatever its size."""
        ...

    def decode(
        self,
        embedding: Embedding,
        *,
        points: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
        multimask: bool = True,
    ) -> MaskLogits:
        """Answer P prompts.

        Parameters
        ----------
        points : (P, N, ndim) raster coordinates; labels (P, N) 1 inside, 0 outside the region, -1 padding.
        boxes : (P, 2, ndim) lowest and highest raster coordinate.
        masks : (P, 1, *shape) logits of an earlier answer at the resolution of the network.
        multimask : several masks per prompt (whole, part, sub-part) or the single best.
        """
        ...

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        """Bring (P, K, *shape) logits onto the raster that was encoded: undo resizing and padding exactly."""
        ...


@dataclass(frozen=True)
class LoadReport:
    """How the tensors of a checkpoint met those of the network, by the names that the file has for them.

    Attributes
    ----------
    missing : of the network, not in the file. unexpected : in the file, not of the network.
    mismatched : name, shape in the file, shape in the network.
    remarks : what was assumed because the tensors do not tell it, such as the preprocessing.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = field(default=())
    remarks: tuple[str, ...] = ()


@runtime_checkable
class DenseEncoder(Protocol):
    """A network that turns an image into a dense feature map; promptable models are such encoders, too."""

    card: ModelCard
    key: str
    """As that of `PromptableModel`."""
    encoded: int
    """How many times an encoder has run."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def encode_dense(self, raster: torch.Tensor, *, layer: int | None = None) -> Embedding:
        """Encode a (3, *shape) or (1, *shape) raster with values 0..255; features are `tensors["image"]`.

        Parameters
        ----------
        layer : the map after this block of the encoder, -1 the last; the final map of the network if None.
        """
        ...


@dataclass(frozen=True)
class KeyPoints:
    """Places of an image that can be found again.

    Attributes
    ----------
    places : (N, 2) raster coordinates (y, x). descriptors : (N, C) unit vectors. scores : (N,), the highest first.
    """

    places: torch.Tensor
    descriptors: torch.Tensor
    scores: torch.Tensor


@runtime_checkable
class KeyPointModel(DenseEncoder, Protocol):
    """A network that finds key points beside its dense features."""

    def key_points(self, raster: torch.Tensor, *, count: int) -> KeyPoints:
        """Find the best key points, `count` of them at most, in a (3, y, x) or (1, y, x) raster of values 0..255."""
        ...
