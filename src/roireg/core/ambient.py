"""What a caller has set for all of torch, kept out of computations here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from roireg.core.errors import InputError

__all__ = ["limited_threads", "ordinary", "own_settings"]


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute with float32 as default, on the CPU as default, and with gradients where they are asked for.

    A default type or device that the caller chose, and `torch.no_grad` or `torch.inference_mode` around the call,
    change nothing in the result, and are back afterwards. Also a decorator. The default type is that of the whole
    process: where it is another, only one thread should compute.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Compute with so many CPU threads, and with as many as before afterwards; None changes nothing.

    The number belongs to the whole process.

    Raises
    ------
    InputError
        When it is no whole number of at least 1.
    """
    if threads is None:
        yield
        return
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"the number of threads is a whole number of at least 1, found {threads!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ordinary(data: Tensor) -> Tensor:
    """Return a tensor that gradients may be computed with; made under `torch.inference_mode` it is copied."""
    if not data.is_inference():
        return data
    with torch.inference_mode(False):
        return data.clone()
