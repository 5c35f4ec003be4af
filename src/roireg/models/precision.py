"""Which number format a network computes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from roireg.core.errors import InputError

__all__ = ["Precision", "choose_precision", "compute_in"]

Precision = str | torch.dtype | None
"""None or "float32", "bfloat16", "auto", or one of torch's formats."""


def choose_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the number format of a network: float32 unless bfloat16 is asked for.

    Parameters
    ----------
    precision : None or "float32"; "bfloat16"; or "auto", bfloat16 where the device computes in it.

    Raises
    ------
    InputError
        When bfloat16 is asked for and the device would only imitate it, or the format is unknown.
    """
    native = _has_bfloat16(device)
    if precision == "auto":
        return torch.bfloat16 if native else torch.float32
    if precision in (None, "float32", torch.float32):
        return torch.float32
    if precision not in ("bfloat16", torch.bfloat16):
        raise InputError(f"number format {precision!r} is unknown; use auto, float32 or bfloat16")
    if not native:
        raise InputError(
            f"bfloat16 is no gain on {device} because it has no instructions for it (avx512_bf16, amx, or a GPU of "
            "2020 or later); choose float32 or auto"
        )
    return torch.bfloat16


def compute_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Make a part of a network compute in a number format, in place; what goes in and comes out stays float32."""
    module.to(dtype)
    if dtype is not torch.float32:
        module.register_forward_pre_hook(
            lambda _, args, kwargs: (_cast(args, dtype), _cast(kwargs, dtype)), with_kwargs=True
        )
        module.register_forward_hook(lambda _, args, out: _cast(out, torch.float32))


def _cast(values: Any, dtype: torch.dtype) -> Any:
    """Return tensors of floating-point numbers in a format; looks into tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        return values.to(dtype) if values.is_floating_point() else values
    if isinstance(values, Mapping):
        return {key: _cast(value, dtype) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(_cast(value, dtype) for value in values)
    return values


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
