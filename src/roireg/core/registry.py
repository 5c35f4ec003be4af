"""Things that are known by name and made with parameters."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from roireg.core.errors import InputError

__all__ = ["Registry", "unknown"]

T = TypeVar("T")


def unknown(kind: str, name: str, known: Iterable[str], hint: str) -> InputError:
    """Return that a name is unknown, with those that are near, or else a hint."""
    known = list(known)
    begun = [k for k in known if name and k.startswith(name.lower())]
    near = begun[:5] or difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return InputError(f"{kind} {name!r} is unknown; " + (f"did you mean {' or '.join(near)}?" if near else hint))


class Registry(Generic[T]):
    """Name -> factory; the factory takes the parameters as keywords.

    Parameters
    ----------
    kind : what the things are, in the singular, for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., T]] = {}

    def register(self, name: str, factory: Callable[..., T]) -> None:
        """Make a thing known by name.

        Raises
        ------
        InputError
            When another factory already has the name.
        """
        if self._factories.get(name, factory) is not factory:
            raise InputError(f"a {self.kind} named {name!r} is already registered; choose another name")
        self._factories[name] = factory

    def make(self, name: str, **params: object) -> T:
        """Build a registered thing.

        Raises
        ------
        InputError
            When the name is unknown or a parameter does not exist.
        """
        if name not in self._factories:
            raise InputError(f"{self.kind} {name!r} is unknown; use one of {', '.join(self.names())}")
        try:
            return self._factories[name](**params)
        except TypeError as error:
            raise InputError(f"{self.kind} {name!r} does not take these parameters ({error})") from error

    def names(self) -> tuple[str, ...]:
        """Return the registered names in alphabetical order."""
        return tuple(sorted(self._factories))
