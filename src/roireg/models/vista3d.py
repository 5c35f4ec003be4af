"""VISTA3D (He et al. 2024, arXiv 2406.05285): points or classes in a CT volume to masks, by the network of MONAI.

MONAI is imported when a model is loaded. The network is taken apart into its encoder and its point head, so that a
volume is encoded once however many points follow; MONAI's own forward pass and window inferer encode per prompt.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.io.weights import weight_files
from roireg.models.base import Embedding, LoadReport, MaskLogits, ModelCard
from roireg.models.checkpoint import fill, read_tensors
from roireg.models.memory import memory_explained
from roireg.models.precision import Precision, choose_precision
from roireg.models.volumes import Cube, VolumeInput, check_points, stability

__all__ = ["CARDS", "Vista3D", "load"]

CARDS = (
    ModelCard(
        name="vista3d",
        family="vista3d",
        hub_id="MONAI/vista3d",
        source="https://huggingface.co/MONAI/vista3d",
        files=("models/model.pt",),
        code_licence="Apache-2.0",
        weights_licence="NVIDIA License (non-commercial)",
        ndim=3,
        input_size=128,
        parameters=218.0,
        memory_mb=3500,
        prompts=frozenset({"point"}),
        notes="only CT in Hounsfield units, at 1.5 mm; needs MONAI; weights for research and evaluation only; "
        "also answers class numbers (Vista3D.classes)",
        # Window and spacing of the published bundle.
        preprocessing=VolumeInput(spacing=1.5, patch=128, window=(-963.8247715525971, 1053.678477684517)),
    ),
)

STRIDE = 16
"""The encoder halves its input four times; below twice this its normalisation has nothing to average."""

SUPPORTED = 132
"""Highest class number the network was trained on."""


class Vista3D:
    """A VISTA3D network with its weights on a device; see `PromptableModel`.

    One mask per prompt; the network has no estimate of its quality, so `quality` is the stability of the mask.

    Parameters
    ----------
    card : what is known of the model. network : `monai.networks.nets.VISTA3D` with its weights.
    size : side in voxels of the cube it sees. key : see `PromptableModel`.
    report : how the checkpoint met the network.
    """

    def __init__(self, card: ModelCard, network: Any, *, size: int, key: str, report: LoadReport) -> None:
        self.card = card
        self.network = network.eval().requires_grad_(False)
        self.size = size
        self.key = key
        self.report = report
        self.encoded = 0
        assert isinstance(card.preprocessing, VolumeInput)
        self.volume = replace(card.preprocessing, patch=size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        place: torch.device = self.network.point_head.mask_tokens.weight.device
        return place

    @torch.no_grad()
    def encode(self, raster: Tensor) -> Embedding:
        """Encode a (1 or 3, z, y, x) raster whose 0..255 are the window of `volume`.

        Raises
        ------
        InputError
            When the device has too little memory.
        """
        return self.encode_dense(raster)

    @torch.no_grad()
    def encode_dense(self, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Encode for features alone: the full-resolution map that the point head reads.

        Raises
        ------
        InputError
            When another layer is asked for, or the device has too little memory.
        """
        if layer is not None:
            raise InputError(f"{self.card.name} gives features of its last layer only, not of {layer}; leave it out")
        cube = Cube(tuple(raster.shape[1:]), self.size)
        features = self._features(cube, raster, with_label=False)
        scale, offset, covered = cube.index_map(1)
        return Embedding({"image": features.permute(0, 1, 4, 3, 2).contiguous()}, cube.shape, scale, offset, covered)

    @torch.no_grad()
    def decode(
        self,
        embedding: Embedding,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> MaskLogits:
        """Answer P prompts of points, one mask each whatever `multimask` says; see `PromptableModel.decode`.

        Raises
        ------
        InputError
            When there are no points, boxes or masks are given, shapes do not fit, or memory is too small.
        """
        if boxes is not None or masks is not None:
            raise InputError(
                f"{self.card.name} takes points, neither boxes nor masks; give a point inside the region"
            )
        points, labels = check_points(self.card, points, labels)
        cube = Cube(embedding.shape, self.size)
        placed = cube.coordinates(points.to(self.device, torch.float32)).flip(-1)
        features = embedding.tensors["image"].to(self.device).permute(0, 1, 4, 3, 2)
        with memory_explained(self.card, f"answering {len(placed)} prompts"):
            # One after another: the point head holds several copies of the full-resolution features per prompt.
            answers = [self._point_head(features, p[k >= 0], k[k >= 0]) for p, k in zip(placed, labels, strict=True)]
        logits = torch.cat(answers).permute(0, 1, 4, 3, 2).contiguous()
        return MaskLogits(logits, stability(logits))

    @torch.no_grad()
    def classes(self, raster: Tensor, numbers: Sequence[int]) -> MaskLogits:
        """Segment trained classes (1 liver, 3 spleen, 5 right kidney ...) without a point; encodes the raster anew.

        Returns
        -------
        (K, 1, *shape) logits on the raster, and their stability.

        Raises
        ------
        InputError
            When there is no number, one is no trained class, or memory is too small.
        """
        if not numbers or not all(1 <= n <= SUPPORTED for n in numbers):
            raise InputError(f"classes of {self.card.name} are 1 to {SUPPORTED}, found {list(numbers)}")
        cube = Cube(tuple(raster.shape[1:]), self.size)
        features = self._features(cube, raster, with_label=True)
        wanted = torch.tensor(numbers, device=self.device)[:, None]
        with memory_explained(self.card, f"segmenting {len(numbers)} classes"):
            logits, _ = self.network.class_head(features, wanted)
            logits = logits.permute(0, 1, 4, 3, 2)
            return MaskLogits(cube.release(logits), stability(logits))

    @torch.no_grad()
    def upscale(self, logits: Tensor, embedding: Embedding) -> Tensor:
        """Bring (P, K, n, n, n) logits onto the raster; see `PromptableModel.upscale`."""
        with memory_explained(self.card, "bringing masks to full resolution"):
            return Cube(embedding.shape, self.size).release(logits)

    def _features(self, cube: Cube, raster: Tensor, *, with_label: bool) -> Tensor:
        """(1, C, x, y, z) features of the branch for classes or for points."""
        encoder = self.network.image_encoder
        dtype = next(encoder.parameters()).dtype
        # Trained on arrays in the order x, y, z.
        data = cube.fill(raster.to(self.device)).clamp(0, 255).permute(0, 3, 2, 1)[None] / 255
        self.encoded += 1
        with memory_explained(self.card, "encoding"):
            branches = encoder(data.to(dtype), with_point=not with_label, with_label=with_label)
        features: Tensor = branches[int(with_label)].float()
        return features

    def _point_head(self, features: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        answer: Tensor = self.network.point_head(features, points[None], labels[None].to(self.device))
        return answer


def load(
    card: ModelCard,
    path: Path,
    *,
    device: torch.device,
    digest: str,
    input_size: int | None = None,
    precision: Precision = None,
) -> Vista3D:
    """Load `model.pt` of the bundle or the .safetensors of the Hugging Face model; see `roireg.models.sam.load`.

    Raises
    ------
    InputError
        When the file does not fit the card, or the input size or number format is unsuitable.
    OptionalDependencyError
        When MONAI is not installed.
    """
    size = card.input_size if input_size is None else input_size
    if size < 2 * STRIDE or size % STRIDE:
        raise InputError(f"input size {size} is unsuitable; use a multiple of {STRIDE} from {2 * STRIDE} on")
    dtype = choose_precision(precision, device)
    file = path if path.is_file() else (weight_files(path) or [path])[0]
    # The Hugging Face model wraps the network and its names.
    tensors = {k.removeprefix("network."): v for k, v in read_tensors(file).items()}
    first = tensors.get("image_encoder.encoder.conv_init.weight")
    build = _architecture()
    with torch.device("meta"):
        network = build(encoder_embed_dim=48 if first is None else len(first))
    report = fill(network, tensors, source=file, name=card.name)
    network.to(device)
    network.image_encoder.to(dtype)
    key = f"{card.name}-{digest[:16]}-{size}-{str(dtype).removeprefix('torch.')}"
    return Vista3D(card, network, size=size, key=key, report=report)


def _architecture() -> Any:
    try:
        return importlib.import_module("monai.networks.nets").vista3d132
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            'vista3d needs the package monai (1.4 or later); run pip install "roireg[models]"'
        ) from error
