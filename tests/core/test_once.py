from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier

import pytest

from roireg.core.once import once


@dataclass(frozen=True)
class Sum:
    terms: tuple[int, ...]
    log: list[str]

    @once
    def total(self) -> int:
        """The sum."""
        self.log.append("total")
        return sum(self.terms)

    @once
    def double(self) -> int:
        return 2 * self.total

    @once
    def mean(self) -> float:
        self.log.append("mean")
        return self.total / len(self.terms)


def test_threads_that_ask_at_once_get_one_computation():
    value, start = Sum((1, 2, 3), []), Barrier(8)

    def ask(_: int) -> int:
        start.wait()
        return value.double

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {12}
    assert value.log == ["total"]
    assert Sum.total.__doc__ == "The sum."


def test_a_failure_is_not_kept_and_a_copy_starts_anew():
    value = Sum((), [])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            _ = value.mean
    assert value.log == ["mean", "total", "mean"]
    assert replace(value, terms=(4,)).mean == 4
