"""Every architecture that deforms an image, and the one function that loads any of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from roireg.core.errors import InputError
from roireg.io.weights import weights_digest
from roireg.models import lapirn, localnet, same, voxelmorph
from roireg.models.checkpoint import read_tensors, shapes_of
from roireg.models.deformer import Deformer, DeformNet, read_card
from roireg.models.family import Family

__all__ = ["DEFORMERS", "build_deformer", "check_deformer", "load_deformer"]

DEFORMERS: dict[str, Family] = {f.name: f for f in (voxelmorph.FAMILY, localnet.FAMILY, lapirn.FAMILY, same.FAMILY)}
"""All architectures by name. They are no models that `roireg models` lists: there are no weights to be fetched."""


def build_deformer(family: str, settings: dict[str, Any]) -> DeformNet:
    """Return a network that moves nothing yet, to be trained.

    Raises
    ------
    OptionalDependencyError
        When the network is MONAI's, which is not installed.
    """
    network: DeformNet = DEFORMERS[family].build(settings)
    return network


def load_deformer(path: str | Path, *, device: torch.device | str = "cpu") -> Deformer:
    """Load a trained network with its card; the file that `roireg train deform` writes.

    Raises
    ------
    InputError
        When there is no such file, it is of none of these architectures, was never trained, or has no card.
    """
    path = Path(path)
    family, about = _known(path)
    with torch.device("cpu"):
        network, report = family.read(path, family.cards[0])
    count = sum(parameter.numel() for parameter in network.parameters())
    card = replace(
        family.cards[0],
        name=path.stem,
        ndim=network.ndim,
        files=(path.name,),
        input_size=about["size"],
        parameters=round(count / 1e6, 3),
    )
    key = card.key(weights_digest(path), about["size"], torch.float32)
    return Deformer(card, network.to(device), about["size"], key=key, report=report, spacing=about["spacing"])


def check_deformer(path: str | Path, ndim: int) -> None:
    """Refuse, before anything is computed, a file that `load_deformer` would, or a network of another dimension.

    Raises
    ------
    InputError
        See `load_deformer`.
    """
    model = load_deformer(path)
    if model.card.ndim != ndim:
        raise InputError(
            f"{path}: deforms {model.card.ndim}D images, found {ndim}D ones; use a network that was trained on such"
        )


def _known(path: Path) -> tuple[Family, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file of a trained deformation network; check the path")
    shapes = shapes_of(read_tensors(path))
    family = next((f for f in DEFORMERS.values() if f.recognise(shapes) is not None), None)
    if family is None:
        titles = ", ".join(f.title for f in DEFORMERS.values())
        raise InputError(f"{path}: the tensors are of no deformation network known here ({titles}); check the file")
    return family, read_card(path)
