"""Things that are known by name and made with parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from roireg.core.errors import InputError

__all__ = ["Registry"]

T = TypeVar("T")


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
