"""A property that is computed once, whichever thread asks first."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any, Generic, TypeVar, overload

__all__ = ["once"]

T = TypeVar("T")


class once(Generic[T]):
    """Turn a method without arguments into a property whose value is kept with the object.

    Threads that ask at the same time wait for one computation. After an exception nothing is kept, and the next to
    ask tries again. A copy made by `dataclasses.replace` starts without the value.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> once[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> once[T] | T:
        if instance is None:
            return self
        values = instance.__dict__
        # One step of the interpreter, so that all threads get the same lock; reentrant, for values made of others.
        with values.setdefault("_once", RLock()):
            if self.name not in values:
                values[self.name] = self.compute(instance)
            value: T = values[self.name]
            return value
