"""Keep what a caller has set for all of torch from changing results here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from roireg.core.errors import InputError

__all__ = ["limited_threads", "ordinary", "own_settings"]


@contextmanager
def own_settings() -> Iterator[None]:
    """Compute with the defaults of torch: float32, on the CPU, and with gradients where they are needed.

    A default type or device that the caller has chosen, and `torch.no_grad` or `torch.inference_mode` around the
    call, do not change the result and are restored afterwards. Also works as a decorator. The default type belongs to
    the whole process: if the caller has changed it, only one thread should compute.
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
    """Compute with this many CPU threads and restore their number afterwards; None changes nothing.

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
    """Return a tensor that gradients can flow through; one made under `torch.inference_mode` is copied."""
    if not data.is_inference():
        return data
    with torch.inference_mode(False):
        return data.clone()
