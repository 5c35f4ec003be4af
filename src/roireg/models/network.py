"""A network with its weights on a device, and what all networks do alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from roireg.core.errors import InputError
from roireg.models.base import LoadReport, ModelCard

__all__ = ["Network"]


class Network:
    """A network of any kind; see `PromptableModel` and `DenseEncoder` for what it answers.

    Parameters
    ----------
    card : what is known of the model.
    network : the module, on its device.
    size : side of its input in pixels or voxels.
    key : see `PromptableModel`.
    report : how the checkpoint met the network; None for random weights, which can be trained and predict nothing.
    """

    def __init__(self, card: ModelCard, network: Any, size: int, *, key: str, report: LoadReport | None) -> None:
        self.card = card
        self.network = network if report is None else network.eval().requires_grad_(False)
        self.size = size
        self.key = key
        self.report = report
        self.encoded = 0

    @property
    def trained(self) -> bool:
        """Whether the weights come from a checkpoint."""
        return self.report is not None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format the image encoder computes in."""
        return next(self._encoder().parameters()).dtype

    def set_precision(self, dtype: torch.dtype) -> None:
        """Let the image encoder compute in a number format; all else stays float32."""
        self._encoder().to(dtype)

    def _encoder(self) -> nn.Module:
        """Return the part of the network that sees the image."""
        return self.network

    @contextmanager
    def computing(self, doing: str) -> Iterator[None]:
        """Compute without gradients.

        Raises
        ------
        InputError
            When the weights are random, or in place of the out-of-memory error of any device.
        """
        if not self.trained:
            raise InputError(
                f"{self.card.name} has random weights and predicts nothing; train it, save the state_dict of its "
                "network, and load that file"
            )
        try:
            with torch.no_grad():
                yield
        except (MemoryError, RuntimeError) as error:
            # torch has a class for a full GPU, and a plain RuntimeError for a full main memory.
            full = isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
            if not full:
                raise
            coarser = ", a coarser spacing" if self.card.ndim == 3 else ""
            raise InputError(
                f"{self.card.name} ran out of memory while {doing} (encoding one image takes about "
                f"{self.card.memory_mb} MB at input size {self.card.input_size}); use a smaller input size{coarser}, "
                "fewer prompts at once, a smaller model, or another device"
            ) from error

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Count one encoding; see `computing`."""
        with self.computing("encoding"):
            self.encoded += 1
            yield

    def _block(self, layer: int | None, count: int) -> int | None:
        """Return the number of a block from 0, negative ones counted from the last; None stays.

        Raises
        ------
        InputError
            When there is no such block.
        """
        if layer is not None and not -count <= layer < count:
            raise InputError(f"{self.card.name} has blocks 0 to {count - 1}, not {layer}; choose one of these")
        return None if layer is None else layer % count
