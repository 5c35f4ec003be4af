"""What is wrong with the values of a document, in words of its users and not of the library that checks it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["expected", "explained"]

_EXPECTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "string": "a text",
    "string_too_short": "a text of {min_length} or more letters",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of {ge:g} or more",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of {le:g} or less",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} at most",
    "list": "a list",
    "tuple": "a list",
    "dict": "a section with values of its own",
    "model": "a section with values of its own",
    "dataclass": "a section with values of its own",
    "none": "empty",
    "invalid_key": "a name",
}
"""What belongs in a place, by the kind of mistake, or its first word."""


def expected(problem: Mapping[str, Any]) -> str | None:
    """Return what belongs where a value is wrong; None where the problem says something else.

    Parameters
    ----------
    problem : an entry of `errors()` of pydantic's ValidationError.
    """
    kind = problem["type"]
    text = _EXPECTED.get(kind) or _EXPECTED.get(kind.split("_")[0])
    return None if text is None else text.format(**problem.get("ctx", {}))


def explained(problems: Sequence[Mapping[str, Any]], what: str = "{}") -> str:
    """Return the first mistake in one clause: ``pairs.1.confidence must be a number, found 'high'``.

    Parameters
    ----------
    problems : `errors()` of pydantic's ValidationError.
    what : how a place is called, such as ``setting '{}'``.
    """
    first = problems[0]
    # Where one of several kinds of values belongs, the kinds are parts of the places.
    steps = [i for i, part in enumerate(first["loc"]) if part in ("str", "int", "float", "bool") or "[" in str(part)]
    place = first["loc"][: steps[0]] if steps else first["loc"]
    where = what.format(".".join(str(part)[:40] for part in place) or "the document")
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "extra_forbidden":
        return f"{where} is not a known entry"
    beside = [p for p in problems if p["loc"][: len(place)] == place] if steps else [first]
    words = list(dict.fromkeys(filter(None, map(expected, beside))))
    if not words:
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    return f"{where} must be {' or '.join(words)}, found {reprlib.repr(first['input'])}"
