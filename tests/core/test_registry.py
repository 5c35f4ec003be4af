import pytest

from roireg.core.errors import InputError
from roireg.core.registry import Registry


def test_a_registry_makes_what_it_knows_and_says_what_it_does_not():
    numbers: Registry[int] = Registry("number")
    numbers.register("text", int)
    numbers.register("text", int)
    assert numbers.make("text") == 0 and numbers.names() == ("text",)
    with pytest.raises(InputError, match="a number named 'text' is already registered"):
        numbers.register("text", float)
    with pytest.raises(InputError, match="number 'two' is unknown; use one of text"):
        numbers.make("two")
    with pytest.raises(InputError, match="number 'text' does not take these parameters"):
        numbers.make("text", size=3)
