"""From a checkpoint of a training run to weights that can be loaded, with the card that says how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from roireg.core.files import atomic_path, file_digest, write_json
from roireg.train.runner import trained_weights

__all__ = ["export"]


def export(checkpoint: Path, target: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write `target` (.safetensors, float16) and the card beside it (.json); returns the card.

    Parameters
    ----------
    about : what the card says besides size and SHA-256.
    """
    weights = {name: _small(value) for name, value in trained_weights(checkpoint).items()}
    with atomic_path(target) as temporary:
        save_file(weights, temporary)
    count = sum(w.numel() for n, w in weights.items() if not n.endswith(("running_mean", "running_var", "tracked")))
    card = {
        **about,
        "parameters_million": round(count / 1e6, 3),
        "bytes": target.stat().st_size,
        "sha256": file_digest(target),
    }
    write_json(target.with_suffix(".json"), card)
    return card


def _small(value: Tensor) -> Tensor:
    return value.to(torch.float16 if value.is_floating_point() else value.dtype).contiguous()
