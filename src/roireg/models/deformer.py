"""What every network that deforms an image is to the rest of the project: two images in, a field of voxels out.

Each architecture is a `DeformNet` in a module of its own. Fields are (B, d, *shape), in voxels, components in
reversed storage order (x, y[, z]), as in `roireg.core.warp`.
"""

from __future__ import annotations

import importlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.core.warp import identity_coords, sample
from roireg.models.base import LoadReport, ModelCard
from roireg.models.checkpoint import Shapes
from roireg.models.network import Network

__all__ = [
    "DeformNet",
    "Deformer",
    "awakened",
    "deformer_card",
    "enlarged",
    "integrated",
    "monai",
    "read_card",
    "silenced",
    "squarings_of",
    "warped",
]

SQUARINGS = 7
"""Of a velocity that stands still (Dalca et al., MICCAI 2018; Tian et al., 2023)."""


class DeformNet(nn.Module):
    """A network that says where what a voxel of the fixed image shows lies in the moving one.

    Before it is trained it moves nothing: its last convolution is 0.

    Parameters
    ----------
    ndim : 2 or 3.
    squarings : of the velocity that the network gives; 0 takes what it gives as the displacement.

    Attributes
    ----------
    multiple : sides of the input are padded to multiples of this.
    """

    multiple = 16

    def __init__(self, ndim: int, squarings: int) -> None:
        super().__init__()
        self.ndim, self.squarings = ndim, squarings

    @abstractmethod
    def pyramid(self, fixed: Tensor, moving: Tensor, depth: int | None = None) -> list[Tensor]:
        """Return fields from coarse to fine of images whose sides are multiples of `multiple`.

        Parameters
        ----------
        depth : how many levels; None takes all. Networks of one level ignore it.

        Returns
        -------
        Fields in voxels of their own level; the last of all levels has the size of the images.
        """

    def fields(self, fixed: Tensor, moving: Tensor, depth: int | None = None) -> list[Tensor]:
        """Return `pyramid` of (B, 1, *shape) images in 0..1 of any size; only the finest level is cut to the size."""
        shape = fixed.shape[2:]
        padding = [p for n in reversed(shape) for p in (0, -n % self.multiple)]
        whole = [F.pad(image, padding, mode="replicate") for image in (fixed, moving)]
        fields = self.pyramid(whole[0], whole[1], depth)
        if fields[-1].shape[2:] == whole[0].shape[2:]:
            inside: Any = (..., *(slice(0, n) for n in shape))
            fields[-1] = fields[-1][inside]
        return fields

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Return the (B, d, *shape) velocity, or displacement, of (B, 1, *shape) images in 0..1."""
        return self.fields(fixed, moving)[-1]


def integrated(field: Tensor, squarings: int) -> Tensor:
    """Scaling and squaring of (B, d, *shape) velocities in voxels; without squarings they are displacements."""
    base = identity_coords(tuple(field.shape[2:]), field.device)
    moved = field / 2**squarings
    for _ in range(squarings):
        moved = moved + sample(moved, base + moved.movedim(1, -1))
    return moved


def warped(image: Tensor, displacement: Tensor, *, mode: str = "linear") -> Tensor:
    """Sample (B, C, *shape) images where (B, d, *shape) displacements in voxels lead."""
    base = identity_coords(tuple(displacement.shape[2:]), displacement.device)
    return sample(image, base + displacement.movedim(1, -1), mode=mode)


def enlarged(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Linear interpolation of (B, C, *cells) to another size over the same box."""
    return F.interpolate(x, size=shape, mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


def awakened(network: nn.Module) -> None:
    """Give convolutions before leaky ReLUs weights that keep the spread of what flows through (He et al., 2015).

    A network without normalisation hardly learns at first from weights that let it fade.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def silenced(layer: nn.Module) -> None:
    """Let the convolutions of a layer give 0."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()


def monai(name: str) -> Any:
    """Return a network of MONAI by name.

    Raises
    ------
    OptionalDependencyError
        When MONAI is not installed.
    """
    try:
        return getattr(importlib.import_module("monai.networks.nets"), name)
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            f'the network {name} needs the package monai; run pip install "roireg[models]"'
        ) from error


# -- weights ----------------------------------------------------------------------------------------


class Deformer(Network):
    """A trained network and how images are shown to it; see `Network`.

    Attributes
    ----------
    spacing : mm between the voxels it sees; None shows images of any extent at the same size.
    """

    def __init__(
        self,
        card: ModelCard,
        network: DeformNet,
        size: int,
        *,
        key: str,
        report: LoadReport | None,
        spacing: float | None = None,
    ) -> None:
        super().__init__(card, network, size, key=key, report=report)
        self.spacing = spacing

    def field(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Return the (d, *shape) velocity, or displacement, in voxels, (x, y[, z]), of (1, *shape) images in 0..1.

        Raises
        ------
        InputError
            When the images have another dimension, the weights are random, or memory is too small.
        """
        if fixed.ndim - 1 != self.card.ndim:
            raise InputError(
                f"{self.card.name} deforms {self.card.ndim}D images, found {fixed.ndim - 1}D ones; use a network "
                "that was trained on such"
            )
        with self.computing("deforming"):
            field: Tensor = self.network(fixed[None].to(self.device), moving[None].to(self.device))
        return field[0].float()


def deformer_card(family: str, source: str) -> ModelCard:
    """Return the card of an architecture that has no weights of its own here."""
    return ModelCard(
        name=family,
        family=family,
        source=source,
        code_licence="Apache-2.0",
        weights_licence="your own",
        ndim=3,
        input_size=96,
        memory_mb=600,
        notes="trained by `roireg train deform`",
        size=family,
    )


def read_card(path: Path) -> Mapping[str, Any]:
    """Return what the card beside weights says, a JSON file of the same name.

    Raises
    ------
    InputError
        When there is none, it cannot be read, or it says that the network was never trained.
    """
    place = path.with_suffix(".json")
    if not place.is_file():
        raise InputError(
            f"{path}: has no card {place.name} beside it that says how it was trained; train a network with `roireg "
            "train deform`, which writes both"
        )
    try:
        card = json.loads(place.read_text(encoding="utf-8"))
        steps, squarings, size = (int(card[name]) for name in ("steps", "squarings", "size"))
        spacing = None if card.get("spacing") is None else float(card["spacing"])
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{place}: is no card of a deformation network (steps, squarings and size are needed); keep the file "
            "that `roireg train deform` wrote"
        ) from error
    if steps < 1:
        raise InputError(
            f"{path}: was never trained (0 steps) and predicts nothing; train it with `roireg train deform`"
        )
    if size < 1 or not 0 <= squarings <= 16 or (spacing is not None and spacing <= 0):
        raise InputError(f"{place}: has an impossible size, spacing or number of squarings; keep the file as it was")
    return {"steps": steps, "squarings": squarings, "size": size, "spacing": spacing}


def squarings_of(shapes: Shapes, card: ModelCard, path: Path) -> int:
    """Return how a family of deformation networks reads its field: by the card beside the weights."""
    return int(read_card(path)["squarings"])
