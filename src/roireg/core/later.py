"""Names of a package that are imported when they are asked for."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["later"]


def later(
    package: str, places: Mapping[str, str], functions: Callable[[Any], Any] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package whose front loads nothing: torch takes a second.

    Parameters
    ----------
    places : for every name its module, with the name in it after a colon where that is another one.
    functions : what is made of the functions among them; None leaves them as they are.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = places[name].partition(":")
        value = getattr(import_module(module), attribute or name)
        if functions is not None and inspect.isfunction(value):
            value = functions(value)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *places})
