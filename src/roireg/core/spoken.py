"""Errors that name options of the command line, said to callers in Python with the arguments of their function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from roireg.core.errors import RoiregError

__all__ = ["in_python", "python_words"]

_OPTION = re.compile(r"--([a-z][a-z-]+)(?: ((?:[A-Z]+|[0-9]+)\b|all\b|centers\b|cpu\b|intensity\b))?")
_SLICE = re.compile(r" with `roireg convert [^`]* --slice [xyz]=\w+`")

PICTURE = ("frame", "level", "page", "channel")
"""Arguments of `roireg.read` that say which of several pictures of a file is meant."""


def python_words(text: str, arguments: tuple[str, ...]) -> str:
    """Return a message about options as one about the arguments of a function; what is none of them stays."""

    def said(match: re.Match[str]) -> str:
        name, value = match[1].replace("-", "_"), match[2]
        if name not in (*arguments, *PICTURE):
            return match[0]
        word = name if value is None else f"{name}={value if value.isupper() or value.isdigit() else repr(value)}"
        return word if name in arguments else f"roireg.read(FILE, {word})"

    return _OPTION.sub(said, _SLICE.sub(" of its array, as array[N]", text))


def in_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose errors name its arguments where those of the command line name options."""
    arguments = tuple(inspect.signature(function).parameters)

    @wraps(function)
    def call(*positional: Any, **named: Any) -> Any:
        try:
            return function(*positional, **named)
        except RoiregError as error:
            error.args = (python_words(str(error), arguments),)
            raise

    call.__module__ = "roireg"
    return call
