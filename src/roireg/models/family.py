"""What is to be known of an architecture: its models, its files, its network.

A family is one value, `FAMILY`, in a module of this package; `registry.FAMILIES` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roireg.core.errors import InputError
from roireg.io.weights import weights_digest
from roireg.models.base import LoadReport, ModelCard, Signs
from roireg.models.checkpoint import Shapes, compare, fill, read_tensors, require_complete, shapes_of
from roireg.models.folders import FolderFormat
from roireg.models.hugging import HubFormat
from roireg.models.network import Network
from roireg.models.renaming import Rules

__all__ = ["Family", "unchanged"]

MALFORMED = (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError)
"""What reading sizes off tensors of other shapes than expected, or building a network of such sizes, raises."""


def unchanged(network: Any, size: int | None, card: ModelCard) -> tuple[Any, int]:
    """Resize a network that sees inputs of any size: not at all."""
    return network, card.input_size if size is None else size


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture.

    Attributes
    ----------
    name, title : for cards and for messages.
    cards : the models there are of it.
    model : makes the network value of a module that has weights; called as `Network` is.
    recognise : names and shapes of an original checkpoint -> what they tell; None when it is of another family.
    rename : tensors of an original checkpoint -> the same under the names of the network.
    rules : by which `rename` renames, so that messages name tensors as the file does.
    settings : (shapes of the renamed tensors, card, file) -> what `build` takes.
    published : (shapes of the renamed tensors) -> settings of a published network like it, to tell what is missing.
    build : settings -> network with random weights; no settings are the published ones. Called on the meta device
        when the weights come from a file.
    resize : (network, side of the input or None for that trained for, card) -> network and the side it now has.
    hub : how it is stored in the Hugging Face format, where it is.
    folder : how it is published as a folder of another kind, where it is.
    connect : address -> network value, for networks that run on a server and have no files.
    """

    name: str
    title: str
    cards: tuple[ModelCard, ...]
    model: Callable[..., Network] = Network
    recognise: Callable[[Shapes], Signs | None] = lambda shapes: None
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    rules: Rules = ()
    settings: Callable[[Shapes, ModelCard, Path], Mapping[str, Any]] = lambda shapes, card, path: {}
    published: Callable[[Shapes], Mapping[str, Any]] = lambda shapes: {}
    build: Callable[[Mapping[str, Any]], Any] = lambda settings: nn.Identity()
    resize: Callable[[Any, int | None, ModelCard], tuple[Any, int]] = unchanged
    hub: HubFormat | None = None
    folder: FolderFormat | None = None
    connect: Callable[..., Any] | None = None

    def read(self, path: Path, card: ModelCard) -> tuple[Any, LoadReport]:
        """Return the network of a checkpoint file or a folder with its weights, float32 on the CPU.

        Raises
        ------
        InputError
            When it cannot be read, or the tensors do not fit the architecture.
        """
        if path.is_dir() and self.hub is not None:
            return self.hub.read(path, name=card.name)
        if path.is_dir() and self.folder is not None:
            return self.folder.read(path, card.name)
        tensors = self.rename(read_tensors(path))
        shapes = shapes_of(tensors)
        try:
            settings = self.settings(shapes, card, path)
            with torch.device("meta"):
                network = self.build(settings)
        except KeyError as error:
            with torch.device("meta"):
                report = compare(self.build(self.published(shapes)), tensors, self.rules)
            require_complete(replace(report, mismatched=()), source=path, name=card.name)
            raise InputError(f"{path}: has no tensor {error.args[0]}; it is no {card.name}") from error
        except MALFORMED as error:
            raise InputError(
                f"{path}: the tensors have other shapes than those of {card.name}; it is another model"
            ) from error
        return network, fill(network, tensors, source=path, name=card.name, rules=self.rules)

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of weights, and of all else in a folder that decides what the network does.

        Raises
        ------
        InputError
            When there is no weight file or it cannot be read.
        """
        of_folder = path.is_dir() and self.folder is not None
        return self.folder.digest(path) if of_folder and self.folder is not None else weights_digest(path)

    def untrained(self, settings: Mapping[str, Any] | None = None) -> tuple[Any, ModelCard]:
        """Return a network with random weights, float32 on the CPU, and a card for it."""
        blank = replace(
            self.cards[0],
            name=f"untrained-{self.name}",
            hub_id=None,
            files=(),
            weights_licence="none",
            notes="",
            sha256="",
            size="",
        )
        with torch.device("cpu"):
            network = self.build(settings or {}).float()
        count = sum(parameter.numel() for parameter in network.parameters())
        return network, replace(blank, parameters=round(count / 1e6, 3))
