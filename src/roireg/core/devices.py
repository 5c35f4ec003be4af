"""Names of devices, checked before torch is loaded; `roireg.core.seeds.resolve_device` makes one of them."""

from __future__ import annotations

import re

from roireg.core.errors import InputError

__all__ = ["check_device"]


def check_device(name: str) -> None:
    """Refuse what names no device, whether there is one or not.

    Raises
    ------
    InputError
        When it is none of ``auto | cpu | cuda | cuda:N | mps``.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,4})?", name):
        raise InputError(f"device {name!r} is unknown; use auto, cpu, cuda, cuda:N or mps")
