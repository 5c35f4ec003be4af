"""Errors a user can cause, and the one that says a result could not be produced.

Every message is one sentence that names the input, what was found, what was expected and what to do.
The command line prints it without a traceback and exits with the class's `exit_code`.
"""

import warnings


class RoiregError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 2


class InputError(RoiregError):
    """An input (file, array, option) is missing, unreadable or unsuitable."""


class InputTypeError(InputError, TypeError):
    """A Python value has a type that is not accepted."""


class GeometryError(InputError):
    """Grids, spacings, orientations or transforms do not fit together."""


class OutputError(RoiregError):
    """A result cannot be written where the user asked for it."""


class OptionalDependencyError(RoiregError):
    """A feature needs an extra that is not installed."""


class HeaderWarning(UserWarning):
    """A header is contradictory or incomplete in a way that may put the image in the wrong place."""


def warn_header(name: str, text: str) -> None:
    """Warn that the header of `name` has a real problem."""
    warnings.warn(f"{name}: {text}", HeaderWarning, stacklevel=3)
